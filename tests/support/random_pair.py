"""A pair of tiny random llamas that know ninety words: the fixtures `pair`, `study` and `toy`."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import mechdiff as md
from mechdiff.inputs import pair_file, prompts
from mechdiff.models.registry import unload
from support.families import tiny_model

WORDS = [f"w{i}" for i in range(90)]
TRAIN = [" ".join(WORDS[i : i + 2 + i % 5]) for i in range(50)]
TEXTS = [" ".join(WORDS[i : i + 3 + i % 4]) for i in range(20)]


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory):
    """A pair of tiny Llamas in folders, with a word tokenizer, and a file of twenty prompts: made once, copied for each test."""
    folder = tmp_path_factory.mktemp("random_pair")
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS, "yes", "no"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    for side, seed in (("base", 0), ("tuned", 1)):
        tiny_model("llama", seed).save_pretrained(folder / side)
        tokenizer.save_pretrained(folder / side)
    (folder / "tiny.toml").write_text('domain = "none"\n[base]\nfolder = "base"\n[tuned]\nfolder = "tuned"\n')
    lines = [{"text": " ".join(WORDS[i : i + 3 + i % 4]), "template": f"t{i}"} for i in range(20)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture
def pair(pair_folder, tmp_path, own_store):
    """The pair in a folder of this test alone, as a request names it."""
    shutil.copytree(pair_folder, tmp_path, dirs_exist_ok=True)
    unload()
    yield {"pair": str(tmp_path / "tiny.toml"), "prompts": str(tmp_path / "prompts.jsonl"), "device": "cpu"}
    unload()


def write_domain(folder, val: list[str]) -> None:
    """A domain with these val prompts, and the fifty of TRAIN."""
    folder.mkdir(parents=True)
    for split, texts in (("val", val), ("train", TRAIN)):
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))


@pytest.fixture
def toy(pair, tmp_path, monkeypatch):
    """The tiny pair as the library gives it, on a domain of its own."""
    write_domain(tmp_path / "domains" / "toy", TEXTS)
    monkeypatch.setattr(prompts, "DOMAINS", tmp_path / "domains")
    path = Path(pair["pair"])
    path.write_text(path.read_text().replace('"none"', '"toy"'))
    yield md.load(path, device="cpu")
    pair_file.described.clear()


def ids(loaded, run, prompt) -> list[int]:
    """The tokens of a request's prompt."""
    return loaded.tokenizers.encode(run.chosen_prompts[prompt].text, "tuned")


@pytest.fixture
def study(pair, tmp_path):
    """The tiny pair with a train file of fifty prompts, and eight of its val prompts."""
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TRAIN))
    return pair | {"train": str(path), "limit": 8}
