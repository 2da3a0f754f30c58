"""What this page run has shown so far: its charts, its answered requests, and the number it is about."""

from dataclasses import dataclass, field

import streamlit as st

from mechdiff.reporting.bundle import Answer, Headline

TIMES = ("MapTime", "Parity")  # requests about this machine, and no findings


@dataclass
class PageRecord:
    """charts: as they were drawn, Altair charts or specifications. answers: each request once, with its whole table."""

    charts: list = field(default_factory=list)
    answers: dict = field(default_factory=dict)
    headline: Headline | None = None


def begin() -> None:
    """A page run begins: nothing is shown yet."""
    st.session_state["_page_record"] = PageRecord()


def current() -> PageRecord:
    return st.session_state.setdefault("_page_record", PageRecord())


def chart(figure) -> None:
    """A chart is drawn."""
    current().charts.append(figure)


def answer(request, table, command: str = "") -> None:
    """A request is answered with its whole table."""
    if len(table) and type(request).__name__ not in TIMES:
        current().answers[request] = Answer(request, table, command)


def headline(request, asked: str, of: str, value: float, unit: str, column: str, where: dict) -> None:
    """The number that the page is about is told. where: what tells its line in the request's summary."""
    answers = list(current().answers)
    if request in answers and value == value:
        plain = {name: part.item() if hasattr(part, "item") else part for name, part in where.items()}
        current().headline = Headline(asked, of, value, unit, answers.index(request), column, plain)
