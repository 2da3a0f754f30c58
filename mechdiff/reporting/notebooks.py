"""A number on the screen as Python: a short snippet that gives it, and a notebook with the same code and a chart."""

import json
from dataclasses import fields

from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import OWN
from mechdiff.questions import Question
from mechdiff.reporting.bundle import Headline
from mechdiff.study.compare_sweeps import Comparison

WIDTH = 80  # letters of a line of code
RUN = """table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)"""
COMPARED = ["quantity", "a", "b", "difference"]
CHARTS = {  # of which questions a chart is a line or two
    "drift": "charts.drift_curve(table)",
    "patch": """shown = lines["control"].map(charts.CONTROL_NAMES).fillna(charts.PATCHED)
charts.layer_curve(lines.assign(shown=shown))""",
    "compare": """from mechdiff.study.stored_sweep import parse

a, b = (parse(name, {direction!r}) for name in ({a!r}, {b!r}))
charts.compared_effect({{f"A: {{a.label}}": a.effect(), f"B: {{b.label}}": b.effect()}}, {{}})""",
}


def snippet(request: Question | Comparison, headline: Headline | None = None, texts: bool = False) -> str:
    """Python that gives a request's table, and prints the headline's number with its interval.

    texts: whether one's own prompts are written out; else their name stands there, which is known on this machine alone.
    """
    if isinstance(request, Comparison):
        asked = call("mechdiff.compare_sweeps", [literal(request.a), literal(request.b)], changed(request, ("a", "b")))
        return f"import mechdiff\n\nverdict = {asked}\nprint(verdict[{COMPARED}].to_string())\n"
    before, given = spoken(request, texts)
    asked = call("mechdiff.Run", [literal(request.question)], given)
    return f"import mechdiff\n\n{before}run = {asked}\n{RUN}\n{printed(request, headline)}\n"


def printed(request: Question, headline: Headline | None) -> str:
    """The lines that print the number, or all that there are."""
    if headline is None:
        return "print(lines.to_string())"
    # a label may hold anything but quotes of both kinds, so that repr is what a query understands
    condition = " and ".join(f"{name} == {value!r}" for name, value in headline.where.items())
    picked = f"line = lines.query({condition!r}).squeeze()" if condition else "line = lines.squeeze()"
    columns = (headline.column,) if request.question == "weights" else (headline.column, "low", "high")  # weights: no interval
    return f"{picked}\nprint({', '.join(f'line[{literal(name)}]' for name in columns)})"


def spoken(run: Question, texts: bool) -> tuple[str, dict]:
    """Code that keeps the run's own prompts here, where they may be told, and the run's arguments as code."""
    given, before = changed(run), ""
    for name in ("prompts", "train"):
        value = getattr(run, name)
        if value is None or not value.startswith(OWN):
            continue
        found = prompts.read_prompts(value)
        if texts or prompts.public(found):
            listed = "".join(f"    mechdiff.Prompt({', '.join(map(literal, told(one)))}),\n" for one in found)
            before += f"{name} = mechdiff.keep_prompts([\n{listed}])\n"
            given[name] = name
        else:
            before += f"# {name}: texts that are kept on the machine where they were typed, under this name\n"
    return before, given


def told(prompt: prompts.Prompt) -> list:
    """A prompt's fields, its label only where it has one."""
    return [prompt.text, prompt.template, *([prompt.answer, prompt.choices] if prompt.answer else [])]


def changed(request, but: tuple[str, ...] = ()) -> dict[str, str]:
    """The fields that are not the default, as code. What a question fills in by itself is not said again."""
    found = {}
    for spec in (spec for spec in fields(request) if spec.name not in but):
        value = getattr(request, spec.name)
        if value is not None and (value != spec.default or spec.name == "pair"):
            found[spec.name] = literal(value)
    return found


def literal(value) -> str:
    """A value as Python writes it, words in double quotes."""
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' * (len(value) == 1)})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def call(name: str, first: list[str], given: dict[str, str]) -> str:
    """A call as code, on one line if it fits."""
    parts = [*first, *(f"{key}={value}" for key, value in given.items())]
    line = f"{name}({', '.join(parts)})"
    return line if len(line) < WIDTH else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def notebook(request: Question | Comparison, headline: Headline | None, link: str, command: str, texts: bool = False) -> bytes:
    """The same as a notebook, with what was seen in words, and a chart where one is a line or two."""
    seen = f"On the screen: **{headline.value:.6g} {headline.unit}**, {headline.asked}, {headline.of}." if headline else ""
    told = f"# A finding of mechdiff\n\n{seen}\n\nThe view: `{link}`\n\nThe same on the command line: `{command}`"
    cells = [markdown(told), code(snippet(request, headline, texts).rstrip())]
    kind = "compare" if isinstance(request, Comparison) else request.question
    whole = isinstance(request, Comparison) or request.layers is None
    if kind in CHARTS and whole:
        drawn = CHARTS[kind].format(**vars(request)) if kind == "compare" else CHARTS[kind]
        cells.append(code(f"from mechdiff import charts\n\n{drawn}"))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1).encode()


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def code(text: str) -> dict:
    return {"cell_type": "code", "metadata": {}, "source": text, "execution_count": None, "outputs": []}
