"""Rank: how many dimensions does the change need?"""

import archive
import charts
import controls
import pandas as pd
import session
import streamlit as st

from mechdiff.terms import FITTED, MAP_CONTROLS, sides
from views import mapped

NOUGHT = {"mean": "mean", "self": "own"}  # the controls that are rank nought: under which complement


def page() -> None:
    st.header("Rank: how many dimensions does the change need?")
    shared = st.session_state["_shared"]
    donor, recipient = sides(shared["direction"])
    st.caption(
        f"The map from the **{donor}** model's state to the **{recipient}** model's is cut to its k leading directions, those "
        "that carry most variance. The **complement** fills the rest: the recipient's train **mean**, which deletes it, "
        "or the recipient's **own** state, which keeps it."
    )
    if session.ready(controls.read_pair(shared["pair"])):
        cut(shared)


@session.panel
def cut(shared: dict) -> None:
    name, stream, layer, alpha = mapped.site(shared, FITTED)
    one, two = st.columns([3.4, 1.2])
    with one:
        rank = controls.rank()
    with two:
        complement = controls.complement()
    asked = {"layers": (layer,), "map": name, "streams": (stream,), "alpha": (alpha,), "controls": ("self",)}
    run = controls.request("rank", shared, ranks=(rank,), complement=(complement,), **asked)
    table = session.answer(run)
    line = mapped.asked(mapped.summary(run, table))
    if line is None:
        session.waiting("The live effect appears when the train split is read, the map fitted and the prompts patched.")
    else:
        here = table[table["control"] == "none"]
        mapped.metrics(here, line, f"Effect at rank {rank}")
        archive.badge(run, here, "rq3", "rank", layer=layer, stream=stream, **stored_as(run))
    every = {**asked, "controls": ("self", "mean", *MAP_CONTROLS)}
    curves(run, controls.request("rank", shared, **every), line)
    if line is not None:
        session.provenance(run, table)


def stored_as(run) -> dict:
    """Where the sweep keeps the run's condition. Rank nought under the mean is the control `mean`."""
    if run.ranks == ("0",) and run.complement == ("mean",):
        return {"control": "mean"}
    return {"map": run.map, "rank": run.ranks[0], "complement": run.complement[0], "alpha": run.alpha[0], "control": "none"}


def curves(run, every, line) -> None:
    """Effect, recovery and drop over rank, and rank by alpha: stored, or on the page's own prompts, the live point on top."""
    (layer,), (stream,), (alpha,) = run.layers, run.streams, run.alpha
    kept = archive.lines(run, "rq3", "rank_summary", layer=layer, stream=stream)
    scaled = archive.lines(run, "rq3", "alpha_summary", layer=layer, stream=stream, map=run.map)
    if controls.compute("ranks", "Nine ranks on the chosen prompts, in place of the stored curve. It takes longer."):
        found, about = mapped.summary(every, session.answer(every, patience=0.05)), "computed on these prompts"
    else:
        found = of_map(kept, scaled, run.map, alpha)
        about = archive.origin(run, "rq3", found)
        if found.empty:
            archive.missing(run, f" with {run.map} at alpha {alpha}")
    if not found.empty:
        effects_and_shares(run, found, line, about)
    below(run, mapped.join(kept, scaled))


def of_map(kept: pd.DataFrame, scaled: pd.DataFrame, name: str, alpha: str) -> pd.DataFrame:
    """The stored lines of a map at an alpha, with the controls that belong to it."""
    if kept.empty:
        return kept
    fixed = kept["control"].isin(["self", "mean"])
    mine = kept[(kept["map"] == name) & ~fixed]
    if alpha != "auto":
        mine = scaled[scaled["alpha"] == alpha] if len(scaled) else scaled
    return mapped.join(mine, kept[fixed]) if len(mine) else mine


def effects_and_shares(run, found: pd.DataFrame, line, about: str) -> None:
    (complement,), (layer,), point = run.complement, run.layers, mapped.point(line)
    about = f"Layer {layer}, {run.map}, alpha {run.alpha[0]}; {about}; bands: 95 %"
    left, right = st.columns(2)
    shown = mapped.join(by_rank(found, complement, {*found["rank"], *run.ranks}), point)
    left.altair_chart(charts.rank_curve(shown, complement, about), width="stretch")
    mine = found[(found["control"] == "none") & (found["complement"] == complement)]
    if mine.empty:
        return
    parts = [mapped.share(mapped.join(mine.assign(shown="recovery"), point), "recovery", 100)]
    said = "Under own no drop is shown: keeping everything would count as one"
    if complement == "mean":
        parts.append(mapped.share(mapped.join(mine.assign(shown="drop"), point), "drop"))
        said = "Recovery: of the difference between the models; drop: of the zscore effect"
    right.altair_chart(charts.share_curve(mapped.join(*parts), said), width="stretch")


def by_rank(found: pd.DataFrame, complement: str, ranks: set[str]) -> pd.DataFrame:
    """Lines over rank with their legend's names. What has no rank of its own (floor, mean ablation, uncut map) runs across."""
    cuts = found[found["control"] == "none"]
    cuts = cuts.assign(shown="complement " + cuts["complement"])
    flat = found[found["control"].isin(NOUGHT)]
    if "0" not in set(cuts["rank"]):  # a sweep keeps rank nought as the control that it is
        cuts = mapped.join(flat.assign(rank="0", shown="complement " + flat["control"].map(NOUGHT)), cuts)
    flat = flat.assign(shown=flat["control"].map(charts.CONTROL_NAMES))
    uncut = cuts[(cuts["rank"] == "full") & (cuts["complement"] == complement)].assign(shown=charts.UNCUT)
    flat = mapped.join(flat, uncut).drop(columns="rank").merge(pd.DataFrame({"rank": charts.rank_order(ranks)}), how="cross")
    controlled = found[found["control"].isin(MAP_CONTROLS) & (found["complement"] == complement)]
    controlled = controlled.assign(shown=controlled["control"].map(charts.CONTROL_NAMES))
    return mapped.join(cuts, flat, controlled)


def below(run, every: pd.DataFrame) -> None:
    """Rank by alpha as stored, and how stable the leading directions are."""
    (layer,), (stream,), (complement,) = run.layers, run.streams, run.complement
    left, right = st.columns(2)
    if not every.empty:
        cells = every[(every["map"] == run.map) & (every["complement"] == complement) & (every["control"] == "none")]
    if not every.empty and not cells.empty:
        about = f"Stored, layer {layer}, complement {complement}; framed: the chosen one"
        left.altair_chart(charts.rank_alpha_map(cells, run.ranks[0], run.alpha[0], about), width="stretch")
    with right:
        found = archive.lines(run, "rq2", "maps", layer=layer, stream=stream, map=run.map)
        overlaps = mapped.overlap(found)
        if not overlaps.empty:
            st.altair_chart(charts.overlap_curve(overlaps, "Of the leading k, fitted on two halves of train"), width="stretch")
    mapped.diagnostics(run, layer, stream)
