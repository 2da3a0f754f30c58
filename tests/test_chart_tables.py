"""What charts draw of stored and live lines: a whole chart's band where one is stored, elsewhere each line's own interval."""

import numpy as np
import pandas as pd
import pytest

from mechdiff.reporting import chart_tables, charts

ENDS = ["mean", "low", "high"]
STORED = pd.DataFrame(
    {"layer": [0, 1], "control": "none", "map": "ridge_cv", "stream": "attn_out", "mean": [1.0, 2.0], "low": [0.9, 1.9]}
).assign(high=[1.1, 2.1], band_low=[0.7, 1.7], band_high=[1.3, 2.3])
RATIOS = STORED.assign(recovery=0.5, recovery_low=0.45, recovery_high=0.55, recovery_band_low=0.4, recovery_band_high=0.6)


@pytest.mark.parametrize("drawn", [chart_tables.patched, chart_tables.named, chart_tables.by_module])
def test_a_stored_curve_has_the_band_of_its_chart(drawn):
    assert drawn(STORED)[ENDS].to_numpy().tolist() == [[1.0, 0.7, 1.3], [2.0, 1.7, 2.3]]
    alone = drawn(STORED.drop(columns=["band_low", "band_high"]))
    assert alone[ENDS].to_numpy().tolist() == [[1.0, 0.9, 1.1], [2.0, 1.9, 2.1]], "few templates have no band"


def test_a_ratio_has_its_own_band_and_never_that_of_the_mean():
    assert np.allclose(chart_tables.share(RATIOS, "recovery", 100)[ENDS], [50, 40, 60])
    alone = RATIOS.drop(columns=["recovery_band_low", "recovery_band_high"])
    assert np.allclose(chart_tables.share(alone, "recovery", 100)[ENDS], [50, 45, 55])


def test_live_lines_keep_their_intervals_and_the_subtitle_says_which_are_which():
    live = chart_tables.as_live(STORED.drop(columns=["band_low", "band_high"]))
    both = chart_tables.patched(chart_tables.join(STORED, live))
    assert both["low"].tolist() == [0.7, 1.7, 0.9, 1.9]
    assert "for the whole chart" in chart_tables.ends(both) and "for the whole chart" not in chart_tables.ends(live)
    assert chart_tables.ends(live.assign(low=np.nan)) == ""


def test_recoveries_of_all_tokens_start_at_the_first_layer():
    table = chart_tables.recoveries({charts.ALL_TOKENS: RATIOS.assign(layer=[-1, 0])})
    assert table["layer"].tolist() == [0] and table["shown"].tolist() == [charts.ALL_TOKENS]
    assert table[ENDS].to_numpy().tolist() == [[0.5, 0.4, 0.6]]
