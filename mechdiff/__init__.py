"""mechdiff: where and how did fine-tuning change this language model?"""

from mechdiff.comparison import compare_sweeps
from mechdiff.errors import UserError
from mechdiff.experiments import Run, run
from mechdiff.experiments.summary import summarise_table as summarise
from mechdiff.loaded import LoadedPair
from mechdiff.models import load_pair
from mechdiff.prompts import Prompt, keep_prompts

__all__ = ["LoadedPair", "Prompt", "Run", "UserError", "compare_sweeps", "keep_prompts", "load_pair", "run", "summarise"]
