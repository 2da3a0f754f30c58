"""Charts over the rank that a map is cut to."""

import altair as alt
import pandas as pd

from charts.base import BLUE, DASHED, GREEN, KL, LIGHT, ORANGE, SOLID, curves, nought, numbers, percent, room, titled
from charts.layers import MUTED, POINT

UNCUT = "uncut map"
OTHERS = {"mean": "own", "own": "mean"}


def rank_order(ranks) -> list[str]:
    """Ranks from the smallest; the uncut map last."""
    return sorted(set(ranks), key=lambda rank: (not rank.isdigit(), int(rank) if rank.isdigit() else 0))


def rank_axis(table: pd.DataFrame) -> alt.X:
    return alt.X("rank:O").title("Rank k of the map").sort(rank_order(table["rank"])).axis(labelAngle=0)


def rank_curve(table: pd.DataFrame, complement: str, subtitle: str = "") -> alt.LayerChart:
    """Effect over rank: the chosen complement with its band, the other one lighter, controls muted, the live point on top.

    table: columns rank (text), shown (complement mean, complement own, UNCUT, a control's name or LIVE), mean, low, high (nats).
    """
    looks = {
        f"complement {complement}": (BLUE, SOLID, True),
        f"complement {OTHERS[complement]}": (LIGHT, SOLID, False),
        UNCUT: (GREEN, DASHED, False),
    }
    scale, told = room(table)
    layers = curves(table, rank_axis(table), looks | MUTED | POINT, KL, **scale)
    return titled(alt.layer(*layers), "How many dimensions does the change need?", [subtitle, told] if told else subtitle)


def share_curve(table: pd.DataFrame, subtitle: str = "") -> alt.LayerChart:
    """Recovery and drop over rank. table: columns rank (text), shown (recovery, drop or LIVE), mean, low, high (per cent)."""
    looks = {"recovery": (BLUE, SOLID, True), "drop": (GREEN, SOLID, True)} | POINT
    layers = [*curves(table, rank_axis(table), looks, "Share, %", domain=percent(table)), nought()]
    return titled(alt.layer(*layers), "How much of the difference does each rank remove?", subtitle)


def rank_alpha_map(table: pd.DataFrame, rank: str, alpha: str, subtitle: str = "") -> alt.LayerChart:
    """Mean effect for every rank and scale; the chosen cell is framed. table: columns rank, alpha, mean, low, high (nats)."""
    alphas = sorted(set(table["alpha"]), key=lambda text: (text != "auto", text))
    x, y = rank_axis(table), alt.Y("alpha:O").title("Scale alpha").sort(alphas)
    tip = ["rank", "alpha", *numbers("mean", "low", "high")]
    colour = alt.Color("mean:Q").title("KL, nats").scale(scheme="blues").legend(orient="right", gradientLength=180)
    cells = alt.Chart(table).mark_rect().encode(x, y, colour, tooltip=tip)
    chosen = table[(table["rank"] == rank) & (table["alpha"] == alpha)]
    frame = alt.Chart(chosen).mark_rect(fill=None, stroke=ORANGE, strokeWidth=3).encode(x, y)
    return titled(cells + frame, "Which rank and scale serve best?", subtitle)


def overlap_curve(table: pd.DataFrame, subtitle: str = "") -> alt.Chart:
    """Split-half overlap of the leading directions. table: columns rank (text), overlap (0 to 1)."""
    tip = ["rank", alt.Tooltip("overlap:Q", format=".2f")]
    line = alt.Chart(table).mark_line(point={"size": 30}, color=BLUE)
    line = line.encode(rank_axis(table), alt.Y("overlap:Q").title("Split-half overlap").scale(domain=[0, 1]), tooltip=tip)
    return titled(line, "Are the leading directions stable?", subtitle)
