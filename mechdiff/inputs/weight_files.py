"""A model's weight files: what is in them, by their headers alone, and whether they are whole. Needs no torch."""

import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

from mechdiff.common.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model", "vocab.txt")
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1}
LENGTH = 8  # bytes at a safetensors file's start that say how long its header is
CONVERT = "from transformers import AutoModelForCausalLM as M; M.from_pretrained('{0}').save_pretrained('{0}')"


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its number format, as safetensors names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * BYTES.get(self.dtype, 1)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, all shards. Raises UserError, with what to type, if they are not all here."""
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
        f"{folder} is not whole: {absent[0]} is missing{f', and {len(absent) - 1} more files' if len(absent) > 1 else ''}.\n"
        f"Try:  ls {folder}  and download or copy it again"
    )


def tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model by its name. Raises UserError for weights that are missing, cut off or no safetensors."""
    return {name: stored for path in weight_files(folder) for name, stored in header(path).items()}


def header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file."""
    stat = path.stat()
    return _header(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=512)
def _header(path: Path, size: int, modified: int) -> dict[str, Stored]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(LENGTH))
            if length > size:
                raise ValueError("the header is longer than the file")
            found = json.loads(file.read(length))
        found.pop("__metadata__", None)
        named = {name: Stored(one["dtype"], tuple(one["shape"])) for name, one in found.items()}
        end = max((one["data_offsets"][1] for one in found.values()), default=0)
    except (struct.error, ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path} is no readable safetensors file.\nTry:  download or copy it again") from None
    whole = LENGTH + length + end
    if whole > size:
        raise UserError(f"{path} is cut off: {size:,} of {whole:,} bytes are there.\nTry:  download or copy it again")
    return named


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in TOKENIZER)


def size_on_disk(folder: Path) -> tuple[int, int]:
    """How many files a folder holds, and their bytes; links into the hub's store count as what they lead to."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def adapter_tensors(folder: Path) -> dict[str, Stored]:
    """The tensors of a peft adapter. Raises UserError as for a model's."""
    path = folder / "adapter_model.safetensors"
    if path.exists():
        return header(path)
    how = "only as .bin, a pickle" if (folder / "adapter_model.bin").exists() else "not"
    raise UserError(
        f"The adapter in {folder} has its weights {how} in adapter_model.safetensors.\n"
        "Try:  load it with peft and save it again by save_pretrained, which writes that file"
    )
