"""Charts over the rank that a map is cut to. A click on a point returns its rank, a click on a cell its rank and alpha."""

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.base import (
    BLUE,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    KL,
    LIGHT,
    LIVE_LOOK,
    NARROW,
    ORANGE,
    PLUM,
    RISING,
    SOLID,
    clickable,
    curves,
    layered,
    numbers,
    percent,
    room,
    titled,
    zero_line,
)
from mechdiff.reporting.charts.layers import MUTED

UNCUT = "uncut map"
OTHERS = {"mean": ("own",), "own": ("mean",)}  # the complements that are drawn beside a chosen one


def rank_order(ranks) -> list[str]:
    """Ranks from the smallest; the uncut map last."""
    return sorted(set(ranks), key=lambda rank: (not rank.isdigit(), int(rank) if rank.isdigit() else 0))


def rank_axis(table: pd.DataFrame) -> alt.X:
    return alt.X("rank:O", title="Rank k of the map", sort=rank_order(table["rank"]), axis=alt.Axis(labelAngle=0))


def chosen_rank(table: pd.DataFrame, rank: str) -> alt.Chart:
    position = alt.Chart(pd.DataFrame({"rank": [rank]}))
    return position.mark_rule(color=ORANGE, strokeDash=[2, 2]).encode(rank_axis(table))


def rank_curve(table: pd.DataFrame, complement: str, rank: str, subtitle: str = "") -> alt.LayerChart:
    """Effect over rank: the chosen complement with its band, another one lighter, controls muted, live points on top.

    table: columns rank (text), shown (complement mean, complement own, UNCUT or a control's name), mean, low, high (nats), and
    perhaps live (bool). rank: the chosen one, among them.
    """
    looks = {f"complement {complement}": (BLUE, SOLID, True), UNCUT: (GREEN, [12, 3], False)}
    looks |= {f"complement {other}": (LIGHT, DASHED, False) for other in OTHERS.get(complement, ())}
    scale, note = room(table)
    layers = curves(table, rank_axis(table), looks | MUTED, KL, now=rank, **scale)
    about = [subtitle, note] if note else subtitle
    return titled(layered(chosen_rank(table, rank), *layers), "How many dimensions does the change need?", about)


OWN_DIRECTIONS, RANDOM_DIRECTIONS, WHOLE_PATCH = "the shift and k directions", "the shift and k random ones", "whole patch"


def difference_curve(table: pd.DataFrame, rank: str, subtitle: str = "") -> alt.LayerChart:
    """Recovery over the number of directions of the observed difference, next to random ones and the whole patch.

    table: columns rank (text), shown (OWN_DIRECTIONS, RANDOM_DIRECTIONS, WHOLE_PATCH), mean, low, high (1: the whole difference
    between the models), perhaps live (bool). rank: the chosen one.
    """
    looks = {OWN_DIRECTIONS: (BLUE, SOLID, True), RANDOM_DIRECTIONS: (GREY, DOTTED, False), WHOLE_PATCH: (GREEN, DASHED, False)}
    looks = {name: look for name, look in looks.items() if name in set(table["shown"])}
    axis = alt.X("rank:O", title="Directions k, beside the shift", sort=rank_order(table["rank"]), axis=alt.Axis(labelAngle=0))
    layers = curves(table, axis, looks, "Recovery", now=rank, live_looks={OWN_DIRECTIONS: LIVE_LOOK})
    position = alt.Chart(pd.DataFrame({"rank": [rank]})).mark_rule(color=ORANGE, strokeDash=[2, 2]).encode(axis)
    return titled(layered(zero_line(), position, *layers), "How many directions carry the difference?", subtitle)


def share_curve(table: pd.DataFrame, rank: str, subtitle: str = "") -> alt.LayerChart:
    """Recovery and drop over rank.

    table: columns rank (text), shown (recovery, drop), mean, low, high (per cent), perhaps live (bool).
    """
    looks = {"recovery": (BLUE, SOLID, True), "drop": (GREEN, DASHED, True)}
    live_looks = {"recovery": LIVE_LOOK, "drop": (PLUM, DASHED, False)}
    layers = curves(table, rank_axis(table), looks, "Share, %", now=rank, live_looks=live_looks, domain=percent(table))
    chart = layered(zero_line(), chosen_rank(table, rank), *layers)
    return titled(chart, "How much does each rank remove?", subtitle, NARROW)


def rank_alpha_map(table: pd.DataFrame, rank: str, alpha: str, subtitle: str = "") -> alt.LayerChart:
    """Drop for every rank and scale, or the effect where no drop is defined; the chosen cell is framed, live ones have a dot.

    table: columns rank, alpha, mean, low, high (nats), drop (per cent), and live (bool).
    """
    alphas = sorted(set(table["alpha"]), key=lambda text: (text != "auto", text))
    x, y = rank_axis(table), alt.Y("alpha:O", title="Alpha", sort=alphas)
    tip = [alt.Tooltip("rank:O"), alt.Tooltip("alpha:O"), *numbers("drop", "mean", "low", "high"), alt.Tooltip("live:N")]
    legend = alt.Legend(gradientLength=180)
    if table["drop"].notna().any():
        ends = alt.Scale(scheme="redblue", domain=[-100, 100], domainMid=0, clamp=True)
        colour = alt.Color("drop:Q", title="drop, %", scale=ends, legend=legend)
    else:
        colour = alt.Color("mean:Q", title="KL, nats", scale=alt.Scale(range=RISING), legend=legend)
    cells = alt.Chart(table).mark_rect().encode(x, y, colour, tooltip=tip)
    cells = clickable(cells, f"{rank} {alpha}", "rank", "alpha", nearest=False)
    chosen = table[(table["rank"] == rank) & (table["alpha"] == alpha)]
    frame = alt.Chart(chosen).mark_rect(fill=None, stroke=ORANGE, strokeWidth=3).encode(x, y)
    dots = alt.Chart(table[table["live"]]).mark_point(size=110, filled=True, color=ORANGE, opacity=1).encode(x, y)
    return titled(layered(cells, frame, dots), "Which rank and scale work best?", subtitle)


def overlap_curve(table: pd.DataFrame, subtitle: str = "") -> alt.Chart:
    """Split-half overlap of the leading directions. table: columns rank (text), overlap (0 to 1)."""
    tip = [alt.Tooltip("rank:O"), alt.Tooltip("overlap:Q", format=".2f")]
    y = alt.Y("overlap:Q", title="Split-half overlap", scale=alt.Scale(domain=[0, 1]))
    line = alt.Chart(table).mark_line(point={"size": 30}, color=BLUE).encode(rank_axis(table), y, tooltip=tip)
    return titled(line, "Are the leading directions stable?", subtitle, NARROW)
