"""What can be done to a recipient at a site, as data. Needs no torch."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Condition:
    """One intervention, the same for every prompt.

    layer, stream: the site. map: what is done to the donor's state first. control: none, or what takes the donor's place.
    heads: which heads are replaced (stream `heads`), None for a whole state. blend: the share of the donor in the result.
    """

    layer: int
    stream: str
    map: str = "none"
    control: str = "none"
    heads: tuple[int, ...] | None = None
    blend: float = 1.0

    def as_control(self, control: str) -> "Condition":
        return replace(self, control=control, map="none")
