"""Prompts of different lengths in one batch: batching, padding, and cutting layers' arguments to the tokens that matter."""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechdiff.engine.anatomy import Unreadable

PADDING = 0.1  # the share of a batch that may be padding ...
ENOUGH = {"cpu": 256, "cuda": 16384}  # ... unless the batch has fewer tokens than this, which a GPU hardly notices
HIDDEN = -1.0  # an additive mask is 0 where a key may be seen and hugely negative elsewhere


def like_lengths(lengths: list[int], device: torch.device) -> list[list[int]]:
    """Prompt indices in batches of similar length. lengths: of the prompts, in tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        batch = [*batches[-1], index] if batches else [index]
        padded = len(batch) * lengths[index]
        wasted = padded - sum(lengths[i] for i in batch)
        if batches and (wasted <= PADDING * padded or padded <= ENOUGH.get(device.type, 256)):
            batches[-1] = batch
        else:
            batches.append([index])
    return batches


def pad_right(prompts: list[list[int]]) -> tuple[Int[Tensor, "b tokens"], Int[Tensor, " b"]]:
    """Token ids, padded with zeros, and the index of each prompt's last token."""
    last = torch.tensor([len(ids) - 1 for ids in prompts])
    padded = torch.zeros(len(prompts), int(last.max()) + 1, dtype=torch.long)
    for row, ids in enumerate(prompts):
        padded[row, : len(ids)] = torch.tensor(ids)
    return padded, last


class InSpan:
    """Cuts layers' arguments to the tokens of the span. Layers share arguments, so each tensor is cut once.

    tokens: the span's indices. total: tokens of the batch. The caller keeps the arguments alive, since they are distinguished by
    identity.
    """

    def __init__(self, tokens: Int[Tensor, "b s"], total: int):
        self.tokens, self.total = tokens, total
        self._cut: dict[int, Tensor] = {}
        self._masks: dict[int, tuple[Tensor, Tensor]] = {}
        self.at = torch.arange(len(tokens), device=tokens.device)[:, None], tokens

    def __call__(self, value: Any) -> Any:
        """[b or 1, tokens, ...] -> [b, s, ...]; anything without an entry per token is returned unchanged."""
        if isinstance(value, tuple):
            return tuple(self(v) for v in value)
        if not isinstance(value, Tensor) or value.ndim < 2:
            return value
        if value.shape[1] != self.total or value.shape[0] not in (1, len(self.tokens)):
            return value
        if id(value) not in self._cut:
            self._cut[id(value)] = value.expand(len(self.tokens), *value.shape[1:])[self.at]
        return self._cut[id(value)]

    def hidden(self, mask: Tensor | None) -> tuple[Bool[Tensor, "b 1 s tokens"], Bool[Tensor, "b 1 s s"]]:
        """The keys that a token of the span may not see: of the clean pass, and of the span itself.

        mask: this layer's attention mask, [b or 1, 1, tokens, tokens], bool or additive, or None for plain causal.
        Returns `hidden` and `inside` of LayerCall. Raises Unreadable for a mask with position biases.
        """
        if id(mask) not in self._masks:
            every = torch.arange(self.total, device=self.tokens.device)
            unseen = every > self.tokens[..., None]
            if mask is not None:
                seen = mask[:, 0].expand(len(self.tokens), -1, -1)[self.at]
                if seen.dtype != torch.bool:
                    if ((seen != 0) & (seen > HIDDEN)).any():
                        raise Unreadable("the attention mask carries position biases")
                    seen = seen > HIDDEN
                unseen = ~seen
            own = self.tokens[:, None].expand(-1, self.tokens.shape[1], -1)
            hidden = unseen | (every >= self.tokens[:, :1, None])
            self._masks[id(mask)] = hidden[:, None], unseen.gather(2, own)[:, None]
        return self._masks[id(mask)]
