"""A model writing on, token by token: clean, or with interventions that stay at their token of the prompt."""

from collections import defaultdict
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import DynamicCache

from mechdiff.anatomy import Anatomy, first
from mechdiff.hooks import patched
from mechdiff.rows import Rows


class Decoding:
    """What a model makes of b prompts of one length, and of the tokens it is then given.

    ids: [b, tokens]. rows: one row, whose edits are made at the token `back` before the last, in this pass alone; later tokens
    see what it left in the keys and values. logits: [b, vocabulary], after the last token. The caller holds the weights' lock.
    """

    def __init__(self, anatomy: Anatomy, ids: Tensor, rows: Rows | None = None, back: int = 0):
        self.anatomy, self.cache = anatomy, DynamicCache()
        b, tokens = ids.shape
        prompts, row, at = torch.arange(b), torch.zeros(b, dtype=torch.long), torch.full((b,), tokens - 1 - back)
        with patched(anatomy, rows.edits if rows else [], prompts, row, at):
            self.logits = self._run(ids)

    def step(self, tokens: Tensor) -> None:
        """Write one token on, [b]."""
        self.logits = self._run(tokens[:, None])

    @torch.no_grad()
    def _run(self, ids: Tensor) -> Tensor:
        with last_states(self.anatomy) as states:
            self.anatomy.decoder(input_ids=ids.to(self.anatomy.device), past_key_values=self.cache, use_cache=True)
        return self.anatomy.logits(states[0])


@contextmanager
def last_states(anatomy: Anatomy, every: bool = False):
    """A list that the states of the last token leaving the last layer are put into, [b, width]; of every token if so asked."""
    states, which = [], slice(None) if every else -1
    handle = anatomy.layers[-1].block.register_forward_hook(lambda m, args, output: states.append(first(output)[:, which]))
    try:
        yield states
    finally:
        handle.remove()


def greedy(anatomy: Anatomy, prompts: list[list[int]], count: int) -> list[list[int]]:
    """The likeliest next `count` tokens after each prompt, one after the other. Prompts of one length go together."""
    alike, found = defaultdict(list), {}
    for index, ids in enumerate(prompts):
        alike[len(ids)].append(index)
    for members in alike.values():
        decoding, tokens = Decoding(anatomy, torch.tensor([prompts[i] for i in members])), []
        for _ in range(count):
            tokens.append(decoding.logits.argmax(-1).cpu())
            if len(tokens) < count:
                decoding.step(tokens[-1])
        found |= dict(zip(members, torch.stack(tokens, 1).tolist()))
    return [found[index] for index in range(len(prompts))]
