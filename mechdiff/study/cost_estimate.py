"""A pair's pre-flight card: what the two models are, whether they can be compared, and at what cost. Loads no weights."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil

from mechdiff import questions
from mechdiff.common.errors import UserError
from mechdiff.common.sizes import in_bytes
from mechdiff.common.terms import SIDES, STREAMS
from mechdiff.inputs import weight_files
from mechdiff.inputs.model_config import Shape
from mechdiff.inputs.pair_file import Pair, Source
from mechdiff.inputs.prompts import BLOCK, Prompt, read_domain
from mechdiff.inputs.tokenizers import Tokenizers, load_tokenizers, special_ids
from mechdiff.models.load import check_architecture, trained_elsewhere
from mechdiff.models.registry import resolve_device, resolve_dtype
from mechdiff.questions import QUESTIONS, Run
from mechdiff.questions.diagnostics.parity_check import Parity
from mechdiff.study import sweep_plan, sweep_process, sweeps

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTIZED = {"8bit": 1.0, "4bit": 0.5}  # bytes a number of a quantized matrix; scales not counted
WHOLE = ("embed", "wte", "wpe", "lm_head", "norm")  # parts of names that bitsandbytes leaves as they are
GRID = "quick"
ENGLISH = {True: "yes", False: "no", None: "unknown"}


@dataclass
class Card:
    """What is known about a pair before it is loaded.

    lines: property -> its value for the base and the tuned model. questions: question -> why it cannot be asked, None if it can.
    faults: what prevents a comparison, in sentences. notes: what else to know. memory: purpose -> bytes needed; free: bytes
    available. cells: of a quick sweep, all and those not in the cache; seconds: its estimated duration, None if unknown; basis:
    of the estimate.
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
        rows = [(name, base, tuned, "" if base == tuned else "differs") for name, (base, tuned) in self.lines.items()]
        return pd.DataFrame(rows, columns=["", *SIDES, "same?"])

    @property
    def needed(self) -> int:
        return sum(self.memory.values())


def preflight_card(
    pair: Pair, domain: str | None = None, device: str = "auto", dtype: str | None = None, timed: bool = True
) -> Card:
    """A pair's card on a domain's prompts. If weights are missing or incomplete, the card says so.

    timed: whether it says how long a quick sweep takes.
    """
    request = sweep_process.SweepRequest(pair.argument, domain or pair.domain, GRID, dtype, device)
    device = resolve_device(device)
    card = Card(pair, device, resolve_dtype(dtype, pair, device), free=free_bytes(device))
    if missing := pair.missing():
        card.faults.append(missing)
        return card
    shapes = attempt(card, lambda: [pair.shape(side) for side in SIDES])
    if shapes is None:
        return card
    about_models(card, shapes)
    about_disk(card)
    prompts = attempt(card, lambda: read_domain(request.domain or pair.domain, "val")[: sweep_plan.GRIDS[GRID].limit])
    tokenizers = attempt(card, lambda: load_tokenizers(pair))
    if tokenizers is not None:
        about_tokens(card, tokenizers, shapes)
        about_memory(card, shapes, tokenizers, prompts or [])
    about_questions(card, tokenizers)
    if timed and not card.faults and card.questions["patch"] is None:
        about_time(card, request)
    return card


def attempt(card: Card, read: Callable):
    """The result of read(); where that raises UserError, None, and a fault on the card."""
    try:
        return read()
    except UserError as error:
        card.faults.append(str(error))
        return None


def both(values: Iterable[object]) -> tuple[str, str]:
    """The base's and the tuned model's value as text."""
    base, tuned = ("—" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in values)
    return base, tuned


def about_models(card: Card, shapes: list[Shape]) -> None:
    pair = card.pair
    sources = [getattr(pair, side) for side in SIDES]
    card.lines["model"] = both(source.describe() for source in sources)
    card.lines["architecture"] = both(f"{s.family} ({s.architecture})" if s.architecture else s.family for s in shapes)
    for name, key in (("layers", "layers"), ("width", "width"), ("heads a layer", "heads"), ("head width", "head_width")):
        card.lines[name] = both(getattr(shape, key) for shape in shapes)
    card.lines["heads that share keys"] = both(
        "none" if s.groups == s.heads else f"{s.groups} groups of {s.heads // s.groups}" for s in shapes
    )
    card.lines["longest prompt"] = both(shape.window for shape in shapes)
    card.lines["sliding window"] = both("none" if s.sliding is None else f"{s.sliding:,} tokens" for s in shapes)
    card.lines["tied embeddings"] = both(ENGLISH[shape.tied] for shape in shapes)
    card.lines["rows of the embedding"] = both(shape.vocabulary for shape in shapes)
    for source in sources:
        attempt(card, lambda source=source: check_architecture(source.local(), pair))
        if source.adapter:
            card.notes += attempt(card, lambda source=source: trained_elsewhere(source)) or []
    if pair.tuned.weights == pair.base.weights:
        card.notes.append("Both models share one copy of the base's weights.")


def about_disk(card: Card) -> None:
    def describe(folder: Path | None) -> str:
        if folder is None:
            return "none"
        count, size = weight_files.size_on_disk(folder)
        return f"{in_bytes(size)} in {count} files"

    sources = [getattr(card.pair, side) for side in SIDES]
    for name, folders in (
        ("model", [source.local() for source in sources]),
        ("adapter", [source.adapter_folder() for source in sources]),
    ):
        if any(folders):
            card.lines[f"{name} on disk"] = both(map(describe, folders))
            card.lines[f"{name} in"] = both(folders)


def about_tokens(card: Card, tokenizers: Tokenizers, shapes: list[Shape]) -> None:
    sides = [getattr(tokenizers, side) for side in SIDES]
    vocabularies = [set(tokenizer.get_vocab()) for tokenizer in sides]
    shared = len(vocabularies[0] & vocabularies[1])
    card.lines["tokenizer"] = both(f"{type(side).__name__}, {len(tokens):,} tokens" for side, tokens in zip(sides, vocabularies))
    card.lines["tokens in both"] = both(f"{shared:,}, {shared / len(tokens):.1%}" for tokens in vocabularies)
    card.lines["special tokens"] = both(listed(side.convert_ids_to_tokens(sorted(special_ids(side)))) for side in sides)
    card.lines["begins with"] = both(side.bos_token or "nothing" for side in sides)
    has = [bool(side.chat_template) for side in sides]
    used = "none: plain text" if card.pair.chat_template == "none" or not any(has) else SIDES[has[1]]
    card.lines["chat template"] = both(
        "used for both" if side == used else "has one" if own else "none" for side, own in zip(SIDES, has)
    )
    if used not in SIDES:
        card.notes.append("No chat template is used: both models read the prompt as plain text.")
    if not tokenizers.shared:
        card.notes.append("The tokenizers differ, so measures that compare both models' next tokens (recovery, KL) are left out.")


def listed(tokens: list[str], most: int = 6) -> str:
    return f"{len(tokens)}: {' '.join(tokens[:most])}{' ...' if len(tokens) > most else ''}"


def about_memory(card: Card, shapes: list[Shape], tokenizers: Tokenizers, prompts: list[Prompt]) -> None:
    pair = card.pair
    sizes = {}
    for source in dict.fromkeys(getattr(pair, side).weights for side in SIDES):
        size = attempt(card, lambda source=source: weight_bytes(source, pair, card.dtype))
        if size is None:
            return
        sizes[source] = size
    card.memory["weights" if len(sizes) == 2 else "weights, once for both"] = sum(sizes.values())
    adapters = [getattr(pair, side).adapter_folder() for side in SIDES]
    read = attempt(card, lambda: [weight_files.adapter_tensors(folder) for folder in adapters if folder])
    if read:
        card.memory["adapters"] = sum(tensor.count for tensors in read for tensor in tensors.values()) * BYTES["float32"]
    lengths = {side: [len(tokenizers.encode(prompt.text, side)) for prompt in prompts[:BLOCK]] for side in SIDES}
    passes = [pass_bytes(shape, lengths[side], BYTES[card.dtype], True) for shape, side in zip(shapes, SIDES)]
    card.memory[f"clean passes of {len(lengths['base'])} prompts"] = sum(passes)
    if card.needed > card.free:
        card.notes.append(
            f"About {in_bytes(card.needed)} are needed and {in_bytes(card.free)} are free: the pair may not fit. A smaller dtype "
            "needs less, and so do quantization and device_map under [options]."
        )


def weight_bytes(source: Source, pair: Pair, dtype: str) -> int:
    """Bytes of a model's weights in memory, from the shapes in its files' headers."""
    size = 0.0
    for name, stored in weight_files.tensors(source.local()).items():
        matrix = len(stored.shape) == 2 and not any(part in name for part in WHOLE)
        size += stored.count * (QUANTIZED[pair.quantization] if pair.quantization and matrix else BYTES[dtype])
    return int(size)


def pass_bytes(shape: Shape, lengths: list[int], bytes_each: int, recipient: bool) -> int:
    """Bytes that a clean pass over prompts of these lengths keeps in memory: states, next tokens, and a recipient's keys."""
    numbers = shape.layers * ((len(STREAMS) - 1) * shape.width + shape.heads * shape.head_width) * len(lengths)
    if recipient:
        numbers += 2 * shape.layers * shape.groups * shape.head_width * max(lengths) * len(lengths)
    return numbers * bytes_each + BYTES["float32"] * (shape.vocabulary or 0) * len(lengths)


def free_bytes(device: str) -> int:
    if device == "cpu":
        return psutil.virtual_memory().available
    import torch

    return torch.cuda.mem_get_info()[0]


def about_questions(card: Card, tokenizers: Tokenizers | None) -> None:
    """Which questions can be asked; drift works for any two models."""
    fault = next(iter(card.faults), None)
    card.questions = dict.fromkeys(QUESTIONS, fault and fault.splitlines()[0])
    if fault is None:
        try:
            card.pair.check_same_shape()
        except UserError as error:
            card.questions |= {name: str(error).splitlines()[0] for name, kind in QUESTIONS.items() if kind.same_shape}


def about_time(card: Card, request: sweep_process.SweepRequest) -> None:
    """How many cells a sweep has, and how long they take."""
    settings = {"device": request.device, "dtype": request.dtype, "seed": request.seed}
    parts = sweeps.extent(request.pair, request.domain, request.grid, **settings)
    total, done = map(sum, zip(*parts.values()))
    card.cells = total, total - done
    card.seconds, card.basis = duration(request, card.pair, total - done)


def duration(request: sweep_process.SweepRequest, pair: Pair, cells: int) -> tuple[float | None, str]:
    """How many seconds so many cells of a sweep take, and the basis of the estimate; None if there is none.

    At the last sweep's pace, else from what the check of rows against hooks measured.
    """
    if (pace := sweep_process.pace(request, pair.name)) is not None:
        return pace * cells, "at the last sweep's pace"
    run = Run("patch", pair=request.pair, domain=request.domain, device=request.device, dtype=request.dtype)
    measured = questions.task(Parity(run)).table()
    if not len(measured):
        return None, ""
    prompts = read_domain(request.domain or pair.domain, "val")[: sweep_plan.GRIDS[request.grid].limit]
    seconds = measured[["seconds a prompt", "seconds a cell"]].mean()
    read = len(run.train_prompts) + 2 * len(prompts)
    return read * seconds["seconds a prompt"] + cells * seconds["seconds a cell"], "extrapolated from the check's few prompts"
