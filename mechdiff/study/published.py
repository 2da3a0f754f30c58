"""The published 8B numbers of the original study, as reference marks: means without intervals. Needs no torch."""

import tomllib
from functools import lru_cache

import pandas as pd

from mechdiff.common.paths import DATA

FILE = DATA / "published.toml"
EVERY = ["chart", "domain", "direction", "layer", "note"]


@lru_cache
def facts() -> dict:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@lru_cache
def table() -> pd.DataFrame:
    """A row per mark: chart, domain, direction, layer, note; x and mean, and for a box its far corner x2 and mean2.

    x: the relative depth on charts over layers, the rank as text on `rank`, per cent of the heads on `coverage`. A field that a
    series does not set is nan.
    """
    rows = []
    for series in facts()["series"]:
        common = {name: series.get(name) for name in EVERY}
        points = [(x, y, x, y) for x, y in series.get("points", [])]
        boxes = [(x, low, x2, high) for x, x2, low, high in series.get("boxes", [])]
        scale = scale_of(series["chart"])
        rows += [common | {"x": scale(x), "mean": y, "x2": scale(x2), "mean2": y2} for x, y, x2, y2 in points + boxes]
    return pd.DataFrame(rows)


def scale_of(chart: str):
    """From a number of the file to a chart's x."""
    last, heads = facts()["layers"] - 1, facts()["heads"]
    return {"rank": str, "coverage": lambda count: 100 * count / heads}.get(chart, lambda layer: layer / last)


def marks(chart: str, domain: str, direction: str, depth: float | None = None) -> pd.DataFrame:
    """The marks of one chart for a domain's own pair. depth: select the published layer nearest to it."""
    points = table()
    in_direction = points["direction"].isna() | (points["direction"] == direction)
    points = points[(points["chart"] == chart) & (points["domain"] == domain) & in_direction]
    if depth is None or points.empty:
        return points.infer_objects()
    distance = (points["layer"] / (facts()["layers"] - 1) - depth).abs()
    return points[distance == distance.min()].infer_objects()
