"""The row engine: many interventions over one shared clean pass.

Patching at the decision token changes nothing before it. So an intervention needs one token, a **row**: it enters at its layer,
attends to the clean pass's keys and values before it plus its own, and runs to the end. The layers are walked once; at
layer l the rows patched there join those already on their way. Every row of every prompt shares each layer's weights.

Where the patched token is an earlier one, or the answer is read further on, a row is the **span** of tokens from the patched
one to the last: each attends to the clean prefix and to its own row's tokens before it.

The model's own layer code runs throughout. A row's view of its prefix travels in the place of the attention mask, and reaches
`row_attention`, which does the attention of n one-token rows in O(n x prefix), without a rows-by-rows mask.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import AttentionInterface

from mechdiff.engine.anatomy import Anatomy, Unreadable, first
from mechdiff.engine.memory import in_parts
from mechdiff.engine.trace import LayerCall, Trace
from mechdiff.maths import triton_kernels

KERNEL = "mechdiff_rows"


@dataclass(frozen=True)
class Edit:
    """One intervention in each of m rows of every prompt: at a site, move the row's state towards a value.

    layer, stream: the site. rows: [m], which rows. value: [b, m, width]. weight: [m, width], the share of the value in the
    result, or None for all of it: own x (1 - weight) + value x weight.
    """

    layer: int
    stream: str
    rows: Tensor
    value: Tensor
    weight: Tensor | None = None

    @property
    def entry(self) -> int:
        """When its rows must be on their way: 2 x layer if before the layer runs, one more if after."""
        return 2 * self.layer + (self.stream == "resid_post")

    def apply(self, states: Tensor, span: int = 1) -> None:
        """Edit these rows' states [b, n x span, width] in place, at each row's first token.

        Neighbouring rows, the usual case, need no index on the device.
        """
        states = states.unflatten(1, (-1, span))[:, :, 0]
        where = neighbours(self.rows) or self.rows
        states[:, where] = blend(states[:, where], self.value, self.weight)


def neighbours(rows: Tensor) -> slice | None:
    """Rising rows without a gap, as a slice: it needs no index on the device."""
    start, stop = int(rows[0]), int(rows[-1]) + 1
    return slice(start, stop) if stop - start == len(rows) and bool((rows.diff() == 1).all()) else None


def blend(own: Tensor, value: Tensor, weight: Tensor | None) -> Tensor:
    """own x (1 - weight) + value x weight, in own's dtype; the value itself where there is no weight."""
    if weight is None:
        return value.to(own)
    weight = weight.to(own)
    return own * (1 - weight) + value.to(own) * weight


@dataclass(frozen=True)
class Rows:
    """n rows for every prompt of a trace; each row is the edits that name it, at rising layers.

    A row lies on its prompt's span, by default the decision token, and is edited at the first token of it.
    """

    count: int
    edits: list[Edit]
    entry: Tensor = field(init=False)

    def __post_init__(self):
        entry = torch.full((self.count,), torch.iinfo(torch.long).max)
        for edit in self.edits:
            entry[edit.rows] = entry[edit.rows].clamp(max=edit.entry)
        assert not self.count or entry.max() < torch.iinfo(torch.long).max, "a row without an edit"
        object.__setattr__(self, "entry", entry)

    def pick(self, chosen: Tensor) -> "Rows":
        """The given rows alone, renumbered in the given order."""
        place = torch.full((self.count,), -1)
        place[chosen] = torch.arange(len(chosen))
        edits = []
        for edit in self.edits:
            new = place[edit.rows]
            keep = (new >= 0).nonzero().squeeze(1)
            if len(keep):
                where = neighbours(keep) or keep
                weight = None if edit.weight is None else edit.weight[where]
                edits.append(Edit(edit.layer, edit.stream, new[keep], edit.value[:, where], weight))
        return Rows(len(chosen), edits)


@dataclass
class Prefix:
    """What a row may attend to besides itself; takes the place of the attention mask in the layer's call.

    keys, values: [b, key-value heads, tokens, head width]. hidden, inside: bool [b, 1, s, tokens] and [b, 1, s, s], True where
    a key is out of a token's sight, in the prefix and in its own row of s tokens.
    """

    keys: Tensor
    values: Tensor
    hidden: Tensor
    inside: Tensor
    used: bool = False

    def to(self, device, **_) -> "Prefix":
        """Follow a layer to its device: accelerate asks every argument of a layer to."""
        for name in ("keys", "values", "hidden", "inside"):
            setattr(self, name, getattr(self, name).to(device))
        return self


def row_attention(module, query, key, value, attention_mask: Prefix, scaling=None, softcap=None, s_aux=None, **_):
    """Attention of rows, each to its prompt's prefix and to its own key.

    query: [b, heads, n, head width]; key, value: [b, key-value heads, n, head width], the rows' own.
    Returns [b, n, heads, head width] and None, as transformers' attention functions do.
    """
    if s_aux is not None:
        raise Unreadable("attention sinks are not supported by the row engine")
    prefix, (b, heads, n, width) = attention_mask, query.shape
    prefix.used = True
    scaling = width**-0.5 if scaling is None else scaling
    if prefix.inside.shape[-1] > 1:
        return span_attention(query, key, value, prefix, scaling, softcap), None
    if triton_kernels.available(query):
        return triton_kernels.row_attention(query, key, value, prefix.keys, prefix.values, prefix.hidden, scaling, softcap), None
    groups, shared, seen = key.shape[1], heads // key.shape[1], prefix.keys.shape[2]
    query = query.reshape(b, groups, shared, n, width)
    to_self = (query * key.unsqueeze(2)).sum(-1).view(b, heads, n, 1) * scaling
    queries, keys = query.reshape(b * groups, shared * n, width), prefix.keys.reshape(b * groups, seen, width)
    out_of_sight = query.new_zeros(b, 1, 1, seen).masked_fill_(prefix.hidden, -torch.inf)
    out_of_sight = out_of_sight.expand(b, groups, 1, seen).reshape(b * groups, 1, seen)
    to_prefix = torch.baddbmm(out_of_sight, queries, keys.mT, alpha=scaling)
    scores = torch.cat([to_prefix.view(b, heads, n, seen), to_self], -1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)  # turns minus infinity into -softcap
        scores[..., :-1].masked_fill_(prefix.hidden, -torch.inf)
    share = scores.softmax(-1)
    from_prefix = share[..., :-1].reshape(b, groups, shared * n, seen) @ prefix.values
    output = query.new_empty(b, n, groups, shared, width)
    own = share[..., -1:].view(b, groups, shared, n, 1)
    by_head = output.permute(0, 2, 3, 1, 4)
    torch.addcmul(from_prefix.view(b, groups, shared, n, width), own, value.unsqueeze(2), out=by_head)
    return output.view(b, n, heads, width), None


def span_attention(query, key, value, prefix: Prefix, scaling: float, softcap: float | None) -> Tensor:
    """Attention of rows of s tokens, each token to its prompt's prefix and to its own row. As row_attention, n in rows x s."""
    (b, heads, n, width), groups, s = query.shape, key.shape[1], prefix.inside.shape[-1]
    shared, rows, seen = heads // groups, n // s, prefix.keys.shape[2]
    query = query.reshape(b, groups, shared, rows, s, width)
    to_prefix = query.reshape(b, groups, shared * n, width) @ prefix.keys.mT
    to_prefix = to_prefix.view(b, groups, shared, rows, s, seen)
    to_row = query @ key.reshape(b, groups, 1, rows, s, width).mT
    scores = torch.cat([to_prefix, to_row], -1) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    out_of_sight = torch.cat([prefix.hidden, prefix.inside], -1).view(b, 1, 1, 1, s, seen + s)
    share = scores.masked_fill_(out_of_sight, -torch.inf).softmax(-1)
    output = (share[..., :seen].reshape(b, groups, shared * n, seen) @ prefix.values).view(b, groups, shared, rows, s, width)
    output = output + share[..., seen:] @ value.reshape(b, groups, 1, rows, s, width)
    return output.view(b, heads, n, width).transpose(1, 2).contiguous()


AttentionInterface.register(KERNEL, row_attention)


@contextmanager
def row_kernel(anatomy: Anatomy):
    """Let the model's attention modules call `row_attention`. The caller holds the lock of the weights."""
    config = anatomy.model.config
    before = config._attn_implementation
    config._attn_implementation = KERNEL
    try:
        yield
    finally:
        config._attn_implementation = before


def arguments_for(call: LayerCall, n: int) -> dict:
    """The arguments of one layer's call for n rows a prompt. What has an entry a token of the span is repeated for every row."""

    def for_rows(value):
        if isinstance(value, tuple):
            return tuple(for_rows(v) for v in value)
        if isinstance(value, Tensor) and value.ndim > 1:
            return value.unsqueeze(1).expand(-1, n, *value.shape[1:]).flatten(1, 2)
        return value

    named = {name: for_rows(value) for name, value in call.arguments.items()}
    return named | {"attention_mask": Prefix(call.keys, call.values, call.hidden, call.inside), "use_cache": False}


@contextmanager
def editing(anatomy: Anatomy, layer: int, edits: list[Edit], span: int):
    """Apply the edits inside one layer (heads, attn_out, mlp_out) while it runs."""
    part = anatomy.layers[layer]
    with ExitStack() as stack:
        for edit in edits:
            if edit.stream == "heads":
                handle = part.projection.register_forward_pre_hook(lambda m, args, e=edit: e.apply(args[0], span))
            elif edit.stream in ("attn_out", "mlp_out"):
                module = part.attention if edit.stream == "attn_out" else part.mlp
                handle = module.register_forward_hook(lambda m, args, output, e=edit: e.apply(first(output), span))
            else:
                continue
            stack.callback(handle.remove)
        yield


@torch.no_grad()
def walk_rows(anatomy: Anatomy, trace: Trace, rows: Rows) -> Tensor:
    """Run rows, sorted by entry, to the end of the last layer. Returns [b, n x span, width], before the final norm."""
    state, span = None, trace.span
    joining = torch.bincount(rows.entry, minlength=2 * len(anatomy.layers)).tolist()

    def join(count: int, clean: Tensor):
        if not count:
            return state
        newcomers = clean.repeat(1, count, 1)  # a copy: edits are made in place
        return newcomers if state is None else torch.cat([state, newcomers.to(state.device)], 1)

    def replace(layer: int, stream: str):
        for edit in rows.edits:
            if (edit.layer, edit.stream) == (layer, stream):
                edit.apply(state, span)

    with row_kernel(anatomy), anatomy.fused():
        for layer, part in enumerate(anatomy.layers):
            state = join(joining[2 * layer], trace.whole["resid_pre"][layer])
            if state is not None:
                replace(layer, "resid_pre")
                named = arguments_for(trace.calls[layer], state.shape[1] // span)
                inside = [edit for edit in rows.edits if edit.layer == layer]
                with editing(anatomy, layer, inside, span):
                    state = first(part.block(state, **named))
                if not named["attention_mask"].used:
                    raise Unreadable("its attention does not go through transformers' attention interface")
            state = join(joining[2 * layer + 1], trace.whole["resid_post"][layer])
            if state is not None:
                replace(layer, "resid_post")
    return state


def run_rows(anatomy: Anatomy, trace: Trace, rows: Rows, measure: Callable, row_tokens: int, logit_rows: int) -> Iterator[int]:
    """Run rows in pieces and measure each row's next-token distribution. A piece that does not fit in memory is halved.

    measure(logits [k, vocabulary], places [k], rows [k]) is called for k rows at a time, in no particular order. A place is a
    line of the trace's logprobs: a prompt, or one of the last tokens of a prompt where more than one is read.
    row_tokens: the most tokens, over all prompts, that walk together. logit_rows: the most rows that are unembedded together.
    Yields the number of rows measured since, often, so that the caller can let go of the weights' lock or stop.
    """
    places, span = len(trace.last) * trace.read, trace.span
    order, together = torch.argsort(rows.entry, stable=True), max(1, row_tokens // (len(trace.last) * span))

    def walk(chosen: Tensor) -> Tensor:
        state = walk_rows(anatomy, trace, rows.pick(chosen)).unflatten(1, (-1, span))[:, :, -trace.read :]
        return state.transpose(1, 2).flatten(0, 2)

    for some in order.split(together):
        for chosen, state in in_parts(walk, some, anatomy.device):
            yield 0
            which_place, which_row = torch.arange(places).repeat_interleave(len(chosen)), chosen.repeat(places)

            @torch.no_grad()
            def unembed(part: Tensor, state=state, which_place=which_place, which_row=which_row) -> None:
                measure(anatomy.logits(state[part[0] : part[-1] + 1]), which_place[part], which_row[part])

            for piece in torch.arange(len(state)).split(logit_rows):
                for part, _ in in_parts(unembed, piece, anatomy.device):
                    yield len(part)
