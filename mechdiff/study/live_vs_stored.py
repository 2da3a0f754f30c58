"""A live result against the stored sweep: the same numbers, or consistent ones? Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mechdiff.maths.intervals import difference

SAME, DIFFERS, CONSISTENT = "same", "differs", "consistent"
TOLERANCES = {"float32": (1e-5, 2e-3), "bfloat16": (0.02, 0.1), "float16": (0.02, 0.1)}  # nats, share of the stored value


@dataclass(frozen=True)
class Verdict:
    """kind: same, differs or consistent. text: a sentence for people."""

    kind: str
    text: str


def compare(
    live: pd.DataFrame, stored: pd.DataFrame, same: bool, clusters: Sequence, stored_clusters: Sequence, dtype: str
) -> Verdict | None:
    """What to conclude from one condition's live effects beside its stored ones; None where there is nothing to compare.

    live, stored: a line per prompt, with columns prompt and kl (nats). same: whether a prompt's number means the same prompt in
    both. clusters, stored_clusters: the template of each prompt number. dtype: the coarser of the two computations' formats.
    The same prompts have to give the same values, as far as the format can; others the same mean, as far as prompts can tell.
    """
    if live.empty or stored.empty:
        return None
    return one_by_one(live, stored, dtype) if same else on_average(live, stored, clusters, stored_clusters)


def one_by_one(live: pd.DataFrame, stored: pd.DataFrame, dtype: str) -> Verdict | None:
    both = live[["prompt", "kl"]].merge(stored[["prompt", "kl"]], on="prompt", suffixes=("", "_stored"))
    if both.empty:
        return None
    floor, share = TOLERANCES[dtype]
    apart = (both["kl"] - both["kl_stored"]).abs()
    wrong = ~(apart <= floor + share * both["kl_stored"])  # nan is wrong
    if not wrong.any():
        return Verdict(SAME, f"equals the stored sweep: {len(both)} of {len(both)} prompts")
    at = both.loc[apart[wrong].fillna(np.inf).idxmax()]
    pair = f"{at['kl']:.4g} against {at['kl_stored']:.4g} nats on prompt {at['prompt']:.0f}"
    return Verdict(DIFFERS, f"differs from the stored sweep at {wrong.sum()} of {len(both)} prompts (largest: {pair})")


def on_average(live: pd.DataFrame, stored: pd.DataFrame, clusters: Sequence, stored_clusters: Sequence) -> Verdict:
    mine, theirs = ([names[i] for i in table["prompt"]] for names, table in ((clusters, live), (stored_clusters, stored)))
    apart, low, high = difference(live["kl"].to_numpy(float), stored["kl"].to_numpy(float), mine, theirs)
    inside = low <= 0 <= high
    text = f"{'consistent with' if inside else 'differs from'} the stored sweep on other prompts"
    return Verdict(CONSISTENT if inside else DIFFERS, f"{text}: difference {apart:+.3g} [{low:.3g}, {high:.3g}] nats")
