"""Checking a finding again: every request of a bundle is recomputed, and its table compared with the bundle's, value by value."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mechdiff import questions
from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.inputs.answer_scoring import patterns
from mechdiff.inputs.pair_file import shipped_pairs
from mechdiff.inputs.prompts import OWN
from mechdiff.questions import Question
from mechdiff.questions.shared.task import Task
from mechdiff.reporting.bundle import Entry, Finding, origin, run_of
from mechdiff.study import compare_sweeps, request_json, stored_sweep
from mechdiff.study.compare_sweeps import Comparison
from mechdiff.study.live_vs_stored import DIFFERS, SAME, TOLERANCES

ROUNDING, OTHER, UNCHECKED = "rounding", "other", "unchecked"
FINEST = ("float16", "bfloat16", "float32")  # from the coarsest
NUMERICS = ("dtype", "device", "kernel")  # may differ without affecting the finding
SWEEP = re.compile(r"[\w.-]+(@[\w-]+)?")
# beginnings of columns that bundles of version 0.1 lack
LATER = ("r2_whitened_", "cka_plain", "spectrum_", "cka_templates", "low_templates", "high_templates", "cka_null", "replace")
LATER += ("template", "split", "basis", "kl_shift")
LOGITS = ("target_logprob", "logit_difference")  # sums of many terms of either sign: their rounding is larger than an effect's
LOGIT_FACTOR = 100
KEYS = {  # the columns that identify a line of a table; for questions, all columns without fractions
    "Reading": ("token", "model", "next"),
    "NextTokens": ("token", "model"),
    "PositionMap": ("token", "layer", "stream"),
    "Diagnostics": ("layer", "stream"),
    "Comparison": ("key",),
}


@dataclass(frozen=True)
class TableVerdict:
    """The result of checking one table. kind: same, rounding, differs; other (other weights or prompts here) or unchecked.

    values: numbers compared; absolute: their largest difference; relative: the same as a share, of those above rounding.
    """

    name: str
    kind: str
    text: str
    values: int = 0
    absolute: float = np.nan
    relative: float = np.nan


class ReplayTask(Task):
    """A bundle's requests, computed one after another; a row per table with its verdict.

    store: where results are looked up and stored; only an empty one makes it a check. device, dtype: auto and None for this
    computer's default. pair: a pair file, for a pair that is not shipped. Clean passes that are in memory are used again.
    """

    def __init__(self, finding: Finding, store: Store, device: str = "auto", dtype: str | None = None, pair: str | None = None):
        self.finding, self.store, self.device, self.dtype, self.pair = finding, store, device, dtype, pair
        self.verdicts: list[TableVerdict] = []
        self.headline: float | None = None  # its value here, once it is known
        self.notices: list[str] = []
        self.progress.total = 100 * len(finding.entries)

    def steps(self) -> Iterator[None]:
        for index, entry in enumerate(self.finding.entries):
            self.entering(entry.name)
            try:
                yield from self.entry(index, entry)
            except UserError as error:
                self.verdicts.append(TableVerdict(entry.name, UNCHECKED, str(error)))
            self.progress.done = 100 * (index + 1)
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
                self.progress.done = 100 * index + int(99 * task.done / max(1, task.total))
                self.entering(f"{entry.name}, {task.stage}")
                yield
            table = task.table()
        dtype = min(entry.origin.get("dtype", FINEST[-1]), mine.get("dtype", FINEST[-1]), key=rank)
        keys = KEYS.get(type(request).__name__)
        verdict = table_verdict(entry.name, table, self.finding.tables[entry.name], dtype, keys)
        self.verdicts.append(of_same_origin(verdict, entry, mine))
        headline = self.finding.headline
        if headline is not None and headline.answer == index and isinstance(request, Question):
            self.headline = value_of(request.summary(table), headline.column, headline.where)

    def here(self, request):
        """The request for this computer. Raises UserError if it names a file, or a pair that is not available here."""
        run = run_of(request)
        if run is None:
            for side in (request.a, request.b):
                if not SWEEP.fullmatch(side) or side.partition("@")[0] not in stored_sweep.stored_pairs():
                    raise UserError(f"No sweep of {side!r:.80} is stored here.\nTry:  python -m mechdiff sweep --grid full")
            return request
        for name in filter(None, (run.prompts, run.train)):
            if not name.startswith(OWN):
                raise UserError(f"The bundle asks for the file {name!r:.80}; it may only name prompts that it contains.")
        pair = self.pair if self.pair and run.pair not in shipped_pairs() else run.pair
        if pair == run.pair and pair not in shipped_pairs():
            raise UserError(f"The pair {pair!r:.80} is not shipped.\nTry:  --pair path/to/its/pair.toml")
        run = replace(run, pair=pair, device=self.device, dtype=self.dtype or run.dtype)
        return run if isinstance(request, Question) else replace(request, run=run)

    def table(self) -> pd.DataFrame:
        """A row per table: its name, verdict, number of values, and largest difference."""
        columns = ["table", "verdict", "values", "largest difference", "relative", "told"]
        rows = [(v.name, v.kind, v.values, v.absolute, v.relative, v.text) for v in self.verdicts]
        return pd.DataFrame(rows, columns=columns)


def rank(dtype: str) -> int:
    return FINEST.index(dtype) if dtype in FINEST else 0


def table_verdict(
    name: str, mine: pd.DataFrame, theirs: pd.DataFrame, dtype: str, keys: tuple[str, ...] | None = None
) -> TableVerdict:
    """Two tables compared value by value. keys: the columns that identify a line; None: all without fractions.

    Marks of style that their table was made without are left out: they count words of texts that are compared themselves. So are
    estimates that mechdiff had not yet when it was made.
    """
    later = [name for name in map(str, mine) if name in patterns() or name.startswith(LATER)]
    mine = mine.drop(columns=[name for name in later if name not in theirs])
    if "domain" in mine and "domain" in theirs:  # a first version had no number on its day
        mine = mine.assign(domain=mine["domain"].str.removesuffix("@1"))
        theirs = theirs.assign(domain=theirs["domain"].str.removesuffix("@1"))
    mine = mine.astype({column: float for column in mine if mine[column].dtype == "Int64"})  # as a bundle's gaps are read
    columns = list(map(str, mine))
    names = list(keys or (column for column in columns if mine[column].dtype.kind != "f"))
    numbers = [column for column in columns if mine[column].dtype.kind == "f" and column not in names]
    if missing := [column for column in (*names, *numbers) if column not in theirs]:
        return TableVerdict(name, DIFFERS, f"the bundle's table has no column {missing[0]}")
    sides = [table[names + numbers].astype(dict.fromkeys(names, str)) for table in (mine, theirs)]
    if any(side.duplicated(names).any() for side in sides):
        return TableVerdict(name, DIFFERS, "two lines of the table have the same keys")
    both = sides[0].merge(sides[1], on=names, how="outer", suffixes=("", " there"), indicator=True)
    alone = int((both["_merge"] != "both").sum())
    both = both[both["_merge"] == "both"]
    here, there = (both[[column + end for column in numbers]].to_numpy(float) for end in ("", " there"))
    floor, share = TOLERANCES[dtype if dtype in TOLERANCES else FINEST[0]]
    floors = np.array([floor * (LOGIT_FACTOR if column.startswith(LOGITS) else 1) for column in numbers])
    same = (here == there) | (np.isnan(here) & np.isnan(there))
    with np.errstate(invalid="ignore"):
        differences = np.where(same, 0.0, np.abs(here - there))
        close = same | (differences <= floors + share * np.abs(there))
        large = np.abs(there) > floors
    relative = (differences[large] / np.abs(there[large])).max(initial=0.0)
    wrong = int((~close).sum())
    kind = DIFFERS if wrong or alone else SAME if same.all() else ROUNDING
    absolute = float(np.max(differences, initial=0.0))
    return TableVerdict(name, kind, in_words(kind, wrong, alone), here.size, absolute, float(relative))


def in_words(kind: str, wrong: int, alone: int) -> str:
    """A verdict in words."""
    if kind == SAME:
        return "every value is the same"
    if kind == ROUNDING:
        return "every value is the same up to rounding"
    parts = [f"{wrong} value{'s differ' if wrong > 1 else ' differs'} by more than rounding"] * (wrong > 0)
    parts += [f"{alone} line{'s are' if alone > 1 else ' is'} in only one of the two tables"] * (alone > 0)
    return "; ".join(parts)


def of_same_origin(verdict: TableVerdict, entry: Entry, mine: dict[str, str]) -> TableVerdict:
    """The verdict, unless weights or prompts here are not those of the bundle: a difference then means nothing."""
    parts = [name for name in mine if name not in NUMERICS and mine[name] != entry.origin.get(name, mine[name])]
    if not parts:
        return verdict
    what = ", ".join("weights of the " + name if name in ("base", "tuned") else name for name in parts)
    text = f"the {what} here differ from the bundle's, so this does not check the finding; the values here: {verdict.text}"
    return replace(verdict, kind=OTHER, text=text)


def value_of(lines: pd.DataFrame, column: str, where: dict) -> float | None:
    """The number of the one line that has these values; None if there is no such line."""
    if column not in lines or any(name not in lines for name in where):
        return None
    for name, value in where.items():
        lines = lines[lines[name] == value]
    return float(lines[column].iloc[0]) if len(lines) == 1 and lines[column].dtype.kind == "f" else None
