"""One layer in detail: its effect over prompts, and one prompt's next tokens."""

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.base import BLUE, GREY, HEIGHT, KL, NARROW, ORANGE, clickable, layered, titled, value_where

MODELS = {"base": GREY, "tuned": BLUE, "patched": ORANGE}


def prompt_spread(table: pd.DataFrame, mean: float, low: float, high: float, layer: int, picked: int) -> alt.LayerChart:
    """The effect at one layer over prompts: a dot each, the mean with its interval, and the picked prompt.

    table: a row per prompt, with columns prompt, kl (nats), text.
    """
    bins = alt.X("kl:Q", title=KL, bin=alt.Bin(maxbins=24))
    bars = (
        alt.Chart(table)
        .mark_bar(opacity=0.35, color=BLUE)
        .encode(bins, alt.Y("count()", title="Prompts", axis=alt.Axis(tickMinStep=1)))
    )
    interval = alt.Chart(pd.DataFrame({"mean": [mean], "low": [low], "high": [high]}))
    rule = interval.mark_rule(color=ORANGE, size=2).encode(alt.X("mean:Q", title=KL))
    span = interval.mark_rect(color=ORANGE, opacity=0.18).encode(alt.X("low:Q", title=KL), alt.X2("high:Q"))
    is_picked = f"datum.prompt == {picked}"
    dots = alt.Chart(table).mark_point(filled=True, stroke="white", strokeWidth=0.7, opacity=1)
    dots = dots.encode(
        alt.X("kl:Q", title=KL),
        alt.YValue(alt.ExprRef("height - 8")),
        value_where(alt.ColorValue, is_picked, ORANGE, BLUE),
        value_where(alt.SizeValue, is_picked, 260, 70),
        tooltip=[alt.Tooltip("prompt:Q"), alt.Tooltip("kl:Q", format=".4f"), alt.Tooltip("text:N")],
    )
    about = "Line and shade: mean with 95 % CI" if low == low else "Line: mean"
    subtitle = f"One dot per prompt; click one. {about}"
    layers = layered(bars, span, rule, clickable(dots, picked, "prompt"))
    return titled(layers, f"How does layer {layer} vary over prompts?", subtitle, NARROW)


def token_bars(table: pd.DataFrame) -> alt.Chart:
    """Likeliest next tokens of base, tuned and patched model, side by side.

    table: columns token, model, probability.
    """
    order = list(dict.fromkeys(table["token"]))
    scale = alt.Scale(domain=list(MODELS), range=list(MODELS.values()))
    chart = alt.Chart(table).mark_bar()
    chart = chart.encode(
        alt.Y("token:N", title="Next token", sort=order),
        alt.X("probability:Q", title="Probability", axis=alt.Axis(format="%")),
        alt.YOffset("model:N", sort=list(MODELS)),
        alt.Color("model:N", title=None, scale=scale, legend=alt.Legend(orient="bottom", labelFontSize=13)),
        tooltip=[alt.Tooltip("token:N"), alt.Tooltip("model:N"), alt.Tooltip("probability:Q", format=".2%")],
    )
    return titled(chart, "What does the patched model say next?").properties(height=max(HEIGHT, 34 * len(order)))
