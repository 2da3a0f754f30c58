"""A finished chart for a large audience: its text and marks grow with the window, and it fills the available height."""

import re
import textwrap
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

UNIT = "(min(windowSize()[1], windowSize()[0] / 1.6) / 470)"  # the factor of all sizes; Vega evaluates the window's size
SIZES = ("fontSize", "FontSize", "LineHeight", "symbolSize", "symbolStrokeWidth", "gradientLength", "labelLimit", "strokeWidth")
CONFIG = {"axis": {"labelFontSize": 13, "titleFontSize": 11.5}, "legend": {"labelFontSize": 13, "titleFontSize": 12}}
DATA = ("datasets", "data", "params")  # these hold nothing that is drawn
WHOLE, HALF = 125, 48  # characters in a subtitle's line, over a slide's whole width and over less
_line = ContextVar("line", default=0)


@contextmanager
def stage(line: int):
    """Inside, every chart is drawn large. line: characters in its subtitle's line; 0: as anywhere else."""
    token = _line.set(line)
    try:
        yield
    finally:
        _line.reset(token)


def staged(chart: dict) -> dict:
    """A chart's specification as it is drawn: large inside `stage`, else unchanged."""
    return large(chart, _line.get()) if _line.get() else chart


def large(chart: dict, line: int) -> dict:
    """A Vega-Lite specification with sizes that follow the window, as high as its container."""
    config = chart.get("config", {})
    merged = {name: config.get(name, {}) | values for name, values in CONFIG.items()}
    spec = scaled(chart | {"config": config | merged}) | {"height": "container"}
    spec["autosize"] = {"type": "fit", "contains": "padding"}
    if "title" in spec:
        spec["title"] = rewrapped(spec["title"], line)
    return spec


def rewrapped(title: dict, line: int) -> dict:
    """A chart's title with lines of another length. Over the whole width, the slide's headline replaces its question."""
    subtitle = title.get("subtitle") or []
    parts: list[str] = []
    for text in [subtitle] if isinstance(subtitle, str) else subtitle:
        if parts and not text[:1].isupper():  # a part continues
            parts[-1] += f" {text}"
        else:
            parts.append(text)
    lines = [text for part in parts for text in textwrap.wrap(part, line)]
    if line < WHOLE or not lines:
        return title | {"subtitle": lines}
    small = {"text": lines, "fontWeight": "normal", "fontSize": title["subtitleFontSize"], "color": title["subtitleColor"]}
    return {name: title[name] for name in ("anchor", "offset")} | small


def scaled(node: Any, inside: str = "") -> Any:
    """A part of a specification with scaled sizes. inside: the key that holds it; sizes of marks are values of `size`."""
    if isinstance(node, list):
        return [scaled(part, inside) for part in node]
    if not isinstance(node, dict):
        return node
    result = {}
    for name, value in node.items():
        sized = name.endswith(SIZES) or (name == "value" and inside == "size") or name == "size"
        if sized and isinstance(value, int | float):
            result[name] = {"expr": f"{value} * {UNIT}"}
        elif name == "expr":
            result[name] = value.replace("width", f"(width / {UNIT})")
        elif name in DATA:
            result[name] = value
        elif name == "title" and inside in ("x", "y") and isinstance(value, str):
            result[name] = re.sub(r": [^,]*(?=, )", "", value)  # without its explanation, an axis title fits its axis
        else:
            result[name] = scaled(value, inside if name == "condition" else name)
    return result
