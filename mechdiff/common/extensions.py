"""What other installed projects add to mechdiff: questions, maps and metrics, by their entry points. Needs no torch.

A project names each in its pyproject.toml under `mechdiff.questions`, `mechdiff.maps` or `mechdiff.metrics`. What cannot be used
is left out, with a warning: it must not take the rest with it.
"""

import hashlib
import importlib
import re
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mechdiff.common.content import in_memory
from mechdiff.common.errors import UserError

NAME = re.compile(r"[a-z][a-z0-9_]*")


class ExtensionWarning(UserWarning):
    """An extension is left out."""


@cache
def installed(kind: str) -> dict[str, EntryPoint]:
    """The entry points of one kind, by name. kind: questions, maps or metrics."""
    points: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=f"mechdiff.{kind}"), key=lambda point: (point.name, origin(point))):
        if not NAME.fullmatch(point.name):
            leave_out(kind, point, "Its name must be lower-case letters, digits and _.")
        elif point.name not in points:
            points[point.name] = point
        elif points[point.name].value != point.value:  # one project may be found twice on Python's path
            leave_out(kind, point, f"{origin(points[point.name])} has one of the same name.")
    return points


def names(kind: str, own: tuple[str, ...], reserved: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Our own names of one kind, and those that extensions add. reserved: names that have another meaning."""
    added = installed(kind)
    for name in (*own, *reserved):
        if name in added:
            leave_out(kind, added.pop(name), "Its name has another meaning in mechdiff.")
    return (*own, *added)


@cache
def load(kind: str, name: str) -> Any:
    """What an entry point names. Raises UserError if it cannot be imported."""
    point = installed(kind)[name]
    try:
        return point.load()
    except Exception as error:  # whatever another project's code raises
        what = f"The {kind.removesuffix('s')} '{name}' of {origin(point)} cannot be loaded: {message(error)}"
        raise UserError(f"{what}\nTry:  pip install --upgrade {project(point)}") from error


def import_modules(kind: str) -> None:
    """Import the modules of one kind, which register what they define. A module that fails is left out, with a warning."""
    for name, point in list(installed(kind).items()):
        try:
            importlib.import_module(point.module)
        except Exception as error:  # noqa: BLE001 (another project's code)
            leave_out(kind, installed(kind).pop(name), message(error))


def key_of(kind: str, name: str) -> str:
    """A name as a key holds it: our own as it is; an extension's with a hash of its project's version and code."""
    point = installed(kind).get(name)
    return name if point is None else f"{name} {code_of(point.module, origin(point))}"


@cache
def code_of(module: str, version: str = "") -> str:
    """A hash over the Python files of a module's package, or over its single file; empty for mechdiff itself.

    version: the project's name and version. Code without a file, such as a notebook's, is known for as long as the process lives.
    """
    top = module.partition(".")[0]
    if top == "mechdiff":
        return ""
    spec = None if top == "__main__" else find_spec(top)
    if spec is None:
        return in_memory()
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    if not folders and spec.origin and Path(spec.origin).is_file():
        files = [Path(spec.origin)]
    digest = hashlib.sha256(version.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def project(point: EntryPoint) -> str:
    """The project of an entry point."""
    return point.dist.name if point.dist else point.module.partition(".")[0]


def origin(point: EntryPoint) -> str:
    """The project of an entry point, and its version."""
    return f"{project(point)} {point.dist.version}" if point.dist else project(point)


def message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else str(error)


def leave_out(kind: str, point: EntryPoint, why: str) -> None:
    text = f"The {kind.removesuffix('s')} '{point.name}' of {origin(point)} is left out. {why}"
    warnings.warn(text, ExtensionWarning, stacklevel=3)
