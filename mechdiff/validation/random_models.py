"""A pair of a known shape with random weights, to measure speed and memory: its results mean nothing. It needs no download."""

import hashlib
import json
import random
from pathlib import Path

import torch

from mechdiff.common.errors import one_of
from mechdiff.common.terms import SIDES
from mechdiff.engine.anatomy import Anatomy
from mechdiff.inputs.pair_file import read_pair
from mechdiff.inputs.prompts import domains
from mechdiff.inputs.tokenizers import Tokenizers
from mechdiff.models import registry
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.models.locks import FairLock

SHAPES = {
    "tiny": dict(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4),
    "llama-8b": dict(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    ),
}


class RandomTexts(Tokenizers):
    """A substitute for tokenizers: every text becomes so many random tokens, seeded by the text."""

    vocabulary, tokens = 0, 0

    def encode(self, text: str, side: str) -> list[int]:
        rng = random.Random(hashlib.sha256(text.encode()).digest())
        return [rng.randrange(self.vocabulary) for _ in range(self.tokens)]


def random_model(shape: str, device: str, dtype: torch.dtype, seed: int = 0) -> torch.nn.Module:
    """A causal language model of a known shape. Raises UserError for an unknown one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if shape not in SHAPES:
        raise one_of("Shape", shape, SHAPES)
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(LlamaConfig(**SHAPES[shape])).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def shaped_pair(shape: str, folder: Path, tokens: int, device: str, dtype: str | None, in_turn: bool = False) -> str:
    """Two random models as a pair in memory. Returns its name for requests: a pair file in the folder.

    tokens: the length of every prompt. in_turn: one model on the GPU at a time.
    """
    if shape not in SHAPES:
        raise one_of("Shape", shape, SHAPES)
    for seed, side in enumerate(SIDES):
        (folder / side).mkdir(parents=True, exist_ok=True)
        (folder / side / "config.json").write_text(json.dumps({"model_type": "llama", "seed": seed} | SHAPES[shape]))
    path = folder / f"{shape}.toml"
    path.write_text(f'domain = "{domains()[0]}"\n[base]\nfolder = "base"\n[tuned]\nfolder = "tuned"\n')
    pair = read_pair(str(path))
    device = registry.resolve_device(device)
    dtype = registry.resolve_dtype(dtype, None, device)
    sides = []
    for seed in range(len(SIDES)):
        model = random_model(shape, device, getattr(torch, dtype), seed)
        sides.append(Anatomy(model))
        if in_turn:
            model.to("cpu")
    texts = RandomTexts(pair, None, None)
    texts.vocabulary, texts.tokens = SHAPES[shape]["vocab_size"], tokens
    base, tuned = sides
    loaded = LoadedPair(pair, texts, base, tuned, FairLock())
    if in_turn:
        loaded.placement.take_turns(device)
    registry.keep(loaded, device, dtype, in_turn)
    return str(path)
