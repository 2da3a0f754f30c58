"""A pair's pre-flight card: what the two models are, whether they can be compared, what that will cost. Loads no weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil

from mechdiff import questions as experiments
from mechdiff.common.errors import UserError
from mechdiff.common.terms import QUESTIONS, SIDES, STREAMS
from mechdiff.inputs import weight_files
from mechdiff.inputs.model_config import Shape
from mechdiff.inputs.pair_file import Pair, Source
from mechdiff.inputs.prompts import BLOCK, Prompt, read_domain
from mechdiff.inputs.tokenizers import Tokenizers, load_tokenizers, special_ids
from mechdiff.models.load import check_architecture, trained_elsewhere
from mechdiff.models.registry import resolve_device, resolve_dtype
from mechdiff.questions import Parity, Run
from mechdiff.study import sweep_process, sweeps

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTIZED = {"8bit": 1.0, "4bit": 0.5}  # bytes a number of a quantized matrix; scales not counted
WHOLE = ("embed", "wte", "wpe", "lm_head", "norm")  # parts of names that bitsandbytes leaves as they are
GRID = "quick"
ENGLISH = {True: "yes", False: "no", None: "not said"}


@dataclass
class Card:
    """What is known of a pair before it is loaded.

    lines: name -> what the base and the tuned model say. questions: question -> why it cannot be asked, None if it can. faults:
    sentences of what stands in the way. notes: what else to know. memory: bytes needed, by what for; free: bytes there are.
    cells: of a quick sweep, all and those that are not in the cache; seconds: what it would take, None if that is not known.
    """

    pair: Pair
    device: str
    dtype: str
    lines: dict[str, tuple[str, str]] = field(default_factory=dict)
    questions: dict[str, str | None] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    free: int = 0
    cells: tuple[int, int] | None = None
    seconds: float | None = None
    basis: str = ""

    def table(self) -> pd.DataFrame:
        """A row per property: base, tuned, and whether they are the same."""
        rows = [(name, *both, "" if both[0] == both[1] else "differs") for name, both in self.lines.items()]
        return pd.DataFrame(rows, columns=["", *SIDES, "same?"])

    @property
    def needed(self) -> int:
        return sum(self.memory.values())


def card(pair: Pair, domain: str | None = None, device: str = "auto", dtype: str | None = None) -> Card:
    """A pair's card on a domain's prompts. A pair whose weights are not here, or not whole, has a card that says so."""
    asked = sweep_process.Asked(pair.asked, domain or pair.domain, GRID, dtype, device)
    device = resolve_device(device)
    found = Card(pair, device, resolve_dtype(dtype, pair, device), free=free_bytes(device))
    if missing := pair.missing():
        found.faults.append(missing)
        return found
    shapes = attempt(found, lambda: [pair.shape(side) for side in SIDES])
    if shapes is None:
        return found
    about_models(found, shapes)
    about_disk(found)
    prompts = attempt(found, lambda: read_domain(asked.domain, "val")[: sweeps.GRIDS[GRID].limit])
    tokenizers = attempt(found, lambda: load_tokenizers(pair))
    if tokenizers is not None:
        about_tokens(found, tokenizers, shapes)
        about_memory(found, shapes, tokenizers, prompts or [])
    about_questions(found, tokenizers)
    if not found.faults and found.questions["patch"] is None:
        about_time(found, asked)
    return found


def attempt(found: Card, read: Callable):
    """What reading gives; None, and a fault on the card, where it raises UserError."""
    try:
        return read()
    except UserError as error:
        found.faults.append(str(error))
        return None


def both(values) -> tuple[str, str]:
    return tuple("—" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in values)


def about_models(found: Card, shapes: list[Shape]) -> None:
    pair = found.pair
    sources = [getattr(pair, side) for side in SIDES]
    found.lines["model"] = tuple(source.describe() for source in sources)
    found.lines["architecture"] = tuple(f"{s.family} ({s.architecture})" if s.architecture else s.family for s in shapes)
    for name, key in (("layers", "layers"), ("width", "width"), ("heads a layer", "heads"), ("head width", "head_width")):
        found.lines[name] = both(getattr(shape, key) for shape in shapes)
    found.lines["heads that share keys"] = tuple(
        "none" if s.groups == s.heads else f"{s.groups} groups of {s.heads // s.groups}" for s in shapes
    )
    found.lines["longest prompt"] = both(shape.window for shape in shapes)
    found.lines["sliding window"] = tuple("none" if s.sliding is None else f"{s.sliding:,} tokens" for s in shapes)
    found.lines["tied embeddings"] = tuple(ENGLISH[shape.tied] for shape in shapes)
    found.lines["rows of the embedding"] = both(shape.vocabulary for shape in shapes)
    for source in sources:
        attempt(found, lambda source=source: check_architecture(source.local(), pair))
        if source.adapter:
            found.notes += attempt(found, lambda source=source: trained_elsewhere(source)) or []
    if pair.tuned.weights == pair.base.weights:
        found.notes.append("Both models stand on one copy of the base's weights.")


def about_disk(found: Card) -> None:
    def told(folder: Path | None) -> str:
        if folder is None:
            return "none"
        count, size = weight_files.size_on_disk(folder)
        return f"{in_bytes(size)} in {count} files"

    sources = [getattr(found.pair, side) for side in SIDES]
    for name, folders in (
        ("model", [source.local() for source in sources]),
        ("adapter", [source.adapter_folder() for source in sources]),
    ):
        if any(folders):
            found.lines[f"{name} on disk"] = tuple(map(told, folders))
            found.lines[f"{name} in"] = both(folders)


def about_tokens(found: Card, tokenizers: Tokenizers, shapes: list[Shape]) -> None:
    sides = [getattr(tokenizers, side) for side in SIDES]
    words = [set(tokenizer.get_vocab()) for tokenizer in sides]
    found.lines["tokenizer"] = tuple(f"{type(one).__name__}, {len(vocabulary):,} tokens" for one, vocabulary in zip(sides, words))
    found.lines["tokens in both"] = tuple(f"{len(words[0] & words[1]):,}, {len(words[0] & words[1]) / len(w):.1%}" for w in words)
    found.lines["special tokens"] = tuple(listed(one.convert_ids_to_tokens(sorted(special_ids(one)))) for one in sides)
    found.lines["begins with"] = tuple(one.bos_token or "nothing" for one in sides)
    has = [bool(one.chat_template) for one in sides]
    used = "none: plain text" if found.pair.chat_template == "none" or not any(has) else SIDES[has[1]]
    found.lines["chat template"] = tuple(
        "used for both" if side == used else "it has one" if own else "none" for side, own in zip(SIDES, has)
    )
    if used not in SIDES:
        found.notes.append("No chat template is used: both models read the prompt as plain text.")
    if not tokenizers.shared:
        found.notes.append("The two tokenizers differ, so what compares next tokens of both models (recovery, KL) is left out.")


def listed(tokens: list[str], most: int = 6) -> str:
    return f"{len(tokens)}: {' '.join(tokens[:most])}{' ...' if len(tokens) > most else ''}"


def about_memory(found: Card, shapes: list[Shape], tokenizers: Tokenizers, prompts: list[Prompt]) -> None:
    pair = found.pair
    sizes = {}
    for source in dict.fromkeys(getattr(pair, side).weights for side in SIDES):
        size = attempt(found, lambda source=source: weight_bytes(source, pair, found.dtype))
        if size is None:
            return
        sizes[source] = size
    found.memory["weights" if len(sizes) == 2 else "weights, once for both"] = sum(sizes.values())
    adapters = [getattr(pair, side).adapter_folder() for side in SIDES]
    read = attempt(found, lambda: [weight_files.adapter_tensors(folder) for folder in adapters if folder])
    if read:
        found.memory["adapters"] = sum(one.count for tensors in read for one in tensors.values()) * BYTES["float32"]
    lengths = {side: [len(tokenizers.encode(prompt.text, side)) for prompt in prompts[:BLOCK]] for side in SIDES}
    passes = [pass_bytes(shape, lengths[side], BYTES[found.dtype], True) for shape, side in zip(shapes, SIDES)]
    found.memory[f"clean passes of {len(lengths['base'])} prompts"] = sum(passes)
    if found.needed > found.free:
        found.notes.append(
            f"About {in_bytes(found.needed)} are needed and {in_bytes(found.free)} are free: it may not fit. A smaller dtype, or "
            "quantization and device_map under [options], need less."
        )


def weight_bytes(source: Source, pair: Pair, dtype: str) -> int:
    """Bytes of a model's weights in memory, from the shapes in its files' headers."""
    size = 0.0
    for name, stored in weight_files.tensors(source.local()).items():
        matrix = len(stored.shape) == 2 and not any(part in name for part in WHOLE)
        size += stored.count * (QUANTIZED[pair.quantization] if pair.quantization and matrix else BYTES[dtype])
    return int(size)


def pass_bytes(shape: Shape, lengths: list[int], bytes_each: int, recipient: bool) -> int:
    """Bytes that a clean pass over prompts of these lengths leaves in memory: states, next tokens, and a recipient's keys."""
    numbers = shape.layers * ((len(STREAMS) - 1) * shape.width + shape.heads * shape.head_width) * len(lengths)
    if recipient:
        numbers += 2 * shape.layers * shape.groups * shape.head_width * max(lengths) * len(lengths)
    return numbers * bytes_each + BYTES["float32"] * (shape.vocabulary or 0) * len(lengths)


def free_bytes(device: str) -> int:
    if device == "cpu":
        return psutil.virtual_memory().available
    import torch

    return torch.cuda.mem_get_info()[0]


def about_questions(found: Card, tokenizers: Tokenizers | None) -> None:
    """Which questions can be asked; drift can, of any two models."""
    why = next(iter(found.faults), None)
    found.questions = dict.fromkeys(QUESTIONS, why and why.splitlines()[0])
    if why is None:
        try:
            found.pair.check_same_shape()
        except UserError as error:
            found.questions |= {name: str(error).splitlines()[0] for name in QUESTIONS if name != "drift"}


def about_time(found: Card, asked: sweep_process.Asked) -> None:
    """How long a quick sweep would take: by the last one's pace, else by what the check of rows against hooks measured."""
    settings = {"device": asked.device, "dtype": asked.dtype}
    total, done = map(sum, zip(*sweeps.extent(asked.pair, asked.domain, GRID, seed=asked.seed, **settings).values()))
    found.cells = total, total - done
    if (pace := sweep_process.pace(asked, found.pair.name)) is not None:
        found.seconds, found.basis = pace * (total - done), "as fast as the last sweep"
        return
    run = Run("patch", pair=asked.pair, domain=asked.domain, **settings)
    measured = experiments.task(Parity(run)).table()
    if len(measured):
        read = len(run.train_prompts) + 2 * len(read_domain(asked.domain, "val")[: sweeps.GRIDS[GRID].limit])
        seconds = measured[["seconds a prompt", "seconds a cell"]].mean()
        found.seconds = read * seconds["seconds a prompt"] + (total - done) * seconds["seconds a cell"]
        found.basis = "extrapolated from the few prompts of the check"


def in_bytes(size: float) -> str:
    return next(
        (f"{size / unit:.1f} {name}" for unit, name in ((1e9, "GB"), (1e6, "MB")) if size >= unit), f"{size / 1e3:.1f} kB"
    )
