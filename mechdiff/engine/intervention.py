"""Interventions on a recipient, as data. Needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mechdiff.common.extensions import key_of
from mechdiff.common.terms import COMPLETION, MAP_CONTROLS

EMBEDDING = -1  # the layer below the first one: its state is what the first layer reads


@dataclass(frozen=True)
class Place:
    """Where in a prompt states are replaced, and over how many next tokens the effect is read.

    back: tokens before the decision token. horizon: the number of next tokens, of the donor's own greedy answer, over which the
    effect is the mean. donor: the side whose answer is read, if that is more than one token.
    """

    back: int = 0
    horizon: int = 1
    donor: str = ""

    @property
    def span(self) -> int:
        """Number of tokens from the one where states are replaced to the last one that is read."""
        return self.back + self.horizon


HERE = Place()


@dataclass(frozen=True)
class Given:
    """A state of the user's own: a tensor, or a function of the clean states. Two are equal if their contents are.

    label: what tables call it. content: a hash of what it is, under which its results are stored; storable: whether they may go
    to disk. states: the tensor [width], or the function, which is called with `build_rows.Clean`.
    """

    label: str
    content: str
    storable: bool
    states: Callable | Any = field(compare=False, repr=False)


@dataclass(frozen=True)
class Condition:
    """One intervention, the same for every prompt.

    layer, stream: the site. map, alpha, rank, complement: how the donor's state is changed first (alpha None: the out-of-fold
    scale; rank None: uncut). control: none, or what replaces the donor or its map. heads: the heads that are replaced (stream
    `heads`), None for a whole state. blend: the share of the donor in the result. transplant: use the donor's weights on the
    recipient's own input instead of the donor's state. given: a state of the user's own instead of the donor's.
    map_layer, map_stream: the layer and the stream at which the map was fitted, if they are not these. Heads take what a map of
    attn_out gives through the pseudoinverse of the output projection. every: the states of all tokens are replaced, not one.
    """

    layer: int
    stream: str
    map: str = "none"
    alpha: float | None = 1.0
    rank: int | None = None
    complement: str = ""
    control: str = "none"
    heads: tuple[int, ...] | None = None
    blend: float = 1.0
    transplant: bool = False
    given: Given | None = field(default=None, repr=False, metadata={"data": False})  # not plain data: files do not hold it
    map_layer: int | None = None
    map_stream: str = ""
    every: bool = False

    def as_control(self, control: str) -> "Condition":
        """The same site with a control's state. `mean` is the cut to rank 0, which leaves only the train mean."""
        if control in (*MAP_CONTROLS, COMPLETION):
            return replace(self, control=control)
        bare = Condition(self.layer, self.stream, control=control, heads=self.heads, blend=self.blend)
        return replace(bare, rank=0, complement="mean") if control == "mean" else bare

    @property
    def plain(self) -> bool:
        """Whether it needs no train split: the unchanged state of the donor, the recipient's own, or a transplant."""
        unchanged = self.map == "none" and self.alpha == 1.0 and self.rank is None
        return self.control == "self" or self.transplant or self.given is not None or (unchanged and self.control == "none")

    @property
    def parts(self) -> tuple["Condition", ...]:
        return (self,)

    @property
    def storable(self) -> bool:
        """Whether its effects are stored on disk."""
        return self.given is None or self.given.storable

    @property
    def content(self) -> str:
        """What it is, as the keys of stored effects hold it: every field by its value."""
        elsewhere = {"map_layer": self.map_layer, "map_stream": self.map_stream or None, "every": self.every or None}
        values = {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.name not in ("given", *elsewhere)}
        values["map"] = key_of("maps", self.map)
        values |= {name: value for name, value in elsewhere.items() if value is not None}
        own = "" if self.given is None else f", given={self.given.content}"
        return f"Condition({', '.join(f'{name}={value!r}' for name, value in values.items())}{own})"


@dataclass(frozen=True)
class Stack:
    """Several interventions in one pass, at rising sites: each acts on the state that the ones before it produced."""

    parts: tuple[Condition, ...]

    @property
    def layer(self) -> int:
        return self.parts[0].layer

    @property
    def plain(self) -> bool:
        return all(part.plain for part in self.parts)

    @property
    def storable(self) -> bool:
        return all(part.storable for part in self.parts)

    @property
    def content(self) -> str:
        return f"Stack(parts={tuple_of([part.content for part in self.parts])})"

    def as_control(self, control: str) -> "Stack":
        return Stack(tuple(part.as_control(control) for part in self.parts))


def tuple_of(texts: list[str]) -> str:
    """Contents of several conditions as one."""
    return f"({', '.join(texts)}{',' * (len(texts) == 1)})"
