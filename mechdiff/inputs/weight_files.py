"""A model's weight files: the tensors in them, by their headers alone, and whether the files are complete. Needs no torch."""

import json
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mechdiff.common.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model", "vocab.txt")
CONVERT = "from transformers import AutoModelForCausalLM as M; M.from_pretrained('{0}').save_pretrained('{0}')"


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its file, its name there, its number format as safetensors names it, and its shape."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return prod(self.shape)


def weight_files(folder: Path, remedy: str = "") -> list[Path]:
    """The safetensors files of a model, all shards. Raises UserError, with what to type, if any is missing.

    remedy: what to type for files that are missing; default: to look at the folder.
    """
    index = folder / INDEX
    if index.exists():
        files = [folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]
    else:
        files = [folder / SINGLE]
    absent = [path.name for path in files if not path.exists()]
    if not absent:
        return files
    if any(folder.glob("*.bin")) and not index.exists():
        raise UserError(
            f"{folder} holds its weights as .bin files alone: a pickle, which can run code, so mechdiff does not open it.\n"
            f'Try, if you trust it:  python -c "{CONVERT.format(folder)}"'
        )
    raise UserError(
        f"{folder} is incomplete: {absent[0]} is missing{f', and {len(absent) - 1} more files' if len(absent) > 1 else ''}.\n"
        f"Try:  {remedy or f'ls {folder}  and download or copy it again'}"
    )


def tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model by its name. Raises UserError for weights that are missing, cut off or not safetensors."""
    return {name: stored for path in weight_files(folder) for name, stored in header(path).items()}


def header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file."""
    stat = path.stat()
    return _header(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=512)
def _header(path: Path, size: int, modified: int) -> dict[str, Stored]:
    try:
        with safe_open(path, "np") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return {name: Stored(path, name, part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except SafetensorError as error:
        incomplete = "not fully covered" in str(error)  # the header is sound and promises other data than there is
        fault = f"cut off or damaged ({size:,} bytes)" if incomplete else "not a readable safetensors file"
        raise UserError(f"{path} is {fault}.\nTry:  download or copy it again") from None


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in TOKENIZER)


def size_on_disk(folder: Path) -> tuple[int, int]:
    """The number of files in a folder, and their bytes; a link into the hub's cache counts as the file it points to."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def adapter_tensors(folder: Path) -> dict[str, Stored]:
    """The tensors of a peft adapter. Raises UserError as for a model's."""
    path = folder / ADAPTER
    if path.exists():
        return header(path)
    pickled = (folder / "adapter_model.bin").exists()
    stored = "stores its weights only as .bin, a pickle, so mechdiff does not open it" if pickled else f"has no {ADAPTER}"
    raise UserError(f"The adapter in {folder} {stored}.\nTry:  load it with peft and save it again with save_pretrained")
