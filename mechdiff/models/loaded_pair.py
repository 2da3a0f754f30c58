"""A loaded pair: both models and their tokenizers, and the rooms for what is done with them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mechdiff.inputs.pair_file import Pair
from mechdiff.inputs.tokenizers import Tokenizers
from mechdiff.models.locks import FairLock, Together
from mechdiff.models.prompt_tokens import PromptTokens

if TYPE_CHECKING:  # these need torch, which takes seconds to import
    from mechdiff.engine.anatomy import Anatomy


class LoadedPair:
    """A pair in memory.

    base, tuned: the models, taken apart.
    tokens: prompts as token ids.
    placement: the lock of the weights, and the device they are on.
    passes: the clean passes of both models, and transplants.
    preflight: the row engine's check against plain hooks.
    weights: what this pair shares with others, to be kept in memory.
    """

    def __init__(
        self,
        pair: Pair,
        tokenizers: Tokenizers,
        base: "Anatomy",
        tuned: "Anatomy",
        lock: FairLock | Together,
        weights: Sequence[object] = (),
        notices: Sequence[str] = (),
    ):
        from mechdiff.models.clean_passes import CleanPasses
        from mechdiff.models.parity import Preflight
        from mechdiff.models.placement import Placement

        self.pair, self.tokenizers, self.base, self.tuned, self._notices = pair, tokenizers, base, tuned, notices
        models: dict[str, Anatomy] = {"base": base, "tuned": tuned}
        self.tokens = PromptTokens(pair, tokenizers, {side: model.window for side, model in models.items()})
        self.placement = Placement(pair, models, lock, weights)
        self.passes = CleanPasses(models, self.tokens, self.placement)
        self.preflight = Preflight(models, self.passes, pair.quantization)

    @property
    def lock(self) -> FairLock | Together:
        """Hold it around every forward pass of either model."""
        return self.placement.lock

    @property
    def parity(self) -> dict[str, float]:
        """The row engine's largest difference to plain hooks, in log-probability, by recipient; empty before the first check."""
        return self.preflight.differences

    @property
    def notices(self) -> list[str]:
        """What a user should know, such as that a model runs by plain hooks."""
        return [*self._notices, *self.placement.notices, *self.preflight.notices]
