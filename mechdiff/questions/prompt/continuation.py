"""What base, tuned and patched model would say: one prompt, each model writing on from it, side by side."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES, sides
from mechdiff.engine.intervention import Place, Stack
from mechdiff.inputs.prompts import digest
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.request import Run
from mechdiff.questions.stack import StackTask

COLUMNS = ["model", "text", "tokens", "ended"]
PATCHED = "patched"


@dataclass(frozen=True)
class Continuation:
    """What to write. run: pair, prompts, direction, back, seed, and the stack that the patched model runs with, if any.

    prompt: the index among the run's prompts. tokens: at most so many. temperature: nought for the likeliest token each time.
    """

    run: Run
    prompt: int = 0
    tokens: int = 40
    temperature: float = 0.0

    def __post_init__(self):
        count = len(self.run.chosen_prompts)
        if not 0 <= self.prompt < count:
            raise UserError(f"Prompt {self.prompt} does not exist: there are {count}, 0 to {count - 1}.")
        if self.tokens < 1:
            raise UserError(f"{self.tokens} tokens leave nothing to write.\nTry:  40")
        if not 0 <= self.temperature <= 10:
            raise UserError(f"Temperature {self.temperature:g} is not between 0 (the likeliest token) and 10.")


@dataclass
class Voice:
    """One model as it writes. decoding: its state; generator: its source of chance; ends: the tokens that end an answer."""

    tokenizer: object
    decoding: object
    generator: object
    ends: set[int]
    written: list[int] = field(default_factory=list)
    ended: bool = False

    def write(self, temperature: float) -> None:
        """One token more."""
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


class ContinuationTask:
    """A row per model (base, tuned, and patched if there is a stack): what it has written so far, and whether it has ended.

    All models draw from the same stream of chance. The patched model's states are replaced while it reads the prompt; what it
    writes afterwards sees what that left behind.
    """

    def __init__(self, request: Continuation, store: Store):
        self.request, self.store, self.run, self.notices = request, store, request.run, []
        self.stage, self.identity, self.voices = "", Identity(self.run), {}
        self.prompt = self.run.chosen_prompts[request.prompt]
        self.stack = self.run.chosen_stack if self.run.stack is not None else ()
        if self.stack:
            self.run.spec.check_same_shape()
        self.place = Place(self.run.back)
        asked = {"what": "continuation", "tokens": request.tokens, "temperature": request.temperature, "seed": self.run.seed}
        asked |= {"texts": digest([self.prompt]), "direction": self.run.direction, "back": self.run.back}
        asked |= {"stack": repr(self.stack)} | ({} if all(part.plain for part in self.stack) else self.identity.train)
        self.key = key(**asked, **self.identity.pair)
        self.found = store.table(self.key)
        self.total = request.tokens * (3 if self.stack else 2)
        self.done = 0 if self.found is None else self.total

    def steps(self) -> Iterator[None]:
        if self.found is not None:
            return
        self.stage = "loading the models"
        yield
        loaded = self.identity.load()
        rows = (yield from self._rows(loaded)) if self.stack else None
        self.stage = "writing"
        self._check_window(loaded)
        for name in (*SIDES, *([PATCHED] if self.stack else [])):
            self.voices[name] = self._voice(loaded, name, rows)
            yield
        for _ in range(self.request.tokens):
            for name, voice in self.voices.items():
                if not voice.ended:
                    with loaded.at_work(self._side(name)):
                        voice.write(self.request.temperature)
                self.done += 1
            yield
            if all(voice.ended for voice in self.voices.values()):
                break
        self.found = self._written()
        self.store.put_table(self.key, self.found)
        self.done = self.total

    def _side(self, name: str) -> str:
        """Whose weights a voice runs with."""
        return sides(self.run.direction)[1] if name == PATCHED else name

    def _check_window(self, loaded) -> None:
        window, tokens = loaded.base.window, len(loaded.ids("base", (self.prompt.text,))[0])
        if window is not None and tokens + self.request.tokens > window:
            raise UserError(
                f"After the prompt's {tokens} tokens {self.run.spec.name} has room for {window - tokens} more, not "
                f"{self.request.tokens}.\nTry:  fewer tokens, or a shorter prompt"
            )

    def _rows(self, loaded) -> Iterator[None]:
        """The stack as one row of the prompt."""
        from mechdiff.engine.build_rows import as_rows

        donor, recipient = sides(self.run.direction)
        task = StackTask(replace(self.run, question="stack", horizon=1), self.store)
        maps = yield from task.fit()
        texts = (self.prompt.text,)
        states = loaded.trace(donor, texts, False, self.place), loaded.trace(recipient, texts, True, self.place)
        return as_rows([Stack(self.stack)], getattr(loaded, recipient), *states, maps)

    def _voice(self, loaded, name: str, rows) -> Voice:
        import torch

        from mechdiff.engine.decoding import Decoding

        side = self._side(name)
        ids = torch.tensor(loaded.ids(side, (self.prompt.text,)))
        with loaded.at_work(side):
            decoding = Decoding(getattr(loaded, side), ids, rows if name == PATCHED else None, self.run.back)
        generator = torch.Generator().manual_seed(self.run.seed)
        return Voice(getattr(loaded.tokenizers, side), decoding, generator, loaded.tokenizers.ends(side))

    def _written(self) -> pd.DataFrame:
        lines = [(name, voice.text, len(voice.written), voice.ended) for name, voice in [*self.voices.items()]]
        return pd.DataFrame(lines, columns=COLUMNS)

    def table(self) -> pd.DataFrame:
        return self._written() if self.found is None else self.found
