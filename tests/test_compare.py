"""A live result beside the stored one: equal prompt by prompt, or consistent on average, and said so."""

import numpy as np
import pandas as pd
import pytest

from mechdiff.study import artifacts
from mechdiff.study.live_vs_stored import agreement

CLUSTERS = [f"t{i % 20}" for i in range(40)]


def effects(values, first: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"prompt": np.arange(first, first + len(values)), "kl": np.asarray(values, np.float32)})


def some(count: int = 40, shift: float = 0.0, seed: int = 0) -> pd.DataFrame:
    return effects(np.random.default_rng(seed).lognormal(-1, 1, count) + shift)


def judge(live, sweep, same=True, dtype="float32"):
    return agreement(live, sweep, same, CLUSTERS, CLUSTERS, dtype)


def test_a_rounded_copy_of_the_first_prompts_is_the_same():
    live = some()
    sweep = live.assign(kl=artifacts.rounded(live["kl"].to_numpy()))
    result = judge(live[:8], sweep)
    assert result.kind == "same" and result.text.endswith("8 of 8 prompts")


def test_lines_are_matched_by_prompt_not_by_place():
    live = some()
    assert judge(live.sample(frac=1, random_state=1), live).kind == "same"
    assert judge(live[:8], live[3:11]).text.endswith("5 of 5 prompts")
    assert judge(live[:8], live[8:]) is None


def test_a_wrong_prompt_is_counted_and_shown():
    live = some()
    sweep = effects(live["kl"] * np.where(live["prompt"] == 3, 1.01, np.where(live["prompt"] == 5, 2, 1)))
    result = judge(live, sweep)
    assert result.kind == "differs" and "at 2 of 40 prompts" in result.text and "on prompt 5)" in result.text


@pytest.mark.parametrize(
    ("dtype", "factor", "kind"),
    [("float32", 1.001, "same"), ("float32", 1.05, "differs"), ("bfloat16", 1.05, "same"), ("float16", 1.3, "differs")],
)
def test_the_tolerance_is_the_formats(dtype, factor, kind):
    live = effects([0.5, 1.0, 2.0])
    assert judge(live.assign(kl=live["kl"] * factor), live, dtype=dtype).kind == kind


def test_what_is_no_number_differs():
    live = some(4)
    live.loc[2, "kl"] = np.nan
    assert judge(live, some(4)).kind == "differs"


def test_other_prompts_are_compared_by_their_means():
    near, far = judge(some(), some(seed=1), same=False), judge(some(shift=3), some(seed=1), same=False)
    assert near.kind == "consistent" and far.kind == "differs"
    assert "difference +3" in far.text or "difference +2" in far.text
    few = judge(some(8), some(seed=1), same=False)
    assert few.kind == "consistent" and "no interval" in few.text


def test_nothing_is_said_of_nothing():
    assert judge(some(0), some()) is None and judge(some(), some(0)) is None
