"""Generation, token by token: clean, or with interventions that stay at their token of the prompt."""

import inspect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from mechdiff.engine.anatomy import Anatomy, first
from mechdiff.engine.hooks import patched
from mechdiff.engine.rows import Rows


class Decoding:
    """A model's state after b prompts, and after the tokens that it is then given.

    ids: prompts of several lengths are padded on the left. seen: False at the padding; None if there is none. rows: n rows, whose
    edits are made `back` tokens before the last, in this pass alone; later tokens see the keys and values that it produced. Every
    prompt is then continued n times, with a prompt's rows next to each other: b x n texts. logits: [texts, vocabulary], after
    the last token. The caller holds the weights' lock.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        ids: Int[Tensor, "b tokens"],
        rows: Rows | None = None,
        back: int = 0,
        seen: Bool[Tensor, "b tokens"] | None = None,
    ):
        self.anatomy, self.cache = anatomy, DynamicCache()
        self.seen = None if seen is None or bool(seen.all()) else seen
        if rows is None:
            self.logits = self._run(ids)
            return
        before, (b, n) = ids.shape[1] - 1 - back, (len(ids), rows.count)
        if before:  # no edit affects it, so one pass is enough for all rows of a prompt
            self._run(ids[:, :before])
            self.cache.batch_repeat_interleave(n)
        self.seen = None if self.seen is None else self.seen.repeat_interleave(n, 0)
        prompts, row = torch.arange(b).repeat_interleave(n), torch.arange(n).repeat(b)
        with patched(anatomy, rows.edits, prompts, row, torch.zeros(b * n, dtype=torch.long)):
            self.logits = self._run(ids[:, before:].repeat_interleave(n, 0))

    def step(self, tokens: Int[Tensor, " texts"]) -> None:
        """Append one token to each text."""
        self.logits = self._run(self._longer(tokens[:, None]))

    def after(self, texts: Int[Tensor, " m"], tokens: Int[Tensor, "m k"]) -> Float[Tensor, "m k vocabulary"]:
        """Logits after each of k possible next tokens; the texts stay as they are.

        texts: indices of texts, with repeats allowed.
        """
        other = deepcopy(self)
        other.cache.batch_select_indices(texts.to(self.anatomy.device))
        other.seen = None if self.seen is None else self.seen[texts]
        with last_states(self.anatomy, every=True) as states:
            other._forward(other._longer(tokens))
        return self.anatomy.logits(states[0].flatten(0, 1)).unflatten(0, tokens.shape)

    def __deepcopy__(self, memo):
        """The same state over the same model."""
        other = object.__new__(Decoding)
        other.anatomy, other.cache, other.seen, other.logits = self.anatomy, deepcopy(self.cache), self.seen, self.logits
        return other

    def _longer(self, tokens: Tensor) -> Tensor:
        """The next tokens, [texts, k], after recording that they are not padding."""
        if self.seen is not None:
            self.seen = torch.cat([self.seen, torch.ones_like(tokens, dtype=torch.bool)], 1)
        return tokens

    def _run(self, ids: Tensor) -> Tensor:
        with last_states(self.anatomy) as states:
            self._forward(ids)
        return self.anatomy.logits(states[0])

    @torch.no_grad()
    def _forward(self, ids: Tensor) -> None:
        start, named = self.cache.get_seq_length(), {}
        if self.seen is not None:
            device, upto = self.anatomy.device, start + ids.shape[1]
            positions = (self.seen.long().cumsum(1) - 1).clamp(min=0)[:, start:upto]
            named = {"attention_mask": self.seen[:, :upto].long().to(device), "position_ids": positions.to(device)}
        self.anatomy.decoder(input_ids=ids.to(self.anatomy.device), past_key_values=self.cache, use_cache=True, **named)


@contextmanager
def last_states(anatomy: Anatomy, every: bool = False) -> Iterator[list[Tensor]]:
    """A list that receives the states that leave the last layer: of the last token, [b, width], or of every token."""
    states, which = [], slice(None) if every else -1
    handle = anatomy.layers[-1].block.register_forward_hook(lambda m, args, output: states.append(first(output)[:, which]))
    try:
        yield states
    finally:
        handle.remove()


def pad_left(prompts: list[list[int]]) -> tuple[Int[Tensor, "b tokens"], Bool[Tensor, "b tokens"]]:
    """Prompts of several lengths as the arguments ids and seen of Decoding."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(tokens)) + tokens for tokens in prompts])
    return ids, torch.tensor([[False] * (longest - len(tokens)) + [True] * len(tokens) for tokens in prompts])


def together(anatomy: Anatomy, prompts: list[list[int]]) -> list[list[int]]:
    """Batches of prompts that can be continued together: all, or those of one length if the model takes no positions."""
    if "position_ids" in inspect.signature(anatomy.decoder.forward).parameters:
        return [list(range(len(prompts)))]
    return list(by_length(prompts).values())


def by_length(prompts: list[list[int]]) -> dict[int, list[int]]:
    """Prompt indices by number of tokens."""
    indices = defaultdict(list)
    for index, ids in enumerate(prompts):
        indices[len(ids)].append(index)
    return indices


def greedy(anatomy: Anatomy, prompts: list[list[int]], count: int) -> list[list[int]]:
    """The greedy continuation of each prompt, `count` tokens. Prompts of one length run together."""
    continuations: dict[int, list[int]] = {}
    for members in by_length(prompts).values():
        decoding, tokens = Decoding(anatomy, torch.tensor([prompts[i] for i in members])), []
        for _ in range(count):
            tokens.append(decoding.logits.argmax(-1).cpu())
            if len(tokens) < count:
                decoding.step(tokens[-1])
        continuations |= dict(zip(members, torch.stack(tokens, 1).tolist()))
    return [continuations[index] for index in range(len(prompts))]
