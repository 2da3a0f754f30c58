"""The pages, in the sidebar's sections. A page's name is its address."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from views import home, question
from views.how import heads, rank, transport, weights
from views.lab import page as lab
from views.study import compare, sweeps
from views.where import drift, patching

from mechdiff.questions import QUESTIONS


@dataclass(frozen=True)
class Page:
    """icon: a name in Streamlit's Material Symbols. questions: those that are answered on it."""

    draw: Callable[[], None]
    icon: str
    questions: tuple[str, ...] = ()


OWN = {
    "": {"home": Page(home.page, "home", ("behaviour",))},
    "Where": {
        "drift": Page(drift.page, "call_split", ("drift",)),
        "patching": Page(patching.page, "swap_horiz", ("patch", "transplant")),
    },
    "How": {
        "transport": Page(transport.page, "moving", ("transport",)),
        "rank": Page(rank.page, "filter_list", ("rank",)),
        "heads": Page(heads.page, "grid_view", ("heads",)),
        "weights": Page(weights.page, "grid_on", ("weights",)),
    },
    "Lab": {"lab": Page(lab.page, "science", ("stack",))},
    "Study": {"compare": Page(compare.page, "compare"), "sweeps": Page(sweeps.page, "inventory_2")},
}
MORE = "More questions"


def sections() -> dict[str, dict[str, Page]]:
    """Section -> its pages by name: those above, and one for each question that none of them answers."""
    answered = {name for section in OWN.values() for page in section.values() for name in page.questions}
    taken = {name for section in OWN.values() for name in section}
    more = {
        f"{name}_question" if name in taken else name: Page(partial(question.page, name), "help_center", (name,))
        for name in QUESTIONS
        if name not in answered
    }
    return OWN | ({MORE: more} if more else {})


SECTIONS = sections()
PAGES = {name: page for section in SECTIONS.values() for name, page in section.items()}
