"""Charts of a map over its scales, streams and singular directions, as the original study drew them."""

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.base import BLUE, GREEN, GREY, NARROW, ORANGE, PLUM, layered, numbers, titled, zero_line
from mechdiff.reporting.charts.ranks import rank_order

DROP = "Drop relative to z-score, %"
LOWEST = -200.0  # per cent: the lowest end of a drop axis
SHARES = {50: GREEN, 80: ORANGE, 90: PLUM}  # per cent of the sum of singular values


def alpha_curve(table: pd.DataFrame, alpha: str, subtitle: str = "") -> alt.LayerChart:
    """Drop over the scale of the mapped state, a line for every rank; the fitted scale, auto, stands apart on the left.

    table: columns rank, alpha (texts), drop, drop_low, drop_high (per cent). alpha: the chosen one.
    """
    scales = sorted(set(table["alpha"]), key=lambda text: (text != "auto", text))
    x = alt.X("alpha:O", title="Alpha: scale of the mapped state", sort=scales, axis=alt.Axis(labelAngle=0))
    ranks = rank_order(table["rank"])
    colour = alt.Color("rank:N", title="rank k", sort=ranks, scale=alt.Scale(domain=ranks, scheme="viridis"))
    y = alt.Y("drop:Q", title=DROP, scale=alt.Scale(domain=[max(LOWEST, min(0, table["drop"].min())), 100]))
    tip = [alt.Tooltip("rank:N"), alt.Tooltip("alpha:O"), *numbers("drop", "drop_low", "drop_high")]
    base = alt.Chart(table).encode(x, colour)
    lines = base.mark_line(clip=True).encode(y).transform_filter("datum.alpha != 'auto'")
    points = base.mark_point(filled=True, size=45, clip=True).encode(y, tooltip=tip)
    bars = base.mark_rule(clip=True).encode(alt.Y("drop_low:Q", title=DROP), alt.Y2("drop_high:Q"))
    chosen = alt.Chart(pd.DataFrame({"alpha": [alpha]})).mark_rule(color=ORANGE, strokeDash=[2, 2]).encode(x)
    return titled(layered(zero_line(), chosen, bars, lines, points), "Which scale works, for each rank?", subtitle)


def stream_bars(table: pd.DataFrame, subtitle: str = "") -> alt.LayerChart:
    """The largest drop over layers, a bar for every stream.

    table: columns stream, layer, drop, drop_low, drop_high (per cent).
    """
    x = alt.X("drop:Q", title=DROP)
    y = alt.Y("stream:N", title=None, sort=list(table["stream"]))
    tip = [alt.Tooltip("stream:N"), alt.Tooltip("layer:Q"), *numbers("drop", "drop_low", "drop_high")]
    bars = alt.Chart(table).mark_bar(color=BLUE, height=18).encode(x, y, tooltip=tip)
    whiskers = alt.Chart(table).mark_rule(color=GREY, size=2).encode(alt.X("drop_low:Q", title=DROP), alt.X2("drop_high:Q"), y)
    named = alt.Chart(table.assign(label="L" + table["layer"].astype(str)))
    names = named.mark_text(align="left", dx=4, color=GREY).encode(alt.X("right:Q", title=DROP), y, alt.Text("label:N"))
    names = names.transform_calculate(right="max(datum.drop, isValid(datum.drop_high) ? datum.drop_high : datum.drop, 0)")
    return titled(layered(bars, whiskers, names), "Which stream transports best?", subtitle, NARROW)


def spectrum_curve(table: pd.DataFrame, subtitle: str = "") -> alt.LayerChart:
    """The cumulative singular values of the map, and the ranks that reach 50, 80 and 90 per cent of their sum.

    table: columns rank (number), share (0 to 1).
    """
    x = alt.X("rank:Q", title="Rank k", scale=alt.Scale(type="log"))
    y = alt.Y("share:Q", title="Share of the sum of singular values", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    line = alt.Chart(table).mark_line(color=BLUE, point={"size": 25}).encode(x, y, tooltip=["rank:Q", *numbers("share")])
    rules = [
        alt.Chart(pd.DataFrame({"share": [share / 100]})).mark_rule(color=colour, strokeDash=[3, 3]).encode(y)
        for share, colour in SHARES.items()
    ]
    return titled(layered(*rules, line), "How many directions does the map have?", subtitle, NARROW)
