"""Re-checking a finding: every request of a bundle computed anew, and its table held against the bundle's, value by value."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mechdiff import questions
from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.inputs.pair_file import shipped_pairs
from mechdiff.inputs.prompts import OWN
from mechdiff.questions import Question
from mechdiff.questions.shared.summary import summarise_table
from mechdiff.reporting.bundle import Entry, Finding, origin, run_of
from mechdiff.study import compare_sweeps, request_json, stored_sweep
from mechdiff.study.compare_sweeps import Comparison
from mechdiff.study.live_vs_stored import DIFFERS, SAME, TOLERANCES

ROUNDING, OTHER, UNCHECKED = "rounding", "other", "unchecked"
FINEST = ("float16", "bfloat16", "float32")  # from the coarsest
NUMERICS = ("dtype", "device", "kernel")  # what may differ and leave a finding what it is
CHOICE = re.compile(r"[\w.-]+(@[\w-]+)?")
LOGITS = ("target_logprob", "logit_difference")  # sums of many terms, of either sign: rounding is larger than that of an effect
LOGIT_FACTOR = 100
KEYS = {  # the columns that name a line of a table; a question's are all that hold no fractions
    "Reading": ("token", "model", "next"),
    "NextTokens": ("token", "model"),
    "PositionMap": ("token", "layer", "stream"),
    "Diagnostics": ("layer", "stream"),
    "Comparison": ("key",),
}


@dataclass(frozen=True)
class Checked:
    """What became of one table. kind: same, rounding, differs; other (not the same weights or prompts here) or unchecked.

    values: numbers compared; absolute: their largest difference; relative: the same as a share, of those above rounding.
    """

    name: str
    kind: str
    text: str
    values: int = 0
    absolute: float = np.nan
    relative: float = np.nan


class ReplayTask:
    """A bundle's requests computed one after another; a row per table with its verdict.

    store: where results are looked up and kept; an empty one makes it a check. device, dtype: None for what the machine takes by
    itself. pair: a pair file, for a pair that is not shipped. Clean passes that this process holds in memory are used again.
    """

    def __init__(self, finding: Finding, store: Store, device: str = "auto", dtype: str | None = None, pair: str | None = None):
        self.finding, self.store, self.device, self.dtype, self.pair = finding, store, device, dtype, pair
        self.found: list[Checked] = []
        self.headline: float | None = None  # its value here, once it is known
        self.notices: list[str] = []
        self.stage, self.total, self.done = "", 100 * len(finding.entries), 0

    def steps(self) -> Iterator[None]:
        for index, entry in enumerate(self.finding.entries):
            self.stage = entry.name
            try:
                yield from self.entry(index, entry)
            except UserError as error:
                self.found.append(Checked(entry.name, UNCHECKED, str(error)))
            self.done = 100 * (index + 1)
            yield

    def entry(self, index: int, entry: Entry) -> Iterator[None]:
        """Compute one request, and compare its table."""
        request = self.here(request_json.request(entry.asked))
        mine = origin(request)
        yield
        if isinstance(request, Comparison):
            table = compare_sweeps.answer(request)
        else:
            task = questions.task(request, self.store)
            for _ in task.steps():
                self.done = 100 * index + int(99 * task.done / max(1, task.total))
                self.stage = f"{entry.name}, {task.stage}"
                yield
            table = task.table()
        dtype = min(entry.origin.get("dtype", FINEST[-1]), mine.get("dtype", FINEST[-1]), key=rank)
        keys = KEYS.get(type(request).__name__)
        checked = compared(entry.name, table, self.finding.tables[entry.name], dtype, keys)
        self.found.append(judged(checked, entry, mine))
        told = self.finding.headline
        if told is not None and told.answer == index and isinstance(request, Question):
            self.headline = value_of(summarise_table(table, request), told.column, told.where)

    def here(self, request):
        """The request for this machine. Raises UserError for one that names a file of another, or a pair that is not here."""
        run = run_of(request)
        if run is None:
            for side in (request.a, request.b):
                if not CHOICE.fullmatch(side) or side.partition("@")[0] not in stored_sweep.stored_pairs():
                    raise UserError(f"No sweep of {side!r:.80} is stored here.\nTry:  python -m mechdiff sweep --grid full")
            return request
        for name in filter(None, (run.prompts, run.train)):
            if not name.startswith(OWN):
                raise UserError(f"The bundle asks for the file {name!r:.80}; it may only name prompts that it carries.")
        pair = self.pair if self.pair and run.pair not in shipped_pairs() else run.pair
        if pair == run.pair and pair not in shipped_pairs():
            raise UserError(f"The pair {pair!r:.80} is not shipped.\nTry:  --pair path/to/its/pair.toml")
        run = replace(run, pair=pair, device=self.device, dtype=self.dtype or run.dtype)
        return run if isinstance(request, Question) else replace(request, run=run)

    def table(self) -> pd.DataFrame:
        """A row per table: its name, verdict, how many values, and how far they are apart at most."""
        columns = ["table", "verdict", "values", "largest difference", "relative", "told"]
        rows = [(c.name, c.kind, c.values, c.absolute, c.relative, c.text) for c in self.found]
        return pd.DataFrame(rows, columns=columns)


def rank(dtype: str) -> int:
    return FINEST.index(dtype) if dtype in FINEST else 0


def compared(name: str, mine: pd.DataFrame, theirs: pd.DataFrame, dtype: str, keys: tuple[str, ...] | None = None) -> Checked:
    """Two tables value by value. keys: the columns that name a line; None: all that hold no fractions."""
    mine = mine.astype({column: float for column in mine if mine[column].dtype == "Int64"})  # as a bundle's gaps are read
    names = list(keys or (column for column in mine if mine[column].dtype.kind != "f"))
    numbers = [column for column in mine if mine[column].dtype.kind == "f" and column not in names]
    if missing := [column for column in (*names, *numbers) if column not in theirs]:
        return Checked(name, DIFFERS, f"the bundle's table has no column {missing[0]}")
    sides = [table[names + numbers].astype(dict.fromkeys(names, str)) for table in (mine, theirs)]
    if any(side.duplicated(names).any() for side in sides):
        return Checked(name, DIFFERS, "lines of the table cannot be told apart")
    both = sides[0].merge(sides[1], on=names, how="outer", suffixes=("", " there"), indicator=True)
    alone = int((both["_merge"] != "both").sum())
    both = both[both["_merge"] == "both"]
    one, other = (both[[column + end for column in numbers]].to_numpy(float) for end in ("", " there"))
    floor, share = TOLERANCES[dtype if dtype in TOLERANCES else FINEST[0]]
    floors = np.array([floor * (LOGIT_FACTOR if column.startswith(LOGITS) else 1) for column in numbers])
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(one - other))
        close = same | (apart <= floors + share * np.abs(other))
        large = np.abs(other) > floors
    relative = (apart[large] / np.abs(other[large])).max(initial=0.0)
    wrong = int((~close).sum())
    kind = DIFFERS if wrong or alone else SAME if same.all() else ROUNDING
    return Checked(name, kind, said(kind, wrong, alone), one.size, float(np.max(apart, initial=0.0)), float(relative))


def said(kind: str, wrong: int, alone: int) -> str:
    """A verdict in words."""
    if kind == SAME:
        return "every value is the same"
    if kind == ROUNDING:
        return "every value is the same up to rounding"
    parts = [f"{wrong} value{'s are' if wrong > 1 else ' is'} further apart than rounding"] * (wrong > 0)
    parts += [f"{alone} line{'s stand' if alone > 1 else ' stands'} in one of the two tables alone"] * (alone > 0)
    return "; ".join(parts)


def judged(checked: Checked, entry: Entry, mine: dict[str, str]) -> Checked:
    """The verdict, unless what is here is not what the bundle was made with: nothing then follows from a difference."""
    parts = [name for name in mine if name not in NUMERICS and mine[name] != entry.origin.get(name, mine[name])]
    if not parts:
        return checked
    what = ", ".join("weights of the " + name if name in ("base", "tuned") else name for name in parts)
    text = f"other {what} here than the bundle's, so nothing follows for the finding; the values here: {checked.text}"
    return replace(checked, kind=OTHER, text=text)


def value_of(lines: pd.DataFrame, column: str, where: dict) -> float | None:
    """The number of the one line that has these values; None if there is no such line."""
    if column not in lines or any(name not in lines for name in where):
        return None
    for name, value in where.items():
        lines = lines[lines[name] == value]
    return float(lines[column].iloc[0]) if len(lines) == 1 and lines[column].dtype.kind == "f" else None
