"""Imported numbers as marks on our charts: means without intervals, each with a description and its file."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mechdiff.study.imports import imported_sets
from mechdiff.study.imports.layout import layout

PLACE = ("layer", "depth", "rank", "alpha", "stream", "heads", "size", "share", "blend")  # what distinguishes marks
SOURCES = 3  # files of one mark that are named


@dataclass(frozen=True)
class ChartSource:
    """Where a chart's numbers come from. mean: their column; factor: what it is multiplied by. x: the chart's axis."""

    table: str
    mean: str
    x: str
    factor: float = 1.0


CHARTS = {
    "drift": ChartSource("drift", "cka", "depth"),
    "effect": ChartSource("patch_summary", "mean", "depth"),
    "mapped": ChartSource("transport_summary", "mean", "depth"),
    "drop": ChartSource("transport_summary", "drop", "depth"),
    "cut": ChartSource("rank_summary", "mean", "rank"),
    "rank": ChartSource("rank_summary", "drop", "rank"),
    "heads": ChartSource("heads_summary", "mean", "size"),
    "coverage": ChartSource("heads_summary", "coverage", "share", 100.0),
}
REFERENCES = {"transport_summary": "zscore", "rank_summary": "zscore", "heads_summary": "all heads"}  # of an effect
LABELS = {"stream": "{}", "map": "{}", "rank": "rank {}", "alpha": "alpha {}", "heads": "heads {}"}  # of a mark, in its tooltip


def points(name: str, chart: str, domain: str, direction: str, **where) -> pd.DataFrame:
    """The marks of a chart: a row per condition and value, with layer, depth, rank, size, share as far as the table has them,
    mean, note (what it is), source (its files) and what (the legend's label). Lines without a place or a value have no mark.

    where: column -> value, to select lines.
    """
    source = CHARTS[chart]
    table = imported_sets.read(name, domain, source.table)
    if table.empty:
        return table
    if "direction" in table:
        table = table[table["direction"] == direction]
    for column, value in where.items():
        table = table[table[column] == value]
    table = table.assign(mean=source.factor * table[source.mean]).dropna(subset=["mean", "layer"])
    if source.table == "heads_summary":
        table = sized(table)
    table = table.assign(
        layer=table["layer"].astype(int),
        depth=table["layer"].astype(float) / (layout()["layers"] - 1),
        note=[description(line, REFERENCES.get(source.table)) for line in table.to_dict("records")],
        what=legend_label(name),
    )
    return merged(table)


def legend_label(name: str) -> str:
    """An import in a legend."""
    return f"imported: {name}, means only"


def description(line: dict, reference: str | None) -> str:
    """A mark in words: its condition, its number of prompts, and what a reader has to know."""
    parts = [text.format(line[field]) for field, text in LABELS.items() if line.get(field)]
    parts += [f"blend {line['blend']:g}"] if line.get("blend", np.nan) == line.get("blend") else []
    against = line.get("reference", np.nan)
    parts += [f"{reference} {against:.4g} nats"] if reference and against == against else []
    prompts = line.get("prompts", np.nan)
    parts += [f"{prompts:.0f} prompts"] if prompts == prompts else []
    return "; ".join(filter(None, [", ".join(parts), line["note"], f"lacks {line['lacks']}" if line["lacks"] else ""]))


def sized(table: pd.DataFrame) -> pd.DataFrame:
    """Sets of heads with their size and their share, in per cent, of all heads of a layer."""
    count = layout()["heads"]
    sizes = np.array([{"all": count, "none": 0}.get(text, text.count("-") + 1) for text in table["heads"]], dtype=int)
    return table.assign(size=sizes, share=100 * sizes / count)


def merged(table: pd.DataFrame) -> pd.DataFrame:
    """Lines at the same place with the same value become one mark, which names all their files."""
    place = [name for name in PLACE if name in table]
    groups = table.groupby([*place, "mean", "what"], dropna=False, sort=False)
    return groups.agg(note=("note", joined_notes), source=("source", joined_sources)).reset_index()


def joined_notes(notes: pd.Series) -> str:
    return " — also: ".join(dict.fromkeys(notes))


def joined_sources(paths: pd.Series) -> str:
    names = list(dict.fromkeys(paths))
    return ", ".join(names[:SOURCES]) + (f" and {len(names) - SOURCES} more" if len(names) > SOURCES else "")


def nearest(table: pd.DataFrame, depth: float | None) -> pd.DataFrame:
    """Of several layers, the one nearest to a relative depth."""
    if depth is None or table.empty:
        return table
    distance = (table["depth"] - depth).abs()
    return table[distance == distance.min()]


def compared(name: str, chart: str, domain: str, direction: str, depth: float | None = None) -> pd.DataFrame:
    """The marks of a chart of Compare: of the residual stream, or of heads that are replaced entirely.

    Columns layer, x, mean, x2 and mean2 as for published marks, and note, source and what. Empty for a chart that the study has
    no numbers for.
    """
    if chart not in CHARTS:
        return pd.DataFrame()
    where = {"blend": 1.0} if chart == "coverage" else {"stream": layout()["stream"]}
    where |= {} if chart in ("drift", "effect", "coverage") else {"control": "none"}
    marks = nearest(points(name, chart, domain, direction, **where), depth)
    if marks.empty:
        return marks
    marks = marks.assign(x=marks[CHARTS[chart].x], x2=marks[CHARTS[chart].x], mean2=marks["mean"])
    return marks[["layer", "x", "mean", "x2", "mean2", "note", "source", "what"]]
