"""Annotations that a tool can read: typing.get_type_hints works on every public class and function."""

import importlib
import inspect
import pkgutil
import typing

import pytest

import mechdiff

SKIPPED = (
    ".scripts.",  # forwards that run on import
    ".triton_source",  # needs a GPU's compiler
)
LATE = ("LoadedPair.__init__",)  # names a type whose import needs torch, which takes seconds
MODULES = [
    module.name
    for module in pkgutil.walk_packages(mechdiff.__path__, "mechdiff.")
    if not any(name in module.name for name in SKIPPED)
]


@pytest.mark.parametrize("name", MODULES)
def test_type_hints_resolve(name):
    module = importlib.import_module(name)
    own = [thing for thing in vars(module).values() if getattr(thing, "__module__", None) == name]
    for thing in filter(inspect.isclass, own):
        typing.get_type_hints(thing)
        for method in filter(inspect.isfunction, vars(thing).values()):
            if method.__qualname__ not in LATE:
                typing.get_type_hints(method)
    for function in filter(inspect.isfunction, own):
        typing.get_type_hints(function)
