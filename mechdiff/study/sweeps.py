"""Full sweeps into artifacts: every question of a pair on a domain, in as few passes through the models as possible.

All conditions of one direction are rows of the same passes, whichever question they belong to. Head sets that are chosen on the
train split come afterwards. Whatever is finished is in the cache: a sweep that was stopped resumes from there, to the same
tables.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from mechdiff import questions
from mechdiff.common.cache import Store, default
from mechdiff.common.paths import ARTIFACTS
from mechdiff.engine.intervention import Condition
from mechdiff.inputs import vocabularies
from mechdiff.inputs.prompts import digest
from mechdiff.questions import EffectQuestion, Question
from mechdiff.questions.diagnostics.map_quality import Diagnostics
from mechdiff.questions.heads import ChosenHeadsTask
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.fields import ALL
from mechdiff.questions.shared.lines import Wide
from mechdiff.questions.shared.summary import KEYS, bands, effect_summary
from mechdiff.questions.shared.task import Task
from mechdiff.study import artifacts
from mechdiff.study.provenance import provenance
from mechdiff.study.sweep_plan import GRIDS, Request, Table, plan

BY_PROMPT = "resid_post"  # the stream whose mapped effects are stored prompt by prompt


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
            groups.setdefault(joint_label(run), []).append(run)
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


def joint_label(run: EffectQuestion) -> str:
    """What the requests of one pass have in common, in words."""
    own = getattr(run, "statistics", "train") == "prompts"
    what = "patch" if own else {"shared": "every question"}.get(run.vocabulary, "mapped states")
    parts = [
        what,
        {"train": "train prompts"}.get(run.split, ""),
        "every token" if getattr(run, "replace", "") == ALL else "",
        f"{run.horizon} tokens" if run.horizon > 1 else "",
        f"fitted on {run.train}" if run.train else "",
        f"{100 * share:.0f} % of train" if (share := getattr(run, "train_share", 1.0)) < 1 else "",
        run.direction,
    ]
    return ", ".join(filter(None, parts))


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
    summaries = [effect_summary(wide, clusters).join(bands(wide, clusters, table.x)) for wide in effects]
    shares = [getattr(run, "train_share", 1.0) for run in table.runs]
    if set(shares) != {1.0}:
        summaries = [summary.assign(train_share=share) for summary, share in zip(summaries, shares)]
    keys = ["direction", "prompt", "train_share", *dict.fromkeys((*KEYS, *first_question([table]).columns))]
    yield f"{table.name}_summary", distinct(pd.concat(summaries, ignore_index=True), keys)
    if table.measures:
        lines = [by_prompt(wide, table.measures) for wide in effects]
        if set(shares) != {1.0}:
            lines = [part.assign(train_share=share) for part, share in zip(lines, shares)]
        yield table.name, distinct(pd.concat(lines, ignore_index=True), keys)


def by_prompt(wide: Wide, measures: tuple[str, ...]) -> pd.DataFrame:
    """A line per prompt and condition. Of mapped states those of the residual stream alone: the others' curves are summaries."""
    labels = wide.conditions.reset_index(drop=True)
    chosen = (labels["stream"] == BY_PROMPT).to_numpy() | ("rank" not in labels)
    values = {name: wide.values[name][chosen] for name in (*measures, *wide.metrics)}
    return replace(wide, conditions=labels[chosen], values=values).long()


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
