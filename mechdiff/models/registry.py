"""Loaded pairs: weights in memory, each set once, with the lock that guards it.

Hooks on a shared model are seen by every thread, so whoever runs a model holds the lock of its weights, and releases it between
chunks. An adapter pair's tuned model is a second module tree over the same parameters, so it takes only the adapter's memory.
"""

import gc
import logging
import sys
import threading
import warnings
import weakref
from dataclasses import dataclass
from typing import Any

from mechdiff.common import bounded
from mechdiff.common.errors import UserError, one_of
from mechdiff.common.terms import DEVICES, DTYPES
from mechdiff.common.versions import version_of
from mechdiff.inputs.pair_file import Pair, Source, read_pair
from mechdiff.inputs.tokenizers import load_tokenizers
from mechdiff.inputs.weight_files import tensors
from mechdiff.models.load import check_architecture, load_weights, trained_elsewhere, with_adapter
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.models.locks import FairLock, Together
from mechdiff.models.pairs_in_memory import PairsInMemory

SHARE_OF_FREE = 0.8  # of a GPU's free memory, that the weights of both models may take


@dataclass(eq=False)
class Weights:
    """A model without adapters, and the lock that whoever runs it holds."""

    model: Any
    lock: FairLock


_weights: weakref.WeakValueDictionary[tuple, Weights] = weakref.WeakValueDictionary()  # as long as a pair has them
_pairs = {kind: PairsInMemory(kind) for kind in ("cpu", "cuda")}
_loading = threading.RLock()


def resolve_device(device: str) -> str:
    """auto: a GPU if torch can use one, else the CPU. Imports torch only where that could make a difference."""
    if device not in DEVICES:
        raise one_of("Device", device, DEVICES)
    if device == "cpu" or (device == "auto" and version_of("torch").endswith("+cpu")):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        settle_compiler()
        return "cuda"
    if device == "cuda":
        raise UserError("There is no CUDA GPU that torch can use here.\nTry:  --device cpu")
    return "cpu"


def settle_compiler() -> None:
    """Settings of torch.compile: no pool of compilers, which would slow the thread that feeds the GPU; no error if it fails."""
    import torch._dynamo.config
    import torch._inductor.config

    torch._dynamo.config.suppress_errors = True
    torch._inductor.config.compile_threads = 1


def resolve_dtype(dtype: str | None, pair: Pair | None, device: str) -> str:
    """The given number format, else the pair's own, else the device's. Raises UserError for an unknown one."""
    if dtype is not None and dtype not in DTYPES:
        raise one_of("Dtype", dtype, DTYPES)
    return dtype or (pair and pair.dtype) or ("float32" if device == "cpu" else "bfloat16")


def load_pair(name: str | Pair, device: str = "auto", dtype: str | None = None, offload: str = "auto") -> LoadedPair:
    """Load a pair, once per process. Pairs on the same base share its weights.

    name: a pair's name, a pair file, or a pair's description, such as `pair.spec`. device: auto, cpu or cuda. dtype: float32,
    bfloat16 or float16; default: the pair's own, else the device's. offload: on, to keep one model on the GPU at a time; auto, to
    do so if the two do not fit together; off.
    Returns both models, their tokenizers, and the lock that guards the weights.
    Raises UserError if the weights are not on this machine, do not fit in memory, or cannot be taken apart.

    Example:
        >>> loaded = md.load_pair(pair.spec.path, device="cpu")
        >>> loaded is md.load_pair(pair.spec.path, device="cpu")
        True
    """
    pair = read_pair(name) if isinstance(name, str) else name
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, pair, device)
    with _loading:
        apart = device == "cuda" and in_turn(pair, dtype, offload)
        pairs, identity = pairs_on(device, apart), (pair, device, dtype, apart)
        if (loaded := pairs.get(identity)) is None:
            loaded = _load(pair, device, dtype, apart)
            pairs.put(identity, loaded)
        return loaded


def pairs_on(device: str, apart: bool) -> PairsInMemory:
    """The pairs in the same memory. apart: models that take turns on a GPU wait in main memory."""
    return _pairs["cpu" if apart else device]


def keep(loaded: LoadedPair, device: str, dtype: str, apart: bool = False) -> None:
    """Let load_pair find a pair that was made in memory."""
    from mechdiff.engine import memory

    with _loading:
        pairs_on(device, apart).put((loaded.pair, device, dtype, apart), loaded)
        memory.forget()


def in_turn(pair: Pair, dtype: str, offload: str) -> bool:
    """Whether a pair's two models take turns on the GPU. An adapter's base is in both of them, and is there once."""
    import torch

    if offload == "off" or pair.base.weights == pair.tuned.weights or pair.device_map or pair.quantization:
        return False
    if offload == "on" or _pairs["cpu"].get((pair, "cuda", dtype, True)) is not None:
        return True
    if _pairs["cuda"].get((pair, "cuda", dtype, False)) is not None:
        return False
    size = bytes_to_load(pair, "cuda", dtype)
    _pairs["cuda"].make_room(size)
    return size > SHARE_OF_FREE * torch.cuda.mem_get_info()[0]


def bytes_to_load(pair: Pair, device: str, dtype: str, apart: bool = False) -> int:
    """The size of the weights that a pair needs and that are not in memory yet, as their files give it."""
    import torch

    sources = {source.weights for source in (pair.base, pair.tuned)}
    absent = [source for source in sources if weights_identity(pair, source, device, dtype, apart) not in _weights]
    numbers = sum(stored.count for source in absent for stored in tensors(source.local()).values())
    return numbers * getattr(torch, dtype).itemsize


def unload() -> None:
    """Forget every loaded pair, and all else that is kept in memory only to be faster."""
    with _loading:
        bounded.clear_all()
        _weights.clear()
        gc.collect()
        if memory := sys.modules.get("mechdiff.engine.memory"):
            memory.forget(weights=True)


def _load(pair: Pair, device: str, dtype: str, apart: bool = False) -> LoadedPair:
    """apart: the models wait in main memory, and take turns on the GPU."""
    from mechdiff.engine import memory
    from mechdiff.engine.anatomy import Anatomy, Unreadable
    from mechdiff.models.placement import memory_errors

    quiet()
    try:
        with memory_errors(pair, device):
            for source in (pair.base, pair.tuned):
                check_architecture(source.local(), pair)
            tokenizers, sides, parts, notices = load_tokenizers(pair), [], [], []
            pairs_on(device, apart).make_room(bytes_to_load(pair, device, dtype, apart))
            for source in (pair.base, pair.tuned):
                weights = _base_weights(pair, source.weights, "cpu" if apart else device, dtype, apart)
                model, parts = weights.model, [*parts, weights]
                with weights.lock:  # another pair may be running it: its hooks must not be copied, and the probe needs its kernel
                    if (folder := source.adapter_folder()) is not None:
                        model = with_adapter(model, folder)
                        notices += trained_elsewhere(source)
                    sides.append(Anatomy(model))
            base, tuned = sides
            loaded = LoadedPair(pair, tokenizers, base, tuned, together(parts), parts, notices)
            if apart:
                loaded.placement.take_turns(device)
            memory.forget()
            return loaded
    except Unreadable as error:
        raise UserError(f"{pair.name}: mechdiff cannot read this architecture: {error}.") from error


def together(parts: list[Weights]) -> FairLock | Together:
    """One lock over two models' weights: another pair may have either of them. Every pair takes them in the same order."""
    locks = sorted({weights.lock for weights in parts}, key=id)
    return locks[0] if len(locks) == 1 else Together(locks)


def quiet() -> None:
    """Silence the libraries' own progress bars and advice; mechdiff's messages say what a user needs to know."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")


def weights_identity(pair: Pair, source: Source, device: str, dtype: str, apart: bool) -> tuple:
    """What a model without adapters depends on: source, device, dtype, kernel, quantization and device map.

    apart: for models that take turns, which move their weights and so share none with another pair.
    """
    return source, device, dtype, pair.kernel, pair.quantization, pair.device_map, pair.trust_remote_code, apart and pair


def _base_weights(pair: Pair, source: Source, device: str, dtype: str, apart: bool) -> Weights:
    """A model without adapters, loaded once, with its lock."""
    identity = weights_identity(pair, source, device, dtype, apart)
    if (weights := _weights.get(identity)) is None:
        weights = Weights(load_weights(pair, source, device, dtype), FairLock())
        _weights[identity] = weights
    return weights
