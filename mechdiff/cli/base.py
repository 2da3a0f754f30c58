"""What the commands share: a parser that reports errors as sentences, progress in a terminal, and writing tables."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from mechdiff.common.errors import UserError
from mechdiff.common.sizes import in_bytes

SUFFIXES = (".csv", ".parquet")
LOG_EVERY = 10.0  # seconds between progress lines where there is no terminal


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument as one sentence, without the usage block."""

    def error(self, message):
        raise UserError(f"{message}.\nTry:  python -m mechdiff --help".replace("..", "."))


def follow(task, label: str, after_step: Callable[[], None] = lambda: None, unit: str = "cell") -> None:
    """Run a task to its end under a progress bar (without a terminal: a line every LOG_EVERY seconds); print its notices.

    unit: of its total: cell, or B for bytes.
    """
    start, before, logged = time.monotonic(), task.done, time.monotonic()
    amount = in_bytes if unit == "B" else f"{{}} {unit}s".format
    with tqdm(total=task.total, initial=before, desc=label, unit=unit, unit_scale=unit == "B", disable=None) as bar:
        for _ in task.steps():
            after_step()
            bar.total = task.total
            bar.set_postfix_str(task.stage, refresh=False)
            bar.update(task.done - bar.n)
            if bar.disable and time.monotonic() - logged > LOG_EVERY:
                logged = time.monotonic()
                done = f"{amount(task.done)} of {amount(task.total)}"
                print(f"{label}: {done}, {task.stage}, {logged - start:.0f} s", file=sys.stderr)
    if bar.disable:
        print(f"{label}: {amount(task.done - before)} in {time.monotonic() - start:.1f} s", file=sys.stderr)
    for notice in task.notices:
        print(notice, file=sys.stderr)


def write(table, path: Path) -> None:
    try:
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. The results are in the cache; so try another --out.") from None
