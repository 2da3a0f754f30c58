"""What an answer's text says: whether it refuses, how it is written, and whether it is right. Pure functions; needs no torch.

The words and phrases are data: `data/behaviour.toml`, by language.
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
    """The whole file: openers and refusals by language, style by kind of mark."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@cache
def openers() -> tuple[str, ...]:
    """What refusals begin with, in every language."""
    return tuple(dict.fromkeys(text for some in lists()["openers"].values() for text in some))


@cache
def patterns() -> dict[str, re.Pattern]:
    """The marks of style: kind -> what is counted."""
    return {kind: compiled(about) for kind, about in lists()["style"].items()}


@cache
def refusal() -> re.Pattern:
    return compiled(lists()["refusals"])


def compiled(about: dict) -> re.Pattern:
    """A pattern as it stands, or lists of words and phrases by language as one pattern of whole words."""
    if "pattern" in about:
        return re.compile(about["pattern"], re.MULTILINE)
    words = sorted({plain(word) for some in about.values() for word in some}, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)


def plain(text: str) -> str:
    """The text with straight quotes, and one space for any white space."""
    return " ".join(text.translate(STRAIGHT).split())


def refuses(text: str) -> bool:
    """Whether a text has a phrase of a refusal."""
    return bool(refusal().search(plain(text)))


def marks(text: str) -> dict[str, int]:
    """How many marks of each kind of style a text has."""
    straight = text.translate(STRAIGHT)
    return {kind: sum(1 for _ in pattern.finditer(straight)) for kind, pattern in patterns().items()}


def right(text: str, answer: str, choices: tuple[str, ...] = ()) -> bool:
    """Whether a text gives the answer.

    With choices: it begins with the right choice's text or letter. An answer that is a number: it is the content of the last
    \\boxed{}, or else the last number of the text, written in any way (1,200; 1200.0; 6/5; \\frac{6}{5}). Any other answer: it
    is the content of the last \\boxed{}, or the first line; case, white space and the punctuation around it do not count.
    """
    if choices:
        return chosen(text, choices) == answer
    told = boxed(text)
    if is_number(answer):
        return number(text if told is None else told) == number(answer)
    first = next((line for line in text.splitlines() if line.strip()), "")
    return bare(first if told is None else told) == bare(answer)


def boxed(text: str) -> str | None:
    """What the last \\boxed{} holds; None where there is none that is closed."""
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
    """The last number of a text; None where there is none, or its fraction has no value."""
    found = NUMBER.findall(FRACTION.sub(r" \1/\2 ", text))
    try:
        return Fraction(re.sub(r"[,\s]", "", exact(found[-1]))) if found else None
    except ZeroDivisionError:
        return None


def is_number(text: str) -> bool:
    """Whether a text is one number and no more, but for a sign of money, degrees or per cent."""
    return bool(NUMBER.fullmatch(FRACTION.sub(r"\1/\2", text).strip(" $€£%°.")))


def exact(text: str) -> str:
    """A number as Fraction reads it: a decimal over a whole number is two of them."""
    top, slash, bottom = text.partition("/")
    return str(Fraction(top.replace(",", "")) / Fraction(bottom)) if slash and "." in top else text


def bare(text: str) -> str:
    """A text without case, and without white space and punctuation around it."""
    return re.sub(r"^\W+|\W+$", "", plain(text)).casefold()


def chosen(text: str, choices: tuple[str, ...]) -> str | None:
    """The choice that a text begins with, by its text or its letter; None if it begins with none."""
    begun = bare(text)
    named = [choice for choice in choices if re.match(rf"{re.escape(bare(choice))}(?!\w)", begun)]
    if named:
        return max(named, key=len)
    letter = re.match(r"\W*([A-Z])(?:[.):,]|\s*$)", plain(text))
    place = LETTERS.find(letter[1]) if letter else -1
    return choices[place] if 0 <= place < len(choices) else None


def scored(text: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """What stands for each choice where its probability is taken: its letter, if the prompt names them all at a line's begin

    ("A) ...", "(B) ...", "C. ..."), else its own text.
    """
    named = re.findall(r"^\s*\(?([A-Z])[.):]\s", text, re.MULTILINE)
    letters = tuple(LETTERS[: len(choices)])
    return letters if set(letters) <= set(named) else choices
