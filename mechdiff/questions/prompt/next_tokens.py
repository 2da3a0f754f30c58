"""For one prompt: the likeliest next tokens of donor and recipient, and of the recipient with a site or a stack patched."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.common.terms import sides
from mechdiff.engine.intervention import Condition, Place, Stack
from mechdiff.inputs import prompts
from mechdiff.inputs.vocabularies import vocabulary_of
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.request import Run

COLUMNS = ["token", "model", "probability"]


@dataclass(frozen=True)
class NextTokens:
    """What to show: run gives pair, prompts, direction, back; condition what is replaced; prompt the index among the prompts."""

    run: Run
    condition: Condition | Stack
    prompt: int
    top: int = 6

    def __post_init__(self):
        count = len(self.run.chosen_prompts)
        if not 0 <= self.prompt < count:
            raise UserError(f"Prompt {self.prompt} does not exist: there are {count}, 0 to {count - 1}.")


class NextTokensTask:
    """A table with columns token, model (base, tuned, patched) and probability, for the union of each model's top tokens.

    Where two vocabularies differ, tokens are the same if their strings are; a model has no line for one that it does not have.
    """

    def __init__(self, request: NextTokens, store: Store):
        self.request, self.store, self.run, self.notices = request, store, request.run, []
        self.stage = "patching"
        self.identity = Identity(self.run)
        self.run.spec.check_same_shape()
        self.block = prompts.blocks(self.run.chosen_prompts)[request.prompt // prompts.BLOCK]
        self.place = request.prompt % prompts.BLOCK
        if self.run.back:  # other prompts of the block may be too short
            self.block, self.place = [self.block[self.place]], 0
        asked = {"what": "next tokens", "top": request.top, "condition": repr(request.condition), "place": self.place}
        asked |= {"direction": self.run.direction, "texts": prompts.digest(self.block)}
        asked |= {"back": self.run.back} if self.run.back else {}
        asked |= {} if request.condition.plain else self.identity.train
        self.key = key(**asked, **self.identity.pair, **self.identity.vocabulary)
        self.found = store.table(self.key)
        self.total, self.done = 1, int(self.found is not None)

    def steps(self) -> Iterator[None]:
        if self.found is not None:
            return
        from mechdiff.engine.build_rows import as_rows
        from mechdiff.questions.shared.measure import run_locked

        loaded = self.identity.load()
        donor_side, recipient_side = sides(self.run.direction)
        texts = tuple(prompt.text for prompt in self.block)
        loaded.check_parity(recipient_side, texts)
        maps = yield from EffectsTask(self.run, [(self.request.condition,)], self.store, self.block).fit()
        at = Place(self.run.back)
        donor = loaded.trace(donor_side, texts, False, at)
        recipient = loaded.trace(recipient_side, texts, True, at)
        rows = as_rows([self.request.condition], getattr(loaded, recipient_side), donor, recipient, maps)
        patched = []

        def measure(logits, which, _):
            patched.extend(logits[which == self.place].float().log_softmax(-1))

        for _ in run_locked(loaded, recipient_side, texts, recipient, rows, measure, at):
            yield
        found = {donor_side: donor.logprobs[self.place], recipient_side: recipient.logprobs[self.place], "patched": patched[0]}
        self.found = self._likeliest(found, loaded, donor_side, recipient_side)
        self.store.put_table(self.key, self.found)
        self.done = 1

    def _likeliest(self, logprobs: dict, loaded, donor: str, recipient: str) -> pd.DataFrame:
        """logprobs: model -> [its own vocabulary]."""
        shared, side_of, found = vocabulary_of(loaded), {"base": "base", "tuned": "tuned", "patched": recipient}, {}
        for model, values in logprobs.items():
            side, other = (donor, recipient) if side_of[model] == donor else (recipient, donor)
            for token in values.topk(self.request.top).indices.tolist():
                twin = [token] if shared is None else shared.across([token], side)
                ids = {side: token} | dict(zip([other], twin))  # of one string, in the models that have it
                found[ids.get(donor), ids.get(recipient)] = ids

        def values(ids: dict[str, int]) -> dict:
            return {model: logprobs[model][ids[side]] for model, side in side_of.items() if side in ids}

        lines = []
        for ids in sorted(found.values(), key=lambda ids: max(values(ids).values()), reverse=True):
            side = recipient if recipient in ids else donor
            name = loaded.tokenizers.label(ids[side], side)
            lines += [(name, model, value.exp().item()) for model, value in values(ids).items()]
        return pd.DataFrame(lines, columns=COLUMNS)

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(columns=COLUMNS) if self.found is None else self.found
