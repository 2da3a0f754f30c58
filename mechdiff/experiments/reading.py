"""One prompt read by both models: how far their next-token distributions part after every token, and what each expects."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from mechdiff.errors import UserError
from mechdiff.experiments.identity import Identity
from mechdiff.experiments.request import Run
from mechdiff.models import load_pair, memory_errors
from mechdiff.prompts import digest
from mechdiff.store import Store, key
from mechdiff.terms import SIDES

PIECE = 64  # tokens that are unembedded together
COLUMNS = ["token", "text", "back", "kl", "rank", "model", "next", "probability"]


@dataclass(frozen=True)
class Reading:
    """What to read: run gives the pair and the prompts; prompt is the index among them; top: expected tokens a model."""

    run: Run
    prompt: int = 0
    top: int = 8

    def __post_init__(self):
        count = len(self.run.chosen_prompts)
        if not 0 <= self.prompt < count:
            raise UserError(f"Prompt {self.prompt} does not exist: there are {count}, 0 to {count - 1}.")


class ReadingTask:
    """A row per token of the prompt, model and expected next token.

    token: its index, from 0; text: the token itself; back: how far before the decision token; kl: KL(tuned || base) of the next
    token there, nats; rank, next, probability: the model's likeliest next tokens.
    """

    def __init__(self, request: Reading, store: Store):
        self.request, self.store, self.run, self.notices = request, store, request.run, []
        self.stage, self.identity = "", Identity(self.run)
        self.prompt = self.run.chosen_prompts[request.prompt]
        asked = {"what": "reading", "top": request.top, "texts": digest([self.prompt])}
        self.key = key(**asked, **self.identity.pair)
        self.found = store.table(self.key)
        self.total, self.done = 1, int(self.found is not None)

    def steps(self) -> Iterator[None]:
        if self.found is not None:
            return
        self.stage = "loading the models"
        yield
        loaded = load_pair(self.run.spec, self.identity.device, self.identity.dtype)
        if not loaded.tokenizers.shared:
            raise UserError(f"{loaded.pair.name}: the two tokenizers differ, so no token is the same in both models.")
        ids, states = loaded.ids("base", (self.prompt.text,))[0], {}
        self.stage = "reading the prompt"
        for side in SIDES:
            with loaded.lock, memory_errors(loaded.pair, self.identity.device):
                states[side] = self._states(getattr(loaded, side), ids)
            yield
        self.total, parts = len(ids), []
        for start in range(0, len(ids), PIECE):
            with loaded.lock, memory_errors(loaded.pair, self.identity.device):
                parts += self._compare(loaded, ids, states, range(start, min(start + PIECE, len(ids))))
            self.done = min(start + PIECE, len(ids) - 1)
            yield
        self.found = pd.DataFrame(parts, columns=COLUMNS)
        self.store.put_table(self.key, self.found)
        self.done = self.total

    @staticmethod
    def _states(anatomy, ids: list[int]):
        """What leaves the last layer, [tokens, width]."""
        import torch

        from mechdiff.decoding import last_states

        with torch.no_grad(), last_states(anatomy, every=True) as states:
            anatomy.decoder(input_ids=torch.tensor([ids]).to(anatomy.device), use_cache=False)
        return states[0][0]

    def _compare(self, loaded, ids: list[int], states: dict, some: range) -> list[tuple]:
        import torch

        from mechdiff.metrics import kl

        with torch.no_grad():
            logprobs = {
                side: getattr(loaded, side).logits(states[side][some.start : some.stop]).float().log_softmax(-1) for side in SIDES
            }
        apart, lines = kl(logprobs["tuned"], logprobs["base"]).tolist(), []
        likeliest = {side: logprobs[side].topk(self.request.top) for side in SIDES}
        for row, token in enumerate(some):
            here = (token, loaded.tokenizers.label(ids[token], "base"), len(ids) - 1 - token, apart[row])
            for side in SIDES:
                values, tokens = (found[row].tolist() for found in likeliest[side])
                labels = [loaded.tokenizers.label(one, side) for one in tokens]
                exp = torch.tensor(values).exp().tolist()
                lines += [(*here, rank, side, label, p) for rank, (label, p) in enumerate(zip(labels, exp))]
        return lines

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(columns=COLUMNS) if self.found is None else self.found
