"""RQ1, behaviour: what do both models say, and which patch makes one of them speak like the other?"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mechdiff import answers, prompts
from mechdiff.conditions import Condition
from mechdiff.experiments.effects import EffectsTask
from mechdiff.experiments.identity import Identity
from mechdiff.experiments.patch import conditions_of
from mechdiff.experiments.request import Run
from mechdiff.models import LoadedPair, load_pair
from mechdiff.prompts import Prompt
from mechdiff.store import Store, key
from mechdiff.terms import SIDES, sides

BESIDE = ("agrees_base", "agrees_tuned", "kl_from_base", "kl_to_base", "kl_from_tuned", "kl_to_tuned")
READ = (*BESIDE, "refusal_logprob", "choice_logprob", "choice_right")  # where an answer begins
DELTAS = {"refusal_delta": "refusal_logprob", "choice_delta": "choice_logprob"}
UNKNOWN = (
    "No prompt has a known answer, so exact match is blank.\n"
    'Try:  --prompts FILE.jsonl with lines like {"text": "What is 3 + 4?", "answer": "7"}'
)


@dataclass
class Part:
    """One model or patch on one block of prompts. who: base, tuned, or what the recipient is patched with.

    found: once known, a line per prompt: READ, next (the likeliest next token), text, tokens and ended of its greedy answer.
    """

    block: int
    who: str | Condition
    key: str
    found: pd.DataFrame | None = field(default=None, repr=False)


class BehaviourTask:
    """A line per prompt for `clean base`, `clean tuned`, and for the recipient patched at each of the run's layers, if any.

    A patch is made at the decision token, before the recipient writes on. Columns: see docs/method.md.
    """

    def __init__(self, run: Run, store: Store):
        self.run, self.store, self.stage, self.notices, self.identity = run, store, "", [], Identity(run)
        self.donor, self.recipient = sides(run.direction)
        self.patches = [] if run.layers is None else conditions_of(run)
        if self.patches and run.spec.tuned.weights != run.spec.base.weights:
            run.spec.check_same_shape()
        self.blocks = prompts.blocks(run.chosen_prompts)
        self.parts = [self._part(n, who) for n in range(len(self.blocks)) for who in (*SIDES, *self.patches)]
        self.total = len(run.chosen_prompts) * (2 + len(self.patches))
        self.done = sum(self._cells(part) for part in self.parts if part.found is not None)

    def _part(self, number: int, who: str | Condition) -> Part:
        block, run = self.blocks[number], self.run
        asked = {"what": "behaviour", "who": repr(who), "texts": prompts.digest(block), "new_tokens": run.new_tokens}
        asked |= {"openers": answers.openers(), "choices": [(p.answer, p.choices) for p in block if p.choices]}
        if isinstance(who, Condition):
            asked |= {"direction": run.direction} | ({} if who.plain else self.identity.train)
        name = key(**asked, **self.identity.pair)
        return Part(number, who, name, self.store.table(name))

    def _cells(self, part: Part) -> int:
        return len(self.blocks[part.block])

    def steps(self) -> Iterator[None]:
        if not any(prompt.answer for prompt in self.run.chosen_prompts):
            self.notices = [UNKNOWN]
        if all(part.found is not None for part in self.parts):
            return
        self.stage = "loading the models"
        yield
        loaded = load_pair(self.run.spec, self.identity.device, self.identity.dtype)
        maps = {}
        if self.patches:
            self.stage = "reading the train split"
            maps = yield from EffectsTask(self.run, [(condition,) for condition in self.patches], self.store).fit()
        for together in self._batches():
            if any(part.found is None for part in together):
                yield from self._compute(loaded, together, maps)

    def _batches(self) -> list[list[Part]]:
        """What is written together: a clean model on a block, or some patches on it. That depends on the request alone."""
        from mechdiff.experiments.writing import TOGETHER

        batches = []
        for number, block in enumerate(self.blocks):
            here = [part for part in self.parts if part.block == number]
            most = max(1, TOGETHER[self.identity.device] // len(block))
            batches += [[part] for part in here[:2]]
            batches += [here[start : start + most] for start in range(2, len(here), most)]
        return batches

    def _compute(self, loaded: LoadedPair, parts: list[Part], maps: dict) -> Iterator[None]:
        """Let one model write on from one block, clean or under some patches."""
        from mechdiff.experiments.writing import write_on
        from mechdiff.interventions import as_rows

        block, who = self.blocks[parts[0].block], parts[0].who
        side, texts = who if isinstance(who, str) else self.recipient, tuple(prompt.text for prompt in block)
        self.stage = "reading the prompts"
        yield
        traces = {name: loaded.trace(name, texts, False) for name in SIDES}
        rows = None
        if not isinstance(who, str):
            conditions = [part.who for part in parts]
            rows = as_rows(conditions, getattr(loaded, side), traces[self.donor], traces[self.recipient], maps)
        begun = Begun(loaded, side, block, {name: trace.logprobs for name, trace in traces.items()}, len(parts), rows is None)
        before, expected = self.done, sum(self._cells(part) for part in parts if part.found is None)
        count, self.stage = self._room(loaded, side, begun.ids), f"writing, {side}{'' if rows is None else ' patched'}"
        writing = write_on(loaded, side, begun.ids, rows, count, begun.read)
        while True:
            try:
                self.done = before + int(expected * next(writing) / (self.run.new_tokens + 1))
                yield
            except StopIteration as end:
                written = end.value
                break
        self._keep(parts, begun, written)
        self.done = before + expected
        yield

    def _room(self, loaded: LoadedPair, side: str, ids: list[list[int]]) -> int:
        """How many tokens may be written after these prompts: fewer than asked for where the model's window ends."""
        window = getattr(loaded, side).window
        room = self.run.new_tokens if window is None else min(self.run.new_tokens, window - max(map(len, ids)))
        if room < self.run.new_tokens:
            said = f"Some answers are cut off early: {loaded.pair.name} reads {window} tokens, the prompt among them."
            self.notices = [*dict.fromkeys([*self.notices, said])]
        return room

    def _keep(self, parts: list[Part], begun: "Begun", written: list[tuple[list[int], bool]]) -> None:
        for row, part in enumerate(parts):
            if part.found is None:
                mine = slice(row, None, len(parts))
                said = [(begun.tokenizer.decode(tokens), float(len(tokens)), ended) for tokens, ended in written[mine]]
                values = {name: found[mine] for name, found in begun.found.items()}
                values["next"] = [begun.label(int(token)) for token in begun.likeliest[mine]]
                part.found = pd.DataFrame(values).join(pd.DataFrame(said, columns=["text", "tokens", "ended"]))
                self.store.put_table(part.key, part.found)

    def table(self) -> pd.DataFrame:
        """A line per prompt and condition, of what is there."""
        run, there = self.run, [part for part in self.parts if part.found is not None]
        named = {"pair": run.spec.name, "domain": run.chosen_domain, "question": run.question, "direction": run.direction}
        lines = [pd.DataFrame(named | self._labels(part), index=part.found.index).join(part.found) for part in there]
        if not lines:
            return pd.DataFrame(columns=[*named, "prompt", "condition", *READ, "text"])
        table = pd.concat(lines, ignore_index=True).astype({"layer": "Int64"})
        table.insert(4, "prompt", np.concatenate([self._numbers(part) for part in there]))
        return self._order(self._with_deltas(table.join(self._heard(table))))

    @staticmethod
    def _labels(part: Part) -> dict:
        """What a line says of its condition."""
        who = part.who
        if isinstance(who, str):
            return {"condition": f"clean {who}", "layer": pd.NA, "stream": "", "map": "", "control": "none"}
        more = [name for name in (who.map, who.control) if name != "none"]
        name = ", ".join([f"patched L{who.layer} {who.stream}", *more])
        return {"condition": name, "layer": who.layer, "stream": who.stream, "map": who.map, "control": who.control}

    def _numbers(self, part: Part) -> np.ndarray:
        return part.block * prompts.BLOCK + np.arange(len(part.found))

    def _heard(self, table: pd.DataFrame) -> pd.DataFrame:
        """What the answers' texts say, counted anew each time: the lists may grow, and no model is needed."""
        asked = [self.run.chosen_prompts[number] for number in table["prompt"]]
        exact = [answers.right(t, p.answer, p.choices) if p.answer else np.nan for t, p in zip(table["text"], asked)]
        refused = [answers.refuses(text) for text in table["text"]]
        counts = pd.DataFrame([answers.marks(text) for text in table["text"]], index=table.index).astype(float)
        return pd.DataFrame({"refused": refused, "exact": exact}, index=table.index).astype(float).join(counts)

    def _with_deltas(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with what is the condition's less its reference's: the base model for tuned, the recipient for patches."""
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


class Begun:
    """What is read where n answers to each prompt of a block begin.

    clean: by side, the clean next-token distributions on the block. found: READ -> [prompts x n], a prompt's one after the
    other. likeliest: the next token of each. as_clean: whether the answers are the clean model's own.
    """

    def __init__(self, loaded: LoadedPair, side: str, block: list[Prompt], clean: dict, n: int, as_clean: bool):
        from mechdiff.experiments.writing import opening_tokens

        self.loaded, self.side, self.block, self.clean, self.n, self.as_clean = loaded, side, block, clean, n, as_clean
        self.tokenizer = getattr(loaded.tokenizers, side)
        self.ids = loaded.ids(side, tuple(prompt.text for prompt in block))
        self.openers = opening_tokens(self.tokenizer)
        self.found = {name: np.full(len(block) * n, np.nan, np.float32) for name in READ}
        self.likeliest = np.zeros(len(block) * n, int)

    def label(self, token: int) -> str:
        return self.loaded.tokenizers.label(token, self.side)

    def read(self, decoding, members: list[int]) -> None:
        """Called with the state after the prompts of these numbers."""
        import torch

        from mechdiff.experiments.writing import beside, mass, score_choices

        own = decoding.logits.log_softmax(-1, dtype=torch.float32)
        clean = {side: found[members].repeat_interleave(self.n, 0).to(own.device) for side, found in self.clean.items()}
        logprobs = clean[self.side] if self.as_clean else own
        texts = np.concatenate([np.arange(self.n) + prompt * self.n for prompt in members])
        self.likeliest[texts] = logprobs.argmax(-1).cpu().numpy()
        values = beside(logprobs, self.side, clean, self.loaded) | {"refusal_logprob": mass(logprobs, self.openers)}
        for name, value in values.items():
            self.found[name][texts] = value
        for place, prompt in enumerate(members):
            if self.block[prompt].choices:
                here, mine = range(place * self.n, (place + 1) * self.n), slice(prompt * self.n, (prompt + 1) * self.n)
                scores, likeliest = score_choices(decoding, self.tokenizer, self.ids[prompt], self.block[prompt], here)
                self.found["choice_logprob"][mine], self.found["choice_right"][mine] = scores, likeliest
