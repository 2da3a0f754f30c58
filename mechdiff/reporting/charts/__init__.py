"""Tables to charts: pure functions, no streamlit. Every chart has a question as its title and units on its axes.

Example:
    >>> lines = pair.patch(layers=[0, 1], limit=4).summary().assign(shown=md.charts.PATCHED)
    >>> md.charts.layer_curve(lines, subtitle="4 prompts").to_dict()["title"]["text"]
    "Which layers' states move the next token?"
"""

from mechdiff.reporting.charts.base import CONTROL_NAMES, PATCHED, PICK, Unchecked
from mechdiff.reporting.charts.behaviour import style_marks
from mechdiff.reporting.charts.compare import (
    chosen_now,
    compared_beyond,
    compared_coverage,
    compared_directions,
    compared_drift,
    compared_drop,
    compared_effect,
    compared_ranks,
    compared_recovery,
    compared_transplants,
)
from mechdiff.reporting.charts.heads import coverage_curve, head_bars, heads_map, transplant_bars
from mechdiff.reporting.charts.imported import means_only, with_imported
from mechdiff.reporting.charts.lab import next_bars, position_map, site_map, stack_bars
from mechdiff.reporting.charts.large import HALF, WHOLE, large, stage, staged
from mechdiff.reporting.charts.layers import (
    ALL_TOKENS,
    BEYOND,
    DROP,
    LAST_TOKEN,
    drift_curve,
    drop_curve,
    layer_curve,
    recovery_curve,
    transplant_curve,
    transport_curve,
)
from mechdiff.reporting.charts.prompts import MODELS, prompt_spread, token_bars
from mechdiff.reporting.charts.question import question_chart
from mechdiff.reporting.charts.ranks import (
    OWN_DIRECTIONS,
    RANDOM_DIRECTIONS,
    UNCUT,
    WHOLE_PATCH,
    difference_curve,
    overlap_curve,
    rank_alpha_map,
    rank_curve,
    rank_order,
    share_curve,
)
from mechdiff.reporting.charts.scales import SHARES, alpha_curve, spectrum_curve, stream_bars
from mechdiff.reporting.charts.weights import singular_bars, weight_overlap, weights_map

__all__ = [
    "ALL_TOKENS",
    "BEYOND",
    "CONTROL_NAMES",
    "DROP",
    "HALF",
    "LAST_TOKEN",
    "MODELS",
    "OWN_DIRECTIONS",
    "PATCHED",
    "PICK",
    "RANDOM_DIRECTIONS",
    "SHARES",
    "UNCUT",
    "WHOLE",
    "WHOLE_PATCH",
    "Unchecked",
    "alpha_curve",
    "chosen_now",
    "compared_beyond",
    "compared_coverage",
    "compared_directions",
    "compared_drift",
    "compared_drop",
    "compared_effect",
    "compared_ranks",
    "compared_recovery",
    "compared_transplants",
    "coverage_curve",
    "difference_curve",
    "drift_curve",
    "drop_curve",
    "head_bars",
    "heads_map",
    "large",
    "layer_curve",
    "means_only",
    "next_bars",
    "overlap_curve",
    "position_map",
    "prompt_spread",
    "question_chart",
    "rank_alpha_map",
    "rank_curve",
    "rank_order",
    "recovery_curve",
    "share_curve",
    "singular_bars",
    "site_map",
    "spectrum_curve",
    "stack_bars",
    "stage",
    "staged",
    "stream_bars",
    "style_marks",
    "token_bars",
    "transplant_bars",
    "transplant_curve",
    "transport_curve",
    "weight_overlap",
    "weights_map",
    "with_imported",
]
