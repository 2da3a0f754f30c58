"""A Markdown file whose findings are written by the stored sweeps, and checked against them. Needs no torch.

Between `<!-- findings PAIR@DOMAIN -->` and `<!-- end -->` stands what the sweep says, in both directions. Elsewhere in the file
no measured number is allowed, since nothing would check it.
"""

import re
from pathlib import Path

import pandas as pd

from mechdiff.common.errors import UserError
from mechdiff.common.terms import DIRECTIONS
from mechdiff.study import stored_sweep
from mechdiff.study.readings import by_layer, readings, role
from mechdiff.study.stored_sweep import StoredSweep

BLOCK = re.compile(r"<!-- findings (?P<sweep>\S+) -->\n(?P<text>.*?)<!-- end -->", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)", re.DOTALL)  # commands, names and addresses of links
MEASURED = re.compile(r"\d+\.\d+|\d+ %|\[-?\d")
EVERY = 3  # layers of a table


def text(sweep: StoredSweep) -> str:
    """What a sweep says in one direction, as Markdown."""
    parts = [f"**{role(sweep)}**, {sweep.origin()}", ""]
    for reading in readings(sweep):
        rest = " ".join(filter(None, (reading.control, f"*{reading.estimand} {reading.chosen}*")))
        parts += [f"- {reading.sentence}", f"  {rest}"]
    table = by_layer(sweep)
    if len(table):
        rows = sorted({*range(0, len(table), EVERY), len(table) - 1})
        parts += ["", markdown(table.iloc[rows])]
    return "\n".join(parts) + "\n"


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [list(table), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def block(name: str) -> str:
    """What stands in a block: the sweep's readings in both directions. Raises UserError for a sweep that does not exist."""
    texts = [text(stored_sweep.parse(name, direction)) for direction in DIRECTIONS]
    return "\n" + "\n".join(texts) + "\n"


def filled(content: str) -> str:
    """A file's content with every block written anew."""
    return BLOCK.sub(lambda match: f"<!-- findings {match['sweep']} -->\n{block(match['sweep'])}<!-- end -->", content)


def write(path: Path) -> None:
    path.write_text(filled(read(path)), encoding="utf-8")


def check(path: Path) -> int:
    """The number of numbers in the file's blocks, all of which are what the stored sweeps say.

    Raises UserError, naming the block and its first line that differs, or a measured number outside of the blocks.
    """
    content = read(path)
    blocks = list(BLOCK.finditer(content))
    if not blocks:
        raise UserError(f"{path} has no findings.\nTry:  a line <!-- findings PAIR@DOMAIN --> and a line <!-- end -->")
    for match in blocks:
        lines, today = match["text"].splitlines(), block(match["sweep"]).splitlines()
        if lines != today:
            pairs = ((line, now) for line, now in zip([*lines, ""], [*today, ""]) if line != now)
            line, now = next(pairs, ("a line more", "a line less"))
            problem = f"{path}: the findings of {match['sweep']} are not what its tables say.\nFile:    {line}\nTables:  {now}"
            raise UserError(f"{problem}\nTry:  python -m mechdiff findings --write {path}")
    prose = CODE.sub("", BLOCK.sub("", content))
    if stray := MEASURED.search(prose):
        line = next(line for line in prose.splitlines() if stray[0] in line)
        raise UserError(f"{path} has a number outside of its findings, which nothing checks: {line.strip()}")
    return sum(len(re.findall(r"\d+(?:\.\d+)?", match["text"])) for match in blocks)


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.\nTry:  ls {path.parent}") from None
