"""Imported numbers as marks on our charts: means without intervals, each with what it is and the file that it comes from."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mechdiff.study.imports import kept
from mechdiff.study.imports.layout import layout

PLACE = ("layer", "depth", "rank", "alpha", "stream", "heads", "size", "share", "blend")  # what tells marks apart
SOURCES = 3  # of one mark, that are named


@dataclass(frozen=True)
class Chart:
    """Where a chart's numbers stand. mean: their column, and factor what it is multiplied by. x: the chart's own axis."""

    table: str
    mean: str
    x: str
    factor: float = 1.0


CHARTS = {
    "drift": Chart("drift", "cka", "depth"),
    "effect": Chart("patch_summary", "mean", "depth"),
    "mapped": Chart("transport_summary", "mean", "depth"),
    "drop": Chart("transport_summary", "drop", "depth"),
    "cut": Chart("rank_summary", "mean", "rank"),
    "rank": Chart("rank_summary", "drop", "rank"),
    "heads": Chart("heads_summary", "mean", "size"),
    "coverage": Chart("heads_summary", "coverage", "share", 100.0),
}
REFERENCES = {"transport_summary": "zscore", "rank_summary": "zscore", "heads_summary": "all heads"}  # of an effect
TOLD = {"stream": "{}", "map": "{}", "rank": "rank {}", "alpha": "alpha {}", "heads": "heads {}"}  # of a mark, in its tooltip


def points(name: str, chart: str, domain: str, direction: str, **where) -> pd.DataFrame:
    """The marks of a chart: a row per condition and value, with layer, depth, rank, size, share as far as the table has them,
    mean, note (what it is), source (its files) and what (the legend's words). Lines without a place or a value have no mark.

    where: the values that columns of the table have, such as stream.
    """
    asked = CHARTS[chart]
    table = kept.read(name, domain, asked.table)
    if table.empty:
        return table
    if "direction" in table:
        table = table[table["direction"] == direction]
    for column, value in where.items():
        table = table[table[column] == value]
    table = table.assign(mean=asked.factor * table[asked.mean]).dropna(subset=["mean", "layer"])
    if asked.table == "heads_summary":
        table = sized(table)
    table = table.assign(
        layer=table["layer"].astype(int),
        depth=table["layer"].astype(float) / (layout()["layers"] - 1),
        note=[said(line, REFERENCES.get(asked.table)) for line in table.to_dict("records")],
        what=words(name),
    )
    return merged(table)


def words(name: str) -> str:
    """What legends call an import."""
    return f"imported: {name}, means only"


def said(line: dict, reference: str | None) -> str:
    """What a mark is, in words: its condition, on how much it rests, and what a reader has to know."""
    parts = [text.format(line[field]) for field, text in TOLD.items() if line.get(field)]
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
    """Lines that would lie on one another are one mark, which names all their files; another value is another mark."""
    place = [name for name in PLACE if name in table]
    groups = table.groupby([*place, "mean", "what"], dropna=False, sort=False)
    return groups.agg(note=("note", told), source=("source", sources)).reset_index()


def told(notes: pd.Series) -> str:
    return " — also: ".join(dict.fromkeys(notes))


def sources(paths: pd.Series) -> str:
    names = list(dict.fromkeys(paths))
    return ", ".join(names[:SOURCES]) + (f" and {len(names) - SOURCES} more" if len(names) > SOURCES else "")


def nearest(table: pd.DataFrame, depth: float | None) -> pd.DataFrame:
    """Of several layers, the one nearest to a relative depth."""
    if depth is None or table.empty:
        return table
    away = (table["depth"] - depth).abs()
    return table[away == away.min()]


def compared(name: str, chart: str, domain: str, direction: str, depth: float | None = None) -> pd.DataFrame:
    """The marks of a chart of Compare, which is about the residual stream and, of heads, about whole replacement.

    With layer, x, mean, x2 and mean2 as published marks have them, and note, source and what. Empty for a chart that the study
    has no numbers for.
    """
    if chart not in CHARTS:
        return pd.DataFrame()
    where = {"blend": 1.0} if chart == "coverage" else {"stream": layout()["stream"]}
    where |= {} if chart in ("drift", "effect", "coverage") else {"control": "none"}
    found = nearest(points(name, chart, domain, direction, **where), depth)
    if found.empty:
        return found
    found = found.assign(x=found[CHARTS[chart].x], x2=found[CHARTS[chart].x], mean2=found["mean"])
    return found[["layer", "x", "mean", "x2", "mean2", "note", "source", "what"]]
