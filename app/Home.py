"""mechdiff's app: `streamlit run app/Home.py`. Settings and navigation; `session.frame` is what surrounds every page."""

from pathlib import Path

import session
import streamlit as st
from views import compare, drift, heads, home, lab, patching, rank, sweeps, transport, weights

PAGES = {  # a page's title: what draws it, and its icon
    "Home": (home.page, "home"),
    "Drift": (drift.page, "call_split"),
    "Patching": (patching.page, "swap_horiz"),
    "Transport": (transport.page, "moving"),
    "Rank": (rank.page, "filter_list"),
    "Heads": (heads.page, "grid_view"),
    "Weights": (weights.page, "grid_on"),
    "Lab": (lab.page, "science"),
    "Compare": (compare.page, "compare"),
    "Sweeps": (sweeps.page, "inventory_2"),
}

st.set_page_config("mechdiff", page_icon=str(Path(__file__).with_name("icon.png")), layout="wide")
chosen = st.navigation(
    [
        st.Page(draw, title=title, icon=f":material/{icon}:", url_path=title.lower(), default=title == "Home")
        for title, (draw, icon) in PAGES.items()
    ]
)
# The page's function is called here, not by the page's run(): a widget then belongs to the app, not to one of its pages, and
# keeps its value and its place in the link from page to page.
session.frame(PAGES[chosen.title][0], chosen.title.lower())
