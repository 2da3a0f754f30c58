"""mechdiff's app: `streamlit run app/Home.py`. The frame of every page: settings, navigation, the shared selection."""

from pathlib import Path

import controls
import session
import streamlit as st
from views import drift, heads, home, patching

from mechdiff.errors import UserError

PAGES = [
    st.Page(home.page, title="Home", icon=":material/home:", url_path="home", default=True),
    st.Page(drift.page, title="Drift", icon=":material/call_split:", url_path="drift"),
    st.Page(patching.page, title="Patching", icon=":material/swap_horiz:", url_path="patching"),
    st.Page(heads.page, title="Heads", icon=":material/grid_view:", url_path="heads"),
]

st.set_page_config("mechdiff", page_icon=str(Path(__file__).with_name("icon.png")), layout="wide")
chosen = st.navigation(PAGES)
st.session_state["_shared"] = controls.selection()
session.begin_page()
progress = st.container()
try:
    chosen.run()
except UserError as error:
    st.error(str(error).replace("\n", "\n\n"), icon=":material/error:")
with progress:
    session.end_page()
session.foot()
