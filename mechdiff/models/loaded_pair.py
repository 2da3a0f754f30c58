"""A loaded pair: its models, their tokenizers and lock, and the clean passes that are remembered.

Hooks on a shared model are seen by every thread, so whoever runs a model holds the lock of its weights, and lets go between
chunks.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES
from mechdiff.engine.intervention import HERE, Place
from mechdiff.inputs.pair_file import Pair
from mechdiff.inputs.prompts import BLOCK
from mechdiff.inputs.tokenizers import Tokenizers
from mechdiff.models.locks import FairLock

TEXTS = 20_000  # prompts whose token ids are remembered
PARITY = {"float32": 1e-3, "bfloat16": 1.5, "float16": 0.3}  # largest difference to plain hooks, in log-probability
PARITY |= {"4bit": 1.5, "8bit": 3.0}  # their kernels round states too; 8bit as the other states of the same pass have it


def _passes():
    from mechdiff.engine.memory import Passes

    return Passes()


@dataclass
class LoadedPair:
    """A pair in memory.

    base, tuned: the models, taken apart. lock: hold it around every forward pass of either. notices: what a user should know,
    such as that a model runs by plain hooks. parity: the row engine's largest difference to plain hooks, per recipient.
    """

    pair: Pair
    tokenizers: Tokenizers
    base: "Anatomy"  # noqa: F821
    tuned: "Anatomy"  # noqa: F821
    lock: FairLock
    notices: list[str] = field(default_factory=list)
    parity: dict[str, float] = field(default_factory=dict)
    by_hooks: set[str] = field(default_factory=set)
    offload: "OneAtATime | None" = None  # noqa: F821
    _traces: "Passes" = field(default_factory=_passes)  # noqa: F821
    _ids: dict = field(default_factory=dict)
    _transplants: dict = field(default_factory=dict)
    _answers: dict = field(default_factory=dict)

    def encode(self, text: str, side: str) -> list[int]:
        """A prompt's token ids, remembered: a chat template takes longer than many a row."""
        if (text, side) not in self._ids:
            if len(self._ids) > TEXTS:
                self._ids.clear()
            self._ids[text, side] = self.tokenizers.encode(text, side)
        return self._ids[text, side]

    def ids(self, side: str, texts: tuple[str, ...], place: Place = HERE) -> list[list[int]]:
        """Each prompt's token ids, up to the last one that is read. Takes the lock if a donor has to answer first.

        Raises UserError for a place that a prompt does not have, or that two tokenizers do not share.
        """
        found = [self.encode(text, side) for text in texts]
        if place != HERE and not self.tokenizers.shared:
            raise UserError(
                f"{self.pair.name}: the two tokenizers differ, so only the decision token is the same place in both.\n"
                "Try:  --back 0 --horizon 1"
            )
        window = getattr(self, side).window
        for text, ids in zip(texts, found):
            if window is not None and len(ids) + place.horizon - 1 > window:
                raise UserError(
                    f"The prompt {text[:40]!r}... has {len(ids)} tokens; {self.pair.name} reads at most {window}. Shorten it."
                )
            if place.back >= len(ids):
                raise UserError(
                    f"No token lies {place.back} before the decision token of {text[:40]!r}, which has {len(ids)} tokens.\n"
                    f"Try:  --back {len(ids) - 1}  at most"
                )
        return [ids + answer for ids, answer in zip(found, self.answers(texts, place))]

    def answers(self, texts: tuple[str, ...], place: Place) -> list[list[int]]:
        """The donor's greedy answer to each prompt, horizon - 1 tokens: those after which the effect is read too."""
        if place.horizon == 1:
            return [[] for _ in texts]
        from mechdiff.engine.decoding import greedy

        with self.lock, memory_errors(self.pair, getattr(self, place.donor).device.type):
            if (texts, place.horizon, place.donor) not in self._answers:
                ids = [self.encode(text, place.donor) for text in texts]
                with self.resident(place.donor):
                    answers = greedy(getattr(self, place.donor), ids, place.horizon - 1)
                self._answers[texts, place.horizon, place.donor] = answers
            return self._answers[texts, place.horizon, place.donor]

    def lengths(self, texts: tuple[str, ...], place: Place) -> list[int] | None:
        """How many tokens of each prompt's horizon come before the donor's answer ends; None where only one is read."""
        if place.horizon == 1:
            return None
        ends = self.tokenizers.ends(place.donor)
        return [1 + next((i for i, token in enumerate(a) if token in ends), len(a)) for a in self.answers(texts, place)]

    def take_turns(self, device: str) -> None:
        """Keep one model on the GPU at a time from now on."""
        import torch

        from mechdiff.models.offload import OneAtATime

        here = torch.device(device, torch.cuda.current_device()) if device == "cuda" else torch.device(device)
        self.offload = OneAtATime({side: getattr(self, side) for side in SIDES}, here)
        self.notices.append("The two models take turns on the GPU: each comes when it is needed, and a request waits for it.")

    def resident(self, *sides: str):
        """A context in which these sides' weights are on their device. The caller holds the lock."""
        return nullcontext() if self.offload is None else self.offload.resident(*sides)

    @contextmanager
    def at_work(self, *sides: str):
        """For a chunk of forward passes: the lock, these sides' weights on their device, and a sentence if memory runs out."""
        with self.lock, self.resident(*sides), memory_errors(self.pair, self.base.device.type):
            yield

    def trace(self, side: str, texts: tuple[str, ...], keep_calls: bool, place: Place = HERE):
        """The clean pass of one side over these prompts: remembered, and made block by block. Takes the lock."""
        from mechdiff.engine.memory import patiently
        from mechdiff.engine.trace import merge, run_trace

        if (found := self.known(side, texts, keep_calls, place)) is not None:
            return found
        anatomy, parts, ids = getattr(self, side), [], self.ids(side, texts, place)
        if len(texts) > BLOCK:
            parts = [self.trace(side, texts[i : i + BLOCK], keep_calls, place) for i in range(0, len(texts), BLOCK)]
        with self.lock, memory_errors(self.pair, anatomy.device.type):
            if (found := self._remembered(side, texts, keep_calls, place)) is not None:
                return found
            if parts:
                trace = patiently(lambda: merge(parts), anatomy.device)
            else:
                with self.resident(side):
                    trace = run_trace(anatomy, ids, keep_calls, place.span, place.horizon)
            self._traces.put((side, texts, place, keep_calls), trace)
            return trace

    def holds(self, side: str, texts: tuple[str, ...]) -> bool:
        """Whether a clean pass over so many prompts fits among those remembered, beside its parts. By their tokens."""
        from mechdiff.engine.memory import room_for_passes

        anatomy = getattr(self, side)
        tokens = sum(len(self.encode(text, side)) for text in texts)
        return 3 * tokens * anatomy.token_bytes <= room_for_passes(anatomy.device)

    def known(self, side: str, texts: tuple[str, ...], keep_calls: bool, place: Place = HERE):
        """A clean pass that is remembered, or None. Takes the lock."""
        with self.lock:
            return self._remembered(side, texts, keep_calls, place)

    def _remembered(self, side: str, texts: tuple[str, ...], keep_calls: bool, place: Place):
        """A clean pass made before, one with more than is asked for too, cut to the place asked for. None if there is none."""
        for calls in (keep_calls, True):
            if (found := self._traces.get((side, texts, place, calls))) is not None:
                return found
        for name in self._traces.names():
            if name[:2] == (side, texts) and name[3] >= keep_calls and longer(name[2], place):
                return self._traces.get(name).shorten(place.span)
        return None

    def transplants(self, side: str, texts: tuple[str, ...], place: Place = HERE):
        """What the other side's modules make of this side's inputs on these prompts. Remembered for one block. Takes the lock."""
        from mechdiff.engine.transplant import run_transplants

        donor = self.base if side == "tuned" else self.tuned
        ids = self.ids(side, texts, place)
        with self.lock, memory_errors(self.pair, donor.device.type):
            if (side, texts, place) not in self._transplants:
                self._transplants.clear()
                visit = nullcontext if self.offload is None else self.offload.visiting
                with self.resident(side):
                    self._transplants[side, texts, place] = run_transplants(getattr(self, side), donor, ids, place.span, visit)
            return self._transplants[side, texts, place]

    def parity_limit(self, side: str) -> float:
        """How far the row engine may be from plain hooks, in log-probability: what rounding alone does."""
        return PARITY[self.pair.quantization or str(getattr(self, side).dtype).removeprefix("torch.")]

    def check_parity(self, side: str, texts: tuple[str, ...]) -> None:
        """Pre-flight, once per recipient: a few rows against plain hooks. Falls back to hooks, with a notice, on a difference."""
        from mechdiff.models.parity import parity

        if side in self.parity:
            return
        trace = self.trace(side, texts[:2], True)
        ids = [self.encode(text, side) for text in texts[:2]]
        with self.lock, self.resident(side):
            self.parity[side], why = parity(getattr(self, side), trace, ids)
        limit = self.parity_limit(side)
        if why is None and self.parity[side] > limit:
            why = f"it differs from plain hooks by {self.parity[side]:.2g} in log-probability (limit {limit})"
        if why is not None:
            self.by_hooks.add(side)
            self.notices.append(f"The {side} model runs by plain hooks, exact but slow: for the row engine, {why}.")


def longer(place: Place, other: Place) -> bool:
    """Whether a pass of one place can be cut to that of another."""
    return (place.horizon, place.donor) == (other.horizon, other.donor) and place.back > other.back


@contextmanager
def memory_errors(pair: Pair, device: str):
    """Turn running out of memory into a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
            where = "GPU" if device == "cuda" else "main"
            raise UserError(
                f"{pair.name} does not fit in the {where} memory.\nTry:  --device cpu, --dtype bfloat16, or --limit 8"
            ) from error
        raise
