"""One prompt in detail: next tokens, maps of its sites and positions, a stack and its parts. Clicks return sites and tokens."""

import json
from typing import Any

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.base import BLUE, GREY, KL, LIGHT, ORANGE, clickable, layered, numbers, titled
from mechdiff.reporting.charts.prompts import MODELS

NONE = "rgba(138, 143, 152, .12)"  # the colour of zero, for light and dark backgrounds
RISING: dict[str, Any] = {"range": [NONE, BLUE], "type": "sqrt", "interpolate": "rgb"}
DIVERGING: dict[str, Any] = {"range": [BLUE, NONE, ORANGE], "clamp": True, "interpolate": "rgb"}
MEASURES = {"effect": "KL, nats", "recovery": "Recovery", "target": "Change, nats"}  # a map's measure -> its legend's title
MOST = 7  # next tokens in a chart
BAR = 34  # a bar's height with its gap, in pixels
NAMED = 140  # with more tokens than this, the axis shows their numbers instead of their text


def next_bars(table: pd.DataFrame, title: str, subtitle: str = "") -> alt.Chart:
    """Likeliest next tokens of all models, side by side. table: columns token, model, probability, the likeliest first."""
    table = table[table["token"].isin(list(dict.fromkeys(table["token"]))[:MOST])]
    models = [model for model in MODELS if model in set(table["model"])]
    colour = alt.Color("model:N").title(None).scale(domain=models, range=[MODELS[model] for model in models])
    y = alt.Y("token:N").title(None).sort(list(dict.fromkeys(table["token"]))).axis(labelLimit=140)
    x = alt.X("probability:Q").title("Probability").axis(format="%", tickCount=5)
    tip = ["token", "model", alt.Tooltip("probability:Q", format=".2%")]
    bars = alt.Chart(table).mark_bar().encode(x, y, alt.YOffset("model:N").sort(models), tooltip=tip)
    bars = bars.encode(colour.legend(orient="bottom", offset=2))
    return titled(bars, title, subtitle).properties(height=12 * len(models) * table["token"].nunique())


def site_map(table: pd.DataFrame, y: str, measure: str, now: object, title: str, subtitle: str = "") -> alt.LayerChart:
    """What one replaced state does, by layer and y (stream or head). A click returns a cell's layer and y.

    table: columns layer, y, value (in the measure's unit, nan where it is undefined), chosen (whether it is in the stack), and
    kl (nats). now: the stack as it is.
    """
    legend, most = MEASURES[measure], table["value"].abs().max()
    if not most > 0 or (measure == "recovery" and most > 1):  # no values; or a state that makes recovery worse, without a bound
        most = 1.0
    scale = RISING if measure == "effect" else DIVERGING | {"domain": [-most, 0, most]}
    x = alt.X("layer:O").title("Layer").axis(labelAngle=0, labelOverlap=True)
    rows = alt.Y(f"{y}:O").title("Head" if y == "head" else None).sort(list(dict.fromkeys(table[y])))
    colour = alt.Color("value:Q").title(legend).scale(**scale).legend(orient="right", gradientLength=130, gradientThickness=10)
    tip = ["layer", y, alt.Tooltip("value:Q", format=".4~g", title=legend), alt.Tooltip("kl:Q", format=".4~g", title="KL, nats")]
    cells = alt.Chart(table).mark_rect().encode(x, rows, colour, tooltip=tip)
    frame = alt.Chart(table[table["chosen"]]).mark_rect(fill=None, stroke=ORANGE, strokeWidth=2.5).encode(x, rows)
    return titled(layered(clickable(cells, now, "layer", y, nearest=False), frame), title, subtitle).properties(height=190)


def stack_bars(table: pd.DataFrame, title: str, unit: str, named: bool, **axis) -> alt.LayerChart:
    """A number of the whole stack and of each part alone, with intervals, and the floor of rounding.

    table: columns name, kind (whole, part), mean, low, high, text (next to the bar), floor, in the order to show.
    named: whether the axis shows the names.
    """
    low, high = (table[end].fillna(table["mean"]) for end in ("low", "high"))
    table = table.assign(end=high.clip(lower=0))
    left, right = min(0.0, low.min()), max(table["end"].max(), table["floor"].max())
    room = alt.Scale(domain=[left, right + 0.45 * (right - left or 1.0)], nice=False)
    x = alt.X("mean:Q").title(unit).scale(room).axis(tickCount=4, grid=False, **axis)
    y = alt.Y("name:N").title(None).sort(list(table["name"])).axis(labels=named, ticks=named, labelLimit=170)
    colour = alt.Color("kind:N").scale(domain=["whole", "part"], range=[ORANGE, LIGHT]).legend(None)
    base = alt.Chart(table).encode(y)
    bars = base.mark_bar().encode(x, colour, tooltip=["name", *numbers("mean", "low", "high")])
    whiskers = base.mark_rule(size=1.5, color=GREY).encode(alt.X("low:Q"), alt.X2("high:Q"))
    floor = base.mark_rule(color=GREY, strokeDash=[3, 3]).encode(alt.X("floor:Q"), y=alt.value(0), y2=alt.value("height"))
    words = base.mark_text(align="left", dx=6, color=GREY, fontSize=13).encode(alt.X("end:Q"), text="text:N")
    return titled(layered(bars, whiskers, floor, words), title).properties(height=BAR * len(table))


def position_map(table: pd.DataFrame, words: list[str], layer: int, back: int) -> alt.LayerChart:
    """Effect of one replaced state on the prompt's next token, by the token and layer where it is replaced.

    table: columns token, text, back, layer, kl (nats), as far as computed. words: every token of the prompt, in order.
    A click returns a cell's layer and back.
    """
    names = f"{json.dumps(words)}[datum.value]" if len(words) <= NAMED else "datum.value"
    axis = {"labelExpr": names, "labelAngle": -60, "labelLimit": 70, "labelOverlap": "greedy", "labelFontSize": 12}
    x = alt.X("token:O").title("Token whose state is replaced").scale(domain=list(range(len(words)))).axis(**axis)
    y = alt.Y("layer:O").title("Layer").sort("descending")
    scale = RISING | {"type": "symlog", "constant": max(1e-6, table["kl"].max() / 300)}  # the last token dwarfs the rest
    colour = alt.Color("kl:Q").title("KL, nats").scale(**scale).legend(gradientLength=150)
    tip = ["token", "text", "layer", alt.Tooltip("kl:Q", format=".4~g", title="KL, nats")]
    cells = alt.Chart(table).mark_rect().encode(x, y, colour, tooltip=tip)
    chosen = table[(table["layer"] == layer) & (table["back"] == back)]
    frame = alt.Chart(chosen).mark_rect(fill=None, stroke=ORANGE, strokeWidth=2.5).encode(x, y)
    cells = clickable(cells, f"{layer} {back}", "layer", "back", nearest=False)
    return titled(layered(cells, frame), "At which token and layer does the other model's state matter?", KL)
