"""One prompt read by both models: how far their next-token distributions diverge after every token, and what each expects."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES
from mechdiff.inputs.prompts import digest
from mechdiff.inputs.vocabularies import vocabulary_of
from mechdiff.questions.shared.request import Question, prompt_at
from mechdiff.questions.shared.table_tasks import TableTask
from mechdiff.questions.shared.task import Steps

PIECE = 64  # tokens that are unembedded together
COLUMNS = ["token", "text", "own", "back", "kl", "rank", "model", "next", "probability"]


@dataclass(frozen=True)
class Reading:
    """What to read. run: the pair and the prompts. prompt: its index among them. top: expected tokens per model."""

    run: Question
    prompt: int = 0
    top: int = 8

    def task(self, store: Store) -> "ReadingTask":
        return ReadingTask(self, store)


class ReadingTask(TableTask):
    """A row per token of the prompt, model and expected next token.

    token: its index, from 0; text: the token itself; own: whether it is in the prompt's own text, not the template's; back: its
    distance to the decision token; kl: KL(tuned || base) of the next token there, nats; rank, next, probability: the model's
    likeliest next tokens, from rank 0, and those of the other model too. Two tokenizers that differ share no token of the prompt
    but the decision token, so the table then has that token alone. Where two vocabularies differ, kl is computed over the strings
    that both have, renormalised, a column `vocabulary` says so, and a model has no line for a token that it does not have.
    """

    columns: ClassVar[list[str]] = COLUMNS

    def __init__(self, request: Reading, store: Store):
        self.request, self.prompt = request, prompt_at(request.run, request.prompt)
        super().__init__(request.run, store)

    @cached_property
    def key(self) -> str:
        parts = {"what": "reading of both", "columns": COLUMNS, "top": self.request.top, "texts": digest([self.prompt])}
        return key(**parts, **self.identity.pair, **self.identity.vocabulary)

    def compute(self) -> Steps[pd.DataFrame]:
        self.entering("loading the models")
        yield
        loaded = self.identity.load()
        self.entering("reading the prompt")
        states = {}
        for side in SIDES:
            ids = loaded.passes.ids(side, (self.prompt.text,))[0]
            with loaded.placement.at_work(side):
                states[side] = self._states(getattr(loaded, side), ids)
            yield
        own, words = self._own(loaded, ids), loaded.tokenizers.labels(ids, SIDES[-1])
        if not loaded.tokenizers.shared:
            own, words, states = own[-1:], words[-1:], {side: rows[-1:] for side, rows in states.items()}
        self.progress.total, parts, shared = len(words), [], vocabulary_of(loaded)
        for start in range(0, self.total, PIECE):
            with loaded.placement.at_work():
                parts += self._compare(loaded, shared, words, own, states, range(start, min(start + PIECE, self.total)))
            self.progress.done = min(start + PIECE, self.total - 1)
            yield
        return pd.DataFrame(parts, columns=COLUMNS).assign(**({"vocabulary": str(shared)} if shared else {}))

    @staticmethod
    def _states(anatomy, ids: list[int]):
        """The states that leave the last layer, [tokens, width]."""
        import torch

        from mechdiff.engine.decoding import last_states

        with torch.no_grad(), last_states(anatomy, every=True) as states:
            anatomy.decoder(input_ids=torch.tensor([ids]).to(anatomy.device), use_cache=False)
        return states[0][0]

    def _own(self, loaded, ids: list[int]) -> list[bool]:
        """Which tokens are the prompt's own; all, if the tokenizer or the template does not tell."""
        try:
            return [start < end for start, end in loaded.tokenizers.spans(self.prompt.text, SIDES[-1])]
        except UserError:
            return [True] * len(ids)

    def _compare(self, loaded, shared, words: list[str], own: list[bool], states: dict, piece: range) -> list[tuple]:
        """Lines of a piece's tokens. shared: the tokens that both models have; None if they have the same vocabulary."""
        import torch

        from mechdiff.maths.similarity import kl

        logprobs = {}
        for side in SIDES:
            with torch.no_grad(), loaded.placement.resident(side):
                logits = getattr(loaded, side).logits(states[side][piece.start : piece.stop])
            logprobs[side] = logits.float().log_softmax(-1)
        lines, within = [], logprobs
        if shared is not None:
            within = {side: values[:, getattr(shared, side)].log_softmax(-1) for side, values in logprobs.items()}
        divergences = kl(within["tuned"], within["base"]).tolist()
        likeliest = {side: logprobs[side].topk(self.request.top).indices.tolist() for side in SIDES}
        for row, token in enumerate(piece):
            here = (token, words[token], own[token], len(words) - 1 - token, divergences[row])
            for side, other in (SIDES, SIDES[::-1]):
                others = likeliest[other][row] if shared is None else shared.across(likeliest[other][row], other)
                tokens = list(dict.fromkeys([*likeliest[side][row], *others]))
                values = logprobs[side][row, tokens]
                ranks = (logprobs[side][row] > values[:, None]).sum(1).tolist()
                names = [loaded.tokenizers.label(other_id, side) for other_id in tokens]
                lines += [(*here, *line) for line in zip(ranks, [side] * len(tokens), names, values.exp().tolist())]
        return lines
