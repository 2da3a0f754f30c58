"""A record of the current page run: its charts, its answered requests, and its headline number."""

from dataclasses import dataclass, field

import streamlit as st

from mechdiff.reporting.bundle import Answer, Headline

TIMES = ("MapTime", "Parity")  # requests about this machine: not findings


@dataclass
class PageRecord:
    """charts: as drawn, Altair charts or specifications. answers: each request once, with its whole table."""

    charts: list = field(default_factory=list)
    answers: dict = field(default_factory=dict)
    headline: Headline | None = None


def begin() -> None:
    """Start an empty record for a new page run."""
    st.session_state["_page_record"] = PageRecord()


def current() -> PageRecord:
    return st.session_state.setdefault("_page_record", PageRecord())


def chart(figure) -> None:
    """Record a chart."""
    current().charts.append(figure)


def answer(request, table, command: str = "") -> None:
    """Record a request and its whole table."""
    if len(table) and type(request).__name__ not in TIMES:
        current().answers[request] = Answer(request, table, command)


def headline(request, measure: str, of: str, value: float, unit: str, column: str, where: dict) -> None:
    """Record the page's headline number. where: the columns that identify its line in the request's summary."""
    answers = list(current().answers)
    if request in answers and value == value:
        plain = {name: part.item() if hasattr(part, "item") else part for name, part in where.items()}
        current().headline = Headline(measure, of, value, unit, answers.index(request), column, plain)
