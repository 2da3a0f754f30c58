"""The Lab's stack as chips, one per intervention, each with an editor. The text in the URL is the state; all else shows it."""

import controls
import streamlit as st

from mechdiff.common.errors import UserError
from mechdiff.common.terms import COMPLEMENTS, MAPS, STREAMS
from mechdiff.engine.intervention import Condition
from mechdiff.engine.intervention_text import EXAMPLE, as_toml, label, parse_part

BRIEF = {
    "layer=": "L",
    "alpha=": "×",
    "rank=": "rank ",
    "blend=": "blend ",
    **dict.fromkeys(("stream=", "map=", "complement="), ""),
}


def chips(pair) -> None:
    """The stack's interventions in a row, each with its editor."""
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    with row.popover("Stack", icon=":material/layers:", key="stack_menu"):
        controls.linked(
            st.text_input,
            "Stack as text",
            key="stack",
            persist_state="session",
            help=f"Interventions separated by semicolons, such as `{EXAMPLE}`. The URL and `--stack` use the same text.",
        )
        download(pair)
        st.button("Clear", icon=":material/delete:", on_click=write, args=([],), disabled=not texts(), key="clear")
    for index, text in enumerate(texts()):
        with row.popover(short(text, pair), key=f"chip{index}"):
            editor(index, text, pair)
    with row.popover("Add", icon=":material/add:", key="add_menu"):
        add(pair)


def texts() -> list[str]:
    """The stack's interventions, as text."""
    return [part.strip() for part in st.session_state.get("stack", "").split(";") if part.strip()]


def write(parts: list[str]) -> None:
    st.session_state["stack"] = "; ".join(parts)


def parsed(text: str, pair) -> Condition | None:
    """An intervention; None if the text is not one."""
    try:
        return parse_part(text, pair.layers, pair.heads)
    except UserError:
        return None


def short(text: str, pair) -> str:
    """The text on an intervention's chip."""
    condition = parsed(text, pair)
    if condition is None:
        return f"{text} (?)"
    words = label(condition)
    if condition.heads is not None:
        heads = ",".join(map(str, condition.heads))
        words = words.replace(f"heads={heads}", "" if len(condition.heads) == pair.heads else heads)
    for long, brief in BRIEF.items():
        words = words.replace(long, brief)
    return " ".join(words.split())


def download(pair) -> None:
    conditions = [condition for text in texts() if (condition := parsed(text, pair)) is not None]
    whole = as_toml(tuple(conditions)) if conditions and len(conditions) == len(texts()) else ""
    st.download_button("Download as TOML", whole, "stack.toml", disabled=not whole, on_click="ignore", key="toml")


def editor(index: int, text: str, pair) -> None:
    """The widgets of one intervention. They show its text; a change rewrites it."""
    condition = parsed(text, pair)
    if condition is None:
        st.code(text, language=None)
    else:
        values = {
            "layer": condition.layer,
            "stream": condition.stream,
            "heads": list(condition.heads or ()),
            "blend": condition.blend,
            "map": condition.map,
            "alpha": "auto" if condition.alpha is None or condition.map == "none" else f"{condition.alpha:g}",
            "rank": controls.RANKS[-1] if condition.rank is None else str(condition.rank),
            "complement": condition.complement or COMPLEMENTS[0],
        }
        st.session_state.update({f"{name}_{index}": value for name, value in values.items()})
        fields(index, condition, pair)
    st.button("Remove", icon=":material/close:", on_click=remove, args=(index,), key=f"remove_{index}")


def fields(index: int, condition: Condition, pair) -> None:
    def draw(widget, name, *args, **details):
        widget(name.capitalize(), *args, key=f"{name}_{index}", on_change=edit, args=(index, pair), **details)

    draw(st.number_input, "layer", 0, pair.layers - 1)
    draw(st.selectbox, "stream", STREAMS, help=controls.STREAM_HELP)
    if condition.stream == "heads":
        draw(st.pills, "heads", list(range(pair.heads)), selection_mode="multi")
        draw(st.slider, "blend", 0.0, 1.0, step=0.05)
    draw(st.selectbox, "map", MAPS, help=controls.MAP_HELP)
    if condition.map != "none":
        draw(st.text_input, "rank", help="A number, or `full`.")
        draw(st.text_input, "alpha", help=f"A number, or `auto`. {controls.ALPHA_HELP}")
        if condition.rank is not None:
            draw(st.radio, "complement", COMPLEMENTS, horizontal=True, help=controls.COMPLEMENT_HELP)


def edit(index: int, pair) -> None:
    """A widget of an intervention's editor has changed: rewrite the intervention."""
    names = ("layer", "stream", "heads", "blend", "map", "rank", "alpha")
    new = {name: st.session_state.get(f"{name}_{index}") for name in names}
    words = [f"layer={new['layer']}", f"stream={new['stream']}"]
    if new["map"] != "none":
        words.append(f"map={new['map']}")
        if new["rank"] and new["rank"] != controls.RANKS[-1]:
            words += [f"rank={new['rank']}", f"complement={st.session_state.get(f'complement_{index}') or COMPLEMENTS[0]}"]
        words += [f"alpha={new['alpha']}"] if new["alpha"] not in (None, "", "auto") else []
    if new["stream"] == "heads":
        heads = sorted(new["heads"] or ())
        words += [f"heads={','.join(map(str, heads))}"] if 0 < len(heads) < pair.heads else []
        words += [f"blend={new['blend']:g}"] if new["blend"] not in (None, 1.0) else []
    write([" ".join(words) if place == index else part for place, part in enumerate(texts())])


def remove(index: int) -> None:
    write([part for place, part in enumerate(texts()) if place != index])


def add(pair) -> None:
    st.session_state.setdefault("add_layer", st.session_state.get("layer", 2 * pair.layers // 3))
    st.session_state["add_layer"] = min(st.session_state["add_layer"], pair.layers - 1)
    layer = st.number_input("Layer", 0, pair.layers - 1, key="add_layer")
    stream = st.selectbox("Stream", controls.STREAM_ORDER, key="add_stream", help=controls.STREAM_HELP)
    st.button("Add intervention", type="primary", on_click=write, args=([*texts(), f"layer={layer} stream={stream}"],), key="add")


def toggle(picked: dict, pair) -> None:
    """A clicked cell of a map: add its site or its head to the stack, or remove it."""
    layer, others, present = int(picked["layer"]), [], None
    stream = picked.get("stream", "heads")
    for text in texts():
        condition = parsed(text, pair)
        if condition is not None and (condition.layer, condition.stream) == (layer, stream):
            present = condition
        else:
            others.append(text)
    every = set(range(pair.heads))
    before = set(present.heads or every) if present else set()
    after = before ^ {int(picked["head"])} if "head" in picked else every - (before if before == every else set())
    if stream != "heads":
        others += [] if present else [f"layer={layer} stream={stream}"]
    elif after:
        others.append(f"layer={layer} stream=heads" + ("" if after == every else f" heads={','.join(map(str, sorted(after)))}"))
    write(others)
