"""A number on the screen as Python: a short snippet that computes it, and a notebook with the same code and a chart."""

import json
from dataclasses import fields

from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import OWN
from mechdiff.questions import Question
from mechdiff.reporting.bundle import Headline
from mechdiff.study.compare_sweeps import Comparison

WIDTH = 80  # letters of a line of code
FORMAT = 2  # of a notebook, in its metadata: those of version 0.1 have none
WRITTEN_OUT = {"pair", "map", "basis"}  # though it is the default: that may change
RUN = """table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)"""
COMPARED = ["quantity", "a", "b", "difference"]
CHARTS = {  # questions whose chart takes a line or two
    "drift": "charts.drift_curve(table)",
    "patch": """shown = lines["control"].map(charts.CONTROL_NAMES).fillna(charts.PATCHED)
charts.layer_curve(lines.assign(shown=shown))""",
    "compare": """from mechdiff.study.stored_sweep import parse

a, b = (parse(name, {direction!r}) for name in ({a!r}, {b!r}))
charts.compared_effect({{f"A: {{a.label}}": a.effect(), f"B: {{b.label}}": b.effect()}}, {{}})""",
}


def snippet(request: Question | Comparison, headline: Headline | None = None, texts: bool = False) -> str:
    """Python that computes a request's table, and prints the headline's number with its interval.

    texts: whether to write out the user's own prompts; otherwise the code has their name, which is known on this computer only.
    """
    if isinstance(request, Comparison):
        comparison = call("mechdiff.compare_sweeps", [literal(request.a), literal(request.b)], non_defaults(request, ("a", "b")))
        return f"import mechdiff\n\nverdict = {comparison}\nprint(verdict[{COMPARED}].to_string())\n"
    before, arguments = with_prompts(request, texts)
    run = call("mechdiff.Run", [literal(request.question)], arguments)
    return f"import mechdiff\n\n{before}run = {run}\n{RUN}\n{printed(request, headline)}\n"


def printed(request: Question, headline: Headline | None) -> str:
    """The lines that print the number, or all numbers if there is no headline."""
    if headline is None:
        return "print(lines.to_string())"
    # a label never contains quotes of both kinds, so a query understands its repr
    condition = " and ".join(f"{name} == {value!r}" for name, value in headline.where.items())
    line = f"line = lines.query({condition!r}).squeeze()" if condition else "line = lines.squeeze()"
    ends = ("low_templates", "high_templates") if headline.column == "cka_templates" else ("low", "high")
    columns = (headline.column,) if request.question == "weights" else (headline.column, *ends)  # weights: no interval
    return f"{line}\nprint({', '.join(f'line[{literal(name)}]' for name in columns)})"


def with_prompts(run: Question, texts: bool) -> tuple[str, dict[str, str]]:
    """Code that stores the run's own prompts, where they may be written out, and the run's arguments as code."""
    arguments, before = non_defaults(run), ""
    for name in ("prompts", "train"):
        value = getattr(run, name)
        if value is None or not value.startswith(OWN):
            continue
        members = prompts.read_prompts(value)
        if texts or prompts.public(members):
            lines = "".join(f"    mechdiff.Prompt({', '.join(map(literal, values_of(prompt)))}),\n" for prompt in members)
            before += f"{name} = mechdiff.keep_prompts([\n{lines}])\n"
            arguments[name] = name
        else:
            before += f"# {name}: texts that are stored, under this name, only on the computer where they were typed\n"
    return before, arguments


def values_of(prompt: prompts.Prompt) -> list:
    """A prompt's fields, with its answer and choices only if it has them."""
    return [prompt.text, prompt.template, *([prompt.answer, prompt.choices] if prompt.answer else [])]


def non_defaults(request, but: tuple[str, ...] = ()) -> dict[str, str]:
    """The fields whose value is not the default, or whose default may change, as code."""
    values = {}
    for spec in (spec for spec in fields(request) if spec.name not in but):
        value = getattr(request, spec.name)
        if value is not None and (value != spec.default or spec.name in WRITTEN_OUT):
            values[spec.name] = literal(value)
    return values


def literal(value) -> str:
    """A value as Python code, with text in double quotes."""
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' * (len(value) == 1)})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def call(name: str, first: list[str], arguments: dict[str, str]) -> str:
    """A call as code, on one line if it fits."""
    parts = [*first, *(f"{key}={value}" for key, value in arguments.items())]
    line = f"{name}({', '.join(parts)})"
    return line if len(line) < WIDTH else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def notebook(request: Question | Comparison, headline: Headline | None, link: str, command: str, texts: bool = False) -> bytes:
    """The same as a notebook, with the number on the screen in words, and a chart where that takes a line or two."""
    number = f"On the screen: **{headline.value:.6g} {headline.unit}**, {headline.asked}, {headline.of}." if headline else ""
    text = f"# A finding of mechdiff\n\n{number}\n\nThe view: `{link}`\n\nThe same on the command line: `{command}`"
    cells = [markdown(text), code(snippet(request, headline, texts).rstrip())]
    kind = "compare" if isinstance(request, Comparison) else request.question
    whole = isinstance(request, Comparison) or request.layers is None
    if kind in CHARTS and whole:
        chart = CHARTS[kind].format(**vars(request)) if kind == "compare" else CHARTS[kind]
        cells.append(code(f"from mechdiff import charts\n\n{chart}"))
    for index, cell in enumerate(cells):
        cell["id"] = f"cell-{index}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "mechdiff": {"format": FORMAT}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1).encode()


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def code(text: str) -> dict:
    return {"cell_type": "code", "metadata": {}, "source": text, "execution_count": None, "outputs": []}
