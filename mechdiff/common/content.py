"""Hashes of what a user gives from Python: tensors by their content, functions by name, version and source."""

import hashlib
import inspect
import json
import uuid
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from mechdiff.common.errors import UserError

PLAIN = (str, int, float, bool, bytes, type(None))


def of_array(dtype: str, shape: tuple[int, ...], data: bytes) -> str:
    """A hash over dtype, shape and bytes, so that two arrays that print alike differ."""
    return hashlib.sha256(f"{dtype} {list(shape)} ".encode() + data).hexdigest()


def of_function(function: Callable, name: str | None, version: str | int | None, key: str | None) -> str | None:
    """A hash over name, version, source, and all that the function reads; None if it has no name and version to be stored under.

    key: stands for what the function reads but its source does not show, such as arrays.
    Raises UserError for a named function that reads such things without a key.
    """
    if name is None or version is None:
        if name is not None or version is not None or key is not None:
            raise UserError("A function is stored on disk only with a name and a version.\nTry:  name='mine', version=1")
        return None
    sources: dict[str, str] = {}
    read(function, sources, strict=key is None)
    return hashlib.sha256(json.dumps([name, version, key, sources]).encode()).hexdigest()


def in_memory() -> str:
    """The content of what cannot be compared with anything but itself."""
    return f"in memory {uuid.uuid4().hex}"


def read(function: Any, sources: dict[str, str], strict: bool) -> None:
    """Note a function's source, and those of the functions and the plain values that it reads."""
    name = getattr(function, "__qualname__", type(function).__name__)
    if name in sources:
        return
    if not isinstance(function, FunctionType):
        refuse(name, name, strict)
        return
    try:
        sources[name] = inspect.getsource(function)
    except OSError:
        sources[name] = ""
        refuse(name, "its source, which is not available,", strict)
    variables = inspect.getclosurevars(function)
    defaults = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    for label, value in {**variables.globals, **variables.nonlocals, **{f"default {k}": v for k, v in defaults.items()}}.items():
        if isinstance(value, FunctionType) and value.__module__ == function.__module__:
            read(value, sources, strict)
        elif isinstance(value, FunctionType):  # another module's: its own source, not what it reads in turn
            sources[f"{name}: {label}"] = inspect.getsource(value)
        elif plain(value):
            sources[f"{name}: {label}"] = repr(value)
        elif not isinstance(value, ModuleType | type | BuiltinFunctionType):
            refuse(name, label, strict)


def plain(value: Any) -> bool:
    """Whether a value is known by how it prints: a number, a text, or a tuple of them."""
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(plain, value)))


def refuse(name: str, what: str, strict: bool) -> None:
    if strict:
        raise UserError(
            f"{name} reads {what}, whose content its source does not show, so its results cannot be stored.\n"
            "Try:  key='...', a text that changes with it; or leave name and version out"
        )
