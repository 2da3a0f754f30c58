"""A prompt's tokens as running text, shaded; a click selects one. Not a chart, since text must wrap."""

from collections.abc import Callable

import streamlit as st
from streamlit.components.v2 import component

CSS = """
.strip { line-height: 1.9; font-family: var(--st-code-font); font-size: .9rem; overflow-wrap: anywhere;
  color: var(--st-text-color); max-height: 12rem; overflow-y: auto; position: relative; }
.strip span { white-space: pre-wrap; cursor: pointer; padding: .12em 0; border-radius: .2em;
  background: rgba(63, 120, 216, calc(.62 * var(--shade))); }
.strip span.template { font-size: .75rem; opacity: .6; }
.strip span:hover { outline: 1px solid var(--st-text-color); }
.strip span.chosen { outline: 2.5px solid #e07b39; outline-offset: -1px; opacity: 1; }
"""
JS = """
export default function ({ data, parentElement, setTriggerValue }) {
  const strip = parentElement.querySelector(".strip"), before = strip.scrollTop;
  strip.replaceChildren(...data.tokens.map((token) => {
    const span = document.createElement("span");
    span.textContent = token.text;
    span.title = token.about;
    span.dataset.token = token.token;
    span.style.setProperty("--shade", token.shade);
    span.classList.toggle("template", !token.own);
    span.classList.toggle("chosen", token.token === data.chosen);
    span.onclick = () => setTriggerValue("picked", token.token);
    return span;
  }));
  strip.scrollTop = before;  // where the reader was, unless the chosen token would be out of sight
  const chosen = strip.querySelector(".chosen");
  const top = chosen ? chosen.offsetTop - strip.scrollTop : 0;
  if (top < 0 || top > strip.clientHeight - 20) strip.scrollTop += top - strip.clientHeight / 2;
}
"""
STRIP = component("mechdiff_strip", html='<div class="strip" dir="auto"></div>', css=CSS, js=JS)


def draw(tokens: list[dict], chosen: int, key: str, take: Callable[[int], None]) -> None:
    """Draw tokens, each with token (its number), text, about (for the pointer), shade (0 to 1) and own (not the template's).

    take: what to do with a clicked token's number, before the page is drawn again.
    """
    STRIP(key=key, data={"tokens": tokens, "chosen": chosen}, on_picked_change=lambda: take(st.session_state[key]["picked"]))
