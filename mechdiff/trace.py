"""The clean pass: what one forward pass of the unchanged model leaves behind at the decision token.

Prompts of different lengths share a batch, cut at their decision token and padded on the right: under a causal mask nothing
before a token sees the padding, so no padding mask is needed and position equals index.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from mechdiff.anatomy import Anatomy, first
from mechdiff.terms import STREAMS


@dataclass
class LayerCall:
    """How the model called one layer in the clean pass, and the keys and values the layer made.

    keys, values: [b, key-value heads, tokens, head width]. arguments: the layer's other arguments by name.
    """

    keys: Tensor
    values: Tensor
    arguments: dict


@dataclass
class Trace:
    """A clean pass over b prompts.

    last: [b], the index of the decision token. states: stream -> [layers, b, width] at that token, where the width of
    `heads` is heads x head width. logprobs: [b, vocabulary], float32, nats. calls: one a layer, empty if not kept.
    """

    last: Tensor
    tokens: int
    states: dict[str, Tensor]
    logprobs: Tensor
    calls: list[LayerCall]

    @property
    def nbytes(self) -> int:
        tensors = [self.logprobs, *self.states.values(), *(t for call in self.calls for t in (call.keys, call.values))]
        return sum(t.nbytes for t in tensors)


@contextmanager
def watching(anatomy: Anatomy, seen):
    """Call seen(stream, layer, tensor) for every stream, and seen("call", layer, arguments) for every layer's call."""
    handles = []

    def watch(module, stream, layer, before):
        if before:
            handles.append(module.register_forward_pre_hook(lambda m, args: seen(stream, layer, args[0])))
        else:
            handles.append(module.register_forward_hook(lambda m, args, output: seen(stream, layer, first(output))))

    def watch_call(layer, part):
        def hook(module, args, kwargs):
            bound = anatomy.signatures[layer].bind(*args, **kwargs)
            names = list(bound.arguments)
            arguments = {name: bound.arguments[name] for name in names[1:]}
            arguments |= arguments.pop("kwargs", {})
            seen("resid_pre", layer, bound.arguments[names[0]])
            seen("call", layer, arguments)

        handles.append(part.block.register_forward_pre_hook(hook, with_kwargs=True))

    for layer, part in enumerate(anatomy.layers):
        watch_call(layer, part)
        watch(part.projection, "heads", layer, before=True)
        watch(part.attention, "attn_out", layer, before=False)
        watch(part.mlp, "mlp_out", layer, before=False)
        watch(part.block, "resid_post", layer, before=False)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def run_trace(anatomy: Anatomy, prompts: list[list[int]], keep_calls: bool = True) -> Trace:
    """The clean pass over prompts, each a list of token ids that ends at its decision token.

    keep_calls: keep keys, values and layer arguments too, which a recipient needs and a donor does not.
    """
    device, size = anatomy.device, len(prompts)
    lengths = torch.tensor([len(ids) for ids in prompts])
    tokens = int(lengths.max())
    padded = torch.zeros(size, tokens, dtype=torch.long)
    for row, ids in enumerate(prompts):
        padded[row, : len(ids)] = torch.tensor(ids)
    last, index = (lengths - 1).to(device), torch.arange(size, device=device)

    states = {stream: [None] * len(anatomy.layers) for stream in STREAMS}
    arguments = [None] * len(anatomy.layers)

    def seen(stream, layer, value):
        if stream == "call":
            arguments[layer] = value
        else:
            states[stream][layer] = value[index, last]

    cache = DynamicCache()
    with watching(anatomy, seen):
        anatomy.decoder(input_ids=padded.to(device), past_key_values=cache, use_cache=True)
    stacked = {stream: torch.stack(values) for stream, values in states.items()}
    logprobs = anatomy.logits(stacked["resid_post"][-1]).float().log_softmax(-1)
    calls = []
    if keep_calls:
        for layer, named in enumerate(arguments):
            others = {name: value for name, value in named.items() if value is not cache}
            entry = cache.layers[layer]
            calls.append(LayerCall(entry.keys, entry.values, others))
    return Trace(last, tokens, stacked, logprobs, calls)
