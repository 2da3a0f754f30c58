"""The Lab's prompt: one of the domain's, typed, or from a file. Own prompts stay on this machine; a link has only their hash."""

import controls
import streamlit as st

from mechdiff.common.errors import UserError
from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import OWN, Prompt
from mechdiff.reporting.selection import Selection


def choose(selection: Selection) -> tuple[str, str] | None:
    """The prompt box. Returns the names of the chosen prompt and of all own prompts; None if a link's prompts are not here."""
    row = st.container()  # drawn above, but its text depends on the widgets below
    below = st.container(horizontal=True, vertical_alignment="bottom")
    with below:
        st.button("Run", type="primary", on_click=commit, key="read")
        with st.popover("Open", icon=":material/folder_open:", key="open_menu"):
            own = files()
    try:
        texts = prompts.read_prompts(OWN + own) if own else selection.run("patch").chosen_prompts
    except UserError as error:
        st.error(str(error), icon=":material/link_off:")
        box(row, "", own)
        return None
    with below:
        index = which(len(texts)) if len(texts) > 1 else 0
    box(row, texts[index].text, (own, index, texts[index].text))
    name = prompts.keep_prompts([texts[index]])
    return name, OWN + own if own else name


def which(count: int) -> int:
    return controls.linked(
        st.number_input,
        f"Prompt (of {count})",
        0,
        count - 1,
        key="own_prompt",
        width=130,
        mend=lambda value: min(max(value, 0), count - 1),
        persist_state="session",
        help="Which of the domain's prompts, or of your own, to study, counted from 0.",
    )


def box(place, text: str, of: object) -> None:
    """The text area, refilled when another prompt is chosen. It is read when it loses focus, or with Ctrl+Enter."""
    if "text" not in st.session_state or st.session_state.get("_text_of") != of:
        st.session_state["text"], st.session_state["_text_of"] = text, of
    place.text_area("Your prompt", key="text", height=118, on_change=commit, placeholder="Type or paste any prompt.")
    if message := st.session_state.pop("_rejected", None):
        place.error(message, icon=":material/error:")


def commit() -> None:
    """Study the text in the box."""
    text = st.session_state["text"]
    of = st.session_state.get("_text_of")
    if isinstance(of, tuple) and text == of[-1]:
        return
    if not text.strip():
        st.session_state["_rejected"] = "The box is empty. Type a prompt; until then the last one is used."
        return
    take([Prompt(text, "own")])


def take(texts: list[Prompt]) -> None:
    """Study the user's own prompts from now on."""
    try:
        name = prompts.keep_prompts(texts)
    except UserError as error:
        st.session_state["_rejected"] = str(error)
        return
    st.session_state["own"], st.session_state["own_prompt"], st.session_state["back"] = name.removeprefix(OWN), 0, 0


def files() -> str:
    """A file of prompts, or the name of stored ones. Returns the name without its `own:`; empty for the domain's prompts."""
    st.file_uploader(
        "Prompts (JSONL)",
        type=["jsonl", "json"],
        key="upload",
        on_change=upload,
        help=f"One JSON object per line, such as `{prompts.example()}`. The stack's effect is then the mean over all prompts.",
    )
    own = controls.linked(
        st.text_input,
        "Or the hash of prompts used before",
        key="own",
        persist_state="session",
        help="A link contains only this hash of your prompts. The texts stay in the cache folder on this machine.",
    ).strip()
    st.button("Back to the domain's prompts", on_click=forget, disabled=not own, key="forget")
    return own


def upload() -> None:
    file = st.session_state["upload"]
    if file is None:
        return
    try:
        texts = prompts.parse_prompts(file.getvalue().decode("utf-8-sig").split("\n"), file.name)
    except UnicodeDecodeError:
        st.session_state["_rejected"] = f"{file.name} is not UTF-8 text. It needs one JSON object per line: {prompts.example()}"
    except UserError as error:
        st.session_state["_rejected"] = str(error)
    else:
        take(texts)


def forget() -> None:
    st.session_state["own"], st.session_state["back"] = "", 0
