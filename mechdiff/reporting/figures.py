"""Charts for print: PNG and SVG, black on white, the same on every machine, and the numbers behind them.

A chart is given as its Vega-Lite specification, from `chart.to_dict()`. The font is Liberation Sans, which the converter
includes; where an SVG is opened, Arial and Helvetica have the same widths.
"""

import re
import textwrap
from copy import deepcopy

import pandas as pd

WIDTH = 760  # pixels of the whole picture, at 96 an inch: 20 cm
PPI = 300  # of a PNG
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
COLUMNS, LINE = 4, 105  # of a legend; characters in a subtitle's line
CLICK = re.compile(r"[;.,]?\s*\b[Cc]lick\s[^;.]*?(?=[;.]|\n[A-Z]|$)")  # a subtitle's remarks on the mouse
INK, LINES = "#000000", "#d9d9d9"
SCREEN = ("tooltip", "href", "url", "cursor")  # channels that only a screen has
STYLE = {
    "font": FONT,
    "aria": False,  # otherwise hidden descriptions repeat the tooltips
    "background": "#ffffff",
    "title": {"color": INK, "subtitleColor": INK, "fontWeight": "bold"},
    "axis": {"labelColor": INK, "titleColor": INK, "domainColor": INK, "tickColor": INK, "gridColor": LINES}
    | {"labelFontSize": 13, "titleFontSize": 13, "titlePadding": 6, "titleFontWeight": "normal"},
    "legend": {"labelColor": INK, "titleColor": INK, "titleFontWeight": "normal"},
    "view": {"stroke": LINES},
}


def printed(chart: dict, width: int = WIDTH, style: dict = STYLE) -> dict:
    """A chart's specification for print: of a given width, with the print style, nothing to click and nothing hidden."""
    spec = on_paper(deepcopy(chart))
    title = spec.get("title")
    if isinstance(title, dict):
        title.pop("subtitleColor", None)
        title["subtitle"] = subtitle_lines(title.get("subtitle", ""))
    padding = {"left": 8, "right": 16, "top": 8, "bottom": 8}
    return spec | {"width": width, "background": style["background"], "padding": padding, "config": style}


def on_paper(spec: dict) -> dict:
    """A specification, or one of its layers, without what is only for a screen."""
    spec.pop("params", None)
    channels = spec.get("encoding", {})
    for name in SCREEN:
        channels.pop(name, None)
    for part in (part for part in channels.values() if isinstance(part, dict)):
        legend = part.get("legend")
        if isinstance(legend, dict) and isinstance(legend.get("columns"), dict):  # depends on the width, which is known too late
            legend["columns"] = COLUMNS
        axis = part.get("axis")
        if isinstance(axis, dict) and axis.get("labels") is False:  # on the screen another chart next to it has them
            axis |= {"labels": True, "ticks": True}
    mark = spec.get("mark")
    if isinstance(mark, dict):
        mark.pop("tooltip", None)
        if mark.get("type") == "text":
            mark["color"] = INK
    if "layer" in spec:
        spec["layer"] = [on_paper(layer) for layer in spec["layer"] if not invisible(layer)]
    return spec


def subtitle_lines(subtitle: str | list[str]) -> list[str]:
    """A subtitle in lines of the paper's width, without remarks on the mouse. A line that began with a capital stays one."""
    text = CLICK.sub("", subtitle if isinstance(subtitle, str) else "\n".join(subtitle))
    parts = re.split(r"\n(?=[A-Z])", text)
    return [line for part in parts for line in textwrap.wrap(part, LINE)]


def invisible(layer: dict) -> bool:
    """Whether a layer exists only for the pointer."""
    mark = layer.get("mark")
    return isinstance(mark, dict) and mark.get("opacity") == 0


def svg(chart: dict, width: int = WIDTH, style: dict = STYLE) -> bytes:
    """A chart as SVG. width: in pixels. style: Vega-Lite's config."""
    import vl_convert

    return vl_convert.vegalite_to_svg(printed(chart, width, style), allowed_base_urls=[]).encode()


def png(chart: dict) -> bytes:
    """A chart as PNG, at PPI dots an inch."""
    import vl_convert

    return vl_convert.vegalite_to_png(printed(chart), scale=72 / 96, ppi=PPI, allowed_base_urls=[])


def title(chart: dict) -> str:
    """A chart's question."""
    text = chart.get("title", "")
    text = text.get("text", "") if isinstance(text, dict) else text
    return " ".join(text) if isinstance(text, list) else text


def numbers(chart: dict) -> pd.DataFrame:
    """The table that a chart draws: the largest of its layers' tables."""
    tables = [*chart.get("datasets", {}).values(), *inline(chart)]
    return pd.DataFrame(max(tables, key=len, default=[]))


def inline(spec: dict) -> list[list[dict]]:
    """The tables that are given where they are used."""
    tables = [spec["data"]["values"]] if "values" in spec.get("data", {}) else []
    return tables + [table for layer in spec.get("layer", []) for table in inline(layer)]
