"""A pair of tiny llamas whose tokenizers share some of their words, in another order, under padded unembeddings of two sizes."""

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from support.swept_pair import tiny

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
COMMON = [f"w{i}" for i in range(40)]
OWN = {"base": [f"b{i}" for i in range(12)], "tuned": [f"t{i}" for i in range(25)]}
PADDING = {"base": 5, "tuned": 3}
SHARED = [*SPECIAL, *COMMON]


def strings(side: str) -> list[str]:
    """The vocabulary of a side, by id."""
    vocabulary = [*SHARED, *OWN[side]]
    random.Random(side).shuffle(vocabulary)
    return vocabulary


def tokenizer(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


def write_side(folder: Path, vocabulary: list[str], model) -> None:
    model.save_pretrained(folder)
    tokenizer(vocabulary).save_pretrained(folder)


def write_pair(folder: Path) -> Path:
    """A pair file beside its two model folders, and prompts that both tokenizers can read, more or less."""
    for seed, side in enumerate(("base", "tuned")):
        vocabulary = strings(side)
        write_side(folder / side, vocabulary, tiny(seed, len(vocabulary) + PADDING[side]))
    return write_file(folder)


def write_file(folder: Path) -> Path:
    (folder / "two.toml").write_text('domain = "none"\n[base]\nfolder = "base"\n[tuned]\nfolder = "tuned"\n')
    lines = [{"text": " ".join(COMMON[i : i + 3 + i % 4]), "template": f"t{i}"} for i in range(12)]
    lines += [{"text": "w1 b2 w3 w4", "template": "own"}, {"text": "b1 t2 b3 w9", "template": "own"}]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    train = [{"text": " ".join(COMMON[i : i + 2 + i % 5])} for i in range(30)] + [{"text": "b1 b2 t3 w4"}] * 2
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, train)))
    return folder / "two.toml"
