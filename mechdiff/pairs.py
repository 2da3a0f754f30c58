"""What can be compared: pairs of models, described by TOML files, and where their weights lie. Needs no torch.

A pair's models end up as local folders in the Hugging Face layout: a folder as it is, a hub snapshot that was downloaded
before, or a GGUF file converted once into the cache (see gguf.py).
"""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from mechdiff import store
from mechdiff.errors import UserError, one_of
from mechdiff.paths import MODELS, PAIRS
from mechdiff.terms import DTYPES

TEMPLATES = ("auto", "none")
OPTIONS = ("dtype", "chat_template", "trust_remote_code")
IDENTITY_SUFFIXES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".py"}


@dataclass(frozen=True)
class Source:
    """Where one model comes from: exactly one of hub, folder and gguf, or none of them for a tuned adapter on the base.

    revision: a hub commit, branch or tag. wheel, sha256: a package that carries the GGUF file, and the file's hash.
    adapter: a LoRA adapter on top, as a folder or a hub id.
    """

    hub: str | None = None
    folder: str | None = None
    gguf: str | None = None
    revision: str | None = None
    wheel: str | None = None
    sha256: str | None = None
    adapter: str | None = None

    @property
    def weights(self) -> "Source":
        """The same source without its adapter."""
        return Source(self.hub, self.folder, self.gguf, self.revision, self.wheel, self.sha256)

    def describe(self) -> str:
        name = self.hub or (self.folder or self.gguf or "").rpartition("/")[2]
        return name + (f" + adapter {self.adapter.rstrip('/').rpartition('/')[2]}" if self.adapter else "")

    def local(self) -> Path:
        """The folder with config.json, tokenizer and weights. Raises UserError, with what to type, if it is not here."""
        if self.gguf:
            folder = MODELS / f"{self.gguf_hash()[:16]}-float32"
            if not (folder / "config.json").exists():
                raise UserError(f"{Path(self.gguf).name} is not prepared on this machine.\nTry:  python -m mechdiff demo")
            return folder
        folder = Path(self.folder) if self.folder else snapshot(self.hub, self.revision, "config.json")
        if not (folder / "config.json").exists():
            raise UserError(f"There is no model in {folder}: config.json is missing.\nTry:  ls {folder}")
        return folder

    def gguf_hash(self) -> str:
        if self.sha256:
            return self.sha256
        path = Path(self.gguf)
        if not path.exists():
            raise UserError(f"There is no GGUF file {path}.\nTry:  ls {path.parent}")
        return file_hash(path, path.stat().st_size, path.stat().st_mtime_ns)

    def adapter_folder(self) -> Path | None:
        if self.adapter is None:
            return None
        folder = Path(self.adapter)
        if not folder.is_dir():
            folder = snapshot(self.adapter, None, "adapter_config.json")
        if not (folder / "adapter_config.json").exists():
            raise UserError(f"There is no peft adapter in {folder}: adapter_config.json is missing.\nTry:  ls {folder}")
        return folder

    def fingerprint(self) -> str:
        """What the results depend on: the content of weights, tokenizer, template and adapter, or the hub commit."""
        if self.gguf:
            weights = self.gguf_hash()
        elif self.hub:
            weights = f"{self.hub}@{self.local().name}"
        else:
            weights = folder_hash(self.local())
        adapter = self.adapter_folder()
        return weights if adapter is None else f"{weights}+{folder_hash(adapter)}"


@dataclass(frozen=True)
class Pair:
    """A base model, a tuned model, and how to read them."""

    name: str
    domain: str
    base: Source
    tuned: Source
    dtype: str | None = None
    chat_template: str = "auto"
    trust_remote_code: bool = False

    @cached_property
    def config(self) -> dict:
        """The base model's config.json (its text part)."""
        return read_config(self.base.local())

    @property
    def layers(self) -> int:
        return self.config.get("num_hidden_layers") or self.config["n_layer"]

    @property
    def heads(self) -> int:
        return self.config.get("num_attention_heads") or self.config["n_head"]

    @property
    def kernel(self) -> str:
        """The attention kernel both models run with. Fast kernels drop logit soft-capping, so it asks for eager."""
        return "eager" if self.config.get("attn_logit_softcapping") else "sdpa"

    def missing(self) -> str | None:
        """Why the pair cannot be studied now, or None if its weights are here."""
        try:
            for source in (self.base, self.tuned):
                source.local()
                source.adapter_folder()
        except UserError as error:
            return str(error)
        return None

    def check_same_shape(self) -> None:
        """Raises UserError if states of one model do not fit in the other."""
        mine, theirs = read_config(self.base.local()), read_config(self.tuned.local())
        for key, what in (("num_hidden_layers", "layers"), ("hidden_size", "width"), ("num_attention_heads", "heads")):
            if mine.get(key) != theirs.get(key):
                raise UserError(
                    f"{self.name}: the base has {mine.get(key)} {what}, the tuned model {theirs.get(key)}, so no state of one "
                    f"fits in the other.\nTry:  python -m mechdiff run drift --pair {self.name}"
                )


def read_config(folder: Path) -> dict:
    config = json.loads((folder / "config.json").read_text())
    return config.get("text_config") or config


def snapshot(hub_id: str, revision: str | None, file: str) -> Path:
    """The downloaded snapshot of a hub repository."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, file, revision=revision)
    except HFValidationError:
        raise UserError(
            f"{hub_id} is neither a folder on this machine nor a hub id such as org/model.\nTry:  ls {hub_id}"
        ) from None
    if not isinstance(found, str):
        at = f" --revision {revision}" if revision else ""
        raise UserError(f"{hub_id} is not on this machine.\nTry:  hf download {hub_id}{at}")
    return Path(found).parent


@lru_cache(maxsize=4096)
def file_hash(path: Path, size: int, modified: int) -> str:
    """sha256 of a file, remembered on disk too; size and modification time make the memory of it safe."""
    memory, name = store.default(), store.key(what="file hash", path=str(path.resolve()), size=size, modified=modified)
    if (known := memory.text(name)) is not None:
        return known
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    memory.put_text(name, found)
    return found


def folder_hash(folder: Path) -> str:
    """A hash over the names and contents of a model folder's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in IDENTITY_SUFFIXES):
        stat = path.stat()
        digest.update(f"{path.name} {file_hash(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def shipped() -> list[str]:
    """Names of the pairs that come with mechdiff, the ones that need no download first."""
    return sorted((path.stem for path in PAIRS.glob("*.toml")), key=lambda name: (not name.startswith("demo"), name))


def read_pair(name: str) -> Pair:
    """A shipped pair by name, or a pair file by path. Raises UserError for an unknown name or a broken file."""
    path = Path(name) if name.endswith(".toml") else PAIRS / f"{name}.toml"
    if not path.exists():
        if name.endswith(".toml"):
            raise UserError(f"There is no pair file {path}.\nTry:  python -m mechdiff pairs")
        raise one_of("Pair", name, [*shipped(), "path/to/pair.toml"])
    try:
        return parse_pair(tomllib.loads(path.read_text(encoding="utf-8")), path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None


def parse_pair(table: dict, path: Path) -> Pair:
    for key in table:
        if key not in ("name", "domain", "base", "tuned", "options"):
            raise one_of(f"{path}: key", key, ["name", "domain", "[base]", "[tuned]", "[options]"])
    for key in ("base", "tuned", "options"):
        if not isinstance(table.get(key, {}), dict):
            raise UserError(f"{path}: {key} is not a table. Write  [{key}]  on a line of its own, and its values below.")
    for side in ("base", "tuned"):
        if side not in table:
            raise UserError(f'{path} has no [{side}] table. Add one with a line such as  hub = "org/model"')
    base, tuned = (parse_source(table[side], side, path) for side in ("base", "tuned"))
    if base.adapter and not (base.hub or base.folder or base.gguf):
        raise UserError(f"{path}: [base] needs exactly one of hub, folder, gguf.")
    if not (tuned.hub or tuned.folder or tuned.gguf):
        tuned = Source(**{**vars(base), "adapter": tuned.adapter})
    options = table.get("options", {})
    for key in options:
        if key not in OPTIONS:
            raise one_of(f"{path}: [options] key", key, OPTIONS)
    dtype, template = options.get("dtype"), options.get("chat_template", "auto")
    if dtype is not None and dtype not in DTYPES:
        raise one_of(f"{path}: dtype", dtype, DTYPES)
    if template not in TEMPLATES:
        raise one_of(f"{path}: chat_template", template, TEMPLATES)
    name, domain = table.get("name", path.stem), table.get("domain", "")
    return Pair(name, domain, base, tuned, dtype, template, bool(options.get("trust_remote_code", False)))


def parse_source(table: dict, side: str, path: Path) -> Source:
    for key in table:
        if key not in Source.__dataclass_fields__:
            raise one_of(f"{path}: [{side}] key", key, Source.__dataclass_fields__)
    given = [key for key in ("hub", "folder", "gguf") if key in table]
    if len(given) > 1 or (not given and "adapter" not in table):
        alternative = ", or only an adapter" if side == "tuned" else ""
        raise UserError(f"{path}: [{side}] needs exactly one of hub, folder, gguf{alternative}; it has {given or 'none'}.")
    values = dict(table)
    for key in ("folder", "gguf", "adapter"):
        if key in values and (key != "adapter" or (path.parent / values[key]).is_dir()):
            values[key] = str((path.parent / values[key]).resolve())
    return Source(**values)
