"""Heads: which attention heads carry the change?"""

import archive
import charts
import controls
import pandas as pd
import session
import streamlit as st

from mechdiff.stats import bootstrap_weights, floor_of, ratio, summarise
from mechdiff.terms import sides
from views import coverage


def page() -> None:
    st.header("Heads: which attention heads carry the change?")
    shared = st.session_state["_shared"]
    donor, recipient = sides(shared["direction"])
    st.caption(
        f"Chosen heads' outputs in the **{recipient}** model are replaced by the **{donor}** model's, at the decision token. "
        "**Coverage** is a set's effect as a share of replacing all heads of that layer; it can exceed 100 %, since heads cancel."
    )
    if session.ready(controls.read_pair(shared["pair"])):
        everything(shared)


@session.panel
def everything(shared: dict) -> None:
    pair = controls.read_pair(shared["pair"])
    one, two, three = st.columns([2, 3, 1.5])
    with one:
        layer = controls.layer(pair)
    with two:
        chosen = controls.heads(pair)
    with three:
        blend = controls.blend()
    every = controls.request("heads", shared, head_sets="each", blend=blend)
    sets = "all" if not chosen else ",".join(map(str, chosen))
    together = session.answer(controls.request("heads", shared, layers=(layer,), head_sets=sets, blend=blend, controls=("self",)))
    table = session.answer(every, patience=0.05)
    singles = table[table["layer"] == layer]
    chosen_set(pd.concat([together, singles]).drop_duplicates(["prompt", "heads", "control"]), every, layer, chosen)
    if table.empty:
        session.waiting("The map of all heads fills in as layers are computed.")
        return
    chart = charts.heads_map(single_means(table), layer, chosen)
    st.altair_chart(chart, width="stretch", key="map_click", on_select=take_click, selection_mode="cell")
    session.provenance(every, table)
    coverage.section(shared, layer, blend)


def take_click() -> None:
    """A clicked cell of the map: go to its layer, and add or drop its head. Runs before the page is drawn again."""
    clicked = st.session_state.get("map_click", {}).get("selection", {}).get("cell") or []
    if not clicked:
        return
    layer, head = int(clicked[0]["layer"]), int(clicked[0]["head"])
    same = st.session_state.get("layer") == layer
    before = set(st.session_state.get("heads") or []) if same else set()
    st.session_state["layer"], st.session_state["heads"] = layer, sorted(before ^ {head}) or [head]


def chosen_set(table: pd.DataFrame, run, layer: int, chosen: list[int]) -> None:
    """The chosen heads together, beside each head alone and all of them. table: what is there of this layer."""
    if not (table["heads"] == "all").any():
        session.waiting("The chosen heads' effect appears in a moment.")
        return
    floor = floor_of(table.loc[table["control"] == "self", "kl"].to_numpy(float))
    table = table[table["control"] == "none"]
    clusters = [prompt.template for prompt in run.chosen_prompts]
    name = "all" if len(chosen) == run.spec.heads else "-".join(map(str, chosen))
    show_coverage(table, clusters, name, layer, floor)
    if run.blend == 1:
        archive.badge(run, table[table["heads"] == name], "rq4", "heads", layer=layer, heads=name, control="none")
    complete = table[table.groupby("heads")["prompt"].transform("size") == (table["heads"] == "all").sum()]
    summary = summarise(complete, ["heads"], clusters)
    summary["kind"] = ["all" if h == "all" else "chosen" if h == name else "single" for h in summary["heads"]]
    summary["label"] = [h.replace("-", " + ") if len(h) < 12 else "chosen" for h in summary["heads"]]
    singles = ~summary["heads"].str.contains("all|-")
    numbers = pd.to_numeric(summary["heads"].where(singles), errors="coerce").fillna(1000 + (summary["heads"] == "all"))
    summary = summary.iloc[numbers.argsort()]
    st.altair_chart(charts.head_bars(summary, layer), width="stretch")


def show_coverage(table: pd.DataFrame, clusters: list[str], name: str, layer: int, floor: float) -> None:
    """The chosen set's effect as a share of all heads'; blank where that is at the floor (nats)."""
    mine = table[table["heads"] == name].sort_values("prompt")
    full = table[table["heads"] == "all"].sort_values("prompt")
    columns = st.columns(3)
    columns[0].metric(
        f"All heads of layer {layer}", f"{full['kl'].mean():.5f} nats", help="The full effect: every head replaced."
    )
    if mine.empty:
        columns[1].info("Choose heads above, or click cells of the map.")
        return
    weights = bootstrap_weights([clusters[i] for i in mine["prompt"]])
    share, low, high = ratio(mine["kl"].to_numpy(float), mine["kl_reference"].to_numpy(float), weights, floor)
    label = "Head" if name.isdigit() else "Heads"
    columns[1].metric(f"{label} {name.replace('-', ', ')}", f"{mine['kl'].mean():.5f} nats", help="KL(patched || clean)")
    shown = "—" if share != share else f"{share:.0%}"
    interval = "the full effect is at the floor" if share != share else f"95 % interval {low:.0%} to {high:.0%}"
    columns[2].metric("Coverage", shown, delta=interval, delta_color="off", delta_arrow="off", help="Share of the full effect.")


def single_means(table: pd.DataFrame) -> pd.DataFrame:
    """A row per layer and head: mean effect, and its share of all heads' effect at that layer."""
    means = table.groupby(["layer", "heads"], as_index=False)[["kl", "kl_reference"]].mean()
    singles = means[means["heads"] != "all"].copy()
    singles["head"], singles["share"] = singles["heads"].astype(int), singles["kl"] / singles["kl_reference"]
    return singles.rename(columns={"kl": "mean"})[["layer", "head", "mean", "share"]]
