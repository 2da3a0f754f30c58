"""Interventions on a recipient, as data. Needs no torch."""

from dataclasses import dataclass, replace

from mechdiff.common.terms import MAP_CONTROLS


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
class Condition:
    """One intervention, the same for every prompt.

    layer, stream: the site. map, alpha, rank, complement: how the donor's state is changed first (alpha None: the out-of-fold
    scale; rank None: uncut). control: none, or what replaces the donor or its map. heads: the heads that are replaced (stream
    `heads`), None for a whole state. blend: the share of the donor in the result. transplant: use the donor's weights on the
    recipient's own input instead of the donor's state.
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

    def as_control(self, control: str) -> "Condition":
        """The same site with a control's state. `mean` is the cut to rank 0, which leaves only the train mean."""
        if control in MAP_CONTROLS:
            return replace(self, control=control)
        bare = replace(self, control=control, map="none", alpha=1.0, rank=None, complement="", transplant=False)
        return replace(bare, rank=0, complement="mean") if control == "mean" else bare

    @property
    def plain(self) -> bool:
        """Whether it needs no train split: the unchanged state of the donor, the recipient's own, or a transplant."""
        unchanged = self.map == "none" and self.alpha == 1.0 and self.rank is None
        return self.control == "self" or self.transplant or (unchanged and self.control == "none")

    @property
    def parts(self) -> tuple["Condition", ...]:
        return (self,)


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

    def as_control(self, control: str) -> "Stack":
        return Stack(tuple(part.as_control(control) for part in self.parts))
