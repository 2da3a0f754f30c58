"""What can be done to a recipient at a site, as data. Needs no torch."""

from dataclasses import dataclass, replace

from mechdiff.common.terms import MAP_CONTROLS


@dataclass(frozen=True)
class Place:
    """Where in a prompt states are replaced, and how far on the effect is read.

    back: tokens before the decision token. horizon: how many next tokens, of the donor's own greedy answer, the effect is the
    mean over. donor: the side that answers, if that is more than one.
    """

    back: int = 0
    horizon: int = 1
    donor: str = ""

    @property
    def span(self) -> int:
        """Tokens from the one where states are replaced to the last one read."""
        return self.back + self.horizon


HERE = Place()


@dataclass(frozen=True)
class Condition:
    """One intervention, the same for every prompt.

    layer, stream: the site. map, alpha, rank, complement: what is done to the donor's state first (alpha None: the scale found
    out of fold; rank None: uncut). control: none, or what takes the place of the donor or of its map. heads: which heads are
    replaced (stream `heads`), None for a whole state. blend: the share of the donor in the result. transplant: the donor's
    weights run on the recipient's own input, in place of the donor's state.
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
        """The same place with a control's state. `mean` is the cut to rank nought: nothing is left but the train mean."""
        if control in MAP_CONTROLS:
            return replace(self, control=control)
        bare = replace(self, control=control, map="none", alpha=1.0, rank=None, complement="", transplant=False)
        return replace(bare, rank=0, complement="mean") if control == "mean" else bare

    @property
    def plain(self) -> bool:
        """Whether it needs no train split: the donor's state as it is, the recipient's own, or a transplant."""
        as_it_is = self.map == "none" and self.alpha == 1.0 and self.rank is None
        return self.control == "self" or self.transplant or (as_it_is and self.control == "none")

    @property
    def parts(self) -> tuple["Condition", ...]:
        return (self,)

    @property
    def way(self) -> tuple[float | None, int | None, str]:
        """Scale, rank and complement."""
        return self.alpha, self.rank, self.complement


@dataclass(frozen=True)
class Stack:
    """Several interventions in one pass, at rising sites: each acts on what those before it have made of the state."""

    parts: tuple[Condition, ...]

    @property
    def layer(self) -> int:
        return self.parts[0].layer

    @property
    def plain(self) -> bool:
        return all(part.plain for part in self.parts)

    def as_control(self, control: str) -> "Stack":
        return Stack(tuple(part.as_control(control) for part in self.parts))
