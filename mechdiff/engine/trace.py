"""The clean pass: what one forward pass of the unchanged model leaves behind at the decision token, or at chosen tokens.

Prompts of different lengths share a batch, cut at their decision token and padded on the right: under a causal mask nothing
before a token sees the padding, so no padding mask is needed and position equals index. Prompts of like length run together,
so that little is computed for the padding.

What is studied may also begin before the decision token, or go on after it: the **span** is the sequence's last tokens, from the
one where a state may be replaced; everything before it is the prefix, which no replacement changes.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from mechdiff.common.terms import STREAMS
from mechdiff.engine.anatomy import Anatomy, Unreadable, first
from mechdiff.engine.memory import in_parts

HIDDEN = -1.0  # an additive mask is 0 where a key may be seen and hugely negative where not
PADDING = 0.1  # the share of a batch that may be padding ...
ENOUGH = {"cpu": 256, "cuda": 16384}  # ... unless the batch has fewer tokens than this: a GPU hardly feels them


@dataclass
class LayerCall:
    """How the model called one layer, as far as new tokens in the places of the span's s tokens need it.

    keys, values: [b, key-value heads, tokens, head width], of the clean pass. hidden: bool [b, 1, s, tokens], True where a token
    of the span may not look, or must look at new keys in place of these: the span's own. inside: bool [b, 1, s, s], True where
    it may not look within the span. arguments: the layer's other arguments by name; what has an entry a token is cut to the
    span's: [b, s, ...].
    """

    keys: Tensor
    values: Tensor
    hidden: Tensor
    inside: Tensor
    arguments: dict


@dataclass
class Trace:
    """A clean pass over b prompts.

    last: [b], the index of the last token. whole: stream -> [layers, b, s, width] at the span's s tokens, where the width of
    `heads` is heads x head width. logprobs: [b x read, vocabulary], float32, nats, after each of the last `read` tokens.
    calls: one a layer, empty if not kept.
    """

    last: Tensor
    whole: dict[str, Tensor]
    logprobs: Tensor
    calls: list[LayerCall]
    read: int = 1

    @property
    def span(self) -> int:
        return self.whole["resid_pre"].shape[2]

    @cached_property
    def states(self) -> dict[str, Tensor]:
        """stream -> [layers, b, width] at the span's first token: the decision token, if the span is that alone."""
        return {stream: values[:, :, 0] for stream, values in self.whole.items()}

    def shorten(self, span: int) -> "Trace":
        """The same pass with a span that begins later: what comes before it joins the prefix."""
        whole = {stream: values[:, :, -span:] for stream, values in self.whole.items()}
        start = self.last[:, None] + torch.arange(1 - self.span, 1 - span, device=self.last.device)
        done = {}  # layers share these tensors

        def cut(value):
            if isinstance(value, tuple):
                return tuple(cut(v) for v in value)
            in_span = isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == self.span
            return value[:, -span:] if in_span else value

        def shorter(call: LayerCall) -> LayerCall:
            if id(call.hidden) not in done:
                joining = call.inside[:, :, -span:, :-span]
                where = start[:, None, None].expand(joining.shape)
                inside = call.inside[:, :, -span:, -span:]
                done[id(call.hidden)] = call.hidden[:, :, -span:].scatter(3, where, joining), inside
            arguments = {name: cut(value) for name, value in call.arguments.items()}
            return LayerCall(call.keys, call.values, *done[id(call.hidden)], arguments)

        return Trace(self.last, whole, self.logprobs, [shorter(call) for call in self.calls], self.read)

    @property
    def device(self) -> torch.device:
        return self.last.device

    def to(self, device: torch.device) -> "Trace":
        """The same pass in another device's memory. Layers go on sharing what they share."""
        moved = {}

        def move(value):
            if isinstance(value, tuple):
                return tuple(move(v) for v in value)
            if not isinstance(value, Tensor):
                return value
            if id(value) not in moved:
                moved[id(value)] = value.to(device)
            return moved[id(value)]

        def call_to(call: LayerCall) -> LayerCall:
            arguments = {name: move(value) for name, value in call.arguments.items()}
            return LayerCall(*map(move, (call.keys, call.values, call.hidden, call.inside)), arguments)

        whole = {stream: move(values) for stream, values in self.whole.items()}
        return Trace(move(self.last), whole, move(self.logprobs), [call_to(call) for call in self.calls], self.read)

    @property
    def nbytes(self) -> int:
        tensors = [self.logprobs, *self.whole.values(), *(t for call in self.calls for t in (call.keys, call.values))]
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


def like_lengths(lengths: list[int], device: torch.device) -> list[list[int]]:
    """Prompt indices in batches of like length."""
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


def run_trace(anatomy: Anatomy, prompts: list[list[int]], keep_calls: bool = True, span: int = 1, read: int = 1) -> Trace:
    """The clean pass over prompts, each a list of token ids that ends with its span: by default at its decision token.

    keep_calls: keep keys, values and layer arguments too, which a recipient needs and a donor does not. span: how many tokens
    at the end of each prompt may be run anew. read: after how many of them the next-token distribution is taken.
    """
    batches = like_lengths([len(ids) for ids in prompts], anatomy.device)
    if len(batches) == 1:
        batches = [list(range(len(prompts)))]

    def run(batch: list[int]) -> Trace:
        return run_batch(anatomy, [prompts[i] for i in batch], keep_calls, span, read)

    parts = [found for batch in batches for found in in_parts(run, batch, anatomy.device)]
    return parts[0][1] if len(parts) == 1 else merge([one for _, one in parts], torch.tensor([i for b, _ in parts for i in b]))


def run_states(anatomy: Anatomy, prompts: list[list[int]], positions: list[list[int]]) -> dict[str, Tensor]:
    """The states of a clean pass at any tokens, and nothing else of it.

    positions: for each prompt the indices of its tokens to read. Returns stream -> [layers, rows, width], a row per prompt
    and position, in that order.
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
def run_forward(anatomy: Anatomy, padded: Tensor, row: Tensor, token: Tensor, cache: DynamicCache | None = None):
    """One forward pass over token ids [b, tokens], and the states at (row, token), two index tensors [n].

    Returns stream -> [layers, n, width], and each layer's arguments by name. cache: filled with keys and values, if given.
    """
    row, token = row.to(anatomy.device), token.to(anatomy.device)
    states = {stream: [None] * len(anatomy.layers) for stream in STREAMS}
    arguments = [None] * len(anatomy.layers)

    def seen(stream, layer, value):
        if stream == "call":
            arguments[layer] = value
        else:
            at = row.to(value.device), token.to(value.device)  # accelerate may have spread the layers over devices
            states[stream][layer] = value[at].to(anatomy.device)

    with watching(anatomy, seen):
        anatomy.decoder(input_ids=padded.to(anatomy.device), past_key_values=cache, use_cache=cache is not None)
    return {stream: torch.stack(values) for stream, values in states.items()}, arguments


@torch.no_grad()
def run_batch(anatomy: Anatomy, prompts: list[list[int]], keep_calls: bool, span: int, read: int) -> Trace:
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
            keys, values = (kept.to(anatomy.device) for kept in (cache.layers[layer].keys, cache.layers[layer].values))
            calls.append(LayerCall(keys, values, hidden, inside, others))
    return Trace(last, whole, logprobs, calls, read)


def pad_right(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids [b, tokens], filled up with zeros, and the index of each prompt's last token."""
    last = torch.tensor([len(ids) - 1 for ids in prompts])
    padded = torch.zeros(len(prompts), int(last.max()) + 1, dtype=torch.long)
    for row, ids in enumerate(prompts):
        padded[row, : len(ids)] = torch.tensor(ids)
    return padded, last


class InSpan:
    """Cuts layers' arguments to what concerns the span. Layers share arguments, so each tensor is cut once.

    tokens: [b, s], the span's indices. The caller keeps the arguments alive meanwhile: they are told apart by identity.
    """

    def __init__(self, tokens: Tensor, total: int):
        self.tokens, self.total, self.cut = tokens, total, {}
        self.at = torch.arange(len(tokens), device=tokens.device)[:, None], tokens

    def __call__(self, value):
        """[b or 1, tokens, ...] -> [b, s, ...]; anything without an entry a token as it is."""
        if isinstance(value, tuple):
            return tuple(self(v) for v in value)
        if not isinstance(value, Tensor) or value.ndim < 2:
            return value
        if value.shape[1] != self.total or value.shape[0] not in (1, len(self.tokens)):
            return value
        if id(value) not in self.cut:
            self.cut[id(value)] = value.expand(len(self.tokens), *value.shape[1:])[self.at]
        return self.cut[id(value)]

    def hidden(self, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which keys of the clean pass a token of the span may not see, and which of the span's own.

        mask: this layer's attention mask, [b or 1, 1, tokens, tokens], bool or additive, or None for plain causal.
        Returns `hidden` and `inside` of LayerCall.
        """
        if (None, id(mask)) not in self.cut:
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
            self.cut[None, id(mask)] = hidden[:, None], unseen.gather(2, own)[:, None]
        return self.cut[None, id(mask)]


def merge(parts: list[Trace], order: Tensor | None = None) -> Trace:
    """One trace out of several. order: the place of each part's prompts, one after the other, in the whole; None: as they are."""
    place, joined = None if order is None else torch.argsort(order).to(parts[0].device), {}
    tokens = max(int(part.last.max()) for part in parts) + 1

    def join(tensors, dim=0):
        whole = torch.cat(tensors, dim)
        return whole if place is None else whole.index_select(dim, place)

    def join_once(tensors, fill=lambda tensor: tensor):
        """Layers share these tensors, so each is joined once; the parts keep them alive, so identity tells them apart."""
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
