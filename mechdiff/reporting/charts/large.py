"""A finished chart for the back row: its text and marks grow with the window, and it fills the height it is given."""

import re
import textwrap
from contextlib import contextmanager
from contextvars import ContextVar

UNIT = "(min(windowSize()[1], windowSize()[0] / 1.6) / 470)"  # what sizes are multiplied by; Vega asks for the window's size
SIZES = ("fontSize", "FontSize", "LineHeight", "symbolSize", "symbolStrokeWidth", "gradientLength", "labelLimit", "strokeWidth")
CONFIG = {"axis": {"labelFontSize": 13, "titleFontSize": 11.5}, "legend": {"labelFontSize": 13, "titleFontSize": 12}}
DATA = ("datasets", "data", "params")  # nothing in them is drawn
WHOLE, HALF = 125, 48  # letters of a line under a title, over a slide's whole width and less
_line = ContextVar("line", default=0)


@contextmanager
def stage(line: int):
    """Inside, every chart that is drawn is a large one. line: the letters of its subtitle's line; nought: as anywhere else."""
    before = _line.set(line)
    try:
        yield
    finally:
        _line.reset(before)


def staged(chart: dict) -> dict:
    """A chart's specification as it is drawn here: large inside `stage`, else as it is."""
    return large(chart, _line.get()) if _line.get() else chart


def large(chart: dict, line: int) -> dict:
    """A Vega-Lite specification with sizes that follow the window, and as high as the place it stands in."""
    config = chart.get("config", {})
    merged = {name: config.get(name, {}) | values for name, values in CONFIG.items()}
    found = scaled(chart | {"config": config | merged}) | {"height": "container"}
    found["autosize"] = {"type": "fit", "contains": "padding"}
    if "title" in found:
        found["title"] = headed(found["title"], line)
    return found


def headed(title: dict, line: int) -> dict:
    """A chart's title with lines of another length. Over the whole width the slide's headline stands in place of its question."""
    told = title.get("subtitle") or []
    parts: list[str] = []
    for text in [told] if isinstance(told, str) else told:
        if parts and not text[:1].isupper():  # a part's further line
            parts[-1] += f" {text}"
        else:
            parts.append(text)
    told = [text for part in parts for text in textwrap.wrap(part, line)]
    if line < WHOLE or not told:
        return title | {"subtitle": told}
    small = {"text": told, "fontWeight": "normal", "fontSize": title["subtitleFontSize"], "color": title["subtitleColor"]}
    return {name: title[name] for name in ("anchor", "offset")} | small


def scaled(node, inside: str = ""):
    """inside: the name under which the node stands. Fixed sizes of marks stand as values of the size channel."""
    if isinstance(node, list):
        return [scaled(part, inside) for part in node]
    if not isinstance(node, dict):
        return node
    found = {}
    for name, value in node.items():
        sized = name.endswith(SIZES) or (name == "value" and inside == "size") or name == "size"
        if sized and isinstance(value, int | float):
            found[name] = {"expr": f"{value} * {UNIT}"}
        elif name == "expr":
            found[name] = value.replace("width", f"(width / {UNIT})")
        elif name in DATA:
            found[name] = value
        elif name == "title" and inside in ("x", "y") and isinstance(value, str):
            found[name] = re.sub(r": [^,]*(?=, )", "", value)  # without the explanation an axis title fits its axis
        else:
            found[name] = scaled(value, inside if name == "condition" else name)
    return found
