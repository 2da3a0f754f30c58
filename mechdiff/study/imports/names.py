"""What a file of the study says by its name alone."""

import re
from dataclasses import dataclass

from mechdiff.common.terms import FITTED, STREAMS

MAPS = "|".join(sorted(FITTED, key=len, reverse=True))  # procrustes_scaled before procrustes
FOUND = {  # a field of a name, and how it stands there
    "layer": r"_L(\d+)(?=_|$)",
    "stream": rf"_({'|'.join(STREAMS)})(?=_|$)",
    "map": rf"_({MAPS})(?=_|$)",
    "rank": r"_(?:k|pca)(\d+|full)(?=_|$)",
    "alpha": r"_alpha(\d+(?:\.\d+)?)(?=_|$)",
    "subspace": r"_logit((?:joint:)?\d+)(?=_|$)",
    "heads": r"_head(\d+)(?=_|$)",
    "chosen": r"_(top\d+|rand\d+_s\d+)$",
}
MASK = re.compile(r"head_mask_L\d+_[a-z]+_[a-z]+_(ALL|NONE|\d+(?:-\d+)*)$")


@dataclass(frozen=True)
class Named:
    """The fields of a name, as text; None for what it does not say."""

    layer: str | None = None
    stream: str | None = None
    map: str | None = None
    rank: str | None = None
    alpha: str | None = None
    subspace: str | None = None
    heads: str | None = None
    chosen: str | None = None


def named(stem: str) -> Named:
    """The fields of a file's name without its ending."""
    found = {field: match[1] for field, pattern in FOUND.items() if (match := re.search(pattern, stem))}
    if mask := MASK.match(stem):
        found["heads"] = mask[1]
    return Named(**found)
