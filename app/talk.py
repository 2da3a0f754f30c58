"""Talk mode (`?talk=1`): a page as a slide, with large type, only the step's parts and sliders, and keys to navigate.

A step is a link: the address changes and Streamlit takes page and widgets from it. A slider moves on from there, and returning
to the step restores its own view.
"""

from urllib.parse import urlencode

import controls
import streamlit as st
from streamlit.components.v2 import component

from mechdiff.common.errors import UserError
from mechdiff.reporting import charts
from mechdiff.reporting.selection import FORMAT, VERSION
from mechdiff.reporting.talk import PARTS, SLIDERS, Step, Talk, find, read_talk

TALK, STEP = "talk", "step"  # their names in the URL
KEYS = {  # page and part: the key of its element, or the beginning of the keys
    "drift": {"curve": "pick_drift"},
    "patching": {
        "curve": "pick_layer",
        "recovery": "pick_recovery",
        "prompts": "pick_prompt",
        "tokens": "tokens",
        "transplants": "pick_transplant",
    },
    "transport": {"curve": "pick_transport", "drop": "pick_drop"},
    "rank": {"curve": "pick_rank", "shares": "pick_share", "alphas": "pick_cell"},
    "heads": {"map": "pick_head", "bars": "pick_bar", "coverage": "coverage_curve"},
    "home": {"effects": "effects-", "drift": "drift-"},
    "compare": {part: "verdict" if part == "verdict" else f"compared-{part}" for part in PARTS["compare"]},
}
ALWAYS = (  # what a slide always shows
    ".st-key-talk",
    '[data-testid="stMetric"]',
    '[data-testid="stAlertContentError"]',
    '[data-testid="stException"]',
    ".st-key-progress",
)
HEIGHTS = {"home": 30, "compare": 34}  # of a slide's charts, in rem
FURNITURE = ("stSidebar", "stHeader", "stExpandSidebarButton", "stToolbar", "stElementToolbar", "stExpander", "stPopover")
BLOCKS = ("stElementContainer", "stLayoutWrapper", "stColumn", "stHorizontalBlock", "stVerticalBlock")
SURPLUS = '[data-testid="stElementContainer"]:has(> [data-testid="stMetric"]):nth-child(n+4)'  # there is room for three
# One rem is a fixed share of the window, so that a slide has the same proportions on every projector.
STYLE = """<style>
html {{ font-size: min(2.3vh, 1.3vw) !important; overflow: hidden; }}
{furniture} {{ display: none !important; }}
{blocks} {{ display: none !important; }}
[data-testid="stMainBlockContainer"] {{ padding: 1.2rem 2.5rem 2.6rem; max-width: none; height: 100vh; overflow: hidden; }}
[data-testid="stMain"] {{ overflow: hidden; }}
.st-key-places {{ position: fixed; top: 7.6rem; right: 2.5rem; width: 32rem; z-index: 9; gap: 1.5rem; }}
.st-key-places [data-testid="stButtonGroup"] button {{ padding: 0 .55rem; min-height: 2rem; }}
.st-key-places > div:has(.st-key-place-heads) {{ min-width: 22.5rem; }}
html .st-key-places > div:not({sliders}) {{ display: none !important; }}
.st-key-places [data-testid="stWidgetLabel"] p, .st-key-places label p {{ font-size: 1.15rem; }}
.st-key-places [data-testid="stSliderThumbValue"], .st-key-places button p {{ font-size: 1.15rem; }}
.st-key-places [data-testid="stWidgetLabel"] {{ margin-bottom: .4rem; }}
.st-key-places [data-testid="stTooltipIcon"], [data-testid="stMetric"] [data-testid="stTooltipIcon"] {{ display: none; }}
[data-testid="stMetricValue"] {{ font-size: 2.3rem; }}
[data-testid="stMetricLabel"] p {{ font-size: 1.15rem; }}
[data-testid="stMetricDelta"] {{ font-size: 1.05rem; }}
{charts} {{ height: {height}rem !important; min-height: {height}rem; }}
.st-key-verdict table {{ font-size: 1.05rem; }}
.st-key-verdict :is(td, th) {{ padding: .22rem .5rem !important; }}
{surplus} {{ display: none; }}
[data-testid="stHeading"] h3 {{ font-size: 1.5rem; }}
</style>"""
HTML = '<h1></h1><p class="note"></p><div class="foot"><span></span><button>‹</button><b></b><button>›</button></div>'
CSS = """
h1 { margin: 0; height: 2.35em; overflow: hidden; font: 600 2.35rem/1.15 var(--st-heading-font); color: var(--st-text-color); }
.note { position: fixed; left: 2.5rem; right: 2.5rem; bottom: 2.6rem; z-index: 99; margin: 0; padding: .7rem 1rem;
  box-shadow: 0 0 2rem rgba(0, 0, 0, .3); font: 1.3rem/1.4 var(--st-font); color: var(--st-text-color);
  background: var(--st-secondary-background-color); border-radius: .4rem; white-space: pre-wrap; }
.note[hidden] { display: none; }
.foot { position: fixed; left: 2.5rem; right: 2.5rem; bottom: .7rem; display: flex; align-items: baseline; gap: .6rem;
  font: 1.05rem var(--st-font); color: var(--st-text-color); opacity: .65; z-index: 9; }
.foot span { flex: 1; }
.foot b { font-weight: 400; }
button { border: 0; background: none; color: inherit; font: 1.6rem/1 var(--st-font); cursor: pointer; padding: 0 .4rem; }
"""
JS = """
const LONGEST = 3000;  // ms that a step may be underway until another is opened all the same
const FIRST = { Home: true }, LAST = { End: true };
const ONWARD = { ArrowRight: true, " ": true, PageDown: true }, BACK = { ArrowLeft: true, PageUp: true };

export default function ({ data, parentElement }) {
  const [title, note, foot] = ["h1", ".note", ".foot"].map((name) => parentElement.querySelector(name));
  const last = data.steps.length;
  const step = () => Number(new URL(location).searchParams.get("step")) || 0;
  const open = (address, write) => {
    write.call(history, {}, "", address);
    window.dispatchEvent(new PopStateEvent("popstate"));
  };
  const on = parentElement;  // lives as long as the slide's frame: what is underway, and where to go after it
  const at = () => Math.min(on.wanted || step(), last);
  const go = (number) => {
    const to = Math.min(Math.max(number, 1), last);
    document.activeElement?.blur();  // a slider of the slide before would take the next arrow
    if (performance.now() < on.underway) { on.wanted = to; return; }  // Streamlit mixes up addresses that overtake one another
    on.wanted = 0;
    if (to === step()) return;
    on.underway = performance.now() + LONGEST;
    open(data.steps[to - 1], history.pushState);
  };
  const leave = () => {
    const address = new URL(location);
    ["talk", "step"].forEach((name) => address.searchParams.delete(name));
    location.assign(address);  // a new page: Streamlit may still write the slide's own address
  };
  title.textContent = data.headline;
  title.style.fontSize = "";
  for (let size = 2.3; title.scrollHeight > title.clientHeight + 2 && size > 1; size -= 0.1) {
    title.style.height = "5.5rem";  // a long headline is set smaller, in the same room
    title.style.fontSize = `${size}rem`;
  }
  if (note.textContent !== data.note) note.hidden = true;
  note.textContent = data.note;
  const [before, after] = foot.querySelectorAll("button");
  foot.querySelector("span").textContent = data.about;
  foot.querySelector("b").textContent = data.step ? `${data.step} / ${last}` : "";
  before.onclick = () => go(at() - 1);
  after.onclick = () => go(at() + 1);
  before.title = "Back: Left, Page Up";
  after.title = "Next: Right, Page Down, Space. N: note. Escape: leave the talk";

  const key = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !step()) return;
    const target = event.composedPath()[0], pages = event.key === "PageDown" || event.key === "PageUp";
    const typing = target.matches?.("input:not([type=range]), textarea, [contenteditable=true]");
    const sliding = target.matches?.("[role=slider], input[type=range]");
    const pressing = target.matches?.("button, a, [role=radio], [role=option], [role=tab]");
    if (typing && !pages) return;
    if (sliding && /^(Arrow|Home|End)/.test(event.key)) return;
    if (pressing && (event.key === " " || event.key === "Enter")) return;
    if (ONWARD[event.key]) go(at() + 1);
    else if (BACK[event.key]) go(at() - 1);
    else if (FIRST[event.key]) go(1);
    else if (LAST[event.key]) go(last);
    else if (/^[1-9]$/.test(event.key)) go(Number(event.key));
    else if (event.key === "n" || event.key === "N") note.hidden = !note.hidden || !note.textContent;
    else if (event.key === "Escape") leave();
    else return;
    event.preventDefault();
    event.stopImmediatePropagation();  // Streamlit has keys of its own, and a slider pages, too
  };
  document.removeEventListener("keydown", parentElement.heard, true);
  parentElement.heard = key;
  document.addEventListener("keydown", key, true);
  if (!data.step && location.search.includes("talk=")) open(data.steps[0], history.replaceState);
  else if (data.step === step()) {
    on.underway = 0;
    if (on.wanted) go(on.wanted);
  }
  return () => document.removeEventListener("keydown", parentElement.heard, true);
}
"""
STAGE = component("mechdiff_talk", html=HTML, css=CSS, js=JS)


def begin() -> int:
    """Turn the page into a slide, if the URL names a talk. Returns the characters in a chart's line there, or zero."""
    name = st.query_params.get(TALK)
    if not name:
        return 0
    try:
        talk = read_talk(find(name))
    except UserError as error:
        st.error(str(error).replace("\n", "\n\n"), icon=":material/error:")
        return 0
    number = st.query_params.get(STEP, "")
    step = talk.steps[min(max(int(number), 1), len(talk.steps)) - 1] if number.isdigit() else None
    st.html(style(step))
    data = {"steps": [address(name, n, step) for n, step in enumerate(talk.steps, 1)], "headline": "", "note": "", "about": ""}
    data["step"] = talk.steps.index(step) + 1 if step else 0
    if step:
        data |= {"headline": step.headline, "note": step.note, "about": about(talk, step)}
    with st.container(key="talk"):
        STAGE(key="talk_stage", data=data)
    whole = step and len(step.show) == 1 and step.page != controls.HOME
    return charts.WHOLE if whole else charts.HALF


def address(name: str, number: int, step: Step) -> str:
    """The link that shows a step with its own selection."""
    values = {key: word(value) if value == [] or not isinstance(value, list) else value for key, value in step.values.items()}
    named = {TALK: name, STEP: number, VERSION: FORMAT} | values
    return f"{'./' if step.page == controls.HOME else step.page}?{urlencode(named, doseq=True)}"


def word(value: object) -> str:
    """A value as an address writes it."""
    return "" if value == [] else str(value).lower() if isinstance(value, bool) else str(value)


def about(talk: Talk, step: Step) -> str:
    """What the numbers on a slide refer to."""
    chosen = controls.state()
    domain = controls.read_pair(chosen["pair"]).domain if chosen["domain"] == controls.OWN else chosen["domain"]
    if step.page in ("home", "compare"):
        return f"{talk.title} · stored sweeps"
    return f"{talk.title} · {chosen['pair']} on {domain} prompts · {chosen['direction']} · {chosen['prompts']} prompts live"


def style(step: Step | None) -> str:
    """Which parts of the page are visible, and their size."""
    parts = [KEYS[step.page][part] for part in step.show] if step else []
    drawn = [f'[class*="st-key-{key}"]' if key.endswith("-") else f".st-key-{key}" for key in parts]
    places = [".st-key-places"] if step and step.page in SLIDERS else []
    visible = ", ".join([*ALWAYS, *drawn, *places, *(["h3"] if step and step.page == controls.HOME else [])])
    main = '[data-testid="stMain"]'
    blocks = [f'{main} [data-testid="{name}"]:not(:has({visible}), :is({visible}), :is({visible}) *)' for name in BLOCKS]
    sliders = ", ".join(f":has(.st-key-place-{key})" for key in SLIDERS.get(step.page, ())) if step else "*"
    return STYLE.format(
        surplus=SURPLUS if step and step.page in ("transport", "rank") else ".none",
        furniture=", ".join(f'[data-testid="{name}"]' for name in FURNITURE),
        blocks=", ".join(blocks),
        sliders=sliders or "*",
        charts=", ".join(f'{part} [data-testid="stVegaLiteChart"]' for part in drawn) or ".no-chart",
        height=HEIGHTS.get(step.page, 25.6) if step else 0,
    )
