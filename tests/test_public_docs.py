"""Public docstrings are complete: each says what the thing is, takes, returns and raises, with an example that runs."""

import ast
import dataclasses
import doctest
import inspect
import re
import textwrap
import warnings
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import pandas as pd
import pytest
import torch

import mechdiff as md
from mechdiff.cli.run import options_of
from mechdiff.library.pair import SETTINGS
from mechdiff.questions import QUESTIONS
from mechdiff.questions.shared.request import about

ROOT = Path(__file__).parents[1]
MEMBERS = (FunctionType, property, cached_property, classmethod)
IS = re.compile(r"(A|An|The|What|Which|Whether|How)\b")  # begins a summary that says what something is, so what is returned
TASKS, MAPS = (md.RowsTask, md.TableTask), (md.Map, md.Linear, md.Scaling, md.PcaSpread)
MAKES = re.compile(r"__(init|new|post_init)__|_?check")  # methods that run when an object is made


def ours(kind: type) -> list[type]:
    """A class and those that it extends, as far as they are mechdiff's."""
    return [owner for owner in kind.__mro__ if owner.__module__.startswith("mechdiff")]


def public() -> dict[str, Any]:
    """Every public name, and the public methods and properties of the public classes."""
    things = {name: getattr(md, name) for name in md.__all__}
    for owner in (owner for kind in list(things.values()) if inspect.isclass(kind) for owner in ours(kind)):
        members = {key: member for key, member in vars(owner).items() if isinstance(member, MEMBERS)}
        things |= {f"{owner.__name__}.{key}": member for key, member in members.items() if not key.startswith("_")}
    return things


def docstring(thing: Any) -> str:
    """Its docstring; that of its class for an object such as a metric."""
    named = inspect.isclass(thing) or inspect.ismodule(thing) or isinstance(thing, MEMBERS)
    return inspect.getdoc(thing if named else type(thing)) or ""


def function_of(thing: Any) -> Any:
    """The function under a method or a property."""
    return next((getattr(thing, name) for name in ("fget", "func", "__func__") if hasattr(thing, name)), thing)


def parameters(thing: Any) -> list[str]:
    """What a caller passes. The fields of a question have help of their own, which a pair's method shows."""
    if dataclasses.is_dataclass(thing):
        return [spec.name for spec in dataclasses.fields(thing) if "help" not in spec.metadata]
    if inspect.isclass(thing):
        made_by = next((vars(owner)["__init__"] for owner in ours(thing) if "__init__" in vars(owner)), None)
        return list(inspect.signature(made_by).parameters)[1:] if made_by else []
    return [name for name in inspect.signature(function_of(thing)).parameters if name not in ("self", "cls")]


def raises(thing: Any) -> bool:
    """Whether its own source raises an error. A class: that of the methods that run when an object is made."""
    nodes = [ast.parse(textwrap.dedent(inspect.getsource(function_of(part)))) for part in parts_of(thing)]
    if inspect.isclass(thing):
        methods = [node for tree in nodes for node in tree.body[0].body if isinstance(node, ast.FunctionDef)]
        nodes = [node for node in methods if MAKES.match(node.name)]
    return any(isinstance(part, ast.Raise) for node in nodes for part in ast.walk(node))


def parts_of(thing: Any) -> list:
    return ours(thing) if inspect.isclass(thing) else [thing]


def lacking(name: str, thing: Any) -> list[str]:
    """What a public docstring lacks."""
    text = docstring(thing)
    lacks = [] if text else ["a docstring"]
    if ">>> " not in text and name.partition(".")[0] not in (SHOWN_BY_CLASS if "." in name else ()):
        lacks.append("an example")
    if not (inspect.isclass(thing) or isinstance(thing, MEMBERS)):  # a module, or an object that its class's docstring names
        return lacks if inspect.ismodule(thing) or f"md.{name}" in text else [*lacks, "its name"]
    lacks += [f"the parameter {part}" for part in parameters(thing) if not re.search(rf"\b{part}(, \w+)*:", text)]
    if raises(thing) and "Raises UserError" not in text:
        lacks.append("Raises UserError")
    returned = None if inspect.isclass(thing) else inspect.signature(function_of(thing)).return_annotation
    if returned is not None and not IS.match(text) and "Returns" not in text:
        lacks.append("what is returned")
    return lacks


# The example of a question, a task or a map shows its members.
SHOWN_BY_CLASS = {part.__name__ for kind in (*QUESTIONS.values(), *TASKS, *MAPS) for part in ours(kind)}
PUBLIC = public()


def test_every_public_docstring_is_complete():
    incomplete = {name: lacks for name, thing in PUBLIC.items() if (lacks := lacking(name, thing))}
    assert incomplete == {}, f"{len(incomplete)} of {len(PUBLIC)}"


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if ">>> " in docstring(thing)])
def test_the_example_of_a_public_name_runs(toy, tmp_path, name):
    names = {"md": md, "pair": toy, "folder": tmp_path, "torch": torch, "pd": pd, "dataclass": dataclasses.dataclass}
    examples = doctest.DocTestParser().get_doctest(docstring(PUBLIC[name]), names, name, None, None)
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner.run(examples, out=output.append)
    assert runner.failures == 0, "".join(output)


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_help_of_a_pairs_question_has_the_questions_and_the_fields_own(toy, name):
    text, kind = inspect.getdoc(getattr(toy, name)), QUESTIONS[name]
    assert text.startswith(f"{kind.title} {about(kind)}\n") and ">>> " in text and "Raises UserError" in text
    for spec in dataclasses.fields(kind):
        assert (f"    {spec.name}: {spec.metadata['help']}" in text) == (spec.name not in SETTINGS)


@pytest.mark.parametrize("name", QUESTIONS)
def test_flags_and_pages_show_what_a_question_does_without_its_example(name):
    assert about(QUESTIONS[name]) in " ".join(options_of(QUESTIONS[name]).format_help().split())
    assert ">>> " not in about(QUESTIONS[name]) and "Raises" not in about(QUESTIONS[name])


@pytest.mark.parametrize(
    ("changed", "lack"),
    [
        ((":", " "), "the parameter layer"),
        (("Raises UserError", "Fails"), "Raises UserError"),
        (("A site", "Say where"), "what is returned"),
        ((">>> ", ""), "an example"),
    ],
)
def test_the_check_itself_notices_what_is_lacking(monkeypatch, changed, lack):
    assert lacking("at", md.at) == []
    monkeypatch.setattr(md.at, "__doc__", md.at.__doc__.replace(*changed))
    assert lack in lacking("at", md.at)


def test_the_interface_is_called_provisional():
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert all("The interface is provisional:" in text for text in (md.__doc__, api))


METHODS = re.compile(r"boots?trap|percentile|\bbca\b|bias.corrected|jackknife|resampl|studenti[sz]ed", re.IGNORECASE)


@pytest.mark.parametrize("question", ["patch", "drift", "weights", "behaviour"])
def test_a_summary_names_no_method_of_its_intervals(toy, question):
    """How they are computed may change; docs/method.md says what they are now."""
    summary = getattr(toy, question)(layers=1, limit=4).summary()
    assert [text for text in (md.Result.summary.__doc__, *summary) if METHODS.search(text)] == []
    assert METHODS.search("the BCa interval") and METHODS.search("percentile_low"), "the pattern itself finds them"
