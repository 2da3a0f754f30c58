"""From conditions to rows: the state to insert at each site, for every prompt of a block."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mechdiff.common.errors import UserError
from mechdiff.common.terms import DIFFERENCE, WHITENED
from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.intervention import Condition, Given, Stack
from mechdiff.engine.memory import sent
from mechdiff.engine.rows import Edit, Rows
from mechdiff.engine.trace import Trace
from mechdiff.engine.transplant import Transplants
from mechdiff.maths.linear_maps import Map, cut, difference_cut
from mechdiff.maths.whitened import WhitenedMap

Site = tuple[str, str, int, str]  # map, control, layer, stream
FROM = "of layer "  # what stands in the place of a site's control, before the layer, for a map that was fitted at another one


@dataclass(frozen=True)
class SiteMap:
    """A fitted map at one site, and what scaling and cutting need.

    full: the map. mean: the recipient's train mean. alpha: the out-of-fold scale, None if no condition needs it. directions: of
    the map's outputs in order of variance, None if no condition cuts them. whitened: the map that is cut between whitened states,
    None if no condition asks for it. rank_alphas: the scales of its cuts, by rank, where each has its own. difference: the train
    mean of donor - recipient, and the directions of what is left of it; None if no condition cuts it.
    """

    full: Map
    mean: Float[Tensor, " d"]
    alpha: float | None
    directions: Float[Tensor, "d r"] | None
    whitened: WhitenedMap | None = None
    rank_alphas: Mapping[int, float] = field(default_factory=dict)
    difference: tuple[Float[Tensor, " d"], Float[Tensor, "d r"]] | None = None

    def scale(self, condition: Condition) -> float:
        """The alpha of a condition: its own, else the one that was found on the rows."""
        alpha = self.alpha if condition.alpha is None else condition.alpha
        if condition.alpha is None and condition.complement == WHITENED and condition.rank is not None:
            alpha = self.rank_alphas.get(condition.rank, alpha)
        assert alpha is not None, "the out-of-fold scale was not fitted"
        return alpha

    def states(
        self, donor: Float[Tensor, "b d"], own: Float[Tensor, "b d"], conditions: Sequence[Condition]
    ) -> Float[Tensor, "b m d"]:
        """Mapped, scaled and cut states for m conditions, in the recipient's dtype."""
        if conditions[0].complement == DIFFERENCE:
            assert self.difference is not None, "the difference was not read"
            ranks = [condition.rank or 0 for condition in conditions]
            return difference_cut(donor.double(), own.double(), *self.difference, ranks).to(own.dtype)
        cuts, between = [], []
        for condition in conditions:
            alpha = self.scale(condition)
            whitened = condition.complement == WHITENED
            cuts.append((alpha, None if whitened else condition.rank, condition.complement))
            between.append((alpha, condition.rank if whitened else None))
        states = self.cut_outputs(donor, own, cuts)
        if rows := [row for row, (_, rank) in enumerate(between) if rank is not None]:
            assert self.whitened is not None, "the whitened map was not fitted"
            states[:, rows] = self.whitened.cut(donor.double(), [between[row] for row in rows]).to(own.dtype)
        return states

    def cut_outputs(self, donor: Float[Tensor, "b d"], own: Float[Tensor, "b d"], cuts: list) -> Float[Tensor, "b m d"]:
        """The map's outputs, scaled and cut: see linear_maps.cut."""
        directions = self.mean.new_zeros(len(self.mean), 1) if self.directions is None else self.directions
        return cut(self.full.apply(donor.double()), own.double(), self.mean, directions, cuts).to(own.dtype)


@dataclass(frozen=True)
class Clean:
    """The clean states of both models that a function of the user's own reads; each is a copy.

    donor_states, own_states: the donor's and the recipient's clean passes, which `donor_at` and `own_at` read. layer, stream: the
    site itself, whose states are `donor` and `own`, [prompts, width].

    Example:
        >>> halfway = lambda clean: 0.5 * (clean.donor + clean.own)
        >>> pair.run([md.at(1, "mlp_out").set(halfway)], limit=4).table.shape[0]
        4
    """

    donor_states: Trace = field(repr=False)
    own_states: Trace = field(repr=False)
    layer: int
    stream: str

    @property
    def donor(self) -> Float[Tensor, "b d"]:
        """The donor's state at the site, [prompts, width].

        Example:
            >>> result = pair.run([md.at(1).set(lambda clean: 0.5 * clean.donor)], limit=4)
        """
        return self.donor_at(self.layer, self.stream)

    @property
    def own(self) -> Float[Tensor, "b d"]:
        """The recipient's clean state at the site, [prompts, width].

        Example:
            >>> doubled = md.at(1).set(lambda clean: 2 * clean.own)
            >>> bool((pair.run([doubled], limit=4).table["kl"] > 0).all())
            True
        """
        return self.own_at(self.layer, self.stream)

    def donor_at(self, layer: int, stream: str) -> Float[Tensor, "b d"]:
        """The donor's state at any site, [prompts, width], on the recipient's device. layer: from 0. stream: as for `md.at`.

        Example:
            >>> change = lambda clean: clean.own + clean.donor_at(0, "resid_post") - clean.own_at(0, "resid_post")
            >>> result = pair.run([md.at(1).set(change)], limit=4)
        """
        return self.donor_states.states[stream][layer].to(self.own_states.states[stream].device, copy=True)

    def own_at(self, layer: int, stream: str) -> Float[Tensor, "b d"]:
        """The recipient's clean state at any site, [prompts, width]. layer: from 0. stream: as for `md.at`.

        Example:
            >>> earlier = md.at(1).set(lambda clean: clean.own_at(0, "resid_post")).named("the layer before")
            >>> pair.run([earlier], limit=4).table["intervention"].unique().tolist()
            ['the layer before']
        """
        return self.own_states.states[stream][layer].clone()


def given_tensors(members: Sequence[Given], own: Float[Tensor, "b d"], where: str) -> Float[Tensor, "b m d"]:
    """The tensors of m givens at one site, the same for every prompt. Raises UserError for one that does not fit."""
    for given in members:
        check_state(given.states, (own.shape[1:],), own, where)
    states = torch.stack([given.states.to(own.dtype) for given in members])  # together, so that they move in one copy
    return sent(states, own.device).expand(len(own), -1, -1)


def given_states(given: Given, clean: Clean, own: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """The state that a function gives for every prompt. Raises UserError for one that does not fit the site."""
    states = given.states(clean)
    check_state(states, (own.shape, own.shape[1:]), own, f"layer {clean.layer}, {clean.stream}")
    return states.to(own.device, own.dtype).expand_as(own)


def check_state(states: object, shapes: tuple, own: Float[Tensor, "b d"], where: str) -> None:
    if not isinstance(states, Tensor) or states.shape not in shapes:
        shape = list(states.shape) if isinstance(states, Tensor) else type(states).__name__
        raise UserError(
            f"The state given for {where} is {shape}. It must be a tensor [width] = [{own.shape[1]}], or [prompts, width] = "
            f"{list(own.shape)} from a function."
        )


def site_of(condition: Condition) -> Site:
    """The site whose fitted map a condition needs."""
    control = "none" if condition.control == "mean" else condition.control
    if condition.map_layer is not None:
        control = FROM + str(condition.map_layer)
    return condition.map, control, condition.layer, condition.map_stream or condition.stream


def edited_stream(condition: Condition) -> str:
    """The stream that is edited: a transplant of single heads changes the output of their attention module."""
    return "attn_out" if condition.transplant and condition.stream == "heads" else condition.stream


def heads_of(condition: Condition) -> tuple[int, ...]:
    """The heads of a condition of the stream `heads`."""
    assert condition.heads is not None, "a condition of heads names them"
    return condition.heads


def head_weights(conditions: list[Condition], anatomy: Anatomy) -> Float[Tensor, "conditions joint"]:
    """The share of the donor in each dimension of the heads' joint output (heads x head width), on the model's device."""
    weight = torch.zeros(len(conditions), anatomy.heads)
    for row, condition in enumerate(conditions):
        weight[row, list(heads_of(condition))] = condition.blend
    return sent(weight.to(anatomy.dtype), anatomy.device).repeat_interleave(anatomy.head_width, 1)


def values(
    members: list[Condition],
    anatomy: Anatomy,
    donor: Trace,
    recipient: Trace,
    maps: dict[Site, SiteMap],
    transplants: Transplants | None,
) -> Float[Tensor, "b m width"]:
    """The states that m conditions of one site insert, before heads are selected."""
    layer, stream = members[0].layer, members[0].stream
    own = recipient.states[edited_stream(members[0])][layer]
    if (given := members[0].given) is not None and callable(given.states):
        return given_states(given, Clean(donor, recipient, layer, stream), own).unsqueeze(1).expand(-1, len(members), -1)
    if given is not None:
        return given_tensors([c.given for c in members if c.given is not None], own, f"layer {layer}, {stream}")
    if members[0].transplant and members[0].control == "none":
        assert transplants is not None, "transplants were not run"
        if stream == "heads":
            return transplants.heads[layer][:, [heads_of(condition)[0] for condition in members]]
        return getattr(transplants, stream)[layer].unsqueeze(1).expand(-1, len(members), -1)
    if members[0].control == "self":
        return own.unsqueeze(1).expand(-1, len(members), -1)
    other = donor.states[stream][layer].to(own.device)
    if members[0].plain:
        return other.to(own.dtype).unsqueeze(1).expand(-1, len(members), -1)
    site_map = maps[site_of(members[0])]
    if through := members[0].map_stream:
        source, partner = donor.states[through][layer].to(own.device), recipient.states[through][layer]
        return anatomy.head_inputs(layer, site_map.states(source, partner, members)).to(own.dtype)
    return site_map.states(other, own, members)


def as_rows(
    conditions: Sequence[Condition | Stack],
    anatomy: Anatomy,
    donor: Trace,
    recipient: Trace,
    maps: dict[Site, SiteMap],
    transplants: Transplants | None = None,
) -> Rows:
    """A row for each condition or stack, in order. maps: those of every condition that is not plain.

    Under complement `own`, the recipient's own state is its clean one, in a stack too.
    """
    sites = defaultdict(list)
    for row, condition in ((row, part) for row, stack in enumerate(conditions) for part in stack.parts):
        given = condition.given
        own = given if given is None or callable(given.states) else "tensor"  # tensors of a site are one group
        kind = site_of(condition), condition.plain, condition.transplant, own, condition.complement == DIFFERENCE
        sites[condition.layer, edited_stream(condition)].append((kind, row, condition))
    edits = []
    for (layer, stream), members in sites.items():
        by_kind = defaultdict(list)
        for kind, row, condition in members:
            by_kind[kind].append((row, condition))
        rows = torch.tensor([row for group in by_kind.values() for row, _ in group])
        groups, order = [[c for _, c in group] for group in by_kind.values()], torch.argsort(rows)

        def value(groups=groups, order=order) -> Tensor:
            parts = [values(group, anatomy, donor, recipient, maps, transplants) for group in groups]
            value = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
            return value[:, sent(order, value.device)] if bool((order.diff() != 1).any()) else value

        later = any(given is not None and callable(given.states) for given in (c.given for _, _, c in members))
        weight = head_weights([c for _, _, c in members], anatomy) if stream == "heads" else None
        edits += in_runs(Edit(layer, stream, rows[order], value if later else value(), weight))
    return Rows(len(conditions), edits)


def in_runs(edit: Edit) -> list[Edit]:
    """The same edit, split into runs of neighbouring rows, which need no index on the device."""
    sizes, start, parts = (edit.rows.diff() != 1).nonzero().squeeze(1) + 1, 0, []
    for stop in (*sizes.tolist(), len(edit.rows)):
        weight = None if edit.weight is None else edit.weight[start:stop]
        parts.append(Edit(edit.layer, edit.stream, edit.rows[start:stop], edit.states_of(slice(start, stop)), weight))
        start = stop
    return parts
