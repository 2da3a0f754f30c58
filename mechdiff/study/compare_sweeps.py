"""Two stored sweeps side by side: what the Compare page and `python -m mechdiff compare` show. Needs no torch."""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from mechdiff.common.errors import UserError
from mechdiff.common.terms import DIRECTIONS
from mechdiff.maths import intervals
from mechdiff.study.estimates import NOT_STORED, estimates
from mechdiff.study.quantities import INTERVALS, QUANTITIES, Estimate, Quantity, text, word
from mechdiff.study.stored_sweep import StoredSweep, parse

ENDS = ("value", "low", "high")
COLUMNS = ["key", "quantity", "a", "a_word", "b", "b_word", "difference", "clear", *(f"{s}_{end}" for s in "ab" for end in ENDS)]


@dataclass(frozen=True)
class Comparison:
    """What to compare. a, b: PAIR or PAIR@DOMAIN. depth: where cuts and maps are read, 0 to 1; None: as chosen on train."""

    a: str
    b: str
    direction: str = DIRECTIONS[0]
    depth: float | None = None

    def __post_init__(self):
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise UserError(f"Depth {self.depth:g} is not between 0 (first layer) and 1 (last layer).\nTry:  --depth 0.9")

    @property
    def sweeps(self) -> tuple[StoredSweep, StoredSweep]:
        return parse(self.a, self.direction), parse(self.b, self.direction)

    @property
    def command(self) -> str:
        """The equivalent command line."""
        flags = asdict(self) | {"direction": None if self.direction == DIRECTIONS[0] else self.direction}
        return " ".join(["python -m mechdiff compare", *(f"--{k} {v}" for k, v in flags.items() if v is not None)])


def bootstrap_seeds(a: StoredSweep, b: StoredSweep) -> tuple[int, int]:
    """Seeds of the two bootstraps: the same on the same prompts, so that differences are paired; else independent ones."""
    hashes = [manifest and manifest.get("prompts_hash") for manifest in (a.manifest("rq1"), b.manifest("rq1"))]
    return 0, 0 if hashes[0] is not None and hashes[0] == hashes[1] else 1


def difference(quantity: Quantity, a: Estimate, b: Estimate) -> Estimate:
    """B - A. Without resamples, the interval runs from one end to the other's opposite end: an upper bound on its width."""
    if a.why or b.why:
        return Estimate(why="")
    if quantity.ranked and a.draws is not None and b.draws is not None:
        higher, lower = (100 * np.mean(side) for side in (b.draws > a.draws, b.draws < a.draws))
        parts = [f"{name} in {share:.0f} %" for name, share in (("higher", higher), ("lower", lower)) if share >= 0.5]
        return Estimate(why=f"B {', '.join(parts) or 'the same in 100 %'} of resamples")
    if a.whole != b.whole:
        return Estimate(why=f"{a.whole:.0f} heads against {b.whole:.0f}")
    if np.isinf([a.value, b.value]).any():  # the full rank is no number of directions
        return Estimate(why="")
    if a.ratio is None or b.ratio is None:
        return Estimate(b.value - a.value, b.low - a.high, b.high - a.low)
    paired = a.ratio.templates.same_as(b.ratio.templates)
    value, low, high = intervals.difference(a.ratio, b.ratio, paired)
    return Estimate(value, low, high)


def tabulate(a: dict[str, Estimate], b: dict[str, Estimate]) -> pd.DataFrame:
    """A line per quantity: key, name, each sweep's text and word, the difference, and whether its interval excludes zero.

    Value, low and high of a and of b follow as numbers. What neither sweep has is left out, and a quantity that another one has
    taken the place of, where both have that one or neither has this one.
    """
    rows = []
    for key, quantity in QUANTITIES.items():
        if not any(is_shown(key, estimates) for estimates in (a, b)):
            continue
        change = difference(quantity, a[key], b[key])
        row = {"key": key, "quantity": quantity.name}
        row |= {"a": text(quantity, a[key]), "a_word": word(quantity, a[key])}
        row |= {"b": text(quantity, b[key]), "b_word": word(quantity, b[key])}
        row |= {"difference": text(quantity, change, sign=True), "clear": bool(change.low > 0 or change.high < 0)}
        for side, estimate in (("a", a[key]), ("b", b[key])):
            row |= {f"{side}_{name}": float(getattr(estimate, name)) for name in ENDS}
        rows.append(row)
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def is_shown(key: str, estimates: dict[str, Estimate]) -> bool:
    """Whether a sweep has a quantity, and nothing that is read instead."""
    later = QUANTITIES[key].instead
    return estimates[key].why != NOT_STORED and (not later or estimates[later].why == NOT_STORED)


def answer(comparison: Comparison) -> pd.DataFrame:
    """A row per quantity."""
    sweeps = comparison.sweeps
    seeds = bootstrap_seeds(*sweeps)
    a, b = (estimates(sweep, comparison.depth, seed) for sweep, seed in zip(sweeps, seeds))
    return tabulate(a, b)


def missing(sweep: StoredSweep, values: dict[str, Estimate], other: dict[str, Estimate]) -> str:
    """What to type for the quantities that are not stored here, though the other sweep has them; empty if there are none."""
    names = [QUANTITIES[key].name for key in values if values[key].why == NOT_STORED and is_shown(key, other)]
    if all(estimate.why == NOT_STORED for estimate in values.values()):
        return f"{sweep.label}: nothing is stored.\nTry:  {sweep.command}"
    return f"{sweep.label}: not stored: {'; '.join(names)}.\nTry:  {sweep.command}" if names else ""


def report(a: StoredSweep, b: StoredSweep, depth: float | None = None) -> str:
    """The comparison as text."""
    values = [estimates(sweep, depth, seed) for sweep, seed in zip((a, b), bootstrap_seeds(a, b))]
    lines = tabulate(*values)
    cells = {"": lines["quantity"]} | {side.upper(): lines[side] + "  " + lines[f"{side}_word"] for side in ("a", "b")}
    table = pd.DataFrame(cells | {"B - A": lines["difference"]})
    table = table.map(str.strip).apply(lambda column: column.str.ljust(column.str.len().max()))
    verdict = [table.to_string(index=False, justify="left"), "", INTERVALS] if len(table) else []
    headings = [f"{side}: {sweep.label} ({sweep.origin()})" for side, sweep in (("A", a), ("B", b))]
    notes = dict.fromkeys(filter(None, map(missing, (a, b), values, values[::-1])))  # the same sweep twice needs one note
    return "\n".join([*headings, "", *verdict, *notes])


def compare_sweeps(a: str, b: str, direction: str = DIRECTIONS[0], depth: float | None = None) -> pd.DataFrame:
    """What two pairs answer to the four questions, from their stored sweeps, a row per quantity.

    a, b: PAIR or PAIR@DOMAIN, as in the sweeps' commands. direction: base-to-tuned or tuned-to-base. depth: where rank cuts are
    read, 0 (first layer) to 1 (last); None: at each pair's layer that was chosen on train.
    Returns a row per quantity, by its key: quantity, its name; a, b and difference (B - A) as text; a_value, a_low, a_high (95 %
    interval over prompts) and those of b as numbers; clear: whether the difference's interval excludes zero. No weights are read.
    Raises UserError for a pair, a domain or a direction that does not exist, and for a depth outside 0 to 1.

    Example:
        >>> verdict = md.compare_sweeps("demo-cultural", "demo-cognitive")
        >>> verdict.loc["centroid", "a"]
        '0.51 [0.50, 0.52]'
    """
    return answer(Comparison(a, b, direction, depth)).set_index("key")
