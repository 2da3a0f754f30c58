"""From conditions to rows: which state goes in at each site, for every prompt of a block."""

from collections import defaultdict

import torch
from torch import Tensor

from mechdiff.anatomy import Anatomy
from mechdiff.conditions import Condition
from mechdiff.rows import Edit, Rows
from mechdiff.trace import Trace


def donor_state(condition: Condition, donor: Trace, recipient: Trace, maps: dict) -> Tensor:
    """The state [b, width] that a condition puts in, before heads are chosen. maps: (map, layer, stream) -> fitted map."""
    site = condition.stream, condition.layer
    if condition.control == "self":
        return recipient.states[site[0]][site[1]]
    state = donor.states[site[0]][site[1]].to(recipient.last.device)
    return state if condition.map == "none" else maps[condition.map, condition.layer, condition.stream](state)


def head_weight(condition: Condition, anatomy: Anatomy) -> Tensor:
    """The share of the donor in each dimension of the heads' joint output, [heads x head width]."""
    weight = torch.zeros(anatomy.heads, anatomy.head_width)
    weight[list(condition.heads)] = condition.blend
    return weight.flatten()


def as_rows(conditions: list[Condition], anatomy: Anatomy, donor: Trace, recipient: Trace, maps: dict) -> Rows:
    """A row for each condition, in order."""
    sites = defaultdict(list)
    for row, condition in enumerate(conditions):
        sites[condition.layer, condition.stream].append((row, condition))
    edits = []
    for (layer, stream), members in sites.items():
        rows = torch.tensor([row for row, _ in members])
        states = {}
        for _, c in members:
            states.setdefault((c.map, c.control), donor_state(c, donor, recipient, maps))
        value = torch.stack([states[c.map, c.control] for _, c in members], 1)
        weight = None
        if stream == "heads":
            weight = torch.stack([head_weight(c, anatomy) for _, c in members])
        edits.append(Edit(layer, stream, rows, value, weight))
    return Rows(len(conditions), edits)
