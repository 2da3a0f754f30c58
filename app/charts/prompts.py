"""One layer closer: its effect over prompts, and one prompt's next tokens."""

import altair as alt
import pandas as pd

from charts.base import BLUE, GREY, HEIGHT, KL, ORANGE, titled

MODELS = {"base": GREY, "tuned": BLUE, "patched": ORANGE}


def prompt_spread(table: pd.DataFrame, mean: float, low: float, high: float, layer: int, picked: int) -> alt.LayerChart:
    """The effect at one layer over prompts: a tick each, the mean with its interval, and the picked prompt.

    table: a row per prompt, with columns prompt, kl (nats), text.
    """
    axis = alt.X("kl:Q").title(KL)
    count = alt.Y("count()").title("Prompts").axis(tickMinStep=1)
    bars = alt.Chart(table).mark_bar(opacity=0.55, color=BLUE).encode(axis.bin(maxbins=24), count)
    interval = pd.DataFrame({"mean": [mean], "low": [low], "high": [high]})
    rule = alt.Chart(interval).mark_rule(color=ORANGE, size=2).encode(alt.X("mean:Q").title(KL))
    span = alt.Chart(interval).mark_rect(color=ORANGE, opacity=0.18).encode(alt.X("low:Q"), alt.X2("high:Q"))
    ticks = (
        alt.Chart(table)
        .mark_tick(thickness=2, size=14)
        .encode(
            alt.X("kl:Q"),
            y=alt.value(HEIGHT - 7),
            tooltip=["prompt", alt.Tooltip("kl:Q", format=".4f"), "text"],
            color=alt.condition(f"datum.prompt == {picked}", alt.value(ORANGE), alt.value(GREY)),
            size=alt.condition(f"datum.prompt == {picked}", alt.value(40), alt.value(14)),
        )
    )
    subtitle = "A tick a prompt, orange: the one on the right; line and shade: mean with 95 % interval"
    return titled(bars + span + rule + ticks, f"How does layer {layer} differ from prompt to prompt?", subtitle)


def token_bars(table: pd.DataFrame, layer: int) -> alt.Chart:
    """Likeliest next tokens of base, tuned and patched model, side by side.

    table: columns token, model, probability.
    """
    order = list(dict.fromkeys(table["token"]))
    chart = (
        alt.Chart(table)
        .mark_bar()
        .encode(
            alt.Y("token:N").title("Next token").sort(order),
            alt.X("probability:Q").title("Probability").axis(format="%"),
            alt.YOffset("model:N").sort(list(MODELS)),
            alt.Color("model:N").title(None).scale(domain=list(MODELS), range=list(MODELS.values())).legend(orient="bottom"),
            tooltip=["token", "model", alt.Tooltip("probability:Q", format=".2%")],
        )
    )
    return titled(chart, f"What does the model say next, patched at layer {layer}?").properties(
        height=max(HEIGHT, 34 * len(order))
    )
