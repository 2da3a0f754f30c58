"""Module transplants: what would a layer's attention or MLP have returned with the other model's weights?

In one clean pass of the recipient, each layer's modules of the donor are called with exactly the arguments of the recipient's
own: its states at every token, its positions, its mask. So nothing upstream differs, and the outputs differ only through that
module's weights. Modules are called and no weight is read, so adapters and quantised weights work without special treatment.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechdiff.common.errors import UserError
from mechdiff.engine.anatomy import Anatomy, LayerParts, first
from mechdiff.engine.batches import like_lengths, pad_right
from mechdiff.engine.memory import in_parts


@dataclass
class Transplants:
    """The recipient's module outputs at one token of each of b prompts, if one module were the donor's.

    attn_out, mlp_out: with that layer's attention, or MLP, from the donor. heads: the attention's output with one of its heads
    from the donor. Their differences to the recipient's own output sum over heads to that of attn_out, except for a difference
    of the projections' biases. If the weights agree, each value is the recipient's own output, bit for bit.
    """

    attn_out: Float[Tensor, "layers b width"]
    mlp_out: Float[Tensor, "layers b width"]
    heads: Float[Tensor, "layers b heads width"]

    @property
    def nbytes(self) -> int:
        return self.attn_out.nbytes + self.mlp_out.nbytes + self.heads.nbytes


def run_transplants(
    recipient: Anatomy, donor: Anatomy, prompts: list[list[int]], span: int = 1, visit: Callable = nullcontext
) -> Transplants:
    """Transplant every module and head of the donor, one at a time, in one clean pass of the recipient.

    prompts: b lists of token ids, each ending with its span, at whose first token the outputs are taken, by default the last.
    visit: a context for each module of the donor in which its weights are on the recipient's device.
    Raises UserError if the models differ in layers, width or heads.
    """
    check_alike(recipient, donor)
    order, parts = [], []
    for together in like_lengths([len(ids) for ids in prompts], recipient.device):
        for batch, outputs in in_parts(
            lambda batch: run_batch(recipient, donor, [prompts[i] for i in batch], span, visit), together, recipient.device
        ):
            order += batch
            parts.append(outputs)
    place = torch.argsort(torch.tensor(order)).to(recipient.device)
    attn_out, mlp_out, heads = (torch.cat(batches, 1).index_select(1, place) for batches in zip(*parts))
    return Transplants(attn_out, mlp_out, heads)


def check_alike(recipient: Anatomy, donor: Anatomy) -> None:
    """Raises UserError if the models differ in layers, width or heads."""
    shapes = [(len(a.layers), a.width, a.heads, a.head_width) for a in (recipient, donor)]
    if shapes[0] != shapes[1]:
        both = " and ".join("{} layers of width {} with {} heads of width {}".format(*shape) for shape in shapes)
        raise UserError(f"A transplant needs two models of the same shape; these have {both}.\nTry:  run patch")


@torch.no_grad()
def run_batch(
    recipient: Anatomy, donor: Anatomy, prompts: list[list[int]], span: int, visit: Callable
) -> tuple[Tensor, Tensor, Tensor]:
    """attn_out, mlp_out and heads, as in Transplants, of prompts that share a batch."""
    device = recipient.device
    padded, last = (tensor.to(device) for tensor in pad_right(prompts))
    at_token = torch.arange(len(prompts), device=device), last - span + 1
    outputs: dict[str, list[Tensor]] = {"attn_out": [], "mlp_out": [], "heads": []}
    with ExitStack() as stack:
        for own, other in zip(recipient.layers, donor.layers):
            stack.enter_context(
                transplanting(own, other, recipient.heads, at_token, lambda n, v: outputs[n].append(v.to(device)), visit)
            )
        recipient.decoder(input_ids=padded, use_cache=False)  # the donor's modules would write to a cache too
    attn_out, mlp_out, heads = (torch.stack(values) for values in outputs.values())
    return attn_out, mlp_out, heads


@contextmanager
def transplanting(
    own: LayerParts,
    other: LayerParts,
    heads: int,
    at_token: tuple[Tensor, Tensor],
    record: Callable[[str, Tensor], None],
    visit: Callable,
) -> Iterator[None]:
    """Whenever `own` runs, call record(stream, value) with its modules' outputs at the token under `other`'s weights.

    Modules are run by their `forward`, so that a model can be its own donor without hooks calling each other.
    """
    projected: dict[str, Tensor] = {}

    def at(states: Any) -> Tensor:
        return first(states)[tuple(index.to(first(states).device) for index in at_token)]

    def attention(module, args, kwargs, output):
        own_input = at(projected["own"])
        with visit(other.attention):
            record("attn_out", at(other.attention.forward(*args, **kwargs)))
            change = by_head(other.projection, at(projected["other"]), heads) - by_head(own.projection, own_input, heads)
        output = at(output).unsqueeze(1)
        record("heads", (output.float() + change).to(output.dtype))

    def mlp(module, args, kwargs, output):
        with visit(other.mlp):
            record("mlp_out", at(other.mlp.forward(*args, **kwargs)))

    handles = [
        own.projection.register_forward_pre_hook(lambda module, args: projected.update(own=args[0])),
        other.projection.register_forward_pre_hook(lambda module, args: projected.update(other=args[0])),
        own.attention.register_forward_hook(attention, with_kwargs=True),
        own.mlp.register_forward_hook(mlp, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_head(projection: nn.Module, joint: Float[Tensor, "b joint"], heads: int) -> Float[Tensor, "b heads width"]:
    """Each head's contribution to the attention's output, in float32: its slice projected, without the bias.

    joint: the projection's input, of heads x head width.
    """
    b, each = len(joint), torch.arange(heads, device=joint.device)
    alone = joint.new_zeros(b, heads + 1, heads, joint.shape[1] // heads)  # the last row has no head and gives the bias
    alone[:, each, each] = joint.view(b, heads, -1)
    outputs = projection.forward(alone.flatten(2)).float()
    return outputs[:, :-1] - outputs[:, -1:]
