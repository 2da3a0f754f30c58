"""mechdiff: where and how did fine-tuning change this language model?"""

from mechdiff.common.errors import UserError
from mechdiff.inputs.prompts import Prompt, keep_prompts
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.models.registry import load_pair
from mechdiff.questions import Run, run
from mechdiff.questions import summary as summarise
from mechdiff.study.compare_sweeps import compare_sweeps

__all__ = ["LoadedPair", "Prompt", "Run", "UserError", "compare_sweeps", "keep_prompts", "load_pair", "run", "summarise"]


def __getattr__(name: str):
    """`mechdiff.charts`, loaded when it is first used: it brings Altair with it."""
    if name == "charts":
        from mechdiff.reporting import charts

        return charts
    raise AttributeError(f"module 'mechdiff' has no attribute '{name}'")
