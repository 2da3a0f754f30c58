"""The clean passes of a loaded pair: each model over a block of prompts, computed once and kept in memory while there is room."""

from mechdiff.common.bounded import Bounded
from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.decoding import greedy
from mechdiff.engine.intervention import HERE, Place
from mechdiff.engine.memory import PassCache, patiently, room_for_passes
from mechdiff.engine.trace import Trace, merge, run_trace
from mechdiff.engine.transplant import Transplants, run_transplants
from mechdiff.inputs.prompts import BLOCK
from mechdiff.models.placement import Placement
from mechdiff.models.prompt_tokens import IN_MEMORY, PromptTokens, nbytes

Texts = tuple[str, ...]


class CleanPasses:
    """What both models compute without an intervention. Every method takes the lock where a model has to run."""

    def __init__(self, models: dict[str, Anatomy], tokens: PromptTokens, placement: Placement):
        self.models, self.tokens, self.placement = models, tokens, placement
        self._traces = PassCache()
        self._answers: Bounded[tuple[Texts, int, str], list[list[int]]] = Bounded(IN_MEMORY, lambda ids: sum(map(nbytes, ids)))
        self._transplants: Bounded[tuple[str, Texts, Place], Transplants] = Bounded(0, lambda outputs: outputs.nbytes)

    def ids(self, side: str, texts: Texts, place: Place = HERE) -> list[list[int]]:
        """Each prompt's token ids, up to the last one that is read. Raises UserError for a place that a prompt does not have."""
        encoded = self.tokens.at(side, texts, place)
        return [ids + answer for ids, answer in zip(encoded, self.answers(texts, place))]

    def answers(self, texts: Texts, place: Place) -> list[list[int]]:
        """The donor's greedy answer to each prompt, horizon - 1 tokens: those after which the effect is read too."""
        if place.horizon == 1:
            return [[] for _ in texts]
        name = texts, place.horizon, place.donor
        with self.placement.locked():
            if (answers := self._answers.get(name)) is None:
                ids = [self.tokens.encode(text, place.donor) for text in texts]
                with self.placement.resident(place.donor):
                    answers = greedy(self.models[place.donor], ids, place.horizon - 1)
                self._answers.put(name, answers)
            return answers

    def lengths(self, texts: Texts, place: Place) -> list[int] | None:
        """How many tokens of each prompt's horizon come before the donor's answer ends; None where only one is read."""
        if place.horizon == 1:
            return None
        ends = self.tokens.tokenizers.ends(place.donor)
        return [1 + next((i for i, token in enumerate(a) if token in ends), len(a)) for a in self.answers(texts, place)]

    def trace(self, side: str, texts: Texts, keep_calls: bool, place: Place = HERE) -> Trace:
        """The clean pass of one side over these prompts, computed block by block if it is not in memory."""
        if (cached := self.known(side, texts, keep_calls, place)) is not None:
            return cached
        model, parts, ids = self.models[side], [], self.ids(side, texts, place)
        if len(texts) > BLOCK:
            parts = [self.trace(side, texts[i : i + BLOCK], keep_calls, place) for i in range(0, len(texts), BLOCK)]
        with self.placement.locked():
            if (cached := self._cached(side, texts, keep_calls, place)) is not None:
                return cached
            if parts:
                trace = patiently(lambda: merge(parts), model.device)
            else:
                with self.placement.resident(side):
                    trace = run_trace(model, ids, keep_calls, place.span, place.horizon)
            self._traces.put((side, texts, place, keep_calls), trace)
            return trace

    def known(self, side: str, texts: Texts, keep_calls: bool, place: Place = HERE) -> Trace | None:
        """A clean pass that is in memory, or None."""
        with self.placement.lock:
            return self._cached(side, texts, keep_calls, place)

    def _cached(self, side: str, texts: Texts, keep_calls: bool, place: Place) -> Trace | None:
        """A clean pass in memory with at least what is needed, cut to the place; None if there is none."""
        for calls in (keep_calls, True):
            if (trace := self._traces.get((side, texts, place, calls))) is not None:
                return trace
        for name in self._traces.names():
            if name[:2] == (side, texts) and name[3] >= keep_calls and longer(name[2], place):
                return self._traces.get(name).shorten(place.span)
        return None

    def fits(self, side: str, texts: Texts) -> bool:
        """Whether a clean pass over these prompts fits in memory together with its parts, judged by the number of tokens."""
        model = self.models[side]
        tokens = sum(len(self.tokens.encode(text, side)) for text in texts)
        return 3 * tokens * model.token_bytes <= room_for_passes(model.device)

    def transplants(self, side: str, texts: Texts, place: Place = HERE) -> Transplants:
        """What the other side's modules make of this side's inputs on these prompts. The last block's stay in memory."""
        recipient, donor = self.models[side], self.models["base" if side == "tuned" else "tuned"]
        ids, name = self.ids(side, texts, place), (side, texts, place)
        with self.placement.locked():
            if (outputs := self._transplants.get(name)) is None:
                self._transplants.clear()
                with self.placement.resident(side):
                    outputs = run_transplants(recipient, donor, ids, place.span, self.placement.visiting)
                self._transplants.put(name, outputs)
            return outputs

    def clear(self) -> None:
        """Forget all of them, as after a change of the weights."""
        for store in (self._traces, self._answers, self._transplants):
            store.clear()


def longer(place: Place, other: Place) -> bool:
    """Whether a pass of one place can be cut to that of another."""
    return (place.horizon, place.donor) == (other.horizon, other.donor) and place.back > other.back
