"""What the pages about maps share: one mapped condition's numbers, stored and live, and the map's diagnostics."""

import history
import pandas as pd
import session
import stored_results
import streamlit as st
from glossary import TERMS, say

from mechdiff.questions import Question
from mechdiff.reporting import chart_tables

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


def quiet(text: str) -> dict:
    """A metric's second line, as it is: neither good nor bad."""
    return {"delta": text, "delta_color": "off", "delta_arrow": "off", "width": "content"}


def numbers():
    """A row for metrics, which wraps where it is narrow."""
    return st.container(horizontal=True, gap="medium")


def summary(run: Question, table: pd.DataFrame) -> pd.DataFrame:
    """A line per condition of what is there of a live request."""
    return run.summary(table)


def with_reference(table: pd.DataFrame) -> pd.DataFrame:
    """A live table with the zscore effects as lines of their own."""
    mapped = table[(table["control"] == "none") & (table["map"] != "zscore")]
    return pd.concat([table, mapped.assign(map="zscore", kl=mapped["kl_reference"])], ignore_index=True)


def answer(run: Question, label: str, what: str) -> tuple[pd.Series | None, pd.DataFrame]:
    """One condition, asked for beside its controls: its numbers are shown and noted in the history, as `what`.

    Returns its summary, None until it is there, and the answer.
    """
    table = session.answer(run)
    line, here = asked(summary(run, table)), table[table["control"] == "none"]
    if line is None:
        session.waiting(
            "The live effect appears when the train split is read, the map fitted and the prompts patched.", session.NUMBERS
        )
    else:
        metrics(here, line, label)
        history.note(run, what, line["mean"], effects=here.sort_values("prompt")["kl"], control="none")
    return line, table


def metrics(table: pd.DataFrame, line: pd.Series, what: str) -> None:
    """The live condition in numbers. table: its lines by prompt."""
    zscore = table["kl_reference"].mean()
    row = numbers()
    interval = f"95 % interval {line['low']:.4f} to {line['high']:.4f}"
    row.metric(what, f"{line['mean']:.4f} nats", help=say("effect", "interval"), **quiet(interval))
    row.metric("Zscore effect", f"{zscore:.4f} nats", help=TERMS["zscore"], **quiet("the reference"))
    ratio(row, "Drop", line, "drop", 1, f"{TERMS['drop']} Not defined under complement own.")
    ratio(row, "Recovery", line, "recovery", 100, TERMS["recovery"])


def ratio(row, label: str, line: pd.Series, name: str, factor: float, about: str) -> None:
    value, low, high = (factor * line[part] for part in (name, f"{name}_low", f"{name}_high"))
    shown, interval = f"{value:z.0f} %", f"95 % interval {low:z.0f} to {high:z.0f} %"
    if value != value:
        shown, interval = "—", "not defined here"
    row.metric(label, shown, help=about, **quiet(interval))


def diagnostics(run: Question, layer: int, stream: str) -> None:
    """The stored map's quality at one site, in a row; its overlaps for those who want them. Says so if there are none."""
    found = stored_results.lines(run, "rq2", "maps", layer=layer, stream=stream, map=run.map)
    with st.expander("How good is the map itself?"):
        if found.empty:
            st.caption("The stored sweep holds no diagnostics of this map.")
            return
        line = found.iloc[0]
        named = {text: f"{line[name]:.3g}" for name, text in DIAGNOSTICS.items() if name in line and line[name] == line[name]}
        st.caption("R² on val, CKA, cosines and width: the mapped state against the own one, on prompts that were not fitted on.")
        st.dataframe(pd.DataFrame([named]), hide_index=True)
        overlaps = chart_tables.overlap(found)
        if not overlaps.empty:
            said = ", ".join(f"{k}: {value:.2f}" for k, value in zip(overlaps["rank"], overlaps["overlap"]))
            st.caption(f"Split-half overlap of the leading k directions (1: both halves of train agree). {said}")


def live(lines: pd.DataFrame | pd.Series | None) -> pd.DataFrame:
    """Live conditions as a chart's rows, or none."""
    lines = pd.DataFrame([lines]) if isinstance(lines, pd.Series) else pd.DataFrame(lines)
    return chart_tables.as_live(lines)


def asked(summarised: pd.DataFrame) -> pd.Series | None:
    """The line of the one condition that was asked for beside its controls; None until it is there."""
    found = summarised[summarised["control"] == "none"]
    return None if found.empty else found.iloc[0]
