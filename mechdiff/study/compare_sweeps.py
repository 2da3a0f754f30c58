"""Two choices side by side, as one request with one table: what the Compare page and `python -m mechdiff compare` say."""

from dataclasses import asdict, dataclass

import pandas as pd

from mechdiff.common.errors import UserError
from mechdiff.common.terms import DIRECTIONS
from mechdiff.study import estimates as verdict
from mechdiff.study import stored_sweep


@dataclass(frozen=True)
class Comparison:
    """What to compare. a, b: PAIR or PAIR@DOMAIN. depth: where rank cuts are read, 0 to 1; None: the most affected layer."""

    a: str
    b: str
    direction: str = DIRECTIONS[0]
    depth: float | None = None

    def __post_init__(self):
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise UserError(f"Depth {self.depth:g} is not between 0 (first layer) and 1 (last layer).\nTry:  --depth 0.9")

    @property
    def choices(self) -> tuple[stored_sweep.Choice, stored_sweep.Choice]:
        return stored_sweep.parse(self.a, self.direction), stored_sweep.parse(self.b, self.direction)

    @property
    def command(self) -> str:
        """The command line that says the same."""
        given = asdict(self) | {"direction": None if self.direction == DIRECTIONS[0] else self.direction}
        return " ".join(["python -m mechdiff compare", *(f"--{k} {v}" for k, v in given.items() if v is not None)])


def tabulate(a: dict[str, verdict.Estimate], b: dict[str, verdict.Estimate]) -> pd.DataFrame:
    """The verdict as verdict.table says it, with its keys, and with value, low and high of a and of b as numbers."""
    table = verdict.table(a, b)
    table.insert(0, "key", list(verdict.QUANTITIES))
    for side, estimates in (("a", a), ("b", b)):
        for part in ("value", "low", "high"):
            table[f"{side}_{part}"] = [float(getattr(one, part)) for one in estimates.values()]
    return table


def answer(asked: Comparison) -> pd.DataFrame:
    """A row per quantity."""
    a, b = asked.choices
    return tabulate(*(verdict.estimates(one, asked.depth, seed) for one, seed in zip((a, b), verdict.seeds(a, b))))


def compare_sweeps(a: str, b: str, direction: str = DIRECTIONS[0], depth: float | None = None) -> pd.DataFrame:
    """What two pairs answer to the four questions, from their stored sweeps, a row per quantity.

    a, b: PAIR or PAIR@DOMAIN. depth: where rank cuts are read, 0 to 1; None: at each one's most affected layer. Columns a, b and
    difference (B - A) are text; a_value, a_low, a_high (95 % over prompts) and those of b numbers. Raises UserError.
    """
    return answer(Comparison(a, b, direction, depth)).set_index("key")
