"""The row engine: many interventions over one shared clean pass.

Patching at the decision token changes nothing before it. So an intervention needs one token, a **row**: it enters at its layer,
attends to the clean pass's keys and values before it plus its own, and runs to the end. The layers are walked once; at layer l
the rows patched there join those that entered before. Every row of every prompt shares each layer's weights.

If an earlier token is patched, or the effect is read over more next tokens, a row is the **span** of tokens from the patched one
to the last: each attends to the clean prefix and to its own row's tokens before it.

The model's own layer code runs throughout. A row's view of its prefix is passed in place of the attention mask and reaches
`row_attention`, which computes the attention of n one-token rows in O(n x prefix), without a rows-by-rows mask.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface

from mechdiff.engine.anatomy import Anatomy, Unreadable, first
from mechdiff.engine.memory import in_parts
from mechdiff.engine.trace import LayerCall, Trace
from mechdiff.maths import triton_kernels

RESIDUAL = ("resid_pre", "resid_post")  # replaced between layers; every other stream is replaced inside one

KERNEL = "mechdiff_rows"


@dataclass(frozen=True)
class Edit:
    """One intervention in each of m rows of every prompt: at a site, move the row's state towards a value.

    layer, stream: the site. rows: indices of the rows. states: the value, [b, m, width], or what makes it. weight: the share of
    the value in the result, own x (1 - weight) + value x weight; None for the value alone.
    """

    layer: int
    stream: str
    rows: Int[Tensor, " m"]
    states: Float[Tensor, "b m width"] | Callable[[], Tensor]
    weight: Float[Tensor, "m width"] | None = None

    @cached_property
    def value(self) -> Float[Tensor, "b m width"]:
        """The states. A user's functions make theirs as the pass reaches the site, while a GPU is busy with earlier layers."""
        return self.states if isinstance(self.states, Tensor) else self.states()

    def states_of(self, where: slice | Tensor) -> Tensor | Callable[[], Tensor]:
        """The states of some of its rows."""
        return self.states[:, where] if isinstance(self.states, Tensor) else lambda: self.value[:, where]

    @property
    def entry(self) -> int:
        """When its rows must have entered: 2 x layer if before the layer runs, one more if after."""
        return 2 * self.layer + (self.stream == "resid_post")

    def apply(self, states: Tensor, span: int = 1) -> None:
        """Edit these rows' states [b, n x span, width] in place, at each row's first token."""
        states = states.unflatten(1, (-1, span))[:, :, 0]
        where = neighbours(self.rows) or self.rows
        states[:, where] = blend(states[:, where], self.value, self.weight)


def neighbours(rows: Int[Tensor, " m"]) -> slice | None:
    """Rising rows without a gap as a slice, which needs no index on the device; None for other rows."""
    start, stop = int(rows[0]), int(rows[-1]) + 1
    return slice(start, stop) if stop - start == len(rows) and bool((rows.diff() == 1).all()) else None


def blend(own: Tensor, value: Tensor, weight: Tensor | None) -> Tensor:
    """own x (1 - weight) + value x weight, in own's dtype; the value itself if there is no weight."""
    if weight is None:
        return value.to(own)
    weight = weight.to(own)
    return own * (1 - weight) + value.to(own) * weight


@dataclass(frozen=True)
class Rows:
    """`count` rows for every prompt of a trace; each row is the edits that name it, at rising layers.

    A row covers its prompt's span, by default the decision token, and is edited at the span's first token. entry: see Edit.
    """

    count: int
    edits: list[Edit]
    entry: Int[Tensor, " count"] = field(init=False)

    def __post_init__(self):
        entry = torch.full((self.count,), torch.iinfo(torch.long).max)
        for edit in self.edits:
            entry[edit.rows] = entry[edit.rows].clamp(max=edit.entry)
        assert not self.count or entry.max() < torch.iinfo(torch.long).max, "a row without an edit"
        object.__setattr__(self, "entry", entry)

    def select(self, rows: Int[Tensor, " m"]) -> "Rows":
        """Some of the rows, renumbered in the given order."""
        place = torch.full((self.count,), -1)
        place[rows] = torch.arange(len(rows))
        edits = []
        for edit in self.edits:
            new = place[edit.rows]
            retained = (new >= 0).nonzero().squeeze(1)
            if len(retained):
                where = neighbours(retained) or retained
                weight = None if edit.weight is None else edit.weight[where]
                edits.append(Edit(edit.layer, edit.stream, new[retained], edit.states_of(where), weight))
        return Rows(len(rows), edits)


@dataclass
class Prefix:
    """What a row may attend to besides itself; passed in place of the attention mask in the layer's call.

    hidden, inside: True where a token of a row may not see a key, in the prefix and in its own row of s tokens. used: whether the
    layer's attention was `row_attention`.
    """

    keys: Float[Tensor, "b groups tokens head_width"]
    values: Float[Tensor, "b groups tokens head_width"]
    hidden: Bool[Tensor, "b 1 s tokens"]
    inside: Bool[Tensor, "b 1 s s"]
    used: bool = False

    def to(self, device: torch.device, **_: Any) -> "Prefix":
        """Move to a layer's device: accelerate calls this for every argument of a layer."""
        for name in ("keys", "values", "hidden", "inside"):
            setattr(self, name, getattr(self, name).to(device))
        return self


def row_attention(
    module: nn.Module | None,
    query: Float[Tensor, "b heads n width"],
    key: Float[Tensor, "b groups n width"],
    value: Float[Tensor, "b groups n width"],
    attention_mask: Prefix,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "b n heads width"], None]:
    """Attention of rows, each to its prompt's prefix and to its own key, with the interface of transformers.

    key, value: the rows' own. n: rows x s. Raises Unreadable for attention sinks (s_aux).
    """
    if s_aux is not None:
        raise Unreadable("attention sinks are not supported by the row engine")
    prefix, (b, heads, n, width) = attention_mask, query.shape
    prefix.used = True
    scale: float = width**-0.5 if scaling is None else scaling
    if prefix.inside.shape[-1] > 1:
        return span_attention(query, key, value, prefix, scale, softcap), None
    if triton_kernels.available(query):
        return triton_kernels.row_attention(query, key, value, prefix.keys, prefix.values, prefix.hidden, scale, softcap), None
    groups, shared, seen = key.shape[1], heads // key.shape[1], prefix.keys.shape[2]
    query = query.reshape(b, groups, shared, n, width)
    to_self = (query * key.unsqueeze(2)).sum(-1).view(b, heads, n, 1) * scale
    queries, keys = query.reshape(b * groups, shared * n, width), prefix.keys.reshape(b * groups, seen, width)
    out_of_sight = query.new_zeros(b, 1, 1, seen).masked_fill_(prefix.hidden, -torch.inf)
    out_of_sight = out_of_sight.expand(b, groups, 1, seen).reshape(b * groups, 1, seen)
    to_prefix = torch.baddbmm(out_of_sight, queries, keys.mT, alpha=scale)
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


def span_attention(
    query: Float[Tensor, "b heads n width"],
    key: Float[Tensor, "b groups n width"],
    value: Float[Tensor, "b groups n width"],
    prefix: Prefix,
    scaling: float,
    softcap: float | None,
) -> Float[Tensor, "b n heads width"]:
    """As row_attention, for rows of s tokens: each token attends to its prompt's prefix and to its own row."""
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
def row_kernel(anatomy: Anatomy) -> Iterator[None]:
    """Make the model's attention modules call `row_attention`. The caller holds the weights' lock."""
    config = anatomy.model.config
    before = config._attn_implementation
    config._attn_implementation = KERNEL
    try:
        yield
    finally:
        config._attn_implementation = before


def arguments_for(call: LayerCall, n: int) -> tuple[Prefix, dict[str, Any]]:
    """A layer's prefix and its arguments for n rows per prompt. An argument with an entry per token is repeated for every row."""

    def for_rows(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(for_rows(v) for v in value)
        if isinstance(value, Tensor) and value.ndim > 1:
            return value.unsqueeze(1).expand(-1, n, *value.shape[1:]).flatten(1, 2)
        return value

    prefix = Prefix(call.keys, call.values, call.hidden, call.inside)
    named = {name: for_rows(value) for name, value in call.arguments.items()}
    return prefix, named | {"attention_mask": prefix, "use_cache": False}


@contextmanager
def editing(anatomy: Anatomy, layer: int, edits: list[Edit], span: int) -> Iterator[None]:
    """Apply the edits inside one layer (heads, attn_out, mlp_out) while it runs."""
    part = anatomy.layers[layer]
    with ExitStack() as stack:
        for edit in edits:
            if edit.stream == "heads":
                handle = part.projection.register_forward_pre_hook(edit_input(edit, span))
            elif edit.stream in ("attn_out", "mlp_out"):
                module = part.attention if edit.stream == "attn_out" else part.mlp
                handle = module.register_forward_hook(edit_output(edit, span))
            else:
                raise ValueError(f"{edit.stream} is not inside a layer")
            stack.callback(handle.remove)
        yield


def edit_input(edit: Edit, span: int) -> Callable[[nn.Module, tuple], None]:
    """A hook that edits a module's first argument."""
    return lambda module, args: edit.apply(args[0], span)


def edit_output(edit: Edit, span: int) -> Callable[[nn.Module, tuple, Any], None]:
    """A hook that edits a module's output."""
    return lambda module, args, output: edit.apply(first(output), span)


@torch.no_grad()
def walk_rows(anatomy: Anatomy, trace: Trace, rows: Rows) -> Float[Tensor, "b n_times_span width"]:
    """Run n rows, sorted by entry, to the end of the last layer. Returns their states before the final norm."""
    state: Tensor | None = None
    span = trace.span
    joining = torch.bincount(rows.entry, minlength=2 * len(anatomy.layers)).tolist()

    def join(state: Tensor | None, count: int, clean: Tensor) -> Tensor | None:
        if not count:
            return state
        entering = clean.repeat(1, count, 1)  # a copy, since edits are made in place
        return entering if state is None else torch.cat([state, entering.to(state.device)], 1)

    def replace(state: Tensor, layer: int, stream: str) -> None:
        for edit in rows.edits:
            if (edit.layer, edit.stream) == (layer, stream):
                edit.apply(state, span)

    with row_kernel(anatomy), anatomy.fused():
        for layer, part in enumerate(anatomy.layers):
            state = join(state, joining[2 * layer], trace.whole["resid_pre"][layer])
            if state is not None:
                replace(state, layer, "resid_pre")
                prefix, named = arguments_for(trace.calls[layer], state.shape[1] // span)
                inside = [edit for edit in rows.edits if edit.layer == layer and edit.stream not in RESIDUAL]
                with editing(anatomy, layer, inside, span):
                    state = first(part.block(state, **named))
                if not prefix.used:
                    raise Unreadable("its attention does not use transformers' attention interface")
            state = join(state, joining[2 * layer + 1], trace.whole["resid_post"][layer])
            if state is not None:
                replace(state, layer, "resid_post")
    assert state is not None, "no row to run"
    return state


def run_rows(anatomy: Anatomy, trace: Trace, rows: Rows, measure: Callable, row_tokens: int, logit_rows: int) -> Iterator[int]:
    """Run rows in pieces and measure each row's next-token distribution. A piece that does not fit in memory is halved.

    measure(logits [k, vocabulary], places [k], rows [k]) is called for k rows at a time, in no particular order. A place is a
    line of the trace's logprobs: a prompt, or one of a prompt's last tokens if more than one is read.
    row_tokens: the most tokens, over all prompts, that run together. logit_rows: the most rows that are unembedded together.
    Yields the number of rows measured since the last yield, often, so that the caller can release the weights' lock or stop.
    """
    places, span = len(trace.last) * trace.read, trace.span
    order, together = torch.argsort(rows.entry, stable=True), max(1, row_tokens // (len(trace.last) * span))

    def walk(selected: Tensor) -> Tensor:
        state = walk_rows(anatomy, trace, rows.select(selected)).unflatten(1, (-1, span))[:, :, -trace.read :]
        return state.transpose(1, 2).flatten(0, 2)

    for piece in order.split(together):
        for selected, state in in_parts(walk, piece, anatomy.device):
            yield 0
            which_place, which_row = torch.arange(places).repeat_interleave(len(selected)), selected.repeat(places)

            @torch.no_grad()
            def unembed(part: Tensor, state=state, which_place=which_place, which_row=which_row) -> None:
                measure(anatomy.logits(state[part[0] : part[-1] + 1]), which_place[part], which_row[part])

            for batch in torch.arange(len(state)).split(logit_rows):
                for part, _ in in_parts(unembed, batch, anatomy.device):
                    yield len(part)
