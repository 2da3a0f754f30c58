"""mechdiff's app: `streamlit run app/Home.py`. Settings and navigation; `session.frame` draws what surrounds every page."""

from pathlib import Path

import session
import streamlit as st
from pages import PAGES, SECTIONS

st.set_page_config("mechdiff", page_icon=str(Path(__file__).with_name("icon.png")), layout="wide")
selected = st.navigation(
    {
        section: [
            st.Page(page.draw, title=name.title(), icon=f":material/{page.icon}:", url_path=name, default=name == "home")
            for name, page in pages.items()
        ]
        for section, pages in SECTIONS.items()
    }
)
# The page's function is called here, not by the page's run(): a widget then belongs to the app, not to one of its pages, and
# keeps its value and its place in the link from page to page.
name = selected.title.lower()
session.frame(PAGES[name].draw, name)
