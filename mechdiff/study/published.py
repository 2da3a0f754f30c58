"""The published numbers of the original study, value by value, each with what it is of. Needs no torch."""

import tomllib
from functools import lru_cache

import pandas as pd

from mechdiff.common.paths import DATA
from mechdiff.study.stored_sweep import STREAM, StoredSweep

FILE = DATA / "published.toml"
COLUMNS = ["pair", "prompts", "quantity", "direction", "layer", "stream", "map", "alpha", "rank", "heads", "size", "chosen"]
COLUMNS += ["control", "value", "layer2", "value2", "kl_zscore", "kl", "n", "valid", "reason", "stored", "definition", "over"]
TEXTS = ["direction", "stream", "map", "alpha", "rank", "heads", "chosen", "control", "reason"]
CHARTS = {  # a chart of Compare -> what its marks are, and the column of its x
    "drift": ({"quantity": "cka", "stream": STREAM}, "layer"),
    "effect": ({"quantity": "kl", "stream": STREAM, "map": "zscore"}, "layer"),
    "drop": ({"quantity": "drop", "stream": STREAM, "rank": "full", "control": ""}, "layer"),
    "rank": ({"quantity": "drop", "stream": STREAM, "control": ""}, "rank"),
    "coverage": ({"quantity": "coverage", "control": ""}, "size"),
}


@lru_cache
def facts() -> dict:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@lru_cache
def table() -> pd.DataFrame:
    """A row per published value, with COLUMNS. A field that a value does not have is empty, or nan for a number.

    layer2, value2: the far corner of a box. n: prompts. valid: whether the value is what it says; reason: why it is not.
    """
    rows = []
    for series in facts()["series"]:
        common = {"control": "", "valid": True, "reason": ""} | {name: series[name] for name in COLUMNS if name in series}
        for place, (at, value) in enumerate(series.get("values", [])):
            effects = dict(zip(("kl_zscore", "kl"), series["kl"][place])) if "kl" in series else {}
            rows.append(common | {series["over"]: at, "value": value} | effects)
        rows += [common | dict(zip(("layer", "layer2", "value", "value2"), box)) for box in series.get("boxes", [])]
    values = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    values[TEXTS] = values[TEXTS].fillna("")
    counted = values["heads"].ne("")
    values.loc[counted, "size"] = values.loc[counted, "heads"].str.count("-") + 1
    return values.infer_objects()


def of_pair(pair: str, prompts: str) -> pd.DataFrame:
    """What was published of a pair on a set of prompts."""
    values = table()
    return values[(values["pair"] == pair) & (values["prompts"] == prompts)]


def marks(chart: str, sweep: StoredSweep, depth: float | None = None) -> pd.DataFrame:
    """The marks next to a sweep's curve: columns layer, x, mean, x2, mean2, note.

    Only of the same pair, prompts, direction and definitions, which are the study's protocol; none next to the study's own files,
    which hold these numbers. depth: select the published layer nearest to it.
    """
    if chart not in CHARTS or sweep.protocol != "study" or sweep.imported:
        return pd.DataFrame()
    where, over = CHARTS[chart]
    points = of_pair(sweep.pair_name, sweep.domain)
    points = points[points["direction"].isin(["", sweep.direction]) & points["over"].isin([over, "heads"])]
    for column, value in where.items():
        points = points[points[column] == value]
    points = points[points[over].notna() & (points[over] != "")]
    if depth is not None and len(points):
        distance = (points["layer"].astype(float) / (facts()["layers"] - 1) - depth).abs()
        points = points[distance == distance.min()]
    if points.empty:
        return pd.DataFrame()
    last, count = facts()["layers"] - 1, facts()["heads"]
    scale = {"rank": str, "size": lambda size: 100 * size / count}.get(over, lambda layer: layer / last)
    far = points["layer2"].fillna(points["layer"]) if over == "layer" else points[over]
    return pd.DataFrame(
        {
            "layer": points["layer"],
            "x": points[over].map(scale),
            "mean": points["value"],
            "x2": far.map(scale),
            "mean2": points["value2"].fillna(points["value"]),
            "note": [note(line) for line in points.to_dict("records")],
        }
    ).infer_objects()


def note(line: dict) -> str:
    """A published value in words: its definition, its prompts, and why it is not valid."""
    parts = [line["definition"], f"{line['n']:.0f} prompts" if line["n"] == line["n"] else ""]
    parts += [f"alpha {line['alpha']}" if line["alpha"] else "", "" if line["valid"] else f"NOT VALID: {line['reason']}"]
    return "; ".join(filter(None, parts))


def described(line: dict) -> str:
    """What a published value is of, in a few words."""
    site = f"L{line['layer']:.0f} {line['stream']}" if line["layer"] == line["layer"] else line["stream"]
    heads = line["heads"] or f"top {line['size']:.0f}"
    what = {"drop": f"Drop of {line['map']}, rank {line['rank']}", "coverage": f"Coverage of heads {heads}"}
    return f"{what.get(line['quantity'], line['quantity'])}, {site}: published as {line['value']:g} %"
