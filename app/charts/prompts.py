"""One layer closer: its effect over prompts, and one prompt's next tokens."""

import altair as alt
import pandas as pd

from charts.base import BLUE, GREY, HEIGHT, KL, NARROW, ORANGE, clickable, titled

MODELS = {"base": GREY, "tuned": BLUE, "patched": ORANGE}


def prompt_spread(table: pd.DataFrame, mean: float, low: float, high: float, layer: int, picked: int) -> alt.LayerChart:
    """The effect at one layer over prompts: a dot each, the mean with its interval, and the picked prompt.

    table: a row per prompt, with columns prompt, kl (nats), text.
    """
    x = alt.X("kl:Q").title(KL)
    count = alt.Y("count()").title("Prompts").axis(tickMinStep=1)
    bars = alt.Chart(table).mark_bar(opacity=0.35, color=BLUE).encode(x.bin(maxbins=24), count)
    interval = pd.DataFrame({"mean": [mean], "low": [low], "high": [high]})
    rule = alt.Chart(interval).mark_rule(color=ORANGE, size=2).encode(alt.X("mean:Q").title(KL))
    span = alt.Chart(interval).mark_rect(color=ORANGE, opacity=0.18).encode(alt.X("low:Q"), alt.X2("high:Q"))
    this = f"datum.prompt == {picked}"
    dots = (
        alt.Chart(table)
        .mark_point(filled=True, stroke="white", strokeWidth=0.7, opacity=1)
        .encode(
            alt.X("kl:Q"),
            y=alt.value(HEIGHT - 8),
            tooltip=["prompt", alt.Tooltip("kl:Q", format=".4f"), "text"],
            color=alt.condition(this, alt.value(ORANGE), alt.value(BLUE)),
            size=alt.condition(this, alt.value(260), alt.value(70)),
        )
    )
    subtitle = "A dot a prompt; click one. Line and shade: mean with 95 % interval"
    layers = bars + span + rule + clickable(dots, picked, "prompt")
    return titled(layers, f"How does layer {layer} vary over prompts?", subtitle, NARROW)


def token_bars(table: pd.DataFrame) -> alt.Chart:
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
    return titled(chart, "What does the patched model say next?").properties(
        height=max(HEIGHT, 34 * len(order))
    )
