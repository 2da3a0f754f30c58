"""Where answers to a block of prompts begin: the next token's distribution, and how likely given phrases are."""

from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mechdiff.engine.decoding import Decoding
from mechdiff.inputs import answer_scoring
from mechdiff.inputs.prompts import Prompt
from mechdiff.inputs.vocabularies import vocabulary_of
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.questions.shared.behaviour_summary import MEASURES, SHARED
from mechdiff.questions.shared.task import Steps
from mechdiff.questions.shared.writing import Answer, Batch, compared_with_clean, following, mass, opening_tokens, score


class Openings:
    """Where n answers to each prompt of a block begin: the next token's distribution, and measures of it.

    batches: as `writing.begin` returns them. values: MEASURES -> [prompts x n], those of one prompt next to each other; also
    soft_refusal if it is asked for, and between two tokenizers the same over the tokens of both: choice_logprob_shared, ...
    likeliest: the next token of each.
    """

    def __init__(self, loaded: LoadedPair, side: str, block: list[Prompt], n: int):
        self.loaded, self.side, self.block, self.n = loaded, side, block, n
        self.batches: list[Batch] = []
        self.tokenizer = getattr(loaded.tokenizers, side)
        self.ids = loaded.passes.ids(side, tuple(prompt.text for prompt in block))
        self.values = {name: np.full(len(block) * n, np.nan, np.float32) for name in MEASURES}
        self.likeliest = np.zeros(len(block) * n, int)

    def logprobs(self) -> Tensor:
        """The next-token distributions, [prompts x n, vocabulary]."""
        parts = [(self.texts(members), decoding.logits) for members, decoding in self.batches]
        order = torch.as_tensor(np.concatenate([texts for texts, _ in parts])).argsort()
        return torch.cat([logits for _, logits in parts])[order].log_softmax(-1, dtype=torch.float32)

    def texts(self, members: list[int]) -> np.ndarray:
        return np.concatenate([np.arange(self.n) + prompt * self.n for prompt in members])

    def measure(self, clean: dict[str, Tensor], answer_prefix: str, soft: bool) -> Steps[None]:
        """Fill in values and likeliest.

        clean: by side, the clean models' next-token distributions on the block, [prompts, vocabulary]. answer_prefix: the
        beginning of an answer, after which choices are scored. soft: whether to measure the soft refusal.
        """
        own = self.logprobs()
        clean = {side: logprobs.repeat_interleave(self.n, 0).to(own.device) for side, logprobs in clean.items()}
        self.likeliest = own.argmax(-1).cpu().numpy()
        self.values |= compared_with_clean(own, self.side, clean, self.loaded)
        self.values["refusal_logprob"] = mass(own, opening_tokens(self.tokenizer))
        for batch in self.batches:
            yield from self._score_choices(*batch, answer_prefix)
            if soft:
                yield from self._score_refusal(*batch)

    def answers(self, written: list[Answer]) -> list[pd.DataFrame]:
        """The n answers to every prompt, a table each: values, next (the likeliest next token), text, tokens and ended.

        written: as `writing.write_on` returns it.
        """
        return [self._answers(slice(row, None, self.n), written) for row in range(self.n)]

    def _answers(self, own: slice, written: list[Answer]) -> pd.DataFrame:
        texts = [(self.tokenizer.decode(tokens), float(len(tokens)), ended) for tokens, ended in written[own]]
        values = pd.DataFrame({name: value[own] for name, value in self.values.items()})
        values["next"] = [self.loaded.tokenizers.label(int(token), self.side) for token in self.likeliest[own]]
        return values.join(pd.DataFrame(texts, columns=["text", "tokens", "ended"]))

    def _score_choices(self, members: list[int], decoding: Decoding, prefix: str) -> Steps[None]:
        with_choices = {place: self.block[prompt] for place, prompt in enumerate(members) if self.block[prompt].choices}
        if not with_choices:
            return
        choices = {place: answer_scoring.scored(prompt.text, prompt.choices) for place, prompt in with_choices.items()}
        phrases = {place: following(self.tokenizer, self.ids[members[place]], choices[place], prefix) for place in with_choices}
        before = len(self.tokenizer(prefix, add_special_tokens=False).input_ids)
        scores = yield from score(self.loaded, self.side, decoding, phrases, self.n, before, self.shared)
        for place, prompt in with_choices.items():
            own, right = scores[place], prompt.choices.index(prompt.answer)
            likeliest = (own.argmax(-1) == right).float().where(~own.isnan().any(-1), torch.nan)
            self._keep(members[place], choice_logprob=own[..., right], choice_right=likeliest)

    def _score_refusal(self, members: list[int], decoding: Decoding) -> Steps[None]:
        refusals, neutral = answer_scoring.soft_refusal()
        texts = refusals + neutral
        phrases = {place: following(self.tokenizer, self.ids[prompt], texts) for place, prompt in enumerate(members)}
        scores = yield from score(self.loaded, self.side, decoding, phrases, self.n, shared=self.shared)
        for place, prompt in enumerate(members):
            kinds = scores[place].split([len(refusals), len(neutral)], -1)
            self._keep(prompt, soft_refusal=kinds[0].nanmean(-1) - kinds[1].nanmean(-1))

    @cached_property
    def shared(self) -> Tensor | None:
        """Whether both models have a token, [vocabulary]; None for one tokenizer."""
        vocabulary = None if self.loaded.tokenizers.shared else vocabulary_of(self.loaded)
        if vocabulary is None:
            return None
        anatomy = getattr(self.loaded, self.side)
        tokens = torch.zeros(anatomy.vocabulary, dtype=torch.bool)
        tokens[torch.as_tensor(getattr(vocabulary, self.side))] = True
        return tokens.to(anatomy.device)

    def _keep(self, prompt: int, **scores: Tensor) -> None:
        """Put a prompt's scores, [vocabularies, n], into values."""
        for name, by_vocabulary in scores.items():
            for suffix, values in zip(("", SHARED), by_vocabulary):
                whole = self.values.setdefault(name + suffix, np.full(len(self.block) * self.n, np.nan, np.float32))
                whole[prompt * self.n : (prompt + 1) * self.n] = values
