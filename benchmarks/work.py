"""The work that everyone does: single-head patching, and the models and prompts that it is done on.

A **cell** is a layer and a head. At the decision token that head's output is replaced by the donor's, the recipient runs on,
and the answer is KL(patched || clean) of the next token, in nats. The base is the donor, the tuned model the recipient.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from mechdiff.engine.anatomy import Anatomy
from mechdiff.inputs.prompts import read_domain
from mechdiff.models.registry import load_pair, quiet, resolve_device, resolve_dtype
from mechdiff.validation.bench import random_model

Cell = tuple[int, int]  # layer, head


def kl(patched: Float[Tensor, "n vocabulary"], clean: Float[Tensor, "1 vocabulary"]) -> Float[Tensor, " n"]:
    """KL(patched || clean) in nats, of logits."""
    patched, clean = (logits if logits.dtype == torch.float64 else logits.float() for logits in (patched, clean))
    patched, clean = patched.log_softmax(-1), clean.log_softmax(-1)
    return (patched.exp() * (patched - clean)).sum(-1)


def spread(cells: list[Cell], count: int) -> list[Cell]:
    """`count` of the cells, evenly spread from the first to the last; all of them if there are no more."""
    return [cells[i] for i in torch.linspace(0, len(cells) - 1, min(count, len(cells))).long().tolist()]


class OfPair:
    """A pair and prompts of its own domain: a token list for each, up to the decision token, the same for both models."""

    def __init__(self, pair: str, prompts: int, device: str, dtype: str | None):
        self.loaded = load_pair(pair, device, dtype)
        texts = [prompt.text for prompt in read_domain(self.loaded.pair.domain, "val")[:prompts]]
        self.ids = self.donor_ids = [self.loaded.tokenizers.encode(text, "tuned") for text in texts]
        self.name = f"{pair}, {len(self.ids)} prompts"

    def anatomies(self) -> tuple[Anatomy, Anatomy]:
        """Donor and recipient as mechdiff runs them: an adapter sits on the base's own weights."""
        return self.loaded.base, self.loaded.tuned

    def models(self, own: bool = True):
        """Donor and recipient as transformers loads them, an adapter merged into the weights; always of one's own."""
        return tuple(self._read(source) for source in (self.loaded.pair.base, self.loaded.pair.tuned))

    def _read(self, source):
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(source.local(), dtype=self.loaded.base.dtype)
        if source.adapter:
            model = PeftModel.from_pretrained(model, str(source.adapter_folder())).merge_and_unload()
        return model.to(self.loaded.base.device).eval().requires_grad_(False)

    def tokenizer(self):
        return copy.deepcopy(self.loaded.tokenizers.tuned)


class OfShape:
    """Random weights of a known shape and random tokens. One model is both; the donor reads each prompt backwards."""

    def __init__(self, shape: str, prompts: int, tokens: int, device: str, dtype: str | None):
        device = resolve_device(device)
        self.model = random_model(shape, device, getattr(torch, resolve_dtype(dtype, None, device)))
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(self.model.config.vocab_size, (prompts, tokens), generator=generator).tolist()
        self.donor_ids = [ids[::-1] for ids in self.ids]
        self.name = f"random weights of {shape}, {prompts} prompts"

    def anatomies(self) -> tuple[Anatomy, Anatomy]:
        anatomy = Anatomy(self.model)
        return anatomy, anatomy

    def models(self, own: bool = True):
        """own: a copy, for a library that changes the modules that it is given."""
        model = copy.deepcopy(self.model) if own else self.model
        return model, model

    def tokenizer(self):
        """A stand-in: libraries want one, and nothing here is ever written in words."""
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast

        words = Tokenizer(WordLevel({"</s>": 0}, unk_token="</s>"))
        return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="</s>", eos_token="</s>", pad_token="</s>")


def subject(pair: str, shape: str | None, prompts: int, tokens: int, device: str, dtype: str | None) -> OfPair | OfShape:
    """What the work is done on: a pair, or random weights of a shape if one is named."""
    quiet()
    return OfShape(shape, prompts, tokens, device, dtype) if shape else OfPair(pair, prompts, device, dtype)
