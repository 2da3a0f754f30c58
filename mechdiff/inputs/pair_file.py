"""What can be compared: pairs of models, described by TOML files, and where their weights are. Needs no torch.

A pair's models are local folders in the Hugging Face layout: a folder as it is, a hub snapshot that was downloaded before, or a
GGUF file converted once into the cache (see models/gguf.py).
"""

import hashlib
import tomllib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from mechdiff.common import cache
from mechdiff.common.errors import UserError, one_of
from mechdiff.common.paths import MODELS, OWN_PAIRS, PAIRS
from mechdiff.common.terms import DTYPES
from mechdiff.inputs import weight_files
from mechdiff.inputs.model_config import Shape, bare_shape, shape_of
from mechdiff.inputs.protocols import NAMES as PROTOCOLS

TEMPLATES = ("auto", "base", "each", "none")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # those that accelerate makes by itself
QUANTIZATIONS = ("8bit", "4bit")
OPTIONS = ("dtype", "chat_template", "protocol", "trust_remote_code", "device_map", "quantization")
SIZES = ("layers", "width", "heads")  # of [shape], which a pair file may give for models that are not on this machine
COMPARED = {"layers": "{} layers", "width": "a width of {}", "heads": "{} heads", "head_width": "heads of width {}"}
IDENTITY_SUFFIXES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".py"}

described: dict[str, "Pair"] = {}  # by name: pairs that this process knows without a file


@dataclass(frozen=True)
class Source:
    """Where one model comes from: exactly one of hub, folder and gguf, or none of them for a tuned adapter on the base.

    revision: a hub commit, branch or tag. wheel, sha256: a package that carries the GGUF file, and the file's hash.
    adapter: a peft adapter on top, as a folder or a hub id, and its own revision. content: a hash of weights that are only in
    memory; the folder then has the configuration and the tokenizer.
    """

    hub: str | None = None
    folder: str | None = None
    gguf: str | None = None
    revision: str | None = None
    wheel: str | None = None
    sha256: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    content: str | None = None

    @property
    def weights(self) -> "Source":
        """The same source without its adapter."""
        return replace(self, adapter=None, adapter_revision=None)

    def describe(self) -> str:
        name = self.hub or (self.folder or self.gguf or "").rpartition("/")[2]
        return name + (f" + adapter {self.adapter.rstrip('/').rpartition('/')[2]}" if self.adapter else "")

    def local(self) -> Path:
        """The folder with config.json, tokenizer and weights. Raises UserError, with what to type, if it is missing."""
        if self.gguf:
            folder = MODELS / f"{self.gguf_hash()[:16]}-float32"
            if not (folder / "config.json").exists():
                how = "demo" if self.wheel else f"prepare {self.gguf_file()}"
                raise UserError(f"{Path(self.gguf).name} is not prepared on this machine.\nTry:  python -m mechdiff {how}")
            return folder
        folder = Path(self.folder) if self.folder else snapshot(self.hub or "", self.revision, "config.json")
        if not (folder / "config.json").exists():
            raise UserError(f"There is no model in {folder}: config.json is missing.\nTry:  ls {folder}")
        return folder

    def gguf_file(self) -> Path:
        path = Path(self.gguf or "")
        if not path.is_file():
            raise UserError(f"There is no GGUF file {path}.\nTry:  ls {path.parent}")
        return path

    def gguf_hash(self) -> str:
        if self.sha256:
            return self.sha256
        path = self.gguf_file()
        return file_hash(path, path.stat().st_size, path.stat().st_mtime_ns)

    @property
    def convertible(self) -> bool:
        """Whether it is a GGUF, carried by a package or on this machine, that mechdiff has not converted yet."""
        available = self.gguf is not None and (self.wheel is not None or Path(self.gguf).is_file())
        return available and not (MODELS / f"{self.gguf_hash()[:16]}-float32" / "config.json").exists()

    def adapter_folder(self) -> Path | None:
        if self.adapter is None:
            return None
        folder = Path(self.adapter)
        if not (folder.is_absolute() and folder.is_dir()):  # a pair file's folders were made absolute when it was read
            folder = snapshot(self.adapter, self.adapter_revision, "adapter_config.json")
        if not (folder / "adapter_config.json").exists():
            raise UserError(f"There is no peft adapter in {folder}: adapter_config.json is missing.\nTry:  ls {folder}")
        return folder

    def tokenizer_folder(self) -> Path:
        """Where its tokenizer is: an adapter may come with its own."""
        adapter = self.adapter_folder()
        return adapter if adapter is not None and (adapter / "tokenizer_config.json").exists() else self.local()

    def check(self) -> None:
        """Raises UserError, with what to type, if its weights or its adapter are missing or incomplete."""
        if self.content is None:
            weight_files.weight_files(self.local(), hub_command(self.hub, self.revision) if self.hub else "")
        self.adapter_folder()

    def fingerprint(self) -> str:
        """What results depend on: a hash of weights, tokenizer, template and adapter, or the hub commit."""
        if self.content:
            return self.content
        if self.gguf:
            weights = self.gguf_hash()
        elif self.hub:
            weights = f"{self.hub}@{self.local().name}"
        else:
            weights = folder_hash(self.local())
        adapter = self.adapter_folder()
        return weights if adapter is None else f"{weights}+{folder_hash(adapter)}"


KEYS = [key for key in Source.__dataclass_fields__ if key != "content"]  # of a pair file's tables


@dataclass(frozen=True)
class Pair:
    """A base model, a tuned model, and how to read them.

    system: a system prompt before every prompt. protocol: whose definitions hold where a request names none. sizes: layers, width
    and heads, for a pair whose models are not on this machine.
    """

    name: str
    domain: str
    base: Source
    tuned: Source
    dtype: str | None = None
    chat_template: str = "auto"
    system: str = ""
    protocol: str = "mechdiff"
    trust_remote_code: bool = False
    device_map: str | tuple[tuple[str, str | int], ...] | None = None
    quantization: str | None = None
    sizes: tuple[int, int, int] | None = None
    path: str | None = None

    @property
    def argument(self) -> str:
        """What --pair takes: the pair's file, or its name if that is enough to find it."""
        return self.path or self.name

    def shape(self, side: str) -> Shape:
        """One model's build. side: base or tuned."""
        source: Source = getattr(self, side)
        if self.sizes is None:
            return shape_of(source.local())
        try:
            return shape_of(source.local())
        except UserError:
            return bare_shape(*self.sizes)

    @property
    def depth(self) -> int | None:
        """The number of layers; None if nothing on this machine says it."""
        try:
            return self.layers
        except UserError:
            return None

    @property
    def rendering(self) -> str:
        """How a prompt becomes text, as keys hold it: one and the same for templates that mean the same to this pair."""
        template = self.chat_template
        if template in ("base", "each") and self.base.content is None and self.one_tokenizer_folder:
            template = "auto"
        return f"{template}, system {self.system!r}" if self.system else template

    @property
    def one_tokenizer_folder(self) -> bool:
        """Whether both models' tokenizers, and so their templates, come from the same folder."""
        return self.base.tokenizer_folder() == self.tuned.tokenizer_folder()

    @property
    def layers(self) -> int:
        return self.shape("base").layers

    @property
    def heads(self) -> int:
        return self.shape("base").heads

    @property
    def kernel(self) -> str:
        """The attention kernel that both models run with: eager for logit soft-capping, which fast kernels ignore."""
        return "eager" if any(self.shape(side).softcap for side in ("base", "tuned")) else "sdpa"

    def missing(self) -> str | None:
        """Why the pair cannot be studied now, or None if its weights are here."""
        try:
            for source in (self.base, self.tuned):
                source.check()
        except UserError as error:
            return str(error)
        return None

    def check_same_shape(self) -> None:
        """Raises UserError if states of one model do not fit in the other."""
        base, tuned = self.shape("base"), self.shape("tuned")
        for key, what in COMPARED.items():
            if getattr(base, key) != getattr(tuned, key):
                raise UserError(
                    f"{self.name}: the base has {what.format(getattr(base, key))}, the tuned model {getattr(tuned, key)}, so no "
                    f"state or matrix of one fits in the other. Drift can still be computed.\n"
                    f"Try:  python -m mechdiff run drift --pair {self.argument}"
                )


def snapshot(hub_id: str, revision: str | None, file: str) -> Path:
    """The folder of a hub repository's downloaded snapshot. Raises UserError, with what to type, if it lacks the file."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(hub_id, file, revision=revision)
    except HFValidationError:
        raise UserError(
            f"{hub_id} is neither a folder on this machine nor a hub id such as org/model.\nTry:  ls {hub_id}"
        ) from None
    if not isinstance(path, str):
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"{hub_id} is not on this machine{at}, or has no {file}. For a gated model, first accept its terms on the hub and "
            f"run  hf auth login. `python -m mechdiff study` downloads a whole pair.\nTry:  {hub_command(hub_id, revision)}"
        )
    return Path(path).parent


def hub_command(hub_id: str, revision: str | None) -> str:
    """What downloads a repository."""
    return f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")


@lru_cache(maxsize=4096)
def file_hash(path: Path, size: int, modified: int) -> str:
    """sha256 of a file, cached on disk too; size and modification time tell whether the file has changed."""
    store, name = cache.default(), cache.key(what="file hash", path=str(path.resolve()), size=size, modified=modified)
    if (cached := store.text(name)) is not None:
        return cached
    with path.open("rb") as file:
        computed = hashlib.file_digest(file, "sha256").hexdigest()
    store.put_text(name, computed)
    return computed


def folder_hash(folder: Path) -> str:
    """A hash over the names and contents of a model folder's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in IDENTITY_SUFFIXES):
        stat = path.stat()
        digest.update(f"{path.name} {file_hash(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def shipped_pairs() -> list[str]:
    """Names of the pairs that come with mechdiff; first those that need no download."""
    return sorted((path.stem for path in PAIRS.glob("*.toml")), key=lambda name: (not name.startswith("demo"), name))


def added_pairs() -> list[str]:
    """Names of the pairs that were added on this machine."""
    return sorted(path.stem for path in OWN_PAIRS.glob("*.toml") if path.stem not in shipped_pairs())


def pair_names() -> list[str]:
    """Every pair that --pair finds by name: the shipped ones, then those added on this machine."""
    return [*shipped_pairs(), *added_pairs()]


def read_pair(name: str) -> Pair:
    """A pair by name, shipped or added on this machine, or a pair file by path.

    Raises UserError for an unknown name or a broken file.
    """
    if name in described:
        return described[name]
    if not name.endswith(".toml"):
        if name not in pair_names():
            raise one_of("Pair", name, [*pair_names(), "path/to/pair.toml"])
        folder = PAIRS if name in shipped_pairs() else OWN_PAIRS
        return replace(read_file(folder / f"{name}.toml"), name=name, path=None)
    if not Path(name).exists():
        raise UserError(f"There is no pair file {Path(name)}.\nTry:  python -m mechdiff pairs")
    return replace(read_file(Path(name)), path=name)


def read_file(path: Path) -> Pair:
    """The pair of one file. Raises UserError, naming the file and the key, for one that is not a pair."""
    try:
        return parse_pair(tomllib.loads(path.read_text(encoding="utf-8")), path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None


def parse_pair(table: dict, path: Path) -> Pair:
    for key in table:
        if key not in ("name", "domain", "base", "tuned", "options", "shape"):
            raise one_of(f"{path}: key", key, ["name", "domain", "[base]", "[tuned]", "[options]", "[shape]"])
    for key in ("base", "tuned", "options", "shape"):
        if not isinstance(table.get(key, {}), dict):
            raise UserError(f"{path}: {key} is not a table. Write  [{key}]  on a line of its own, and its values below.")
    for side in ("base", "tuned"):
        if side not in table:
            raise UserError(f'{path} has no [{side}] table. Add one with a line such as  hub = "org/model"')
    base, tuned = (parse_source(table[side], side, path) for side in ("base", "tuned"))
    if base.adapter and not (base.hub or base.folder or base.gguf):
        raise UserError(f"{path}: [base] needs exactly one of hub, folder, gguf.")
    if not (tuned.hub or tuned.folder or tuned.gguf):
        tuned = replace(base, adapter=tuned.adapter, adapter_revision=tuned.adapter_revision or tuned.revision)
    options = parse_options(table.get("options", {}), path)
    options["sizes"] = parse_sizes(table["shape"], path) if "shape" in table else None
    return Pair(table.get("name", path.stem), table.get("domain", ""), base, tuned, **options)


def parse_sizes(table: dict, path: Path) -> tuple[int, int, int]:
    """The [shape] table: layers, width and heads."""
    if set(table) != set(SIZES) or not all(isinstance(value, int) and value > 0 for value in table.values()):
        raise UserError(f"{path}: [shape] needs exactly layers, width and heads, each a number. Write, for example,  layers = 32")
    layers, width, heads = (table[name] for name in SIZES)
    return layers, width, heads


def parse_options(options: dict, path: Path) -> dict:
    """The [options] table as fields of Pair."""
    for key in options:
        if key not in OPTIONS:
            raise one_of(f"{path}: [options] key", key, OPTIONS)
    dtype, template = options.get("dtype"), options.get("chat_template", "auto")
    if dtype is not None and dtype not in DTYPES:
        raise one_of(f"{path}: dtype", dtype, DTYPES)
    if template not in TEMPLATES:
        raise one_of(f"{path}: chat_template", template, TEMPLATES)
    if (protocol := options.get("protocol", Pair.protocol)) not in PROTOCOLS:
        raise one_of(f"{path}: protocol", protocol, PROTOCOLS)
    device_map, quantization = options.get("device_map"), options.get("quantization")
    if isinstance(device_map, dict) and all(isinstance(value, str | int) for value in device_map.values()):
        device_map = tuple(device_map.items())
    elif device_map is not None and device_map not in DEVICE_MAPS:
        raise one_of(f"{path}: device_map", device_map, [*DEVICE_MAPS, '{ "model.layers.0" = 0, ... }'])
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise one_of(f"{path}: quantization", quantization, QUANTIZATIONS)
    return {
        "dtype": dtype,
        "chat_template": template,
        "protocol": protocol,
        "trust_remote_code": options.get("trust_remote_code", False) is True,
        "device_map": device_map,
        "quantization": quantization,
    }


def parse_source(table: dict, side: str, path: Path) -> Source:
    for key in table:
        if key not in KEYS:
            raise one_of(f"{path}: [{side}] key", key, KEYS)
        if not isinstance(table[key], str):
            raise UserError(f'{path}: [{side}] {key} is not a string. Write  {key} = "..."  with quotation marks.')
    origins = [key for key in ("hub", "folder", "gguf") if key in table]
    if len(origins) > 1 or (not origins and "adapter" not in table):
        alternative = ", or only an adapter" if side == "tuned" else ""
        raise UserError(f"{path}: [{side}] needs exactly one of hub, folder, gguf{alternative}; it has {origins or 'none'}.")
    values = dict(table)
    for key in ("folder", "gguf", "adapter"):
        if key in values and (key != "adapter" or (path.parent / values[key]).is_dir()):
            values[key] = str((path.parent / values[key]).resolve())
    return Source(**values)
