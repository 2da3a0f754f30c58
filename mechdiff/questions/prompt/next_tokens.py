"""For one prompt: the likeliest next tokens of donor and recipient, and of the recipient with a site or a stack patched."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.terms import sides
from mechdiff.engine.intervention import Condition, Place, Stack
from mechdiff.inputs import prompts
from mechdiff.inputs.vocabularies import vocabulary_of
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.effects import fit_maps
from mechdiff.questions.shared.request import prompt_at
from mechdiff.questions.shared.table_tasks import TableTask
from mechdiff.questions.shared.task import Steps

COLUMNS = ["token", "model", "probability"]


@dataclass(frozen=True)
class NextTokens:
    """What to show. run: pair, prompts, direction, back. condition: what is replaced. prompt: its index among the prompts."""

    run: EffectQuestion
    condition: Condition | Stack
    prompt: int
    top: int = 6

    def task(self, store: Store) -> "NextTokensTask":
        return NextTokensTask(self, store)


class NextTokensTask(TableTask):
    """A table with columns token, model (base, tuned, patched) and probability, for the union of each model's top tokens.

    Where two vocabularies differ, tokens are the same if their strings are; a model has no line for a token it does not have.
    """

    columns: ClassVar[list[str]] = COLUMNS

    def __init__(self, request: NextTokens, store: Store):
        run = request.run
        run.spec.check_same_shape()
        prompt = prompt_at(run, request.prompt)
        self.request, self.place = request, request.prompt % prompts.BLOCK
        self.block = prompts.blocks(run.chosen_prompts)[request.prompt // prompts.BLOCK]
        if run.back:  # other prompts of the block may be too short
            self.block, self.place = [prompt], 0
        super().__init__(run, store, stage="patching")

    @cached_property
    def key(self) -> str:
        request, back = self.request, self.run.back
        parts = {"what": "next tokens", "top": request.top, "condition": request.condition.content, "place": self.place}
        parts |= {"direction": self.run.direction, "texts": prompts.digest(self.block)}
        parts |= {"back": back} if back else {}
        parts |= {} if request.condition.plain else self.identity.train
        return key(**parts, **self.identity.pair, **self.identity.vocabulary)

    def compute(self) -> Steps[pd.DataFrame]:
        from mechdiff.engine.build_rows import as_rows
        from mechdiff.questions.shared.measure import run_locked

        loaded = self.identity.load()
        donor_side, recipient_side = sides(self.run.direction)
        texts = tuple(prompt.text for prompt in self.block)
        loaded.preflight.check(recipient_side, texts)
        maps = yield from fit_maps(self.run, self.identity, self.store, [self.request.condition], self.progress)
        at = Place(self.run.back)
        donor = loaded.passes.trace(donor_side, texts, False, at)
        recipient = loaded.passes.trace(recipient_side, texts, True, at)
        rows = as_rows([self.request.condition], getattr(loaded, recipient_side), donor, recipient, maps)
        patched = []

        def measure(logits, which, _):
            patched.extend(logits[which == self.place].float().log_softmax(-1))

        for _ in run_locked(loaded, recipient_side, texts, recipient, rows, measure, at):
            yield
        logprobs = {donor_side: donor.logprobs[self.place], recipient_side: recipient.logprobs[self.place], "patched": patched[0]}
        return self._likeliest(logprobs, loaded, donor_side, recipient_side)

    def _likeliest(self, logprobs: dict, loaded, donor: str, recipient: str) -> pd.DataFrame:
        """logprobs: model -> [its own vocabulary]."""
        shared, side_of, tokens = vocabulary_of(loaded), {"base": "base", "tuned": "tuned", "patched": recipient}, {}
        for model, values in logprobs.items():
            side, other = (donor, recipient) if side_of[model] == donor else (recipient, donor)
            for token in values.topk(self.request.top).indices.tolist():
                twin = [token] if shared is None else shared.across([token], side)
                ids = {side: token} | dict(zip([other], twin))  # of one string, in the models that have it
                tokens[ids.get(donor), ids.get(recipient)] = ids

        def values(ids: dict[str, int]) -> dict:
            return {model: logprobs[model][ids[side]] for model, side in side_of.items() if side in ids}

        lines = []
        for ids in sorted(tokens.values(), key=lambda ids: max(values(ids).values()), reverse=True):
            side = recipient if recipient in ids else donor
            name = loaded.tokenizers.label(ids[side], side)
            lines += [(name, model, value.exp().item()) for model, value in values(ids).items()]
        return pd.DataFrame(lines, columns=COLUMNS)
