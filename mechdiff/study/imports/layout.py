"""The layout of the study's artifacts folder, read from data."""

import tomllib
from functools import lru_cache
from pathlib import PurePosixPath

from mechdiff.common.paths import DATA
from mechdiff.inputs import prompts


@lru_cache
def layout() -> dict:
    return tomllib.loads((DATA / "study.toml").read_text(encoding="utf-8"))


def folder_of(domain: str) -> str:
    """The study's name for the prompts of a domain: its folder's."""
    return next((name for name, place in layout()["sweeps"].items() if place["domain"] == domain), domain)


def domain_of(path: PurePosixPath, top: str) -> str:
    """A file's domain: the first folder in its path that has a known domain's name, else the top level's."""
    known = prompts.domains()
    return next((part for part in path.parts[:-1] if part in known), top)
