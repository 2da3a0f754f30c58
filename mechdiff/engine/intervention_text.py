"""Stacks of interventions as text: in a TOML file, on the command line, in a link. Needs no torch.

One intervention is `layer=28 stream=heads heads=2,5`; several are separated by semicolons.
"""

import itertools
import tomllib
from dataclasses import replace
from pathlib import Path

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.terms import COMPLEMENTS, MAPS, STREAMS
from mechdiff.engine.intervention import Condition

KEYS = ("layer", "stream", "map", "rank", "complement", "alpha", "heads", "blend")
ORDER = ("resid_pre", "heads", "attn_out", "mlp_out", "resid_post")  # in which a layer computes them
EXAMPLE = "layer=26 stream=resid_post map=procrustes_scaled rank=8; layer=28 stream=heads heads=2,5"
FILE_EXAMPLE = """[[intervention]]
layer = 26
stream = "resid_post"
map = "procrustes_scaled"
rank = 8"""
TRY = f"Try:  --stack '{EXAMPLE}'"


def read_stack(text: str) -> str:
    """A stack as text, from text or from a TOML file with a table [[intervention]] for each.

    Raises UserError for a file that is not a stack.
    """
    if "=" in text:
        return text
    path = Path(text)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The stack file {path} cannot be read: {error.strerror}.\n{TRY}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML ({error}). A stack looks like:\n{FILE_EXAMPLE}") from None
    tables = document.get("intervention")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{path} has no [[intervention]] table. A stack looks like:\n{FILE_EXAMPLE}")
    return "; ".join(" ".join(f"{key}={as_text(value)}" for key, value in table.items()) for table in tables)


def as_text(value: object) -> str:
    """A TOML value as the text of a stack writes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def parse_stack(text: str, layers: int, heads: int) -> tuple[Condition, ...]:
    """The interventions of a stack, in the order of a forward pass. layers, heads: how many the model has.

    Raises UserError, naming the intervention, for an invalid value, and for two interventions at one site.
    """
    parts = [parse_part(part, layers, heads) for part in text.split(";") if part.strip()]
    if not parts:
        raise UserError(f"The stack is empty.\n{TRY}")
    return in_order(parts)


def in_order(parts: list[Condition]) -> tuple[Condition, ...]:
    """Interventions in the order of a forward pass. Raises UserError for two at one site."""
    parts = sorted(parts, key=lambda c: (c.layer, ORDER.index(c.stream)))
    for first, second in itertools.pairwise(parts):
        if (first.layer, first.stream) == (second.layer, second.stream):
            raise UserError(f"Two interventions are at layer {first.layer}, {first.stream}. Remove one of them.")
    return tuple(parts)


def parse_part(text: str, layers: int, heads: int) -> Condition:
    """One intervention. Raises UserError as parse_stack."""
    values = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or name not in KEYS:
            raise UserError(f"'{word}' in the stack is not one of {', '.join(f'{key}=' for key in KEYS)}\n{TRY}")
        values[name] = value
    layer = whole_number(values.get("layer", ""), layers, "layer", text)
    stream = values.get("stream", "heads" if "heads" in values else "resid_post")
    name = values.get("map", "none")
    for what, value, choices in (("Stream", stream, STREAMS), ("Map", name, MAPS)):
        if value not in choices:
            raise one_of(what, value, choices)
    plain = Condition(layer, stream, name, heads=parse_heads(values, stream, heads, text))
    return replace(plain, **parse_map(values, name, text), blend=number(values.get("blend", "1"), 0, 1, "blend", text))


def parse_map(values: dict[str, str], name: str, text: str) -> dict:
    """Scale, rank and complement of a mapped state, as fields of Condition."""
    if name == "none":
        wrong = [key for key in ("rank", "complement", "alpha") if key in values]
        if wrong:
            raise UserError(f"'{text.strip()}': {wrong[0]} needs a map.\nTry:  map=procrustes_scaled")
        return {}
    alpha = values.get("alpha", "auto")
    scale = {"alpha": None if alpha == "auto" else number(alpha, -100, 100, "alpha", text)}
    if values.get("rank", "full") == "full":
        return scale
    complement = values.get("complement", COMPLEMENTS[0])
    if complement not in COMPLEMENTS:
        raise one_of("Complement", complement, COMPLEMENTS)
    return scale | {"rank": whole_number(values["rank"], 1 << 20, "rank", text), "complement": complement}


def parse_heads(values: dict[str, str], stream: str, count: int, text: str) -> tuple[int, ...] | None:
    """The heads that are replaced, all if none are named; None for another stream."""
    if stream != "heads":
        if "heads" in values or "blend" in values:
            raise UserError(f"'{text.strip()}': heads and blend need stream=heads.")
        return None
    if "heads" not in values:
        return tuple(range(count))
    return tuple(sorted({whole_number(part, count, "head", text) for part in values["heads"].split(",")}))


def whole_number(value: str, count: int, what: str, text: str) -> int:
    if not value.isdigit() or int(value) >= count:
        raise UserError(f"'{text.strip()}': {what} '{value}' is not a number from 0 to {count - 1}.\n{TRY}")
    return int(value)


def number(value: str, low: float, high: float, what: str, text: str) -> float:
    try:
        parsed = float(value)
    except ValueError:
        parsed = float("nan")
    if not low <= parsed <= high:
        raise UserError(f"'{text.strip()}': {what} '{value}' is not a number from {low:g} to {high:g}.\n{TRY}")
    return parsed


def as_toml(conditions: tuple[Condition, ...]) -> str:
    """A stack as the TOML file that read_stack reads."""
    tables = []
    for condition in conditions:
        pairs = [word.partition("=")[::2] for word in label(condition).split()]
        tables.append("\n".join(["[[intervention]]", *(f"{name} = {toml_value(name, value)}" for name, value in pairs)]))
    return "\n\n".join(tables) + "\n"


def toml_value(name: str, value: str) -> str:
    if name == "heads":
        return f"[{value.replace(',', ', ')}]"
    return f'"{value}"' if name in ("stream", "map", "complement") else value


def label(condition: Condition) -> str:
    """An intervention as text that parse_stack can read, without default values."""
    c = condition
    words = [f"layer={c.layer}", f"stream={c.stream}"]
    if c.map != "none":
        words.append(f"map={c.map}")
        words += [] if c.rank is None else [f"rank={c.rank}", f"complement={c.complement}"]
        words += [] if c.alpha is None else [f"alpha={c.alpha:g}"]
    if c.heads is not None:
        words.append(f"heads={','.join(map(str, c.heads))}")
        words += [] if c.blend == 1 else [f"blend={c.blend:g}"]
    return " ".join(words)
