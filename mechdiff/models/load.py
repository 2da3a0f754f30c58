"""From files to modules: weights, complete and on their device, as the pair's options say; adapters as second trees over them.

An adapter pair's tuned model is a second module tree over the same parameters, so it takes only the adapter's memory. Faults in
the files become a UserError before torch reads them.
"""

import copy
import hashlib
import importlib.util
import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mechdiff.common.errors import UserError
from mechdiff.common.paths import CACHE
from mechdiff.inputs.model_config import shape_of
from mechdiff.inputs.pair_file import Pair, Source
from mechdiff.inputs.weight_files import adapter_tensors, tensors

PEFT = "base_model.model."  # peft's prefix of a module's name
LISTED = 3  # names that a message lists


def load_weights(pair: Pair, source: Source, device: str, dtype: str):
    """A model in eval mode without its adapter. Raises UserError, with what to type, for files that are not a complete model."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = source.local()
    tensors(folder)
    options = device_options(pair, folder, device, dtype)
    with load_errors(folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation=pair.kernel,
            trust_remote_code=pair.trust_remote_code,
            use_safetensors=True,
            quantization_config=quantization_config(pair, dtype),
            output_loading_info=True,
            **options,
        )
    model, about = loaded
    if missing := sorted(about["missing_keys"]):
        raise UserError(
            f"The weights in {folder} lack {len(missing)} of the model's tensors: {listed(missing)}.\n"
            "Try:  download or copy it again, or check that config.json belongs to these weights"
        )
    return (model if options else model.to(device)).eval().requires_grad_(False)


def check_architecture(folder: Path, pair: Pair) -> None:
    """Raises UserError for a model that transformers does not know as a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    shape, config = shape_of(folder), json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = config.get("model_type")
    if family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (shape.remote and pair.trust_remote_code):
        return
    if shape.remote:
        raise UserError(
            f"{folder.name} is a {family}, whose code comes with the weights and would run here.\n"
            "Try, if you trust it:  trust_remote_code = true  under [options] in the pair's file"
        )
    raise UserError(
        f"{folder.name} is a {family}, which transformers does not know as a causal language model.\n"
        "Try:  another model, or  pip install --upgrade transformers"
    )


def device_options(pair: Pair, folder: Path, device: str, dtype: str) -> dict:
    """Options of from_pretrained for weights that do not go to main memory first: quantized ones cannot be moved afterwards."""
    import torch

    if pair.device_map is None:
        is_quantized = "quantization_config" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
        here = torch.cuda.current_device() if device == "cuda" else device
        return {"device_map": {"": here}} if pair.quantization or is_quantized else {}
    place = hashlib.sha256(f"{folder.resolve()} {dtype} {pair.device_map}".encode()).hexdigest()[:16]
    offload = CACHE / "offload" / place  # one for each model: its files are named after tensors
    if isinstance(pair.device_map, tuple):
        return {"device_map": dict(pair.device_map), "offload_folder": str(offload)}
    limits = {}
    if device == "cpu":
        import psutil

        limits = {"max_memory": {"cpu": psutil.virtual_memory().available}}
    return {"device_map": pair.device_map, "offload_folder": str(offload)} | limits


def quantization_config(pair: Pair, dtype: str):
    if pair.quantization is None:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f'{pair.name} has quantization = "{pair.quantization}", which needs bitsandbytes, and that is not installed.\n'
            "Try:  pip install bitsandbytes"
        )
    import torch
    from transformers import BitsAndBytesConfig

    if pair.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype))


@contextmanager
def load_errors(folder: Path):
    """Turn the errors of transformers and its packages about a model's files into a UserError."""
    from safetensors import SafetensorError

    try:
        yield
    except ImportError as error:
        raise UserError(f"{folder.name} needs a missing package: {first_line(error)}\nTry:  pip install it") from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be loaded: {first_line(error)}\nTry:  download or copy it again") from error
    except RuntimeError as error:
        if "size mismatch" not in str(error) and "ignore_mismatched_sizes" not in str(error):
            raise
        raise UserError(
            f"The weights in {folder} have other shapes than its config.json says: {first_line(error)}\n"
            "Try:  download or copy it again, or check that config.json belongs to these weights"
        ) from error


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def listed(names) -> str:
    names = list(names)
    return ", ".join(names[:LISTED]) + (" ..." if len(names) > LISTED else "")


def adapter_config(folder: Path) -> dict:
    """adapter_config.json. Raises UserError if it cannot be read, or if adapters of its kind change no weights."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(PeftType(config.get("peft_type")))
    except ValueError:
        raise UserError(f"peft does not know the kind of the adapter in {folder}.\nTry:  pip install --upgrade peft") from None
    if kind is None or "num_virtual_tokens" in kind.__dataclass_fields__:
        raise UserError(
            f"The adapter in {folder} is {config['peft_type']}: it adds virtual tokens and changes no weight, so there are no "
            "two models to compare.\nTry:  a LoRA, or another adapter on the model's own modules"
        )
    return config


def trained_elsewhere(source: Source) -> list[str]:
    """A notice if an adapter's config names another base model than the pair's; names may differ harmlessly."""
    if (folder := source.adapter_folder()) is None:
        return []
    named = (adapter_config(folder).get("base_model_name_or_path") or "").rstrip("/")
    base = Path(source.hub or source.folder or source.gguf or "").name
    if not named or Path(named).name.lower() in base.lower():
        return []
    return [f"The adapter {Path(source.adapter or '').name} names {named} as its base model; here it is applied to {base}."]


def with_adapter(model, folder):
    """A second module tree over the same parameters, with the adapter injected there alone.

    Never toggle an adapter on a shared model: every thread would see it. Parameters that the adapter's file replaces (biases,
    embeddings) are the tree's own. Raises UserError for an adapter that does not fit the model.
    """
    from peft import PeftModel

    folder = Path(folder)
    adapter_config(folder)
    stored = adapter_tensors(folder)
    twin = second_tree(model, {name.removeprefix(PEFT).replace(".base_layer", "") for name in stored})
    try:
        tuned = PeftModel.from_pretrained(twin, str(folder))
    except (ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "size mismatch" not in str(error):
            raise
        mismatch = re.search(r"size mismatch for .*", str(error))
        raise misfit(folder, mismatch[0] if mismatch else first_line(error)) from error
    check_fits(tuned, set(stored), folder)
    return tuned.get_base_model().eval().requires_grad_(False)


def second_tree(model, replaced: set[str]):
    """A copy of the modules over the same tensors, but for the parameters that will be replaced."""
    shared = {id(tensor): tensor for name, tensor in model.named_parameters() if name not in replaced}
    shared |= {id(tensor): tensor for tensor in model.buffers()}
    if set(getattr(model, "hf_device_map", {}).values()) & {"cpu", "disk"} and hasattr(model, "_hf_hook"):
        raise UserError(
            "Some of the base's weights are offloaded, and an adapter cannot sit on those.\n"
            "Try:  merge it with peft's merge_and_unload and give the merged folder as [tuned], or drop device_map"
        )
    for module in model.modules():
        shared |= {id(part): part for part in quantized_parts(module)}
    return copy.deepcopy(model, shared)


def quantized_parts(module):
    """What a bitsandbytes layer has besides its parameters, and both trees can share."""
    if getattr(getattr(module, "weight", None), "CB", None) is not None:
        module.init_8bit_state()  # otherwise the tree that runs first would take this from the other
    if getattr(module, "quant_state", None) is not None:
        yield module.quant_state
    if type(getattr(module, "state", None)).__name__ == "MatmulLtState":
        yield from (part for part in vars(module.state).values() if hasattr(part, "data_ptr"))


def check_fits(tuned, stored: set[str], folder: Path) -> None:
    """Raises UserError unless the adapter's tensors and their places in this model correspond: peft does not check this."""
    from peft import get_peft_model_state_dict

    places = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    own = {name for name, _ in tuned.get_base_model().named_parameters()}
    extra = {name for name in stored - places if name.removeprefix(PEFT) not in own}
    if lacking := sorted(places - stored):
        raise misfit(folder, f"it lacks tensors for {len(lacking)} places, {listed(lacking)}")
    if extra:
        raise misfit(folder, f"{len(extra)} of its tensors have no place in this model, {listed(sorted(extra))}")


def misfit(folder: Path, why: str) -> UserError:
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    return UserError(
        f"The adapter in {folder} does not fit this base: {why}.\n"
        f"Try:  the base it was trained on{f', {base}' if base else ''}, as [base]"
    )
