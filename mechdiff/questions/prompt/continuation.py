"""What base, tuned and patched model would say: one prompt, continued by each model, side by side."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES, sides
from mechdiff.engine.intervention import Place, Stack
from mechdiff.inputs.prompts import digest
from mechdiff.questions.shared.effect_plan import content_of
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.effects import fit_maps
from mechdiff.questions.shared.request import prompt_at
from mechdiff.questions.shared.table_tasks import TableTask
from mechdiff.questions.shared.task import Steps
from mechdiff.questions.stack import StackedPatch

COLUMNS = ["model", "text", "tokens", "ended"]
PATCHED = "patched"


@dataclass(frozen=True)
class Continuation:
    """What to write. run: pair, prompts, direction, back, seed, and the stack that the patched model runs with, if any.

    prompt: its index among the run's prompts. tokens: the most that are written. temperature: zero for the likeliest token each
    time.
    """

    run: EffectQuestion
    prompt: int = 0
    tokens: int = 40
    temperature: float = 0.0

    def __post_init__(self):
        if self.tokens < 1:
            raise UserError(f"{self.tokens} tokens leave nothing to write.\nTry:  40")
        if not 0 <= self.temperature <= 10:
            raise UserError(f"Temperature {self.temperature:g} is not between 0 (the likeliest token) and 10.")

    def task(self, store: Store) -> "ContinuationTask":
        return ContinuationTask(self, store)


@dataclass
class Voice:
    """One model that writes. ends: the tokens that end an answer. Torch is imported only once a model writes."""

    tokenizer: Any
    decoding: Any  # an engine.decoding.Decoding
    generator: Any  # a torch.Generator
    ends: set[int]
    written: list[int] = field(default_factory=list)
    ended: bool = False

    def write(self, temperature: float) -> None:
        """Write one more token."""
        import torch

        logits = self.decoding.logits[0].float().cpu()
        if temperature:
            token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=self.generator))
        else:
            token = int(logits.argmax())
        self.ended = token in self.ends
        if not self.ended:
            self.written.append(token)
            self.decoding.step(torch.tensor([token]))

    @property
    def text(self) -> str:
        return self.tokenizer.decode(self.written)


class ContinuationTask(TableTask):
    """A row per model (base, tuned, and patched if there is a stack): what it has written so far, and whether it has ended.

    All models draw the same random numbers. The patched model's states are replaced while it reads the prompt; the tokens that
    it writes afterwards see the keys and values that this produced.
    """

    columns: ClassVar[list[str]] = COLUMNS

    def __init__(self, request: Continuation, store: Store):
        run = request.run
        self.request, self.voices, self.place = request, {}, Place(run.back)
        self.prompt = prompt_at(run, request.prompt)
        self.stack = run.chosen_stack if isinstance(run, StackedPatch) else ()
        if self.stack:
            run.spec.check_same_shape()
        super().__init__(run, store, request.tokens * (3 if self.stack else 2))

    @cached_property
    def key(self) -> str:
        request, run = self.request, self.run
        parts = {"what": "continuation", "tokens": request.tokens, "temperature": request.temperature, "seed": run.seed}
        parts |= {"texts": digest([self.prompt]), "direction": run.direction, "back": run.back, "stack": content_of(self.stack)}
        parts |= {} if all(part.plain for part in self.stack) else self.identity.train
        return key(**parts, **self.identity.pair)

    def compute(self) -> Steps[pd.DataFrame]:
        self.entering("loading the models")
        yield
        loaded = self.identity.load()
        rows = (yield from self._rows(loaded)) if self.stack else None
        self.entering("writing")
        self._check_window(loaded)
        for name in (*SIDES, *([PATCHED] if self.stack else [])):
            self.voices[name] = self._voice(loaded, name, rows)
            yield
        for _ in range(self.request.tokens):
            for name, voice in self.voices.items():
                if not voice.ended:
                    with loaded.placement.at_work(self._side(name)):
                        voice.write(self.request.temperature)
                self.progress.done += 1
            yield
            if all(voice.ended for voice in self.voices.values()):
                break
        return self.so_far()

    def _side(self, name: str) -> str:
        """The side whose weights a voice runs with."""
        return sides(self.run.direction)[1] if name == PATCHED else name

    def _check_window(self, loaded) -> None:
        window, tokens = loaded.base.window, len(loaded.passes.ids("base", (self.prompt.text,))[0])
        if window is not None and tokens + self.request.tokens > window:
            raise UserError(
                f"After the prompt's {tokens} tokens {self.run.spec.name} has room for {window - tokens} more, not "
                f"{self.request.tokens}.\nTry:  fewer tokens, or a shorter prompt"
            )

    def _rows(self, loaded) -> Steps[Any]:
        """The stack as one row of the prompt."""
        from mechdiff.engine.build_rows import as_rows

        donor, recipient = sides(self.run.direction)
        maps = yield from fit_maps(self.run, self.identity, self.store, list(self.stack), self.progress)
        texts = (self.prompt.text,)
        states = loaded.passes.trace(donor, texts, False, self.place), loaded.passes.trace(recipient, texts, True, self.place)
        return as_rows([Stack(self.stack)], getattr(loaded, recipient), *states, maps)

    def _voice(self, loaded, name: str, rows) -> Voice:
        import torch

        from mechdiff.engine.decoding import Decoding

        side = self._side(name)
        ids = torch.tensor(loaded.passes.ids(side, (self.prompt.text,)))
        with loaded.placement.at_work(side):
            decoding = Decoding(getattr(loaded, side), ids, rows if name == PATCHED else None, self.run.back)
        generator = torch.Generator().manual_seed(self.run.seed)
        return Voice(getattr(loaded.tokenizers, side), decoding, generator, loaded.tokenizers.ends(side))

    def so_far(self) -> pd.DataFrame:
        lines = [(name, voice.text, len(voice.written), voice.ended) for name, voice in [*self.voices.items()]]
        return pd.DataFrame(lines, columns=COLUMNS)
