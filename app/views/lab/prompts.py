"""Which prompt the Lab looks at: one of the domain's, typed, or from a file. One's own stay here; a link has their hash alone."""

import controls
import streamlit as st

from mechdiff.common.errors import UserError
from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import OWN, Prompt
from mechdiff.reporting.selection import Selection


def choose(selection: Selection) -> tuple[str, str] | None:
    """The prompt box. Returns the chosen prompt's name and that of all of one's prompts; None if a link's are not here."""
    row = st.container()  # above, but its text depends on what is drawn below
    below = st.container(horizontal=True, vertical_alignment="bottom")
    with below:
        st.button("Read it", type="primary", on_click=commit, key="read")
        with st.popover("Open", icon=":material/folder_open:", key="open_menu"):
            own = files()
    try:
        found = prompts.read_prompts(OWN + own) if own else selection.run("patch").chosen_prompts
    except UserError as error:
        st.error(str(error), icon=":material/link_off:")
        box(row, "", own)
        return None
    with below:
        index = which(len(found)) if len(found) > 1 else 0
    box(row, found[index].text, (own, index, found[index].text))
    one = prompts.keep_prompts([found[index]])
    return one, OWN + own if own else one


def which(count: int) -> int:
    return controls.linked(
        st.number_input,
        f"Prompt, of {count}",
        0,
        count - 1,
        key="own_prompt",
        width=130,
        mend=lambda value: min(max(value, 0), count - 1),
        persist_state="session",
        help="Which of the domain's prompts, or of your own, to look at; from 0.",
    )


def box(place, text: str, of: object) -> None:
    """The text area, filled anew when another prompt is chosen. It is read when it is left, or with Ctrl+Enter."""
    if "text" not in st.session_state or st.session_state.get("_text_of") != of:
        st.session_state["text"], st.session_state["_text_of"] = text, of
    place.text_area("Your prompt", key="text", height=118, on_change=commit, placeholder="Type or paste any prompt.")
    if refused := st.session_state.pop("_refused", None):
        place.error(refused, icon=":material/error:")


def commit() -> None:
    """Take what stands in the box as one's own prompt."""
    text = st.session_state["text"]
    of = st.session_state.get("_text_of")
    if isinstance(of, tuple) and text == of[-1]:
        return
    if not text.strip():
        st.session_state["_refused"] = "The box is empty: there is nothing to read. The prompt before it stays."
        return
    take([Prompt(text, "own")])


def take(found: list[Prompt]) -> None:
    """Study one's own prompts from now on."""
    try:
        name = prompts.keep_prompts(found)
    except UserError as error:
        st.session_state["_refused"] = str(error)
        return
    st.session_state["own"], st.session_state["own_prompt"], st.session_state["back"] = name.removeprefix(OWN), 0, 0


def files() -> str:
    """A file of prompts, or the name of some that were kept. Returns the name without its `own:`; empty for the domain's."""
    st.file_uploader(
        "Prompts, a JSON object a line",
        type=["jsonl", "json"],
        key="upload",
        on_change=upload,
        help=f"Each line like `{prompts.example()}`. The stack's effect is then the mean over all of them.",
    )
    own = controls.linked(
        st.text_input,
        "Or the name of prompts that were kept here",
        key="own",
        persist_state="session",
        help="A hash, which is all that a link holds of your prompts: the texts stay in this machine's cache folder.",
    ).strip()
    st.button("Back to the domain's prompts", on_click=forget, disabled=not own, key="forget")
    return own


def upload() -> None:
    file = st.session_state["upload"]
    if file is None:
        return
    try:
        found = prompts.parse_prompts(file.getvalue().decode("utf-8-sig").split("\n"), file.name)
    except UnicodeDecodeError:
        st.session_state["_refused"] = f"{file.name} is not UTF-8 text. It needs one JSON object a line: {prompts.example()}"
    except UserError as error:
        st.session_state["_refused"] = str(error)
    else:
        take(found)


def forget() -> None:
    st.session_state["own"], st.session_state["back"] = "", 0
