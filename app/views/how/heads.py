"""Heads: which attention heads carry the change?"""

import controls
import history
import pandas as pd
import session
import stored_results
import streamlit as st
from glossary import TERMS, say

from mechdiff.common.terms import sides
from mechdiff.maths.intervals import Templates, floor_of, summarise
from mechdiff.reporting import chart_tables, charts, view_requests
from mechdiff.reporting.selection import Selection
from views import imports, metrics, readings
from views.how import coverage


def page() -> None:
    selection = controls.current()
    donor, recipient = sides(selection.direction)
    session.heading(
        "Heads: which attention heads carry the change?",
        say("heads", "effect", "coverage", "blend", "floor", "decision token"),
        f"Choose heads: their outputs in the **{recipient}** model are replaced by the **{donor}** model's. **Coverage** is the "
        "effect of these heads as a share of the effect of all heads in the layer.",
    )
    readings.show(selection, "heads")
    if session.available(selection):
        everything(selection)
    imports.numbers("heads", selection)


@session.panel
def everything(selection: Selection) -> None:
    selection = controls.widgets(selection, "layer", "heads", "blend")
    layer, chosen, blend = selection.chosen_layer, selection.chosen_heads, selection.blend
    selected, every = view_requests.heads_together(selection), view_requests.single_heads(selection)
    together = session.answer(selected)
    table = session.answer(every, patience=0.05)
    singles = table[table["layer"] == layer]
    here = pd.concat([together, singles]).drop_duplicates(["prompt", "heads", "control"])
    stored = stored_results.lines(every, "rq4", "heads_summary", control="none") if blend == 1 else pd.DataFrame()
    here = chosen_numbers(here, selected, layer, chosen)
    left, right = st.columns([3, 2])
    with left:
        head_map(table, stored, layer, chosen)
    with right:
        if here is None:
            session.waiting("Computing the chosen heads...")
        else:
            bars(here, stored, every, layer, chosen)
    with stored_results.row():
        if blend == 1 and here is not None:
            name = set_name(chosen, every.spec.heads)
            stored_results.badge(every, here[here["heads"] == name], "rq4", "heads", layer=layer, heads=name, control="none")
        stored_results.provenance(every, "rq4")
    if len(table):
        session.provenance(every, table)
    coverage.section(selection)


def set_name(chosen: list[int], count: int) -> str:
    """The name of a set of heads in tables."""
    return "all" if len(chosen) == count else "-".join(map(str, chosen))


def chosen_numbers(table: pd.DataFrame, run, layer: int, chosen: list[int]) -> pd.DataFrame | None:
    """The chosen heads' numbers. table: this layer's lines so far. Returns it without controls, or None while waiting."""
    if not (table["heads"] == "all").any():
        session.waiting("Computing the chosen heads...", session.NUMBERS)
        return None
    floor = floor_of(table.loc[table["control"] == "self", "kl"].to_numpy(float))
    table, name = table[table["control"] == "none"], set_name(chosen, run.spec.heads)
    show_coverage(table, [prompt.template for prompt in run.chosen_prompts], name, layer, floor)
    mine = table[table["heads"] == name]
    if len(mine):
        what = f"L{layer} · heads {name}" + (f" · blend {run.blend:g}" if run.blend != 1 else "")
        history.note(run, what, mine["kl"].mean(), effects=mine.sort_values("prompt")["kl"], heads=name, control="none")
    return table


def bars(table: pd.DataFrame, stored: pd.DataFrame, run, layer: int, chosen: list[int]) -> None:
    """The chosen heads together, each head alone, and all heads; live and stored."""
    name = set_name(chosen, run.spec.heads)
    complete = table[table.groupby("heads")["prompt"].transform("size") == (table["heads"] == "all").sum()]
    live = labelled(summarise(complete, ["heads"], [prompt.template for prompt in run.chosen_prompts]), name, layer)
    if len(stored):
        stored = labelled(stored[(stored["layer"] == layer) & stored["heads"].isin(live["heads"])], name, layer)
    about = "bars: live; diamonds: stored; whiskers: 95 % CI; click a head"
    controls.clickable(charts.head_bars(live, stored, layer, chosen, about), "pick_bar", take_bar)


def take_bar(picked: dict) -> None:
    """A clicked bar adds or removes its head; bars of sets of heads do nothing."""
    if picked["head"] >= 0:
        controls.toggle_head(picked)


def labelled(summary: pd.DataFrame, name: str, layer: int) -> pd.DataFrame:
    """Head sets with their bars' labels and kinds, single heads first. name: the chosen set."""
    heads = summary["heads"]
    single = ~heads.str.contains("all|-")
    summary = summary.assign(
        kind=["all" if h == "all" else "chosen" if h == name else "single" for h in heads],
        label=[h.replace("-", " + ") if len(h) < 12 else "chosen" for h in heads],
        head=pd.to_numeric(heads.where(single), errors="coerce").fillna(-1).astype(int),
        layer=layer,
    )
    place = summary["head"].where(single, 1000 + (heads == "all"))
    return summary.iloc[place.argsort()]


def head_map(table: pd.DataFrame, stored: pd.DataFrame, layer: int, chosen: list[int]) -> None:
    """Every single head of every layer: live, or stored until the first live ones are computed."""
    if table.empty and stored.empty:
        session.waiting("Computing every head, layer by layer...")
        return
    if table.empty:
        cells = chart_tables.single_heads(stored)
        replaced = "" if session.stored_only() else ", replaced by live cells as they are computed"
        about = f"stored sweep{replaced}; click a head to add or remove it"
    else:
        cells, about = single_means(table), "one head replaced by the donor's; click a head to add or remove it"
        if len(stored):
            stored = stored[stored["heads"] != "all"][["layer", "heads", "mean"]].rename(columns={"mean": "stored"})
            cells = cells.merge(stored.assign(head=stored["heads"].astype(int)).drop(columns="heads"), how="left")
    controls.clickable(charts.heads_map(cells, layer, chosen, about), "pick_head", controls.toggle_head)


def show_coverage(table: pd.DataFrame, clusters: list[str], name: str, layer: int, floor: float) -> None:
    """The chosen set's effect as a share of all heads'; no value where that is at the floor (nats)."""
    mine = table[table["heads"] == name].sort_values("prompt")
    full = table[table["heads"] == "all"].sort_values("prompt")
    row = metrics.numbers()
    row.metric(
        f"All heads of layer {layer}",
        f"{full['kl'].mean():.5f} nats",
        help="The effect of replacing every head in the layer.",
        **metrics.quiet(f"{len(full)} prompts"),
    )
    if mine.empty:
        row.info("Choose heads above, or click cells in the map.")
        return
    templates = Templates([clusters[i] for i in mine["prompt"]])
    share, low, high = templates.ratio(mine["kl"].to_numpy(float), mine["kl_reference"].to_numpy(float), floor)
    label = "Head" if name.isdigit() else "Heads"
    _, low_kl, high_kl = templates.mean(mine["kl"].to_numpy(float))
    row.metric(
        f"{label} {name.replace('-', ', ')}",
        f"{mine['kl'].mean():.5f} nats",
        help=say("effect", "interval"),
        **metrics.quiet(metrics.interval(low_kl, high_kl, ".5f")),
    )
    text = "—" if share != share else f"{100 * share:.0f} %"
    interval_text = metrics.interval(100 * low, 100 * high, ".0f", " %")
    about = "the effect of all heads is rounding error" if share != share else interval_text
    row.metric("Coverage", text, help=TERMS["coverage"], **metrics.quiet(about))


def single_means(table: pd.DataFrame) -> pd.DataFrame:
    """A row per layer and head: mean effect, and its share of all heads' effect at that layer."""
    means = table.groupby(["layer", "heads"], as_index=False)[["kl", "kl_reference"]].mean()
    singles = means[means["heads"] != "all"].copy()
    singles["head"], singles["share"] = singles["heads"].astype(int), singles["kl"] / singles["kl_reference"]
    return singles.rename(columns={"kl": "mean"})[["layer", "head", "mean", "share"]]
