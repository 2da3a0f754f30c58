"""What the commands share: the parser that speaks in sentences, progress in a terminal, and tables to files."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from mechdiff.common.errors import UserError

SUFFIXES = (".csv", ".parquet")
LOG_EVERY = 10.0  # seconds between lines of progress where there is no terminal


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument as one sentence, without the usage block."""

    def error(self, message):
        raise UserError(f"{message}.\nTry:  python -m mechdiff --help".replace("..", "."))


def follow(task, label: str, tell: Callable[[], None] = lambda: None) -> None:
    """Run a task to its end under a progress bar, or with a line now and then where there is no terminal; pass notices on.

    tell: what else to do after each of its steps.
    """
    start, before, said = time.monotonic(), task.done, time.monotonic()
    with tqdm(total=task.total, initial=before, desc=label, unit="cell", disable=None) as bar:
        for _ in task.steps():
            tell()
            bar.total = task.total
            bar.set_postfix_str(task.stage, refresh=False)
            bar.update(task.done - bar.n)
            if bar.disable and time.monotonic() - said > LOG_EVERY:
                said = time.monotonic()
                print(f"{label}: {task.done} of {task.total} cells, {task.stage}, {said - start:.0f} s", file=sys.stderr)
    if bar.disable:
        print(f"{label}: {task.done - before} cells in {time.monotonic() - start:.1f} s", file=sys.stderr)
    for notice in task.notices:
        print(notice, file=sys.stderr)


def write(table, path: Path) -> None:
    try:
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. The results are in the cache; give another --out.") from None
