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
    """A pair in memory, as `md.load_pair` makes it.

    pair: its description. tokenizers: those of both models.
    base, tuned: the models, taken apart; `base.model` is the transformers model.
    lock: guards the weights. weights: what this pair shares with others, to be kept in memory.
    notices: what a user should know about how it was loaded.

    Further attributes: tokens: prompts as token ids; placement: the lock of the weights, and the device they are on;
    passes: the clean passes of both models, and transplants; preflight: the row engine's check against plain hooks.

    Example:
        >>> loaded = md.load_pair(pair.spec.path, "cpu")
        >>> loaded.pair.layers, loaded.tuned.model.config.hidden_size
        (4, 32)
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
        """The lock to hold around every forward pass of either model, since the app's threads and other pairs share the weights.

        Example:
            >>> loaded = md.load_pair(pair.spec.path, "cpu")
            >>> ids = loaded.tokenizers.encode("w1 w2", "tuned")
            >>> with loaded.lock:
            ...     logits = loaded.tuned.model(torch.tensor([ids])).logits
        """
        return self.placement.lock

    @property
    def parity(self) -> dict[str, float]:
        """The row engine's largest difference to plain hooks, in nats, by recipient; empty before the first check.

        Example:
            >>> before = pair.patch(layers=1, limit=4)
            >>> all(difference < 1e-3 for difference in md.load_pair(pair.spec.path, "cpu").parity.values())
            True
        """
        return self.preflight.differences

    @property
    def notices(self) -> list[str]:
        """What a user should know, such as that a model runs by plain hooks, in sentences.

        Example:
            >>> md.load_pair(pair.spec.path, "cpu").notices
            []
        """
        return [*self._notices, *self.placement.notices, *self.preflight.notices]
