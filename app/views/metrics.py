"""Numbers that several pages show: one condition's effect, drop and recovery, and a map's diagnostics."""

import history
import pandas as pd
import session
import stored_results
import streamlit as st
from glossary import TERMS, say

from mechdiff.maths.intervals import FEWEST
from mechdiff.questions import Question
from mechdiff.questions.shared.request import map_of
from mechdiff.reporting import chart_tables

DIAGNOSTICS = {
    "r2_train": "R² on train",
    "r2_val": "R² on val",
    "r2_whitened_train": "R² on train, whitened",
    "r2_whitened_val": "R² on val, whitened",
    "r2_whitened_shuffled": "R² on val, whitened, shuffled",
    "cka": "debiased CKA",
    "cka_plain": "plain CKA",
    "cosine_mean": "mean cosine",
    "cosine_p10": "cosine, 10th percentile",
    "cosine_p90": "cosine, 90th percentile",
    "scale": "scale",
    "alpha": "alpha (out of fold)",
    "effective_rank": "effective rank",
    "shrinkage": "shrinkage against own",
}


FEW = f"fewer than {FEWEST} templates: no interval"


def quiet(text: str) -> dict:
    """A metric's second line, without an arrow or a colour."""
    return {"delta": text, "delta_color": "off", "delta_arrow": "off", "width": "content"}


def interval(low: float, high: float, form: str, unit: str = "") -> str:
    """A metric's interval in words, or why there is none. form: of a number."""
    return f"95 % interval {low:{form}} to {high:{form}}{unit}" if low == low else FEW


def numbers():
    """A row for metrics, which wraps on narrow screens."""
    return st.container(horizontal=True, gap="medium")


def summary(run: Question, table: pd.DataFrame) -> pd.DataFrame:
    """A line per condition of a live request, as far as it is computed."""
    return table if session.stored_only() else run.summary(table)


def with_reference(table: pd.DataFrame) -> pd.DataFrame:
    """A live table with the z-score effects as additional lines."""
    mapped = table[(table["control"] == "none") & (table["map"] != "zscore")]
    return pd.concat([table, mapped.assign(map="zscore", kl=mapped["kl_reference"])], ignore_index=True)


def answer(run: Question, label: str, what: str, **where: str) -> tuple[pd.Series | None, pd.DataFrame]:
    """Show one condition's numbers and add it to the history as `what`. where: which condition, if the request has several.

    Returns its summary line, None until it is computed, and the request's table.
    """
    table = session.answer(run)
    line, here = single_line(matching(summary(run, table), where)), matching(table[table["control"] == "none"], where)
    if line is None:
        session.waiting("Reading training prompts, fitting the map, patching...", session.NUMBERS)
    else:
        metrics(here, line, label)
        history.note(run, what, line["mean"], effects=here.sort_values("prompt")["kl"], control="none", **where)
    return line, table


def matching(lines: pd.DataFrame, where: dict[str, str]) -> pd.DataFrame:
    """The lines with these values."""
    for name, value in where.items():
        lines = lines[lines[name] == value] if name in lines else lines
    return lines


def metrics(table: pd.DataFrame, line: pd.Series, what: str) -> None:
    """The live condition's numbers. table: its lines, one per prompt."""
    row = numbers()
    about = interval(line["low"], line["high"], ".4f")
    row.metric(what, f"{line['mean']:.4f} nats", help=say("effect", "interval"), **quiet(about))
    if "beyond_shift" in line:
        ratio(row, "Of the shift's effect", line, "beyond_shift", 100, TERMS["beyond shift"])
    if "kl_reference" in table:
        ratio(row, "Drop", line, "drop", 1, f"{TERMS['drop']} Not defined for complement own.")
    ratio(row, "Recovery", line, "recovery", 100, TERMS["recovery"])
    if "kl_reference" in table:
        zscore = table["kl_reference"].mean()
        row.metric("Z-score effect", f"{zscore:.4f} nats", help=TERMS["zscore"], **quiet("the reference"))


def ratio(row, label: str, line: pd.Series, name: str, factor: float, about: str) -> None:
    """A ratio of a summary line with its interval, in per cent. factor: 100 for a share, 1 for per cent."""
    value, low, high = (factor * line[part] for part in (name, f"{name}_low", f"{name}_high"))
    text, below = ("—", "not defined here") if value != value else (f"{value:z.0f} %", interval(low, high, "z.0f", " %"))
    row.metric(label, text, help=about, **quiet(below))


def diagnostics(run: Question, layer: int, stream: str) -> None:
    """The quality of the stored map at one site, and the overlaps of its leading directions."""
    stored = stored_results.lines(run, "rq2", "maps", layer=layer, stream=stream, map=map_of(run))
    with st.expander("How good is the map itself?"):
        if stored.empty:
            st.caption("The stored sweep has no diagnostics of this map.")
            return
        line = stored.iloc[0]
        values = {text: f"{line[name]:.3g}" for name, text in DIAGNOSTICS.items() if name in line and line[name] == line[name]}
        st.caption(
            "R² on val, CKA, cosines, shrinkage: the mapped state against the recipient's own, on prompts not used for fitting."
        )
        st.dataframe(pd.DataFrame([values]), hide_index=True)
        overlaps = chart_tables.overlap(stored)
        if not overlaps.empty:
            values = ", ".join(f"{k}: {value:.2f}" for k, value in zip(overlaps["rank"], overlaps["overlap"]))
            st.caption(f"Split-half overlap of the leading k directions (1: both halves of the train prompts agree). {values}")


def live(lines: pd.DataFrame | pd.Series | None) -> pd.DataFrame:
    """Live conditions as rows of a chart, if there are any."""
    lines = pd.DataFrame([lines]) if isinstance(lines, pd.Series) else pd.DataFrame(lines)
    return chart_tables.as_live(lines)


def single_line(lines: pd.DataFrame) -> pd.Series | None:
    """The summary line of a request with one condition, without its controls; None until it is computed."""
    lines = lines[lines["control"] == "none"]
    return None if lines.empty else lines.iloc[0]
