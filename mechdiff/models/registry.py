"""Loaded pairs: weights in memory, each set once, with the lock that guards it.

Hooks on a shared model are seen by every thread, so whoever runs a model holds the lock of its weights, and lets go between
chunks. An adapter pair's tuned model is a second module tree over the same parameters, so it costs the adapter alone.
"""

import gc
import logging
import sys
import threading
import warnings
from importlib.metadata import version

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.terms import DEVICES, DTYPES
from mechdiff.inputs.pair_file import Pair, read_pair
from mechdiff.inputs.tokenizers import load_tokenizers
from mechdiff.inputs.weight_files import tensors
from mechdiff.models.load import check_architecture, load_weights, trained_elsewhere, with_adapter
from mechdiff.models.loaded_pair import LoadedPair, memory_errors
from mechdiff.models.locks import FairLock, Together

SHARE_OF_FREE = 0.8  # of a GPU's free memory, that the weights of both models may take


_weights: dict = {}
_pairs: dict = {}
_loading = threading.RLock()


def resolve_device(device: str) -> str:
    """auto: a GPU if torch has one, else the CPU. Imports torch only where that could make a difference."""
    if device not in DEVICES:
        raise one_of("Device", device, DEVICES)
    if device == "cpu" or (device == "auto" and version("torch").endswith("+cpu")):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        settle_compiler()
        return "cuda"
    if device == "cuda":
        raise UserError("There is no CUDA GPU that torch can use here.\nTry:  --device cpu")
    return "cpu"


def settle_compiler() -> None:
    """How torch.compile behaves: no pool of compilers, which would starve the thread that feeds the GPU; no error if it fails."""
    import torch._dynamo.config
    import torch._inductor.config

    torch._dynamo.config.suppress_errors = True
    torch._inductor.config.compile_threads = 1


def resolve_dtype(dtype: str | None, pair: Pair | None, device: str) -> str:
    """The number format asked for, else the pair's own, else the device's. Raises UserError for an unknown one."""
    if dtype is not None and dtype not in DTYPES:
        raise one_of("Dtype", dtype, DTYPES)
    return dtype or (pair and pair.dtype) or ("float32" if device == "cpu" else "bfloat16")


def load_pair(name: str | Pair, device: str = "auto", dtype: str | None = None, offload: str = "auto") -> LoadedPair:
    """Load a pair by name or pair file, once per process. Pairs on the same base share its weights.

    offload: on, to keep one model on the GPU at a time; auto, to do so if the two do not fit together; off.
    Raises UserError if the weights are not on this machine, do not fit in memory, or cannot be taken apart.
    """
    pair = read_pair(name) if isinstance(name, str) else name
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, pair, device)
    with _loading:
        apart = device == "cuda" and in_turn(pair, dtype, offload)
        identity = (pair, device, dtype, apart)
        if identity not in _pairs:
            _pairs[identity] = _load(pair, device, dtype, apart)
        return _pairs[identity]


def keep(loaded: LoadedPair, device: str, dtype: str, apart: bool = False) -> None:
    """Let load_pair find a pair that was made in memory."""
    from mechdiff.engine import memory

    with _loading:
        _pairs[loaded.pair, device, dtype, apart] = loaded
        memory.forget()


def in_turn(pair: Pair, dtype: str, offload: str) -> bool:
    """Whether a pair's two models take turns on the GPU. An adapter's base is in both of them, and is there once."""
    import torch

    if offload == "off" or pair.base.weights == pair.tuned.weights or pair.device_map or pair.quantization:
        return False
    if offload == "on" or (pair, "cuda", dtype, True) in _pairs:
        return True
    if (pair, "cuda", dtype, False) in _pairs:
        return False
    numbers = sum(one.count for side in (pair.base, pair.tuned) for one in tensors(side.local()).values())
    return numbers * getattr(torch, dtype).itemsize > SHARE_OF_FREE * torch.cuda.mem_get_info()[0]


def unload() -> None:
    """Forget every loaded pair."""
    with _loading:
        _pairs.clear()
        _weights.clear()
        gc.collect()
        if memory := sys.modules.get("mechdiff.engine.memory"):
            memory.forget(weights=True)


def _load(pair: Pair, device: str, dtype: str, apart: bool = False) -> LoadedPair:
    """apart: the models wait in main memory, and take turns on the GPU."""
    from mechdiff.engine import memory
    from mechdiff.engine.anatomy import Anatomy, Unreadable

    quiet()
    try:
        with memory_errors(pair, device):
            for source in (pair.base, pair.tuned):
                check_architecture(source.local(), pair)
            tokenizers, sides, locks, notices = load_tokenizers(pair), [], [], []
            for source in (pair.base, pair.tuned):
                model, lock = _base_weights(pair, source.weights, "cpu" if apart else device, dtype, apart)
                with lock:  # another pair may be running it: its hooks must not be copied, and the probe needs its own kernel
                    if source.adapter:
                        model = with_adapter(model, source.adapter_folder())
                        notices += trained_elsewhere(source)
                    sides.append(Anatomy(model))
                locks.append(lock)
            loaded = LoadedPair(pair, tokenizers, *sides, together(locks), notices)
            if apart:
                loaded.take_turns(device)
            memory.forget()
            return loaded
    except Unreadable as error:
        raise UserError(f"{pair.name}: mechdiff cannot read this architecture: {error}.") from error


def together(locks: list[FairLock]) -> FairLock | Together:
    """One lock over two models' weights: another pair may have either of them."""
    order = [lock for _, lock in _weights.values() if lock in locks]
    return order[0] if len(order) == 1 else Together(order)


def quiet() -> None:
    """Silence the libraries' own bars and advice; mechdiff says what a user needs to know."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")


def _base_weights(pair: Pair, source, device: str, dtype: str, apart: bool = False):
    """A model without adapters: loaded once per source, device, dtype, kernel, quantization and device map, with its lock.

    apart: for models that take turns, which move their weights and so share none with another pair.
    """
    identity = (source, device, dtype, pair.kernel, pair.quantization, pair.device_map, pair.trust_remote_code, apart and pair)
    if identity not in _weights:
        _weights[identity] = load_weights(pair, source, device, dtype), FairLock()
    return _weights[identity]
