"""Full sweeps into artifacts: every question of a pair on a domain, in as few passes through the models as possible.

All conditions of one direction are rows of the same passes, whichever question they belong to. Head sets that are chosen on the
train split come afterwards. Whatever is finished is in the cache: a sweep that was stopped resumes from there, to the same
tables.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mechdiff import questions
from mechdiff.common.cache import Store, default
from mechdiff.common.paths import ARTIFACTS
from mechdiff.common.terms import COMPLETION, DIRECTIONS, FITTED, MAP_CONTROLS, MAPS, MODULE_STREAMS, STREAMS, STUDYS_MAP
from mechdiff.engine.intervention import Condition
from mechdiff.inputs import protocols, vocabularies
from mechdiff.inputs.prompts import digest
from mechdiff.questions import QUESTIONS, EffectQuestion, Question, Run
from mechdiff.questions.diagnostics.map_quality import Diagnostics
from mechdiff.questions.heads import ChosenHeadsTask
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.lines import Wide
from mechdiff.questions.shared.request import AUTO, FULL
from mechdiff.questions.shared.summary import KEYS, effect_summary
from mechdiff.questions.shared.task import Task
from mechdiff.questions.transport import Transport
from mechdiff.study import artifacts
from mechdiff.study.provenance import provenance

MAPPED_STREAMS = ("resid_post", "attn_out", "mlp_out")
OURS = tuple(name for name in MAPS if name != STUDYS_MAP)  # the study's own belongs to its protocol
CONTROLLED = "procrustes_scaled"  # the study's own map: its rank curves have every control
BY_PROMPT = "resid_post"  # the stream whose mapped effects are stored prompt by prompt
UNCUT = ("self", "mean", *MAP_CONTROLS)
CUT = {CONTROLLED: UNCUT, STUDYS_MAP: tuple(name for name in UNCUT if name != "random")}  # a rotation has no whitened cut


@dataclass(frozen=True)
class Grid:
    """How much of the study a sweep covers.

    limit: prompts, None for all. patched, transplanted, cut: streams of patches, module transplants and rank cuts. moved: uncut
    maps; maps: those that are cut. ranks, alphas: of the cuts, in addition to full and auto. sets: how head sets are chosen, in
    addition to single heads. states: whether anything but behaviour is measured; behaviour: whether both models write.
    """

    limit: int | None = None
    patched: tuple[str, ...] = STREAMS
    transplanted: tuple[str, ...] = MODULE_STREAMS
    cut: tuple[str, ...] = MAPPED_STREAMS
    moved: tuple[str, ...] = OURS
    maps: tuple[str, ...] = tuple(name for name in OURS if name in FITTED)
    ranks: tuple[str, ...] = ("1", "2", "4", "8", "16", "32", "64", "full")
    alphas: tuple[str, ...] = ("0.3", "0.5", "0.8", "1.0", "1.2")
    sets: tuple[str, ...] = ("topk", "greedy", "random")
    states: bool = True
    behaviour: bool = True


QUICK: dict[str, Any] = {"limit": 50, "patched": MAPPED_STREAMS, "transplanted": ("attn_out", "mlp_out"), "cut": ("resid_post",)}
QUICK |= {"moved": ("zscore", CONTROLLED), "maps": (CONTROLLED,), "ranks": ("1", "8", "32", "full"), "alphas": (), "sets": ()}
QUICK |= {"behaviour": False}  # writing is slow on a CPU
GRIDS = {"quick": Grid(**QUICK), "auto": Grid(alphas=()), "full": Grid(), "behaviour": Grid(states=False)}
SPOKEN = "rq1-behaviour"  # a folder with its own manifest, since behaviour can be computed alone
Request = Question | Diagnostics


@dataclass
class Table:
    """One table of a folder: the requests it joins, and whether it is stored prompt by prompt too, not only as a summary."""

    folder: str
    name: str
    runs: Sequence[Request]
    by_prompt: bool = True


def plan(
    pair: str, domain: str | None, grid: Grid, metrics: tuple[str, ...] = (), protocol: str | None = None, **settings
) -> list[Table]:
    """Every table of a sweep. metrics: what is measured of every effect in addition. protocol: default: the pair's own.

    settings: fields of every question, such as device and min_shared_ratio.
    """
    protocol = protocol or Question.own_protocol(pair)
    grid = replace(grid, **protocols.grid(protocol))
    common: dict[str, Any] = {"pair": pair, "domain": domain, "limit": grid.limit, "protocol": protocol} | settings
    spoken = [Table(SPOKEN, "behaviour", [Run("behaviour", **common)])] if grid.behaviour else []
    if not grid.states:
        return spoken
    both = [common | {"direction": direction, "metrics": metrics} for direction in DIRECTIONS]
    drift = Table("rq1", "drift", [Run("drift", streams=grid.patched, **common)])
    patch = [Run("patch", streams=grid.patched, controls=("self", "mean", "random"), **c) for c in both]
    transplant = [Run("transplant", streams=grid.transplanted, controls=("self",), **c) for c in both if grid.transplanted]
    moved: list[dict[str, Any]] = [{"map": m, "streams": MAPPED_STREAMS} | c for c in both for m in grid.moved]
    cuts: list[dict[str, Any]] = [
        {"map": m, "streams": grid.cut, "ranks": grid.ranks, "alpha": (AUTO,)} | c for c in both for m in grid.maps
    ]
    tables = [
        drift,
        Table("rq1", "patch", patch),
        *([Table("rq1", "transplant", transplant)] if transplant else []),
        Table("rq2", "maps", [Diagnostics(Transport(**c)) for c in moved]),
        Table("rq2", "transport", [Run("transport", controls=controls_of(c["map"]), **c) for c in moved]),
        Table("rq3", "rank", [Run("rank", controls=CUT.get(c["map"], ("mean",)), **c) for c in cuts]),
        Table("rq4", "heads", [Run("heads", controls=("self", "mean"), **c) for c in both]),
    ]
    if grid.alphas:
        tables.append(Table("rq2", "alpha", [Run("transport", alpha=grid.alphas, controls=("self",), **c) for c in moved], False))
        tables.append(Table("rq3", "alpha", [Run("rank", controls=("self",), **c | {"alpha": grid.alphas}) for c in cuts], False))
    if grid.sets:
        tables.append(
            Table("rq4", "coverage", [Run("heads", head_sets=s, controls=("self",), **c) for c in both for s in grid.sets], False)
        )
    return [*tables, *spoken, *swept(common)]


def swept(common: dict[str, Any]) -> list[Table]:
    """A table for each question that says what sweeps ask of it; in both directions, if its answer is effects."""
    tables = []
    for name, kind in QUESTIONS.items():
        if kind.swept is not None:
            directions = DIRECTIONS if issubclass(kind, EffectQuestion) else DIRECTIONS[:1]
            fields: list[dict[str, Any]] = [common | kind.swept | {"direction": direction} for direction in directions]
            tables.append(Table(f"rq-{name}", name, [kind(**values) for values in fields]))
    return tables


def controls_of(name: str) -> tuple[str, ...]:
    """Controls of an uncut map. The fixed maps use no pairing of rows."""
    if name == STUDYS_MAP:
        return (*UNCUT, COMPLETION)
    return UNCUT if name in FITTED else ("self", "mean")


class Joint(EffectsTask):
    """The conditions of requests that differ only in question. A chunk has every condition of its layer and stream."""

    def __init__(self, runs: list[EffectQuestion], store: Store):
        sites: dict[tuple[int, str], dict[Condition, None]] = {}
        for run in runs:
            task = settled(questions.task(run, store))
            for condition in task.conditions if task else ():
                sites.setdefault((condition.layer, condition.stream), {})[condition] = None
        super().__init__(runs[0], [tuple(group) for group in sites.values()], store)

    def answer(self, task: EffectsTask) -> None:
        """Hand a task the effects of its conditions."""
        place = {condition: row for row, condition in enumerate(self.conditions)}
        rows = [place[condition] for condition in task.conditions]
        task.plan.whole = {name: values[rows] for name, values in self.values().items()}


def settled(task: Task) -> EffectsTask | None:
    """The task whose conditions are known; None if its head sets are still to be chosen."""
    if isinstance(task, ChosenHeadsTask):
        return task.scored
    return task if isinstance(task, EffectsTask) else None


def together(runs: list[Request]) -> dict[str, list[EffectQuestion]]:
    """The requests for effects that share their passes, by a label: those of one direction that are fitted and measured alike.

    The first of them is one whose scales are taken from val, if any's are.
    """
    groups: dict[str, list[EffectQuestion]] = {}
    for run in runs:
        if isinstance(run, EffectQuestion) and not alone(run):
            own = getattr(run, "statistics", "train") == "prompts"
            groups.setdefault(joint_label(run.direction, run.question if own else run.vocabulary), []).append(run)
    return {name: sorted(group, key=lambda run: getattr(run, "alpha_rows", "train") == "train") for name, group in groups.items()}


def extent(pair: str, domain: str | None, grid: str, **settings) -> dict[str, tuple[int, int]]:
    """The cells of every part of a sweep, by the label that `sweep` gives it, and how many of them are cached.

    Where head sets are still to be chosen, the number is an estimate.
    """
    runs, store = [run for table in plan(pair, domain, GRIDS[grid], **settings) for run in table.runs], default()
    parts: dict[str, Task] = {}
    for name, here in together(runs).items():
        parts[name] = Joint(here, store)
        tasks = {label(run): questions.task(run, store) for run in here}
        parts |= {of_run: task for of_run, task in tasks.items() if not settled(task)}
    parts |= {label(run): questions.task(run, store) for run in runs if alone(run)}
    return {name: (task.total, task.done) for name, task in parts.items()}


def alone(run: Request) -> bool:
    """Whether a request runs by itself: from stored states, by letting both models write, or with conditions of its own."""
    return not isinstance(run, EffectQuestion) or run.swept is not None


def described(run: Request) -> dict:
    """A request for a manifest."""
    return {"run": described(run.run)} if isinstance(run, Diagnostics) else {"question": run.question} | asdict(run)


def joint_label(direction: str, what: str) -> str:
    """what: the vocabulary of the requests' effects, or the one question whose statistics are its own."""
    return {"shared": f"every question, {direction}", "patch": f"patch, {direction}"}.get(what, f"mapped states, {direction}")


def label(run: Request) -> str:
    if isinstance(run, Diagnostics):
        return f"{run.run.map} map, {run.run.direction}"
    if not isinstance(run, EffectQuestion):
        return run.question
    return f"{run.question} {getattr(run, 'head_sets', '')}, {run.direction}".replace(" ,", ",")


def sweep(
    pair: str, domain: str | None, grid: str, out: Path | None, command: list[str], store: Store | None = None, **settings
) -> Iterator[tuple[Task, str]]:
    """Yields each task to be run, with a label; writes the tables and manifests when all are done."""
    start, tables, store = time.monotonic(), plan(pair, domain, GRIDS[grid], **settings), store or default()
    cached = 0  # cells that an earlier, stopped sweep computed
    runs, tasks = [run for table in tables for run in table.runs], {}
    for name, here in together(runs).items():
        joint = Joint(here, store)
        cached += joint.done
        yield joint, name
        for run in here:
            tasks[run] = task = questions.task(run, store)
            if (scored := settled(task)) is not None:
                joint.answer(scored)
            else:
                yield task, label(run)
    for run in filter(alone, runs):
        tasks[run] = questions.task(run, store)
        cached += tasks[run].done if label(run) == "behaviour" else 0  # the others read states that this sweep has stored
        yield tasks[run], label(run)
    computed = time.monotonic() - start
    shared, request = next((about for task in tasks.values() if (about := shared_vocabulary(task))), None), first_question(tables)
    more = {"vocabulary": shared} if shared else {}
    for folder in dict.fromkeys(table.folder for table in tables):
        here = [table for table in tables if table.folder == folder]
        place = (
            (out or ARTIFACTS)
            / request.chosen_domain
            / folder
            / artifacts.stored_name(request.spec.name, request.chosen_protocol)
        )
        files = dict(part for table in here for part in collect(table, [tasks[run] for run in table.runs]))
        artifacts.save(place, files, manifest(here, grid, command, computed) | {"cells_from_cache": cached} | more)


def collect(table: Table, tasks: list[Task]) -> Iterator[tuple[str, pd.DataFrame]]:
    """A table's files: its lines by prompt, if they are stored, and its summary."""
    effects = [task.wide() for task in tasks if isinstance(task, EffectsTask | ChosenHeadsTask)]
    if not effects:
        whole = pd.concat([task.table() for task in tasks], ignore_index=True)
        yield table.name, whole
        first = table.runs[0]
        if isinstance(first, Question) and (lines := first.summary(whole)) is not whole:
            yield f"{table.name}_summary", lines
        return
    clusters = first_question([table]).templates
    summaries = [effect_summary(wide, clusters) for wide in effects]
    keys = ["direction", "prompt", *dict.fromkeys((*KEYS, *first_question([table]).columns))]
    yield f"{table.name}_summary", distinct(pd.concat(summaries, ignore_index=True), keys)
    if table.by_prompt:
        lines = [by_prompt(wide) for wide in effects]
        yield table.name, distinct(pd.concat(lines, ignore_index=True), keys)


def by_prompt(wide: Wide) -> pd.DataFrame:
    """A line per prompt and condition. Mapped states have lines at the residual stream alone, and only their effect; the controls
    of rank cuts have none. These would be most of all lines, and their curves are in the summary.
    """
    names = (
        ["kl", "kl_to_donor", "kl_donor_clean"] if (wide.conditions["question"].isin(["patch", "transplant"])).all() else ["kl"]
    )
    names += wide.metrics
    labels = wide.conditions.reset_index(drop=True)
    left = np.zeros(len(labels), bool)
    if "rank" in labels:
        cut = labels["control"].isin(MAP_CONTROLS) & (labels["rank"] != FULL)
        left = cut.to_numpy() | (labels["stream"] != BY_PROMPT).to_numpy()
    return Wide(labels[~left], {name: wide.values[name][~left] for name in names}, wide.ratio).long()


def distinct(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The lines with each condition once: requests that differ in map share their controls `self` and `mean`."""
    keys = [name for name in keys if name in table]
    return table.drop(columns=["pair", "domain", "question"]).loc[~table.duplicated(keys)].reset_index(drop=True)


def manifest(tables: list[Table], grid: str, command: list[str], seconds: float) -> dict:
    """Everything a reader needs to trust the tables or to compute them again."""
    request = first_question(tables)
    return provenance(request) | {
        "train_hash": digest(request.train_prompts),
        "grid": grid,
        "protocol": request.chosen_protocol,
        **({"min_shared_ratio": request.min_shared_ratio} if request.min_shared_ratio else {}),
        "requests": {table.name: [described(run) for run in table.runs] for table in tables},
        "mantissa_bits": artifacts.BITS,
        "command": " ".join(["python -m mechdiff", *command]),
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def first_question(tables: list[Table]) -> Question:
    """The first request for a question: all requests of a sweep share its pair, prompts and settings."""
    return next(run for table in tables for run in table.runs if isinstance(run, Question))


def shared_vocabulary(task: Task) -> dict | None:
    """The strings that a task's effects are over, if that is not one whole vocabulary."""
    about = vocabularies.summary(task.values(), task.run.direction) if isinstance(task, EffectsTask) else None
    return about and about | {"told": vocabularies.message(about)}
