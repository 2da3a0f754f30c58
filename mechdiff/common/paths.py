"""Where things are on disk.

In a checkout everything stays in it: the cache in ./cache, sweeps next to the shipped ones. An installed package is never written
to: the cache is in the user's cache folder; sweeps, own pairs and own domains are in the user's data folder.
"""

import os
from pathlib import Path

import platformdirs

from mechdiff.common.errors import UserError

PACKAGE = Path(__file__).parents[1]
CHECKOUT = (PACKAGE.parent / "pyproject.toml").is_file()
DATA = PACKAGE / "data"
PAIRS = DATA / "pairs"
SHIPPED_DOMAINS = DATA / "domains"
SHIPPED_SWEEPS = PACKAGE / "artifacts"
APP = PACKAGE.parent / ("app" if CHECKOUT else "mechdiff_app") / "Home.py"  # the script that Streamlit runs

USER_CACHE = PACKAGE.parent / "cache" if CHECKOUT else platformdirs.user_cache_path("mechdiff", appauthor=False)
CACHE = Path(os.environ.get("MECHDIFF_CACHE", USER_CACHE))
USER_DATA = CACHE if CHECKOUT else platformdirs.user_data_path("mechdiff", appauthor=False)
MODELS = CACHE / "models"
ARTIFACTS = SHIPPED_SWEEPS if CHECKOUT else USER_DATA / "sweeps"  # where sweeps are stored, and looked for first
OWN_PAIRS = USER_DATA / "pairs"  # pairs added on this machine
USER_MODELS = (CACHE.parent if CHECKOUT else USER_DATA) / "models"
OWN_MODELS = Path(os.environ.get("MECHDIFF_MODELS", USER_MODELS))  # the only folder whose models the app may open
DOMAINS = Path(os.environ.get("MECHDIFF_DATA", USER_DATA / "domains"))  # the user's own, in addition to the shipped ones


def check_not_installed(folder: Path) -> None:
    """Raises UserError for a folder of an installed package: only a checkout's own files are made anew."""
    if not CHECKOUT and folder.resolve().is_relative_to(PACKAGE.resolve()):
        raise UserError(f"{folder} belongs to the installed package and is not changed.\nTry:  the same command in a checkout")
