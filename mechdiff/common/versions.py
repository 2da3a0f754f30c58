"""Versions of installed packages, for what is written into files."""

from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("mechdiff", "torch", "transformers", "peft", "numpy")
UNKNOWN = "unknown"


def version_of(package: str) -> str:
    """An installed package's version; `unknown` where its metadata is missing, so that nothing computed is lost over it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def versions() -> dict[str, str]:
    """Those on which numbers depend."""
    return {name: version_of(name) for name in LIBRARIES}
