"""The sidebar's form for the user's own pair: it becomes a pair file in a folder of theirs, and can then be chosen."""

import streamlit as st

from mechdiff.common.errors import UserError
from mechdiff.common.paths import OWN_MODELS
from mechdiff.inputs import prompts
from mechdiff.models import register_pair
from mechdiff.models.register_pair import Given

WHERE = f"""A hub id such as `org/model`, already downloaded (`hf download org/model`), or a folder or GGUF file in
`{OWN_MODELS}` (set `MECHDIFF_MODELS` for another folder)."""
ADAPTER = "A peft adapter on this model: a hub id, or a folder in the same place."


def form() -> None:
    """Drawn below the pair picker. A new pair is chosen at once."""
    with st.sidebar.expander("Use my own pair", icon=":material/add:"), st.form("own_pair", border=False):
        st.text_input("Name", placeholder="my-pair", key="own_name")
        st.selectbox("Default domain", prompts.domains(), key="own_domain", help="On whose prompts it is studied by default.")
        base = side("Base", "org/model or folder")
        tuned = side("Tuned", "empty: the base with an adapter")
        st.form_submit_button("Check and add", on_click=add, args=(base, tuned), width="stretch")
        if error := st.session_state.pop("_own_error", None):
            st.error(error.replace("\n", "\n\n"))
    if message := st.session_state.pop("_own_added", None):
        st.toast(message, icon=":material/check:", duration="long")


def side(label: str, placeholder: str) -> str:
    """The widgets of one side; returns the beginning of their keys."""
    key = f"own_{label.lower()}"
    st.text_input(label, placeholder=placeholder, key=f"{key}_model", help=WHERE)
    with st.popover("Revision and adapter", width="stretch"):
        st.text_input(f"{label}: revision", placeholder="main", key=f"{key}_revision", help="A commit, branch or tag on the hub.")
        st.text_input(f"{label}: adapter", placeholder="none", key=f"{key}_adapter", help=ADAPTER)
        st.text_input(f"{label}: adapter's revision", placeholder="main", key=f"{key}_adapter_revision")
    return key


def typed(key: str) -> Given:
    return Given(*(st.session_state[f"{key}_{part}"].strip() for part in ("model", "revision", "adapter", "adapter_revision")))


def add(base: str, tuned: str) -> None:
    """Runs before the page is drawn again, so that the list of pairs already has the new one."""
    name = st.session_state["own_name"].strip()
    try:
        _, notes = register_pair.add(name, st.session_state["own_domain"], typed(base), typed(tuned))
    except UserError as error:
        st.session_state["_own_error"] = str(error)
        return
    st.session_state["pair"], st.session_state["_own_added"] = name, " ".join([f"The pair {name} was added.", *notes])
