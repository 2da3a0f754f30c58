"""The pages, in the sidebar's sections. A page's name is its address."""

from collections.abc import Callable
from dataclasses import dataclass

from views import home
from views.how import heads, rank, transport, weights
from views.lab import page as lab
from views.study import compare, sweeps
from views.where import drift, patching


@dataclass(frozen=True)
class Page:
    draw: Callable[[], None]
    icon: str  # a name in Streamlit's Material Symbols


SECTIONS = {
    "": {"home": Page(home.page, "home")},
    "Where": {"drift": Page(drift.page, "call_split"), "patching": Page(patching.page, "swap_horiz")},
    "How": {
        "transport": Page(transport.page, "moving"),
        "rank": Page(rank.page, "filter_list"),
        "heads": Page(heads.page, "grid_view"),
        "weights": Page(weights.page, "grid_on"),
    },
    "Lab": {"lab": Page(lab.page, "science")},
    "Study": {"compare": Page(compare.page, "compare"), "sweeps": Page(sweeps.page, "inventory_2")},
}
PAGES = {name: page for section in SECTIONS.values() for name, page in section.items()}
