"""Where things are on disk."""

import os
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
DATA = PACKAGE / "data"
PAIRS = DATA / "pairs"
SHIPPED_DOMAINS = DATA / "domains"
ARTIFACTS = PACKAGE / "artifacts"
CACHE = Path(os.environ.get("MECHDIFF_CACHE", PACKAGE.parent / "cache"))
MODELS = CACHE / "models"
OWN_PAIRS = CACHE / "pairs"  # pairs added on this machine
OWN_MODELS = Path(os.environ.get("MECHDIFF_MODELS", CACHE.parent / "models"))  # the only folder whose models the app may open
DOMAINS = Path(os.environ.get("MECHDIFF_DATA", CACHE / "domains"))  # the user's own, in addition to the shipped ones
