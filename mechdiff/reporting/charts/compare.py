"""Two stored sweeps on one chart: A and B in fixed colours, published marks hollow in the colour of the sweep they belong to."""

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.base import (
    BLUE,
    DOTTED,
    GREY,
    KL,
    ORANGE,
    SOLID,
    clickable,
    curves,
    layered,
    numbers,
    titled,
    with_long_legend,
    zero_line,
)
from mechdiff.reporting.charts.imported import apart, legend_lines, squares
from mechdiff.reporting.charts.ranks import rank_order

COLOURS = {"A": BLUE, "B": ORANGE}  # by the first letter of a name
LOWEST = -160.0  # per cent: the lowest end of a drop axis
DRAWN = ("shown", "depth", "share", "layer", "rank", "size", "mean", "low", "high")
DROP = "Drop relative to z-score, %"
PUBLISHED = "Hollow: published by the study"
OUTLINE = {"strokeWidth": 1.8, "opacity": 1}
FIFTHS = [0, 0.2, 0.4, 0.6, 0.8, 1]
DEPTH = alt.X("depth:Q").title("Relative depth: layer / last layer").scale(domain=[-0.02, 1.02]).axis(grid=False, values=FIFTHS)


def compared(
    tables: dict[str, pd.DataFrame], marks: dict[str, pd.DataFrame], x: alt.X, y: str, title: str, about: str, behind=(), **scale
) -> alt.LayerChart:
    """tables: a sweep's name (`A: ...`, `B: ...`) -> a row per point with x's field, mean, low, high, and perhaps its layer.

    marks: by the same names, published points with x, mean, note, and for a box its other corner x2, mean2; imported ones also
    have source and what. y: the axis' title. behind: layers to draw first.
    """
    looks = {name: (COLOURS[name[0]], SOLID, True) for name in tables}
    table = pd.concat([part.assign(shown=name) for name, part in tables.items()], ignore_index=True)
    table = table[[name for name in DRAWN if name in table]]
    axis = alt.Y("mean:Q").title(y).scale(**scale)
    layers = [*behind, *map(with_long_legend, curves(table, x, looks, y, **scale))]
    tip = [alt.Tooltip("shown:N").title("what"), *(name for name in ("layer", "rank", "size") if name in table)]
    targets = alt.Chart(table).mark_point(size=150, opacity=0, clip="domain" in scale)  # easier to hit, and with the layer
    targets = targets.encode(x, axis, tooltip=[*tip, *numbers("mean", "low", "high")])
    layers.append(clickable(targets, "", "shown", "layer", *(["rank"] if x["shorthand"] == "rank:O" else [])))
    subtitle = [about]
    for name, points in marks.items():
        published, imported = apart(points)
        if len(published):
            layers += hollow(published, x, axis, COLOURS[name[0]], "domain" in scale)
        layers += squares(imported, x, axis, COLOURS[name[0]], scale.get("domain"))
        subtitle += ([PUBLISHED] if len(published) else []) + legend_lines(imported, scale.get("domain"))
    return titled(layered(*layers), title, list(dict.fromkeys(subtitle)))


def chosen_now(spec: dict, now: object, depths: dict[str, float]) -> dict:
    """A drawn chart with what is chosen, which changes more often than the chart: part of a click, and a rule in a side's colour.

    depths: a sweep's letter -> the relative depth of the chosen layer.
    """
    targets = next(layer for layer in spec["layer"] if "transform" in layer)
    targets["transform"][0]["calculate"] = "'" + "".join(letter for letter in str(now) if letter.isalnum()) + "'"
    if (x := targets["encoding"]["x"])["field"] == "depth":
        for letter, depth in depths.items():
            rule = {"type": "rule", "color": COLOURS[letter], "strokeDash": DOTTED}
            spec["layer"].append({"data": {"values": [{"depth": depth}]}, "mark": rule, "encoding": {"x": x}})
    return spec


def hollow(points: pd.DataFrame, x: alt.X, y: alt.Y, colour: str, clip: bool) -> list[alt.Chart]:
    """Published numbers: diamonds, and boxes where a range of layers was published."""
    name = x["shorthand"].partition(":")[0]
    points = points.rename(columns={"x": name})
    is_box, has_layer = points[name] != points["x2"], points["layer"].notna().any()
    boxes, points = points[is_box], points[~is_box]
    tip = [alt.Tooltip("note:N").title("published"), *(["layer"] if has_layer else [])]
    tip.append(alt.Tooltip(f"{name}:N") if name == "rank" else alt.Tooltip(f"{name}:Q", format=".3~g"))
    layers = []
    if len(points):
        drawn = alt.Chart(points).mark_point(shape="diamond", size=70, filled=False, color=colour, clip=clip, **OUTLINE)
        layers.append(drawn.encode(x, y, tooltip=[*tip, *numbers("mean")]))
    if len(boxes):
        drawn = alt.Chart(boxes).mark_rect(fill=None, stroke=colour, clip=clip, **OUTLINE)
        layers.append(drawn.encode(x, alt.X2("x2"), y, alt.Y2("mean2"), tooltip=[*tip, *numbers("mean", "mean2")]))
    return layers


def compared_drift(tables: dict, marks: dict) -> alt.LayerChart:
    about = "CKA over templates, or of older sweeps the debiased one, of resid_post; bands: 95 % CI (jackknife)"
    y = "Linear CKA, base vs tuned"
    return compared(tables, marks, DEPTH, y, "Where do representations diverge?", about, domain=[0, 1])


def compared_effect(tables: dict, marks: dict) -> alt.LayerChart:
    return compared(tables, marks, DEPTH, KL, "Where does patching move the next token?", "resid_post; bands: 95 % CI")


def compared_recovery(tables: dict, marks: dict) -> alt.LayerChart:
    about = "Recovery with the donor's states of all tokens; bands: 95 % CI"
    title = "Where in the depth does the change lie?"
    return compared(tables, marks, DEPTH, "Recovery", title, about, [zero_line()])


def compared_beyond(tables: dict, marks: dict) -> alt.LayerChart:
    title, y = "What does a linear map do beyond one constant shift?", "Removed of the shift's effect, %"
    return compared(tables, marks, DEPTH, y, title, of_maps(tables), [zero_line()], domain=drops(tables, marks))


def compared_directions(tables: dict, about: str) -> alt.LayerChart:
    ranks = {rank for part in tables.values() for rank in part["rank"]}
    x = alt.X("rank:O").title("Directions k, beside the shift").sort(rank_order(ranks)).axis(labelAngle=0)
    return compared(tables, {}, x, "Recovery", "How many directions carry the difference?", about, [zero_line()])


def of_maps(tables: dict) -> str:
    """Which map each sweep's curve is of."""
    names = ", ".join(f"{name[0]}: {part['map'].iloc[0]}" for name, part in tables.items())
    return f"resid_post; {names}; bands: 95 % CI"


def compared_transplants(tables: dict, module: str) -> alt.LayerChart:
    about = "Transplants, each on its own scale; bands: 95 % CI"
    return compared(tables, {}, DEPTH, KL, f"What did the {module} weights alone change?", about)


def compared_drop(tables: dict, marks: dict) -> alt.LayerChart:
    scale = {"domain": drops(tables, marks)}
    return compared(tables, marks, DEPTH, DROP, "How much does a linear map explain?", of_maps(tables), [zero_line()], **scale)


def compared_ranks(tables: dict, marks: dict, about: str) -> alt.LayerChart:
    ranks = {rank for part in tables.values() for rank in part["rank"]}
    ranks |= {rank for part in marks.values() for rank in apart(part)[1].get("x", ())}
    x = alt.X("rank:O").title("Rank k of the map (0: mean ablation)").sort(rank_order(ranks)).axis(labelAngle=0)
    scale = {"domain": drops(tables, marks)}
    return compared(tables, marks, x, DROP, "How many dimensions does the change need?", about, [zero_line()], **scale)


def compared_coverage(tables: dict, randoms: dict, marks: dict, chosen: str, about: str) -> alt.LayerChart:
    """randoms: a sweep's name -> the range of random sets, with columns share, low, high (per cent)."""
    x = alt.X("share:Q").title("Heads replaced, % of the layer's heads").scale(domain=[0, 102], nice=False).axis(grid=False)
    y = "Coverage: share of all heads' effect, %"
    whole = alt.Chart(pd.DataFrame({"all": [100.0]})).mark_rule(color=GREY, strokeDash=DOTTED).encode(alt.Y("all:Q"))
    behind = [whole]
    for name, sets in randoms.items():
        area = alt.Chart(sets).mark_area(color=COLOURS[name[0]], opacity=0.09)
        behind.append(area.encode(x, alt.Y("low:Q").title(y), alt.Y2("high:Q"), tooltip=numbers("share", "low", "high")))
    return compared(tables, marks, x, y, f"How many heads does the change need ({chosen})?", about, behind)


def drops(tables: dict, marks: dict) -> list[float]:
    """The range of a drop axis: up to 100 %, and down to the lowest value, but not below LOWEST."""
    lows = [part["low"].fillna(part["mean"]).min() for part in tables.values()]
    lows += [part["mean"].min() for part in marks.values() if len(part)]
    return [max(LOWEST, min([0.0, *(low for low in lows if low == low)])), 100.0]
