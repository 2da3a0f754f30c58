"""A pair of tiny llamas that can read the curated prompts, so that the sweep command itself runs on it in seconds."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from mechdiff.inputs import prompts
from support.families import SMALL

ROOT = Path(__file__).parents[2]
WORDS = 300


def write_pair(folder: Path, domain: str) -> Path:
    """A pair file beside its two model folders. Returns the pair file."""
    counts = Counter(word for split in ("train", "val") for p in prompts.read_domain(domain, split) for word in p.text.split())
    words = [word for word, _ in counts.most_common(WORDS)]
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    for side, seed in (("base", 0), ("tuned", 1)):
        model = tiny(seed, len(vocabulary))
        model.save_pretrained(folder / side)
        tokenizer.save_pretrained(folder / side)
    path = folder / "tiny.toml"
    path.write_text(f'domain = "{domain}"\n[base]\nfolder = "base"\n[tuned]\nfolder = "tuned"\n')
    return path


def tiny(seed: int, words: int):
    torch.manual_seed(seed)
    sizes = SMALL | {"vocab_size": words, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 1024}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model


def sweep(cache: Path, *arguments: str) -> subprocess.Popen:
    """The command line's sweep, in a process of its own with a cache of its own."""
    environment = os.environ | {"MECHDIFF_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mechdiff", "sweep", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
