"""Tables to charts: pure functions, no streamlit. Every chart has a question for its title and units on its axes."""

from charts.base import CONTROL_NAMES, LIVE
from charts.heads import coverage_curve, head_bars, heads_map, transplant_bars
from charts.layers import drift_curve, drop_curve, layer_curve, transplant_curve, transport_curve
from charts.prompts import prompt_spread, token_bars
from charts.ranks import UNCUT, overlap_curve, rank_alpha_map, rank_curve, rank_order, share_curve

__all__ = [
    "CONTROL_NAMES",
    "LIVE",
    "UNCUT",
    "coverage_curve",
    "drift_curve",
    "drop_curve",
    "head_bars",
    "heads_map",
    "layer_curve",
    "overlap_curve",
    "prompt_spread",
    "rank_alpha_map",
    "rank_curve",
    "rank_order",
    "share_curve",
    "token_bars",
    "transplant_bars",
    "transplant_curve",
    "transport_curve",
]
