"""Links inside the app that restore a page and its whole selection within the session; and invalid parts of a link.

A click does what the browser's back button does: the address changes, and Streamlit takes page and widgets from it. (Its own
page links and page switches keep or clear the values of widgets that are bound to the address.)
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import streamlit as st
from streamlit.components.v2 import component

from mechdiff.common.errors import UserError
from mechdiff.reporting.selection import DEFAULTS, FORMAT, VERSION, of_its_day

CSS = """
.links { display: flex; flex-direction: column; gap: .35rem; font-family: var(--st-font); font-size: .85rem; line-height: 1.35; }
.links.cards { flex-direction: row; flex-wrap: wrap; gap: 1rem; font-size: 1rem; }
.link { display: flex; align-items: start; gap: .5rem; }
.cards .link { flex: 1 1 14rem; padding: .7rem 1rem; border: 1px solid var(--st-border-color); border-radius: .5rem; }
a { flex: 1; min-width: 0; color: inherit; text-decoration: none; overflow-wrap: anywhere; }
a:hover b, a:focus b { text-decoration: underline; }
b { font-weight: 600; color: var(--st-text-color); }
small { display: block; font-size: 1em; opacity: .65; color: var(--st-text-color); }
button { border: 0; padding: 0 .2rem; cursor: pointer; background: none; font: inherit; color: var(--st-primary-color); }
"""
JS = """
export default function ({ data, parentElement, setTriggerValue }) {
  const list = parentElement.querySelector(".links");
  list.classList.toggle("cards", data.cards);
  const make = (name, text) => Object.assign(document.createElement(name), { textContent: text });
  list.replaceChildren(...data.links.map((link, index) => {
    const row = Object.assign(document.createElement("div"), { className: "link" });
    const anchor = Object.assign(document.createElement("a"), { href: link.to });
    anchor.append(make("b", link.text), make("small", link.about));
    anchor.onclick = (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      history.pushState({}, "", anchor.href);
      window.dispatchEvent(new PopStateEvent("popstate"));
    };
    row.append(anchor);
    if (link.act) {
      const button = make("button", link.act);
      button.onclick = () => setTriggerValue("acted", index);
      row.append(button);
    }
    return row;
  }));
}
"""
LINKS = component("mechdiff_links", html='<div class="links"></div>', css=CSS, js=JS)

FORMER = {  # the labels that links of version 0.1 hold, and the values in their place
    "grid": {"quick: 50 prompts, few ranks, single heads": "quick", "full: every prompt, map, rank and set of heads": "full"}
}


@dataclass(frozen=True)
class Link:
    """to: a page and its query. text, about: its two lines. act: the label of its button, if it has one."""

    to: str
    text: str
    about: str
    act: str = ""


def first_address() -> dict[str, list[str]]:
    """The parameters of a session's first address; later nothing, since the app itself then writes the address."""
    if "_opened" in st.session_state:
        return {}
    complete_old_link()
    st.session_state["_opened"] = True
    for key, values in FORMER.items():
        if (text := st.query_params.get(key)) in values:
            st.query_params[key] = st.session_state[key] = values[text]
    return {key: st.query_params.get_all(key) for key in st.query_params}


def complete_old_link() -> None:
    """Fill in what a link from before this format left out, as it was then, note it, and begin again with that address."""
    if not DEFAULTS.keys() & {*st.query_params} or st.query_params.get(VERSION) == FORMAT:
        return
    try:
        values = of_its_day({key: st.query_params[key] for key in st.query_params})
    except UserError:
        return  # an unknown pair, which the page says
    added = {key: value for key, value in values.items() if st.query_params.get(key) != value}
    named = ", ".join(f"{key} {value}" for key, value in added.items())
    st.session_state["_old_link"] = f"This link is older than today's defaults. It opens with those of its day: {named}."
    st.query_params.update(added | {VERSION: FORMAT})
    st.rerun()


def mark() -> None:
    """Put the format's number into the address, as a hidden widget's value: it then moves with the others from page to page."""
    if st.session_state.get(VERSION) != FORMAT:
        st.session_state[VERSION] = FORMAT
    with st.container(key="format"):
        st.text_input("Format of links", key=VERSION, bind="query-params", label_visibility="collapsed")


def rejected(requested: dict[str, list[str]]) -> list[str]:
    """The parameters that no widget accepted, once all widgets are drawn: unknown names, and numbers out of range.

    Streamlit removes such values from the address. It removes defaults too, but those the widget has.
    """
    removed = {key: st.session_state[key] for key in requested if key in st.session_state and key not in st.query_params}
    return [f"{key}={','.join(requested[key])}" for key, value in removed.items() if plain(value) != plain(requested[key])]


def plain(value: object) -> list:
    """A widget's value, or its text in an address, in a form in which both are equal."""
    parts = value if isinstance(value, list | tuple) else [value]
    return sorted(str(number(str(part))).lower() for part in parts if part not in ("", None))


def number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def draw(links: list[Link], key: str, act: Callable[[int], None] | None = None, cards: bool = False) -> None:
    """Draw links. act: called with the number of the link whose button is clicked, before the page is drawn again."""

    def acted() -> None:
        if act is not None:
            act(st.session_state[key]["acted"])

    data = {"links": [asdict(link) for link in links], "cards": cards}
    LINKS(key=key, data=data, on_acted_change=acted)
