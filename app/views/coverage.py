"""A part of the Heads page: how many heads does the change need?"""

import archive
import charts
import controls
import pandas as pd
import session
import streamlit as st

from views import mapped

SETS = {"greedy": "greedy", "topk": "top k"}  # how sets are chosen: what the legend calls them


def section(shared: dict, layer: int, blend: float) -> None:
    """Coverage over the number of heads at the chosen layer: stored, or on the page's own prompts when asked."""
    st.subheader("Coverage by sets of heads")
    st.caption(
        "**top k**: the k heads with the largest single effects. **greedy**: one head after another, always the one that adds "
        "most. Both are chosen on the train split and scored on these prompts. The grey band holds 95 % of **random sets**."
    )
    live = controls.compute(
        "coverage", "Heads are first chosen on the train split: on a CPU minutes for top k, and many for greedy, once a layer."
    )
    where = {"layers": (layer,), "blend": blend, "controls": ("self",)}
    runs = [controls.request("heads", shared, head_sets=name, **where) for name in ("random", "topk", "greedy")]
    if live:
        found, about = computed(runs), "Computed on these prompts"
        if found.empty:
            session.waiting("The curves appear when the heads are chosen and the sets scored.")
    else:
        found = archive.lines(runs[0], "rq4", "coverage_summary", layer=layer) if blend == 1 else pd.DataFrame()
        if blend != 1:
            st.info("The stored curve is for blend 1. Compute this one on these prompts, or set the blend to 1.")
        elif found.empty:
            archive.missing(runs[0])
        about = archive.origin(runs[0], "rq4", found).capitalize()
    if not found.empty:
        draw(found, runs[0].spec.heads, layer, about)


def computed(runs: list) -> pd.DataFrame:
    """What is there of the runs; each is begun when the one before it is whole."""
    parts = []
    for run in runs:
        table = session.answer(run, patience=0.05)
        if run in session.pending():
            break
        parts.append(mapped.summary(run, table))
    return mapped.join(*parts)


def draw(found: pd.DataFrame, count: int, layer: int, about: str) -> None:
    sizes = [count if heads == "all" else heads.count("-") + 1 for heads in found["heads"]]
    found = mapped.share(found.assign(size=sizes), "coverage", 100).drop_duplicates(["chosen", "control", "heads"])
    if found["mean"].isna().all():
        st.info(f"At layer {layer} all heads together do no more than rounding: there is nothing to cover.")
        return
    whole = found[(found["chosen"] == "all") & (found["control"] == "none")]
    parts = []
    for chosen, shown in SETS.items():
        mine = found[found["chosen"] == chosen]
        parts += [mapped.join(mine, whole).assign(shown=shown)] if len(mine) else []
    drawn = found[found["chosen"] == "random"].groupby("size")["mean"]
    sets = drawn.quantile([0.025, 0.5, 0.975]).unstack().set_axis(["low", "mean", "high"], axis=1).reset_index()
    about = f"{about}; bands: 95 % over prompts, of random sets over sets"
    chart = charts.coverage_curve(mapped.join(*parts), sets.assign(shown="random sets"), layer, about)
    st.altair_chart(chart, width="stretch")
