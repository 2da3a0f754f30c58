"""A live result against the stored sweep: the same numbers, or consistent ones? Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mechdiff.maths.intervals import FEWEST, Templates, difference

SAME, DIFFERS, CONSISTENT = "same", "differs", "consistent"
TOLERANCES = {"float32": (1e-5, 2e-3), "bfloat16": (0.02, 0.1), "float16": (0.02, 0.1)}  # nats, share of the stored value


@dataclass(frozen=True)
class Agreement:
    """kind: same, differs or consistent. text: a sentence for people."""

    kind: str
    text: str


def agreement(
    live: pd.DataFrame, stored: pd.DataFrame, same: bool, clusters: Sequence, stored_clusters: Sequence, dtype: str
) -> Agreement | None:
    """Whether one condition's live effects agree with its stored ones; None where there is nothing to compare.

    live, stored: a line per prompt, with columns prompt and kl (nats). same: whether a prompt's number means the same prompt in
    both. clusters, stored_clusters: the template of each prompt number. dtype: the coarser of the two computations' formats.
    The same prompts must give the same values within the format's precision; other prompts the same mean within their sampling
    error.
    """
    if live.empty or stored.empty:
        return None
    return by_prompt(live, stored, dtype) if same else on_average(live, stored, clusters, stored_clusters)


def by_prompt(live: pd.DataFrame, stored: pd.DataFrame, dtype: str) -> Agreement | None:
    both = live[["prompt", "kl"]].merge(stored[["prompt", "kl"]], on="prompt", suffixes=("", "_stored"))
    if both.empty:
        return None
    floor, share = TOLERANCES[dtype]
    gap = (both["kl"] - both["kl_stored"]).abs()
    wrong = ~(gap <= floor + share * both["kl_stored"])  # nan is wrong
    if not wrong.any():
        return Agreement(SAME, f"equals the stored sweep: {len(both)} of {len(both)} prompts")
    worst = both.loc[gap[wrong].fillna(np.inf).idxmax()]
    example = f"{worst['kl']:.4g} against {worst['kl_stored']:.4g} nats on prompt {worst['prompt']:.0f}"
    return Agreement(DIFFERS, f"differs from the stored sweep at {wrong.sum()} of {len(both)} prompts (largest: {example})")


def on_average(live: pd.DataFrame, stored: pd.DataFrame, clusters: Sequence, stored_clusters: Sequence) -> Agreement:
    own, other = (
        Templates([names[i] for i in table["prompt"]], seed).average(table["kl"].to_numpy(float))
        for seed, (names, table) in enumerate(((clusters, live), (stored_clusters, stored)))
    )
    gap, low, high = difference(other, own, paired=False)
    if np.isnan(low):
        why = f"no interval: fewer than {FEWEST} templates"
        return Agreement(CONSISTENT, f"differs by {gap:+.3g} nats from the stored sweep on other prompts ({why})")
    inside = bool(low <= 0 <= high)
    text = f"{'consistent with' if inside else 'differs from'} the stored sweep on other prompts"
    return Agreement(CONSISTENT if inside else DIFFERS, f"{text}: difference {gap:+.3g} [{low:.3g}, {high:.3g}] nats")
