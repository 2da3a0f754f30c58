"""Summaries: a ratio whose denominator is rounding is blank, however small the interval round that rounding is."""

import numpy as np
import pandas as pd
import pytest

from mechdiff.questions.shared.lines import Wide
from mechdiff.questions.shared.summary import effect_summary


def mapped(reference: float, self_patch: float) -> pd.DataFrame:
    """Summary of a mapped state's condition of 1e-3 nats over 40 prompts, and of the self-patch at another site."""
    conditions = pd.DataFrame(
        {"question": "transport", "layer": [0, 9], "stream": "resid_post", "complement": "", "control": ["none", "self"]}
    )
    spread = np.linspace(0.9, 1.1, 40)
    values = {"kl": np.stack([1e-3 * spread, self_patch * spread]), "kl_reference": np.stack([reference * spread] * 2)}
    return effect_summary(Wide(conditions, values), [f"t{i % 8}" for i in range(40)])


def test_a_drop_from_an_effect_above_the_floor_is_shown():
    assert mapped(reference=2e-3, self_patch=1e-7)["drop"][0] == pytest.approx(50)


@pytest.mark.parametrize("reference", [1e-7, 4e-7])
def test_a_drop_from_rounding_is_blank_at_every_site(reference):
    assert mapped(reference, self_patch=1e-7)[["drop", "drop_low", "drop_high"]].isna().all(axis=None)
