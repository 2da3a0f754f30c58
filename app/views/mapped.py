"""What the pages about maps share: one mapped condition's numbers, stored and live, and the map's diagnostics."""

import archive
import charts
import controls
import pandas as pd
import streamlit as st

from mechdiff.experiments import Run
from mechdiff.experiments.summary import summarise, wide
from mechdiff.terms import MAPS

DIAGNOSTICS = {
    "r2_train": "R² on train",
    "r2_val": "R² on val",
    "cka": "debiased CKA",
    "cosine_mean": "cosine, mean",
    "cosine_p10": "cosine, 10th percentile",
    "cosine_p90": "cosine, 90th percentile",
    "scale": "scale",
    "alpha": "alpha, out of fold",
    "effective_rank": "effective rank",
    "shrinkage": "narrower than own by",
}


def site(shared: dict, maps: tuple[str, ...] = MAPS) -> tuple[str, str, int, str]:
    """The widgets that say which map at which site: map, stream, layer, alpha."""
    one, two, three, four = st.columns([1.4, 1.2, 2, 1])
    with one:
        name = controls.fitted_map(maps)
    with two:
        stream = controls.stream(controls.MAPPED)
    with three:
        layer = controls.layer(controls.read_pair(shared["pair"]))
    with four:
        alpha = controls.alpha()
    return name, stream, layer, alpha


def summary(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """A line per condition of what is there of a live request."""
    return summarise(wide(table), [prompt.template for prompt in run.chosen_prompts])


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The lines with what a chart's legend calls them: their control, or their map."""
    return table.assign(shown=table["control"].map(charts.CONTROL_NAMES).fillna(table["map"]))


def with_reference(table: pd.DataFrame) -> pd.DataFrame:
    """A live table with the zscore effects as lines of their own."""
    mapped = table[(table["control"] == "none") & (table["map"] != "zscore")]
    return pd.concat([table, mapped.assign(map="zscore", kl=mapped["kl_reference"])], ignore_index=True)


def share(table: pd.DataFrame, name: str, factor: float = 1.0, **more) -> pd.DataFrame:
    """The lines with one of their ratios as mean, low and high, in per cent."""
    parts = {"mean": name, "low": f"{name}_low", "high": f"{name}_high"}
    return table.assign(**{short: factor * table[column] for short, column in parts.items()}, **more)


def metrics(table: pd.DataFrame, line: pd.Series, what: str) -> None:
    """The live condition in numbers. table: its lines by prompt."""
    zscore = table["kl_reference"].mean()
    columns = st.columns(4)
    interval = f"95 % interval {line['low']:.4f} to {line['high']:.4f}"
    about = (
        "KL(patched || clean): how far the patch moves the next token. The interval is over prompts, not over other fine-tunes."
    )
    quiet = {"delta_color": "off", "delta_arrow": "off"}
    columns[0].metric(what, f"{line['mean']:.4f} nats", delta=interval, help=about, **quiet)
    columns[1].metric("Zscore effect", f"{zscore:.4f} nats", help="The reference: mean and scale matched, no rotation.")
    ratio(columns[2], "Drop", line, "drop", 1, "How much less than the zscore effect. Not defined under complement own.")
    ratio(columns[3], "Recovery", line, "recovery", 100, "How much of the difference between the two models the patch removes.")


def ratio(column, label: str, line: pd.Series, name: str, factor: float, about: str) -> None:
    value, low, high = (factor * line[part] for part in (name, f"{name}_low", f"{name}_high"))
    shown, interval = f"{value:z.0f} %", f"95 % interval {low:z.0f} to {high:z.0f} %"
    if value != value:
        shown, interval = "—", "not defined here"
    column.metric(label, shown, delta=interval, delta_color="off", delta_arrow="off", help=about)


def diagnostics(run: Run, layer: int, stream: str) -> None:
    """The stored map's quality at one site, in a row; its overlaps for those who want them. Says so if there are none."""
    found = archive.lines(run, "rq2", "maps", layer=layer, stream=stream, map=run.map)
    with st.expander("How good is the map itself?"):
        if found.empty:
            st.caption("The stored sweep holds no diagnostics of this map.")
            return
        line = found.iloc[0]
        named = {text: f"{line[name]:.3g}" for name, text in DIAGNOSTICS.items() if name in line and line[name] == line[name]}
        st.caption("R² on val, CKA, cosines and width: the mapped state against the own one, on prompts that were not fitted on.")
        st.dataframe(pd.DataFrame([named]), hide_index=True)
        overlaps = overlap(found)
        if not overlaps.empty:
            said = ", ".join(f"{k}: {value:.2f}" for k, value in zip(overlaps["rank"], overlaps["overlap"]))
            st.caption(f"Split-half overlap of the leading k directions (1: both halves of train agree). {said}")


def overlap(found: pd.DataFrame) -> pd.DataFrame:
    """The overlaps of a line of diagnostics, a row per rank."""
    names = [name for name in found if name.startswith("overlap_")] if len(found) else []
    rows = [(name.removeprefix("overlap_"), found.iloc[0][name]) for name in names]
    return pd.DataFrame(rows, columns=["rank", "overlap"]).dropna()


def point(line: pd.Series | None) -> pd.DataFrame:
    """The live condition as a chart's row, or none."""
    return pd.DataFrame() if line is None else pd.DataFrame([line]).assign(shown=charts.LIVE)


def asked(summarised: pd.DataFrame) -> pd.Series | None:
    """The line of the one condition that was asked for beside its controls; None until it is there."""
    found = summarised[summarised["control"] == "none"]
    return None if found.empty else found.iloc[0]


def join(*parts: pd.DataFrame) -> pd.DataFrame:
    """Tables below one another; empty ones have no columns to give."""
    return pd.concat([part for part in parts if len(part)] or [pd.DataFrame()], ignore_index=True)
