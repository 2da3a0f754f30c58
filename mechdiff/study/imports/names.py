"""The fields in the name of a file of the study."""

import re
from dataclasses import dataclass

from mechdiff.common.terms import FITTED, STREAMS

MAPS = "|".join(sorted(FITTED, key=len, reverse=True))  # procrustes_scaled before procrustes
PATTERNS = {  # field -> how a name spells it
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
class NameFields:
    """The fields of a name, as text; None for each that it does not have."""

    layer: str | None = None
    stream: str | None = None
    map: str | None = None
    rank: str | None = None
    alpha: str | None = None
    subspace: str | None = None
    heads: str | None = None
    chosen: str | None = None


def from_name(stem: str) -> NameFields:
    """The fields of a file's name without its ending."""
    fields = {field: match[1] for field, pattern in PATTERNS.items() if (match := re.search(pattern, stem))}
    if mask := MASK.match(stem):
        fields["heads"] = mask[1]
    return NameFields(**fields)
