"""The clean pass: the states of one forward pass of the unchanged model at the decision token, or at other tokens.

Prompts of different lengths share a batch, cut at their decision token and padded on the right: under a causal mask no token
sees the padding after it, so no padding mask is needed and position equals index. Prompts of similar length run together, so
that little is computed for the padding.

The tokens that are studied may also start before the decision token, or continue after it: the **span** is the sequence's last
tokens, from the one where a state may be replaced; everything before it is the prefix, which no replacement changes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache

from mechdiff.common.terms import STREAMS
from mechdiff.engine.anatomy import Anatomy, LayerParts, first, keys_and_values
from mechdiff.engine.batches import InSpan, like_lengths, pad_right
from mechdiff.engine.memory import in_parts


@dataclass
class LayerCall:
    """How the model called one layer: what is needed to run new tokens in place of the span's s tokens.

    keys, values: of the clean pass. hidden: True where a token of the span may not look, or has to look at the span's new keys
    instead. inside: True where it may not look within the span. arguments: the layer's other arguments by name; those with an
    entry per token are cut to the span: [b, s, ...].
    """

    keys: Float[Tensor, "b groups tokens head_width"]
    values: Float[Tensor, "b groups tokens head_width"]
    hidden: Bool[Tensor, "b 1 s tokens"]
    inside: Bool[Tensor, "b 1 s s"]
    arguments: dict[str, Any]


@dataclass
class Trace:
    """A clean pass over b prompts.

    last: the index of each prompt's last token. whole: by stream, the states at the span's s tokens, where the width of `heads`
    is heads x head width. logprobs: after each of the last `read` tokens, float32, nats; a prompt's are next to each other.
    calls: one for each layer, or none.
    """

    last: Int[Tensor, " b"]
    whole: dict[str, Float[Tensor, "layers b s width"]]
    logprobs: Float[Tensor, "b_times_read vocabulary"]
    calls: list[LayerCall]
    read: int = 1

    @property
    def span(self) -> int:
        """Number of tokens from the one where states may be replaced to the last."""
        return self.whole["resid_pre"].shape[2]

    @cached_property
    def states(self) -> dict[str, Float[Tensor, "layers b width"]]:
        """The states at the span's first token, by stream; the decision token, if the span has one token."""
        return {stream: values[:, :, 0] for stream, values in self.whole.items()}

    def shorten(self, span: int) -> "Trace":
        """The same pass with a span that starts later; the tokens before it join the prefix."""
        whole = {stream: values[:, :, -span:] for stream, values in self.whole.items()}
        start = self.last[:, None] + torch.arange(1 - self.span, 1 - span, device=self.last.device)
        masks: dict[int, tuple[Tensor, Tensor]] = {}  # layers share these tensors

        def cut(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(cut(v) for v in value)
            in_span = isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == self.span
            return value[:, -span:] if in_span else value

        def shorter(call: LayerCall) -> LayerCall:
            if id(call.hidden) not in masks:
                joining = call.inside[:, :, -span:, :-span]
                where = start[:, None, None].expand(joining.shape)
                inside = call.inside[:, :, -span:, -span:]
                masks[id(call.hidden)] = call.hidden[:, :, -span:].scatter(3, where, joining), inside
            arguments = {name: cut(value) for name, value in call.arguments.items()}
            hidden, inside = masks[id(call.hidden)]
            return LayerCall(call.keys, call.values, hidden, inside, arguments)

        return Trace(self.last, whole, self.logprobs, [shorter(call) for call in self.calls], self.read)

    @property
    def device(self) -> torch.device:
        return self.last.device

    def to(self, device: torch.device) -> "Trace":
        """The same pass in another device's memory. Layers still share the same tensors."""
        moved: dict[int, Tensor] = {}

        def move(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(move(v) for v in value)
            if not isinstance(value, Tensor):
                return value
            if id(value) not in moved:
                moved[id(value)] = value.to(device)
            return moved[id(value)]

        def call_to(call: LayerCall) -> LayerCall:
            arguments = {name: move(value) for name, value in call.arguments.items()}
            return LayerCall(move(call.keys), move(call.values), move(call.hidden), move(call.inside), arguments)

        whole = {stream: move(values) for stream, values in self.whole.items()}
        return Trace(move(self.last), whole, move(self.logprobs), [call_to(call) for call in self.calls], self.read)

    @property
    def nbytes(self) -> int:
        """Size of the states, log-probabilities, keys and values."""
        tensors = [self.logprobs, *self.whole.values(), *(t for call in self.calls for t in (call.keys, call.values))]
        return sum(t.nbytes for t in tensors)


@contextmanager
def watching(anatomy: Anatomy, record: Callable[[str, int, Any], None]) -> Iterator[None]:
    """Call record(stream, layer, tensor) for every stream, and record("call", layer, arguments) for every layer's call."""
    handles = []

    def watch(module: nn.Module, stream: str, layer: int, before: bool) -> None:
        if before:
            handles.append(module.register_forward_pre_hook(lambda m, args: record(stream, layer, args[0])))
        else:
            handles.append(module.register_forward_hook(lambda m, args, output: record(stream, layer, first(output))))

    def watch_call(layer: int, part: LayerParts) -> None:
        def hook(module, args, kwargs):
            bound = anatomy.signatures[layer].bind(*args, **kwargs)
            names = list(bound.arguments)
            arguments = {name: bound.arguments[name] for name in names[1:]}
            arguments |= arguments.pop("kwargs", {})
            record("resid_pre", layer, bound.arguments[names[0]])
            record("call", layer, arguments)

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


def run_trace(anatomy: Anatomy, prompts: list[list[int]], keep_calls: bool = True, span: int = 1, read: int = 1) -> Trace:
    """The clean pass over prompts, each a list of token ids that ends with its span, by default its decision token.

    keep_calls: keep keys, values and layer arguments too, which a recipient needs and a donor does not. span: number of tokens
    at the end of each prompt that may be run again. read: number of last tokens whose next-token distribution is taken.
    """
    batches = like_lengths([len(ids) for ids in prompts], anatomy.device)
    if len(batches) == 1:
        batches = [list(range(len(prompts)))]

    def run(batch: list[int]) -> Trace:
        return run_batch(anatomy, [prompts[i] for i in batch], keep_calls, span, read)

    parts = [part for batch in batches for part in in_parts(run, batch, anatomy.device)]
    if len(parts) == 1:
        return parts[0][1]
    return merge([trace for _, trace in parts], torch.tensor([index for batch, _ in parts for index in batch]))


def run_states(
    anatomy: Anatomy, prompts: list[list[int]], positions: list[list[int]]
) -> dict[str, Float[Tensor, "layers rows width"]]:
    """The states of a clean pass at any tokens, by stream, with a row per prompt and position, in that order.

    positions: for each prompt, the indices of the tokens to read.
    """
    parts, owners = [], []

    def run(batch: list[int]) -> dict[str, Tensor]:
        padded, _ = pad_right([prompts[i] for i in batch])
        row = torch.tensor([r for r, i in enumerate(batch) for _ in positions[i]], dtype=torch.long)
        token = torch.tensor([t for i in batch for t in positions[i]], dtype=torch.long)
        return run_forward(anatomy, padded, row, token)[0]

    for together in like_lengths([len(ids) for ids in prompts], anatomy.device):
        for batch, states in in_parts(run, together, anatomy.device):
            parts.append(states)
            owners += [i for i in batch for _ in positions[i]]
    place = torch.argsort(torch.tensor(owners, dtype=torch.long), stable=True).to(anatomy.device)
    return {stream: torch.cat([part[stream] for part in parts], 1).index_select(1, place) for stream in STREAMS}


@torch.no_grad()
def run_forward(
    anatomy: Anatomy,
    padded: Int[Tensor, "b tokens"],
    row: Int[Tensor, " n"],
    token: Int[Tensor, " n"],
    cache: DynamicCache | None = None,
) -> tuple[dict[str, Float[Tensor, "layers n width"]], list[dict[str, Any]]]:
    """One forward pass over token ids: the states at each (row, token), by stream, and each layer's arguments by name.

    cache: filled with keys and values, if given.
    """
    row, token = row.to(anatomy.device), token.to(anatomy.device)
    states: dict[str, list[Any]] = {stream: [None] * len(anatomy.layers) for stream in STREAMS}
    arguments: list[Any] = [None] * len(anatomy.layers)

    def record(stream: str, layer: int, value: Any) -> None:
        if stream == "call":
            arguments[layer] = value
        else:
            at = row.to(value.device), token.to(value.device)  # accelerate may have spread the layers over devices
            states[stream][layer] = value[at].to(anatomy.device)

    with watching(anatomy, record):
        anatomy.decoder(input_ids=padded.to(anatomy.device), past_key_values=cache, use_cache=cache is not None)
    return {stream: torch.stack(values) for stream, values in states.items()}, arguments


@torch.no_grad()
def run_batch(anatomy: Anatomy, prompts: list[list[int]], keep_calls: bool, span: int, read: int) -> Trace:
    """As run_trace, for prompts that share a batch."""
    padded, last = pad_right(prompts)
    cache, last, b = DynamicCache(), last.to(anatomy.device), len(prompts)
    tokens = last[:, None] + torch.arange(1 - span, 1, device=last.device)
    states, arguments = run_forward(anatomy, padded, torch.arange(b).repeat_interleave(span), tokens.flatten(), cache)
    whole = {stream: values.unflatten(1, (b, span)) for stream, values in states.items()}
    logprobs = anatomy.logits(whole["resid_post"][-1][:, -read:].flatten(0, 1)).float().log_softmax(-1)
    calls = []
    if keep_calls:
        in_span = InSpan(tokens, padded.shape[1])
        for layer, named in enumerate(arguments):
            hidden, inside = in_span.hidden(named.get("attention_mask"))
            others = {name: in_span(v) for name, v in named.items() if v is not cache and name != "attention_mask"}
            keys, values = (tensor.to(anatomy.device) for tensor in keys_and_values(cache, layer))
            calls.append(LayerCall(keys, values, hidden, inside, others))
    return Trace(last, whole, logprobs, calls, read)


def merge(parts: list[Trace], order: Tensor | None = None) -> Trace:
    """One trace of several. order: the index in the whole of each part's prompts, in sequence; None leaves them in sequence."""
    place = None if order is None else torch.argsort(order).to(parts[0].device)
    joined: dict[tuple[int, ...], Tensor] = {}
    tokens = max(int(part.last.max()) for part in parts) + 1

    def join(tensors, dim=0):
        whole = torch.cat(tensors, dim)
        return whole if place is None else whole.index_select(dim, place)

    def join_once(tensors, fill=lambda tensor: tensor):
        """Layers share these tensors, so each is joined once. The parts keep them alive, so identity distinguishes them."""
        identity = tuple(map(id, tensors))
        if identity not in joined:
            joined[identity] = join([fill(tensor) for tensor in tensors])
        return joined[identity]

    def join_keys(tensors):
        return join([pad(t, (0, 0, 0, tokens - t.shape[2])) for t in tensors])

    def join_arguments(values):
        if isinstance(values[0], tuple):
            return tuple(join_arguments(v) for v in zip(*values))
        return join_once(values) if isinstance(values[0], Tensor) and values[0].ndim > 1 else values[0]

    calls = []
    for layers in zip(*(part.calls for part in parts)):
        hidden = join_once([call.hidden for call in layers], lambda h: pad(h, (0, tokens - h.shape[-1]), value=True))
        arguments = {name: join_arguments([call.arguments[name] for call in layers]) for name in layers[0].arguments}
        keys, values = join_keys([call.keys for call in layers]), join_keys([call.values for call in layers])
        calls.append(LayerCall(keys, values, hidden, join_once([call.inside for call in layers]), arguments))
    whole = {stream: join([part.whole[stream] for part in parts], dim=1) for stream in STREAMS}
    read = parts[0].read
    logprobs = join([part.logprobs.unflatten(0, (-1, read)) for part in parts]).flatten(0, 1)
    return Trace(join([p.last for p in parts]), whole, logprobs, calls, read)
