"""From conditions to rows: which state goes in at each site, for every prompt of a block."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.intervention import Condition
from mechdiff.engine.rows import Edit, Rows
from mechdiff.engine.trace import Trace
from mechdiff.maths.linear_maps import Map, cut

Site = tuple[str, str, int, str]  # map, control, layer, stream


@dataclass(frozen=True)
class SiteMap:
    """A fitted map at one site, and what scales and cuts need.

    full: the map. mean: [d], the recipient's train mean. alpha: the out-of-fold scale, if it was asked for. directions: [d, r],
    of the map's outputs in order of variance, if a cut was asked for.
    """

    full: Map
    mean: Tensor
    alpha: float | None
    directions: Tensor | None

    def states(self, donor: Tensor, own: Tensor, conditions: list[Condition]) -> Tensor:
        """Mapped, scaled and cut states [b, m, d], in the recipient's dtype. donor, own: [b, d]."""
        ways = [(self.alpha if alpha is None else alpha, rank, complement) for alpha, rank, complement in map(way, conditions)]
        directions = self.mean.new_zeros(len(self.mean), 1) if self.directions is None else self.directions
        return cut(self.full.apply(donor.double()), own.double(), self.mean, directions, ways).to(own.dtype)


def way(condition: Condition) -> tuple[float | None, int | None, str]:
    return condition.way


def site_of(condition: Condition) -> Site:
    """Which fitted map a condition needs."""
    control = "none" if condition.control == "mean" else condition.control
    return condition.map, control, condition.layer, condition.stream


def edited_stream(condition: Condition) -> str:
    """Where the state goes in: single heads' weights change what their attention module returns."""
    return "attn_out" if condition.transplant and condition.stream == "heads" else condition.stream


def head_weights(conditions: list[Condition], anatomy: Anatomy) -> Tensor:
    """The share of the donor in each dimension of the heads' joint output, [conditions, heads x head width], on the device."""
    weight = torch.zeros(len(conditions), anatomy.heads)
    for row, condition in enumerate(conditions):
        weight[row, list(condition.heads)] = condition.blend
    return weight.to(anatomy.device, anatomy.dtype, non_blocking=True).repeat_interleave(anatomy.head_width, 1)


def values(members: list[Condition], donor: Trace, recipient: Trace, maps: dict[Site, SiteMap], transplants) -> Tensor:
    """The states [b, m, width] that conditions of one site put in, before heads are chosen."""
    layer, stream = members[0].layer, members[0].stream
    own = recipient.states[edited_stream(members[0])][layer]
    if members[0].transplant and members[0].control == "none":
        if stream == "heads":
            return transplants.heads[layer][:, [c.heads[0] for c in members]]
        return getattr(transplants, stream)[layer].unsqueeze(1).expand(-1, len(members), -1)
    if members[0].control == "self":
        return own.unsqueeze(1).expand(-1, len(members), -1)
    other = donor.states[stream][layer].to(own.device)
    if members[0].plain:
        return other.to(own.dtype).unsqueeze(1).expand(-1, len(members), -1)
    return maps[site_of(members[0])].states(other, own, members)


def as_rows(
    conditions: list[Condition], anatomy: Anatomy, donor: Trace, recipient: Trace, maps: dict[Site, SiteMap], transplants=None
) -> Rows:
    """A row for each condition or stack, in order. maps: those of every condition that is not plain.

    A map's own state, under complement `own`, is the recipient's clean one, in a stack too.
    """
    sites = defaultdict(list)
    for row, condition in ((row, part) for row, stack in enumerate(conditions) for part in stack.parts):
        kind = site_of(condition), condition.plain, condition.transplant
        sites[condition.layer, edited_stream(condition)].append((kind, row, condition))
    edits = []
    for (layer, stream), members in sites.items():
        alike = defaultdict(list)
        for kind, row, condition in members:
            alike[kind].append((row, condition))
        rows = torch.tensor([row for some in alike.values() for row, _ in some])
        parts = [values([c for _, c in some], donor, recipient, maps, transplants) for some in alike.values()]
        order = torch.argsort(rows)
        value = torch.cat(parts, 1)[:, order.to(parts[0].device, non_blocking=True)] if len(parts) > 1 else parts[0]
        weight = head_weights([c for _, _, c in members], anatomy) if stream == "heads" else None
        edits += in_runs(Edit(layer, stream, rows[order], value, weight))
    return Rows(len(conditions), edits)


def in_runs(edit: Edit) -> list[Edit]:
    """The same edit as one for every run of neighbouring rows, which need no index on the device."""
    sizes, start, parts = (edit.rows.diff() != 1).nonzero().squeeze(1) + 1, 0, []
    for stop in (*sizes.tolist(), len(edit.rows)):
        weight = None if edit.weight is None else edit.weight[start:stop]
        parts.append(Edit(edit.layer, edit.stream, edit.rows[start:stop], edit.value[:, start:stop], weight))
        start = stop
    return parts
