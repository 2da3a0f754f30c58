"""The recipient's upper layers on the donor's states at every token: what remains of a change above a layer.

A row of the engine replaces the state of one token. Here all tokens of a prompt have the donor's states of a layer, and the
recipient's layers above it run on them, by the model's own code: what it then says differs from the donor only by those layers,
the final norm and the unembedding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechdiff.engine.anatomy import Anatomy, first, replaying
from mechdiff.engine.batches import like_lengths, pad_right
from mechdiff.engine.intervention import EMBEDDING
from mechdiff.engine.memory import in_parts

BATCH_BYTES = 1 << 30  # of the states of all layers and tokens of prompts that run together

AtWork = Callable[[], AbstractContextManager]


@torch.no_grad()
def every_state(anatomy: Anatomy, padded: Int[Tensor, "b tokens"]) -> list[Float[Tensor, "b tokens width"]]:
    """The states of every token: what the first layer reads, then what each layer leaves. Index layer + 1."""
    states: list[Tensor] = []
    blocks = [part.block for part in anatomy.layers]
    handles = [blocks[0].register_forward_pre_hook(lambda m, args, kwargs: states.append(read(args, kwargs)), with_kwargs=True)]
    handles += [block.register_forward_hook(lambda m, args, output: states.append(first(output))) for block in blocks]
    try:
        anatomy.decoder(input_ids=padded.to(anatomy.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return states


def read(args: tuple, kwargs: dict) -> Tensor:
    """The states that a layer is called with."""
    return args[0] if args else kwargs["hidden_states"]


@contextmanager
def reading(anatomy: Anatomy, states: Float[Tensor, "b tokens width"]) -> Iterator[None]:
    """The first layer reads these states, whatever the tokens are."""

    def replace(module, args: tuple, kwargs: dict):
        return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})

    handle = anatomy.layers[0].block.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def above(
    anatomy: Anatomy,
    padded: Int[Tensor, "b tokens"],
    last: Int[Tensor, " b"],
    layer: int,
    states: Float[Tensor, "b tokens width"],
) -> Float[Tensor, "b vocabulary"]:
    """The logits at each prompt's last token, of the layers above `layer` on the states that leave it."""
    states, tokens, outputs = states.to(anatomy.device, anatomy.dtype), padded.to(anatomy.device), [states]
    decoder = anatomy.decoder if layer == EMBEDDING else replaying(anatomy.decoder, layer, states)
    if layer < len(anatomy.layers) - 1:
        final = anatomy.layers[-1].block.register_forward_hook(lambda module, args, output: outputs.append(first(output)))
        try:
            with reading(anatomy, states) if layer == EMBEDDING else nullcontext():
                decoder(input_ids=tokens, use_cache=False)
        finally:
            final.remove()
    left = outputs[-1].to(anatomy.device, anatomy.dtype)
    return anatomy.logits(left[torch.arange(len(last), device=left.device), last.to(left.device)])


def run_above(
    donor: Anatomy,
    recipient: Anatomy,
    prompts: list[list[int]],
    layers: Sequence[int],
    measure: Callable[[Tensor, Tensor, Tensor], None],
    donor_at_work: AtWork,
    recipient_at_work: AtWork,
) -> Iterator[int]:
    """Every layer's `above` on every prompt. measure: is given logits, places and rows, as in `rows.run_rows`; a row for each
    layer. *_at_work: hold each model's weights while it runs. Yields the cells done.
    """

    def run(batch: list[int]) -> None:
        padded, last = pad_right([prompts[i] for i in batch])
        with donor_at_work():
            states = every_state(donor, padded)
        for row, layer in enumerate(layers):
            with recipient_at_work():
                logits = above(recipient, padded, last, layer, states[layer + 1])
                measure(logits, torch.tensor(batch), torch.full((len(batch),), row))

    for alike in like_lengths([len(ids) for ids in prompts], recipient.device):
        size = max(len(prompts[i]) for i in alike) * donor.width * (len(donor.layers) + 1) * donor.dtype.itemsize
        at_once = max(1, BATCH_BYTES // size)
        for start in range(0, len(alike), at_once):
            for part, _ in in_parts(run, alike[start : start + at_once], recipient.device):
                yield len(part) * len(layers)
