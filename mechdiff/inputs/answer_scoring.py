"""Scoring of answers: whether a text refuses, how it is written, and whether it is right. Pure functions; needs no torch.

The words and phrases are in `data/behaviour.toml`, by language.
"""

import re
import tomllib
from fractions import Fraction
from functools import cache

from mechdiff.common.paths import DATA
from mechdiff.inputs.prompts import LETTERS

FILE = DATA / "behaviour.toml"
STRAIGHT = str.maketrans("’‘ʼ`“”", "''''\"\"")
NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:\s*/\s*\d+(?![\d.]))?")
FRACTION = re.compile(r"\\[dt]?frac\s*\{(-?\d+)\}\s*\{(\d+)\}")
BOXED = "\\boxed{"


@cache
def lists() -> dict:
    """The file's tables: openers and refusals by language, soft_refusal by kind of phrase and language, style by kind of mark."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@cache
def openers() -> tuple[str, ...]:
    """What refusals begin with, in every language."""
    return tuple(dict.fromkeys(text for texts in lists()["openers"].values() for text in texts))


@cache
def soft_refusal() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The phrases whose probabilities the soft refusal compares, in every language: those of refusals, and neutral ones."""
    refusals, neutral = (lists()["soft_refusal"][kind].values() for kind in ("refusals", "neutral"))
    return tuple(text for texts in refusals for text in texts), tuple(text for texts in neutral for text in texts)


@cache
def patterns() -> dict[str, re.Pattern]:
    """The marks of style: kind -> the pattern that is counted."""
    return {kind: compiled(entry) for kind, entry in lists()["style"].items()}


@cache
def refusal() -> re.Pattern:
    """The phrases of refusals, in every language."""
    return compiled(lists()["refusals"])


def compiled(entry: dict) -> re.Pattern:
    """An entry's own pattern, or its words and phrases by language as one pattern of whole words. *: one or more letters."""
    if "pattern" in entry:
        return re.compile(entry["pattern"], re.MULTILINE)
    words = sorted({plain(word) for words in entry.values() for word in words}, key=len, reverse=True)
    either = "|".join(re.escape(word).replace(r"\*", r"\w+") for word in words)
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)


def plain(text: str) -> str:
    """The text with straight quotes, and a single space for any white space."""
    return " ".join(text.translate(STRAIGHT).split())


def refuses(text: str) -> bool:
    """Whether a text contains a phrase of a refusal."""
    return bool(refusal().search(plain(text)))


def marks(text: str) -> dict[str, int]:
    """How many marks of each kind of style a text has."""
    straight = text.translate(STRAIGHT)
    return {kind: sum(1 for _ in pattern.finditer(straight)) for kind, pattern in patterns().items()}


def right(text: str, answer: str, choices: tuple[str, ...] = ()) -> bool:
    """Whether a text gives the answer.

    With choices: it begins with the right choice's text or letter. An answer that is a number: it is the content of the last
    \\boxed{}, or else the last number of the text, in any notation (1,200; 1200.0; 6/5; \\frac{6}{5}). Any other answer: it is
    the content of the last \\boxed{}, or the first line; case, white space and the punctuation around it do not count.
    """
    if choices:
        return chosen(text, choices) == answer
    final = boxed(text)
    if is_number(answer):
        return number(text if final is None else final) == number(answer)
    first = next((line for line in text.splitlines() if line.strip()), "")
    return bare(first if final is None else final) == bare(answer)


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{}; None if there is none, or it is not closed."""
    start = text.rfind(BOXED)
    if start < 0:
        return None
    depth = 1
    for at in range(start + len(BOXED), len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return text[start + len(BOXED) : at]
    return None


def number(text: str) -> Fraction | None:
    """The last number of a text; None if there is none, or it is a fraction over zero."""
    numbers = NUMBER.findall(FRACTION.sub(r" \1/\2 ", text))
    try:
        return Fraction(re.sub(r"[,\s]", "", exact(numbers[-1]))) if numbers else None
    except ZeroDivisionError:
        return None


def is_number(text: str) -> bool:
    """Whether a text is a single number, apart from a sign of money, degrees or per cent."""
    return bool(NUMBER.fullmatch(FRACTION.sub(r"\1/\2", text).strip(" $€£%°.")))


def exact(text: str) -> str:
    """A number in a form that Fraction reads, which a decimal over a whole number is not."""
    top, slash, bottom = text.partition("/")
    return str(Fraction(top.replace(",", "")) / Fraction(bottom)) if slash and "." in top else text


def bare(text: str) -> str:
    """A text without case, and without white space and punctuation around it."""
    return re.sub(r"^\W+|\W+$", "", plain(text)).casefold()


def chosen(text: str, choices: tuple[str, ...]) -> str | None:
    """The choice that a text begins with, by its text or its letter; None if it begins with neither."""
    start = bare(text)
    matching = [choice for choice in choices if re.match(rf"{re.escape(bare(choice))}(?!\w)", start)]
    if matching:
        return max(matching, key=len)
    letter = re.match(r"\W*([A-Z])(?:[.):,]|\s*$)", plain(text))
    place = LETTERS.find(letter[1]) if letter else -1
    return choices[place] if 0 <= place < len(choices) else None


def scored(text: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """The strings whose probabilities score the choices.

    Their letters, if the prompt lists all of them at the start of a line ("A) ...", "(B) ...", "C. ..."), else the texts.
    """
    listed = re.findall(r"^\s*\(?([A-Z])[.):]\s", text, re.MULTILINE)
    letters = tuple(LETTERS[: len(choices)])
    return letters if set(letters) <= set(listed) else choices
