"""Behaviour (RQ1): what do both models say, and which patch makes one of them answer like the other?"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
from msgspec import Meta

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.common.terms import CONTROLS, SIDES, sides
from mechdiff.engine.intervention import Condition
from mechdiff.inputs import answer_scoring, prompts
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.questions.shared import behaviour_summary
from mechdiff.questions.shared.behaviour_summary import MEASURES
from mechdiff.questions.shared.conditions import site_conditions
from mechdiff.questions.shared.effects import fit_maps
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.request import Count, Question, check_controls, check_map_controls, map_field, positions_field
from mechdiff.questions.shared.task import Progress, Steps, Task

DELTAS = {"refusal_delta": "refusal_logprob", "choice_delta": "choice_logprob"}
UNKNOWN = (
    "No prompt has a known answer, so exact match is blank.\n"
    'Try:  --prompts FILE.jsonl with lines like {"text": "What is 3 + 4?", "answer": "7"}'
)


@dataclass
class Part:
    """One model or patch on one block of prompts. who: base, tuned, or the condition under which the recipient runs.

    answers: once known, a line per prompt: MEASURES and what else `Openings` measures, next (the likeliest next token), and text,
    tokens and ended of its answer.
    """

    block: int
    who: str | Condition
    key: str
    answers: pd.DataFrame | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Behaviour(Question):
    """What both models write after a prompt, and what the recipient writes when it is patched at the chosen layers, if any.

    Its table has a row per prompt and condition: `clean base`, `clean tuned`, and one for every patch. text: the answer; tokens:
    its length; agrees_base, agrees_tuned: whether its first token is that model's; kl_from_base, ...: divergences of the next
    token, in nats; refused, exact, ...: what is found in the text. docs/method.md explains every column. The summary has a row
    per condition and measure.
    Raises UserError for a value that is not valid, and for controls without a patch.

    Example:
        >>> pair.behaviour(limit=2, new_tokens=3).table["condition"].tolist()
        ['clean base', 'clean base', 'clean tuned', 'clean tuned']
        >>> patched = md.Behaviour(pair=pair.spec.path, layers=(1,), limit=2, new_tokens=3)
        >>> md.run(patched)["condition"].nunique()
        3
    """

    question: ClassVar[str] = "behaviour"
    title: ClassVar[str] = "What do the models say?"

    layers: tuple[int, ...] | None = flag(
        None,
        "layers at which the recipient is patched, as 0,4,8, or all (default: none)",
        must="numbers of layers, or all",
        example="0,4,8  or  --layers all",
    )

    map: str = map_field("none")
    positions: Count = positions_field()
    controls: tuple[str, ...] = flag((), f"controls, computed with the rest: {','.join(CONTROLS)}")
    new_tokens: Annotated[int, Meta(ge=1, le=10_000)] = flag(
        32,
        "tokens that a model writes after a prompt, at most",
        must="a number of tokens to write, at least 1",
        example="32",
    )
    answer_prefix: str = flag("", "the beginning of an answer, after which choices are scored")
    soft_refusal: str = flag(
        "off", "measure phrases of refusals against neutral ones, at more passes: on or off", choices=("off", "on"), bare="on"
    )

    def check(self) -> None:
        check_controls(self.question, self.controls, CONTROLS)
        check_map_controls(self.map, self.controls)
        if self.controls and self.layers is None:
            raise UserError("A control is compared with a patch, and no layer is named.\nTry:  --layers 8,16,24 --controls self")

    def all_layers(self) -> tuple[int, ...]:
        return tuple(range(self.spec.layers))

    @property
    def uses_train(self) -> bool:
        return self.map != "none" or bool(set(self.controls) - {"self"})

    @property
    def measures_soft_refusal(self) -> bool:
        """Whether phrases of refusals are measured against neutral ones."""
        return self.soft_refusal == "on"

    def task(self, store: Store) -> "BehaviourTask":
        return BehaviourTask(self, store)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """A line per condition and measure: mean, low, high (95 %), and its change from the reference. table: the whole table."""
        return behaviour_summary.summary(table, self.templates)


class BehaviourTask(Task):
    """A line per prompt for `clean base`, `clean tuned`, and for the recipient patched at each of the run's layers, if any.

    A patch is made at the decision token, before the recipient writes on. Columns: see docs/method.md.
    """

    def __init__(self, run: Behaviour, store: Store):
        self.run, self.store, self.notices, self.identity = run, store, [], Identity(run)
        self.donor, self.recipient = sides(run.direction)
        self.patches = [] if run.layers is None else site_conditions(run, run.map, run.controls)
        if self.patches and run.spec.tuned.weights != run.spec.base.weights:
            run.spec.check_same_shape()
        self.blocks = prompts.blocks(run.chosen_prompts)
        self.parts = [self._part(n, who) for n in range(len(self.blocks)) for who in (*SIDES, *self.patches)]

    @cached_property
    def progress(self) -> Progress:
        total = len(self.run.chosen_prompts) * (2 + len(self.patches))
        return Progress(total, sum(self._cells(part) for part in self.parts if part.answers is not None))

    def _part(self, number: int, who: str | Condition) -> Part:
        block, run = self.blocks[number], self.run
        who_of = who.content if isinstance(who, Condition) else f"'{who}'"
        parts = {"what": "behaviour", "who": who_of, "texts": prompts.digest(block), "new_tokens": run.new_tokens}
        choices = [(p.answer, p.choices) for p in block if p.choices]
        parts |= {"openers": answer_scoring.openers(), "choices": choices}
        parts |= {"answer_prefix": run.answer_prefix} if choices and run.answer_prefix else {}
        parts |= {"soft_refusal": answer_scoring.soft_refusal()} if run.measures_soft_refusal else {}
        parts |= self.identity.vocabulary if choices or run.measures_soft_refusal else {}
        if isinstance(who, Condition):
            parts |= {"direction": run.direction} | ({} if who.plain else self.identity.train)
        name = key(**parts, **self.identity.pair)
        return Part(number, who, name, self.store.table(name))

    def _cells(self, part: Part) -> int:
        return len(self.blocks[part.block])

    def steps(self) -> Iterator[None]:
        if not any(prompt.answer for prompt in self.run.chosen_prompts):
            self.notices = [UNKNOWN]
        if all(part.answers is not None for part in self.parts):
            return
        self.entering("loading the models")
        yield
        loaded = self.identity.load()
        maps = {}
        if self.patches:
            self.entering("reading the train split")
            maps = yield from fit_maps(self.run, self.identity, self.store, self.patches, self.progress)
        for batch in self._batches():
            if any(part.answers is None for part in batch):
                yield from self._compute(loaded, batch, maps)

    def _batches(self) -> list[list[Part]]:
        """The parts computed together: both clean models on a block, or some patches on it. This depends only on the request."""
        from mechdiff.questions.shared.writing import BATCH_SIZES

        batches = []
        for number, block in enumerate(self.blocks):
            here = [part for part in self.parts if part.block == number]
            most = max(1, BATCH_SIZES[self.identity.device] // len(block))
            batches += [here[:2], *(here[start : start + most] for start in range(2, len(here), most))]
        return batches

    def _compute(self, loaded: LoadedPair, parts: list[Part], maps: dict) -> Iterator[None]:
        """Let both models continue a block of prompts, or the recipient under some patches."""
        from mechdiff.questions.shared.openings import Openings
        from mechdiff.questions.shared.writing import begin, write_on

        block, conditions = self.blocks[parts[0].block], [part.who for part in parts if isinstance(part.who, Condition)]
        patched = bool(conditions)
        texts, who = tuple(prompt.text for prompt in block), (self.recipient,) if patched else SIDES
        self.entering("reading the prompts")
        yield
        clean, rows = self._rows(loaded, texts, conditions, maps) if patched else ({}, None)
        openings = {side: Openings(loaded, side, block, len(parts) if patched else 1) for side in who}
        for opening in openings.values():
            opening.batches = yield from begin(loaded, opening.side, opening.ids, rows)
        clean = clean or {side: openings[side].logprobs() for side in SIDES}
        before, expected = self.done, sum(self._cells(part) for part in parts if part.answers is None)
        for number, side in enumerate(who):
            opening = openings[side]
            yield from opening.measure(clean, self.run.answer_prefix, self.run.measures_soft_refusal)
            self.entering(f"{side}{' patched' if patched else ''}, writing")
            yield
            writing = write_on(loaded, side, opening.batches, opening.n, self._room(loaded, side, opening.ids))
            written = yield from self._counted(writing, before, expected, number, len(who))
            self._keep(parts if patched else [parts[number]], opening.answers(written))
        self.progress.done = before + expected
        yield

    def _rows(self, loaded: LoadedPair, texts: tuple[str, ...], conditions: list[Condition], maps: dict) -> tuple:
        """Both models' clean next-token distributions, by side, and the conditions as rows."""
        from mechdiff.engine.build_rows import as_rows

        traces = {side: loaded.passes.trace(side, texts, False) for side in SIDES}
        rows = as_rows(conditions, getattr(loaded, self.recipient), traces[self.donor], traces[self.recipient], maps)
        return {side: trace.logprobs for side, trace in traces.items()}, rows

    def _counted(self, writing: Generator[int, None, list], before: int, expected: int, number: int, models: int) -> Steps[list]:
        """Go through the writing of one of the models, and count its tokens as parts of the cells they belong to."""
        while True:
            try:
                share = next(writing) / (self.run.new_tokens + 1)
            except StopIteration as end:
                return end.value
            self.progress.done = before + int(expected * (number + share) / models)
            yield

    def _room(self, loaded: LoadedPair, side: str, ids: list[list[int]]) -> int:
        """How many tokens may be written after these prompts: fewer than requested where the model's window ends."""
        window = getattr(loaded, side).window
        room = self.run.new_tokens if window is None else min(self.run.new_tokens, window - max(map(len, ids)))
        if room < self.run.new_tokens:
            notice = f"Some answers are cut off early: {loaded.pair.name} reads {window} tokens, including the prompt."
            self.notices = [*dict.fromkeys([*self.notices, notice])]
        return room

    def _keep(self, parts: list[Part], answers: list[pd.DataFrame]) -> None:
        for part, lines in zip(parts, answers, strict=True):
            if part.answers is None:
                part.answers = lines
                self.store.put_table(part.key, lines)

    def table(self) -> pd.DataFrame:
        """A line per prompt and condition, for the parts that are known."""
        run, known = self.run, [(part, part.answers) for part in self.parts if part.answers is not None]
        named = {"pair": run.spec.name, "domain": run.chosen_domain, "question": run.question, "direction": run.direction}
        lines = [pd.DataFrame(named | self._labels(part), index=answers.index).join(answers) for part, answers in known]
        if not lines:
            return pd.DataFrame(columns=[*named, "prompt", "condition", *MEASURES, "text"])
        table = pd.concat(lines, ignore_index=True).astype({"layer": "Int64"})
        table.insert(
            4, "prompt", np.concatenate([part.block * prompts.BLOCK + np.arange(len(answers)) for part, answers in known])
        )
        return self._order(self._with_deltas(table.join(self._scores(table))))

    @staticmethod
    def _labels(part: Part) -> dict:
        """A line's columns on its condition."""
        who = part.who
        if isinstance(who, str):
            return {"condition": f"clean {who}", "layer": pd.NA, "stream": "", "map": "", "control": "none"}
        more = [name for name in (who.map, who.control) if name != "none"]
        name = ", ".join([f"patched L{who.layer} {who.stream}", *more])
        return {"condition": name, "layer": who.layer, "stream": who.stream, "map": who.map, "control": who.control}

    def _scores(self, table: pd.DataFrame) -> pd.DataFrame:
        """Scores of the answers' texts, computed each time: the lists of phrases may grow, and no model is needed."""
        answered = [self.run.chosen_prompts[number] for number in table["prompt"]]
        exact = [answer_scoring.right(t, p.answer, p.choices) if p.answer else np.nan for t, p in zip(table["text"], answered)]
        refused = [answer_scoring.refuses(text) for text in table["text"]]
        counts = pd.DataFrame([answer_scoring.marks(text) for text in table["text"]], index=table.index).astype(float)
        return pd.DataFrame({"refused": refused, "exact": exact}, index=table.index).astype(float).join(counts)

    def _with_deltas(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with each condition minus its reference: the base model for tuned, the recipient for patches."""
        for delta, name in DELTAS.items():
            clean = {side: table[table["condition"] == f"clean {side}"].set_index("prompt")[name] for side in SIDES}
            sides_of = table["condition"].map({"clean tuned": SIDES[0], "clean base": ""}).fillna(self.recipient)
            reference = [clean[side].get(prompt, np.nan) if side else np.nan for side, prompt in zip(sides_of, table["prompt"])]
            table[delta] = table[name] - np.array(reference)
        return table

    @staticmethod
    def _order(table: pd.DataFrame) -> pd.DataFrame:
        """By condition, then prompt; the text last."""
        last = ["tokens", "ended", "next", "text"]
        order = [name for name in table if name not in last] + last
        first = {name: place for place, name in enumerate(dict.fromkeys(table["condition"]))}
        keys = table["condition"].map(first).to_numpy(), table["prompt"].to_numpy()
        return table[order].iloc[np.lexsort(keys[::-1])].reset_index(drop=True)
