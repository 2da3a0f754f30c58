"""mechdiff's app: `streamlit run app/Home.py`. Settings and navigation; `session.frame` is what surrounds every page."""

from pathlib import Path

import session
import streamlit as st
from views import drift, heads, home, patching, rank, transport

PAGES = [
    st.Page(home.page, title="Home", icon=":material/home:", url_path="home", default=True),
    st.Page(drift.page, title="Drift", icon=":material/call_split:", url_path="drift"),
    st.Page(patching.page, title="Patching", icon=":material/swap_horiz:", url_path="patching"),
    st.Page(transport.page, title="Transport", icon=":material/moving:", url_path="transport"),
    st.Page(rank.page, title="Rank", icon=":material/filter_list:", url_path="rank"),
    st.Page(heads.page, title="Heads", icon=":material/grid_view:", url_path="heads"),
]

st.set_page_config("mechdiff", page_icon=str(Path(__file__).with_name("icon.png")), layout="wide")
session.frame(st.navigation(PAGES).run)
