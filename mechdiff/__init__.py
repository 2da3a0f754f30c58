"""mechdiff: where and how did fine-tuning change this language model?"""

from mechdiff.errors import UserError
from mechdiff.experiments import Run, run
from mechdiff.models import LoadedPair, load_pair

__all__ = ["LoadedPair", "Run", "UserError", "load_pair", "run"]
