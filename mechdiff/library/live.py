"""Models that are already in memory, as a pair. They are only read: what runs are second module trees over the same tensors."""

import tempfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import nn

from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES
from mechdiff.engine.anatomy import Anatomy, Unreadable
from mechdiff.inputs import pair_file
from mechdiff.inputs.pair_file import Pair, Source, folder_hash
from mechdiff.inputs.tokenizers import load_tokenizers
from mechdiff.models import registry
from mechdiff.models.load import second_tree
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.models.locks import FairLock
from mechdiff.models.peft_modules import model_of, with_adapters, without_adapters

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class LiveModels:
    """The user's two models, and the pair that reads them.

    name: under which results are stored on disk, together with a hash of weights and tokenizer; None: they are not stored.
    """

    def __init__(self, base: nn.Module, tuned: nn.Module, tokenizer: Any, name: str | None, domain: str, chat_template: str):
        if tokenizer is None:
            raise UserError("Models in memory need their tokenizer.\nTry:  md.load(base, tuned, tokenizer=tokenizer)")
        self.models, self.stored = {"base": base, "tuned": tuned}, name is not None
        self._folder = tempfile.TemporaryDirectory(prefix="mechdiff-")
        self.name = name or f"in-memory-{uuid.uuid4().hex[:8]}"
        if name in pair_file.pair_names():
            raise UserError(f"There is another pair named {name}.\nTry:  name='{name}-2'")
        folders = {side: Path(self._folder.name) / side for side in SIDES}
        for side, model in self.models.items():
            plain(model).config.save_pretrained(folders[side])
            tokenizer.save_pretrained(folders[side])
        sources = {side: Source(folder=str(folder)) for side, folder in folders.items()}
        self._pair = Pair(self.name, domain, sources["base"], sources["tuned"], chat_template=chat_template)
        self._content: dict[str, str] = {}
        self._loaded: LoadedPair | None = None
        self.refresh()

    @property
    def device(self) -> str:
        return next(self.models["tuned"].parameters()).device.type

    @property
    def dtype(self) -> str:
        return str(plain(self.models["tuned"]).get_input_embeddings().weight.dtype).removeprefix("torch.")

    def refresh(self) -> Pair:
        """The pair as the models are now. A change of a weight, a buffer, an adapter or a mode drops all clean passes."""
        content = {side: content_of(model) for side, model in self.models.items()}
        if self.stored:
            content = {side: f"{value}+{folder_hash(Path(self._folder.name) / side)}" for side, value in content.items()}
        if content != self._content:
            self._content = content
            sources = {side: replace(getattr(self._pair, side), content=content[side]) for side in SIDES}
            pair = replace(self._pair, **sources)
            pair_file.described[self.name] = pair
            self._loaded = self._load(pair)
            registry.keep(self._loaded, self.device, self.dtype)
        return pair_file.described[self.name]

    def _load(self, pair: Pair) -> LoadedPair:
        try:
            base, tuned = (Anatomy(twin(self.models[side], pair.kernel, side)) for side in SIDES)
        except Unreadable as error:
            raise UserError(f"{self.name}: mechdiff cannot read this architecture: {error}.") from error
        hooked = [side for side, model in self.models.items() if any(getattr(m, name) for m in model.modules() for name in HOOKS)]
        notices = [f"The hooks of the {side} model are left out: mechdiff runs its modules without them." for side in hooked]
        return LoadedPair(pair, load_tokenizers(pair), base, tuned, FairLock(), (), notices)


def plain(model: Any) -> Any:
    """A transformers model, without peft's wrapper. Raises UserError for anything else."""
    model = model_of(model)
    if not (isinstance(model, nn.Module) and hasattr(model, "get_decoder") and hasattr(model, "config")):
        raise UserError(f"{type(model).__name__} is no causal language model of transformers.\nTry:  AutoModelForCausalLM")
    return model


def twin(model: nn.Module, kernel: str, side: str) -> nn.Module:
    """A second module tree over a model's tensors, without its hooks, in eval mode: nothing that runs it is seen by the model.

    As the base, a model with an adapter is the model without it.
    """
    tree: Any = (without_adapters if side == "base" else with_adapters)(second_tree(model, set()))
    for module in tree.modules():
        for name in HOOKS:
            getattr(module, name).clear()
    tree.config._attn_implementation = kernel
    return tree.eval()


def content_of(model: nn.Module) -> str:
    """A hash over a model's configuration, parameters and buffers, the mode of every module, and the state of its adapters."""
    digest = xxhash.xxh3_128(plain(model).config.to_json_string().encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for name, module in model.named_modules():
        state = {key: getattr(module, key, None) for key in ("active_adapters", "merged", "disable_adapters", "scaling")}
        digest.update(f"{name} {module.training} {state}".encode())
    return digest.hexdigest()
