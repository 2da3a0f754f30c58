"""Tables to charts: pure functions, no streamlit. Every chart has a question for its title and units on its axes."""

import altair as alt
import pandas as pd

HEIGHT = 300
BLUE, ORANGE, GREY, GREEN = "#3f78d8", "#e07b39", "#8a8f98", "#3a9d6e"
MODELS = {"base": GREY, "tuned": BLUE, "patched": ORANGE}
KL = "Effect: KL(patched || clean), nats"


def layer_axis(title: str = "Layer") -> alt.X:
    return alt.X("layer:Q").title(title).axis(tickMinStep=1, grid=False).scale(nice=False)


def titled(chart, title: str, subtitle: str = ""):
    title = alt.TitleParams(
        title, subtitle=subtitle or [], anchor="start", fontSize=16, subtitleFontSize=12, subtitleColor=GREY, offset=12
    )
    return chart.properties(title=title, height=HEIGHT, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))


def drift_curve(table: pd.DataFrame, layer: int | None = None, subtitle: str = "") -> alt.LayerChart:
    """Similarity of the two models by layer: debiased CKA with its 95 % interval, and plain CKA dashed.

    table: a row per layer and stream, with columns layer, stream, cka, cka_debiased, low, high, n.
    """
    names = {"cka_debiased": "debiased", "cka": "plain"}
    long = table.melt(["layer", "stream", "low", "high", "n"], list(names), "estimator", "similarity")
    long["estimator"] = long["estimator"].map(names)
    base = alt.Chart(long).encode(layer_axis())
    colour = alt.Color("stream:N").title("Stream").legend(None if table["stream"].nunique() == 1 else alt.Legend(orient="bottom"))
    dash = alt.StrokeDash("estimator:N").scale(domain=["debiased", "plain"], range=[[1, 0], [4, 3]]).legend(None)
    tip = ["stream", "layer", "estimator", alt.Tooltip("similarity:Q", format=".3f"), "n"]
    similarity = alt.Y("similarity:Q").title("Linear CKA, base against tuned").scale(zero=True)
    band = base.transform_filter("datum.estimator == 'debiased'").mark_area(opacity=0.18)
    band = band.encode(alt.Y("low:Q").title("Linear CKA, base against tuned"), alt.Y2("high:Q"), colour)
    line = base.mark_line(point={"size": 24}).encode(
        similarity,
        colour,
        dash,
        tooltip=tip,
    )
    layers = [band, line] if layer is None else [band, line, chosen_layer(layer)]
    about = f"Solid: debiased CKA; dashed: plain. {subtitle}"
    return titled(alt.layer(*layers), "Where do the two models' representations part?", about)


def chosen_layer(layer: int) -> alt.Chart:
    return alt.Chart(pd.DataFrame({"layer": [layer]})).mark_rule(color=ORANGE, strokeDash=[2, 2]).encode(alt.X("layer:Q"))


def layer_curve(table: pd.DataFrame, layer: int | None = None, subtitle: str = "") -> alt.LayerChart:
    """Effect of patching each layer, with its 95 % interval over prompts; controls in grey.

    table: a row per layer and control, with columns layer, control, mean, low, high (nats), prompts, templates.
    """
    tip = [
        "layer",
        "control",
        *(alt.Tooltip(f"{name}:Q", format=".4f") for name in ("mean", "low", "high")),
        "prompts",
        "templates",
    ]
    base = alt.Chart(table).encode(layer_axis())
    kinds = ["patched" if kind == "none" else f"{kind} (floor)" for kind in table["control"].unique()]
    colour = alt.Color("shown:N").title(None).scale(domain=kinds, range=[BLUE, GREY][: len(kinds)])
    colour = colour.legend(None if len(kinds) == 1 else alt.Legend(orient="bottom", symbolOpacity=1))
    base = base.transform_calculate(shown="datum.control == 'none' ? 'patched' : datum.control + ' (floor)'")
    band = base.mark_area(opacity=0.2).encode(alt.Y("low:Q").title(KL), alt.Y2("high:Q"), colour)
    line = base.mark_line(point={"size": 24}).encode(alt.Y("mean:Q").title(KL), colour, tooltip=tip)
    layers = [band, line] if layer is None else [band, line, chosen_layer(layer)]
    return titled(alt.layer(*layers), "Which layers' states move the next token?", subtitle)


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


def heads_map(table: pd.DataFrame, layer: int, chosen: list[int]) -> alt.LayerChart:
    """Effect of every single head of every layer; a click selects a head.

    table: a row per layer and head, with columns layer, head, mean (nats), share (of all heads' effect at that layer).
    """
    tip = ["layer", "head", alt.Tooltip("mean:Q", format=".5f", title="KL, nats"), alt.Tooltip("share:Q", format=".0%")]
    pick = alt.selection_point(name="cell", fields=["layer", "head"], on="click", clear=False)
    cells = (
        alt.Chart(table)
        .mark_rect()
        .encode(
            alt.X("layer:O").title("Layer").axis(labelAngle=0),
            alt.Y("head:O").title("Head"),
            alt.Color("mean:Q").title("KL, nats").scale(scheme="blues").legend(orient="right", gradientLength=180),
            tooltip=tip,
        )
    )
    marked = table[(table["layer"] == layer) & table["head"].isin(chosen)]
    frame = alt.Chart(marked).mark_rect(fill=None, stroke=ORANGE, strokeWidth=2.5).encode(alt.X("layer:O"), alt.Y("head:O"))
    column = alt.Chart(table[table["layer"] == layer]).mark_rect(fill=None, stroke=ORANGE, strokeWidth=0.6)
    column = column.encode(alt.X("layer:O"), alt.Y("head:O"))
    subtitle = "Each cell: one head's output replaced by the other model's. Click a cell to add or drop that head."
    return titled(cells.add_params(pick) + column + frame, "Which single heads carry the change?", subtitle)


def head_bars(table: pd.DataFrame, layer: int) -> alt.LayerChart:
    """Effects at one layer: each head alone, the chosen set, and all heads together, with 95 % intervals.

    table: columns label, kind (single, chosen, all), mean, low, high (nats), in the order to show.
    """
    kinds, colours = ["single", "chosen", "all"], [BLUE, ORANGE, GREY]
    order = list(table["label"])
    base = alt.Chart(table).encode(alt.X("label:N").title(f"Heads replaced at layer {layer}").sort(order).axis(labelAngle=0))
    colour = alt.Color("kind:N").title(None).scale(domain=kinds, range=colours).legend(orient="bottom")
    tip = ["label", *(alt.Tooltip(f"{name}:Q", format=".5f") for name in ("mean", "low", "high"))]
    bars = base.mark_bar().encode(alt.Y("mean:Q").title(KL), colour, tooltip=tip)
    whiskers = base.mark_rule(size=1.5, color=GREY).encode(alt.Y("low:Q").title(KL), alt.Y2("high:Q"))
    return titled(
        bars + whiskers, "How much do the chosen heads carry, beside each alone?", "Whiskers: 95 % interval over prompts"
    )
