"""Talks: views to step through before an audience, described by TOML files. Needs no torch.

A talk has a title and a [[step]] for each slide: a headline, a page and the page's selection, named as in the link.
"""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.paths import CACHE, DATA
from mechdiff.common.terms import ALPHAS, BASES, COMPLEMENTS, COUNTS, DIRECTIONS, MAPS, RANKS, STREAMS, WHITENED
from mechdiff.inputs import protocols
from mechdiff.inputs.pair_file import Pair, read_pair, shipped_pairs
from mechdiff.inputs.prompts import domains
from mechdiff.reporting.selection import FORMAT, OWN, VERSION, of_its_day

READY = "1"  # the address' name for the talk that comes with mechdiff
PARTS = {  # page -> the parts that a slide can show; the first is the default
    "home": ("effects", "drift"),
    "drift": ("curve",),
    "patching": ("curve", "recovery", "prompts", "tokens", "transplants"),
    "transport": ("curve", "drop"),
    "rank": ("curve", "shares", "alphas"),
    "heads": ("map", "bars", "coverage"),
    "compare": (
        "verdict", "recovery", "drift", "directions", "beyond", "effect", "drop", "attn_out", "mlp_out", "rank", "greedy", "topk",
    ),
}  # fmt: skip
SLIDERS = {  # page -> the widgets that stay on its slide, the main one first
    "drift": ("layer",),
    "patching": ("layer",),
    "transport": ("layer",),
    "rank": ("rank", "basis", "layer"),
    "heads": ("heads", "layer"),
}
TWENTIETHS = [part / 20 for part in range(21)]
TEXTS, WHOLE, LISTS, SHARES = ("rank_at", "imported"), ("layer", "prompt"), ("heads",), ("blend", "shared")
SWITCHES = ("curve", "ranks", "transplants", "coverage", "published")
CHOICES = {
    "direction": DIRECTIONS,
    "prompts": COUNTS,
    "stream": STREAMS,
    "map": MAPS,
    "fit": MAPS,
    "alpha": ALPHAS,
    "rank": RANKS,
    "basis": BASES,
    "complement": (*COMPLEMENTS, WHITENED),
    "protocol": (OWN, *protocols.NAMES),
}
PAIRS, DOMAINS = ("pair", "a_pair", "b_pair"), ("domain", "a_domain", "b_domain")
SELECTION = (*PAIRS, *DOMAINS, *CHOICES, *WHOLE, *LISTS, *SHARES, *SWITCHES, *TEXTS)
ABOUT = ("headline", "page", "note", "show", "link")
EXAMPLE = """title = "My talk"
format = 2
[[step]]
headline = "What is seen, in one sentence"
page = "patching"
layer = 20"""


@dataclass(frozen=True)
class Step:
    """One slide. values: the page's selection, by the link's names. show: the page's parts on it. note: for the speaker."""

    headline: str
    page: str
    values: dict = field(default_factory=dict)
    show: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Talk:
    title: str
    steps: tuple[Step, ...]


def find(name: str) -> Path:
    """The file of the talk with this name in the address: the one that comes with mechdiff, or a prepared one."""
    if name == READY:
        return DATA / "talk.toml"
    if not re.fullmatch(r"[\w-]+", name) or not prepared(name).exists():
        names = ", ".join([READY, *sorted(path.stem for path in prepared("any").parent.glob("*.toml"))])
        raise UserError(f"There is no talk '{name}' here. Talks: {names}.\nTry:  python -m mechdiff talk prepare FILE")
    return prepared(name)


def prepared(name: str) -> Path:
    """The file of a prepared talk."""
    return CACHE / "talks" / f"{name}.toml"


def keep(path: Path) -> str:
    """Copy a talk to where the app finds it. Returns its name in the address: the file's name."""
    name = re.sub(r"[^\w-]+", "-", path.stem).strip("-")
    if not name or name == READY:
        raise UserError(f"'{path.name}' is not a usable name for a talk.\nTry:  mv {path} my-talk.toml")
    text = path.read_text(encoding="utf-8")
    try:
        prepared(name).parent.mkdir(parents=True, exist_ok=True)
        prepared(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"The talk cannot be written to {prepared(name).parent}: {error.strerror}.\nTry:  MECHDIFF_CACHE=/some/folder"
        ) from None
    return name


def read_talk(path: Path) -> Talk:
    """A talk from its file. Raises UserError, naming the step, for anything that cannot be shown."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The talk {path} cannot be read: {error.strerror}.\nTry:  ls {path.parent}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML ({error}). A talk looks like:\n{EXAMPLE}") from None
    for key in content:
        if key not in ("title", "format", "step"):
            raise one_of(f"{path.name}: key", key, ["title", "format", "[[step]]"])
    tables = content.get("step")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{path} has no [[step]]. A talk looks like:\n{EXAMPLE}")
    now = str(content.get("format", "")) == FORMAT
    steps = [read_step(table, f"Step {n}", now) for n, table in enumerate(tables, 1)]
    return Talk(str(content.get("title", path.stem)), tuple(steps))


def read_step(table: dict, where: str, now: bool) -> Step:
    """A slide. where: the step's name in errors. now: whether what it leaves out has today's defaults, not those of before."""
    for key in table:
        if key not in (*ABOUT, *SELECTION):
            raise one_of(f"{where}: key", key, [*ABOUT, *SELECTION])
    page, values = read_link(table["link"], where) if "link" in table else (None, {})
    now = values.pop(VERSION, None) == FORMAT or now
    page, headline = table.get("page", page), table.get("headline")
    if not isinstance(headline, str) or not headline.strip():
        raise UserError(f'{where} has no headline.\nTry:  headline = "What is seen, in one sentence"')
    if page not in PARTS:
        raise one_of(f"{where}: page", page or "(none)", PARTS)
    values |= {key: value for key, value in table.items() if key in SELECTION}
    check(values, where)
    values = values if now else of_its_day(values)
    show = table.get("show", PARTS[page][0])
    show = (show,) if isinstance(show, str) else tuple(show)
    for part in show:
        if part not in PARTS[page]:
            raise one_of(f"{where}: part of {page}", part, PARTS[page])
    return Step(headline.strip(), page, values, show, str(table.get("note", "")).strip())


def read_link(link: object, where: str) -> tuple[str, dict]:
    """Page and selection of an address, as copied from the browser."""
    parts = urlsplit(str(link))
    page, values = parts.path.rpartition("/")[2] or "home", {}
    for key, texts in parse_qs(parts.query).items():
        if key in ("talk", "step"):
            continue
        if key not in (*SELECTION, VERSION):
            raise one_of(f"{where}: the link's key", key, SELECTION)
        values[key] = texts if key in LISTS else typed(key, texts[-1])
    return page, values | {key: [whole(text) for text in values[key]] for key in LISTS if key in values}


def typed(key: str, text: str) -> object:
    """A value from an address as a talk file would hold it; what cannot be converted stays text, and `check` refuses it."""
    if key in (*WHOLE, "prompts"):
        return whole(text)
    if key in SWITCHES:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return float(text) if key in SHARES else text
    except ValueError:
        return text


def whole(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def check(values: dict, where: str) -> None:
    """Raise UserError for a value that the app's widgets cannot have: it would silently show something else."""
    for key, value in values.items():
        if key in CHOICES and value not in CHOICES[key]:
            raise one_of(f"{where}: {key}", value, CHOICES[key])
        if key in DOMAINS and value not in (OWN, *domains()):
            raise one_of(f"{where}: {key}", value, [OWN, *domains()])
        if key in SWITCHES and not isinstance(value, bool):
            raise one_of(f"{where}: {key}", value, ["true", "false"])
        if key in SHARES and value not in TWENTIETHS:
            raise UserError(f"{where}: {key} {value!r} is not a multiple of 0.05 from 0 to 1.\nTry:  {key} = 0.5")
        if key in PAIRS:
            pair_of(value, where)
    pair = pair_of(values.get("pair", shipped_pairs()[0]), where)
    if pair.missing() is not None:
        return
    within(values.get("layer", 0), pair.layers, "layer", where)
    heads = values.get("heads", [])
    if not isinstance(heads, list):
        raise UserError(f"{where}: heads {heads!r} is not a list.\nTry:  heads = [0, 3]")
    for head in heads:
        within(head, pair.heads, "head", where)


def within(value: object, count: int, what: str, where: str) -> None:
    if type(value) is not int or not 0 <= value < count:
        raise UserError(f"{where}: {what} {value!r} is not a number from 0 to {count - 1}.\nTry:  another {what}")


def pair_of(name: object, where: str) -> Pair:
    try:
        return read_pair(str(name))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
