"""From effects to lines: the columns of a table of effects, and what they say of each condition."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mechdiff.common.terms import DIFFERENCE
from mechdiff.engine.intervention import Condition
from mechdiff.questions.shared.fields import ALL
from mechdiff.questions.shared.request import AUTO, FULL, TOKEN, Question

MEASURES = ("kl", "kl_to_donor", "kl_donor_clean")
SITE = ("layer", "stream", "map", "rank", "basis", "complement", "alpha", "heads", "blend", "replace", "control")


@dataclass
class Wide:
    """Effects, a row per condition. conditions: what each row is; values: measure -> [conditions, prompts], nan if missing.

    ratio: what kl / kl_reference means: drop, coverage, or nothing. metrics: values that a request names in addition.
    templates: of each prompt, if lines name them.
    """

    conditions: pd.DataFrame
    values: dict[str, np.ndarray]
    ratio: str = ""
    metrics: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def long(self) -> pd.DataFrame:
        """A line per prompt and condition, for the effects that are known."""
        row, prompt = np.nonzero(~np.isnan(self.values["kl"]))
        lines = self.conditions.iloc[row].reset_index(drop=True)
        place = list(self.conditions).index("direction") + 1
        lines.insert(place, "prompt", prompt)
        if self.templates:
            lines.insert(place + 1, "template", np.array(self.templates, dtype=object)[prompt])
        measures = pd.DataFrame({name: values[row, prompt] for name, values in self.values.items()})
        return lines.join(measures)


def site_labels(condition: Condition, request: Question) -> tuple:
    """What a line says of its condition, in the order of SITE."""
    c = condition
    alpha, heads = AUTO if c.alpha is None else str(c.alpha), heads_label(c.heads, request)
    name = c.map if c.map_layer is None else f"{c.map} of L{c.map_layer}"
    complement, basis = c.complement.replace(DIFFERENCE, ""), getattr(request, "basis", "")
    return c.layer, c.stream, name, rank_label(c.rank), basis, complement, alpha, heads, c.blend, replaces(c), c.control


def replaces(condition: Condition) -> str:
    """Whose states a condition replaces: one token's, or those of all of them."""
    return ALL if condition.every else TOKEN


def rank_label(rank: int | None) -> str:
    return FULL if rank is None else str(rank)


def heads_label(heads: tuple[int, ...] | None, request: Question) -> str:
    """0-5-7, or all; empty for a whole state."""
    if heads is None:
        return ""
    return "all" if len(heads) == request.spec.heads else "-".join(map(str, heads))


def leading_columns(request: Question) -> dict[str, str]:
    """The columns that are the same in every line of a request's table."""
    names = {"pair": request.spec.name, "domain": request.chosen_domain, "question": request.question}
    return names | {"direction": request.direction}
