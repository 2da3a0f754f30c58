"""Compute what a talk will show, before it is given: the app's own pages, run without a browser until nothing is pending.

`python app/prepare.py FILE NAME MINUTES`: the talk, what the address calls it, and how long slider positions may take.
`python -m mechdiff talk prepare` runs it.
"""

import itertools
import logging
import sys
import time
from pathlib import Path

logging.disable(logging.WARNING)  # Streamlit warns of a page without a browser, when it is imported too
# ruff: noqa: E402
import controls
import jobs
import session
import talk
from streamlit.testing.v1 import AppTest

from mechdiff.common.errors import UserError
from mechdiff.common.terms import RANKS
from mechdiff.inputs.pair_file import read_pair
from mechdiff.reporting.talk import Step, Talk, read_talk

LONGEST = 24 * 3600.0  # seconds that one view may take
SAY_EVERY = 10.0  # seconds between lines of progress
SCRIPT = "import session\nfrom pages import PAGES\nsession.frame(PAGES['{page}'].draw, '{page}')\n"


class Voice:
    """Says now and then how far it is."""

    def __init__(self):
        self.said = time.monotonic()

    def now_and_then(self, text: str) -> None:
        if time.monotonic() - self.said > SAY_EVERY:
            self.said = time.monotonic()
            print(f"  {text}", flush=True)


def show(name: str, number: int, step: Step, voice: Voice, **moved) -> None:
    """Run a step's page until nothing is pending. moved: other values of its sliders."""
    at = AppTest.from_string(SCRIPT.format(page=step.page), default_timeout=LONGEST)
    for key, value in (step.values | moved | {talk.TALK: name, talk.STEP: number}).items():
        at.query_params[key] = [str(one) for one in value] if isinstance(value, list) else talk.word(value)
    at.run()
    while pending := list(at.session_state["_pending"].values()):
        for job in pending:
            wait(job, f"step {number}: {job.label[:1].lower()}{job.label[1:]}", voice)
        at.run()
    wrong = [*(error.value for error in at.error), *(error.message for error in at.exception)]
    if wrong:
        raise UserError(f"Step {number}: {wrong[0]}")


def wait(job: jobs.Job, label: str, voice: Voice) -> None:
    while not job.future.done():
        job.touched = time.monotonic()
        time.sleep(0.05)
        voice.now_and_then(f"{label}, {job.done / max(1, job.total):.0%}{job.time_left()}")


def positions(step: Step) -> list[dict]:
    """The other positions of a step's main slider, the nearest first."""
    key = next(iter(talk.SLIDERS.get(step.page, ())), None)
    if key == "rank":
        ladder, here = list(RANKS), str(step.values.get("rank", controls.DEFAULTS["rank"]))
    elif key is not None:
        key, pair = "layer", read_pair(step.values.get("pair", controls.DEFAULTS["pair"]))
        ladder, here = list(range(pair.layers)), step.values.get("layer", 2 * (pair.layers - 1) // 3)
    else:
        return []
    at = ladder.index(here)
    return [{key: value} for value in sorted(ladder, key=lambda value: abs(ladder.index(value) - at))[1:]]


def sliders(name: str, found: Talk, minutes: float, voice: Voice) -> None:
    """Every step's slider positions, in turn, as far as the time goes."""
    rows = [[(n, step, moved) for moved in positions(step)] for n, step in enumerate(found.steps, 1)]
    every = [one for group in itertools.zip_longest(*rows) for one in group if one is not None]
    start, done = time.monotonic(), 0
    print(f"Slider positions: {len(every)}, for at most {minutes:g} minutes", flush=True)
    for number, step, moved in every:
        if time.monotonic() - start > 60 * minutes:
            break
        show(name, number, step, voice, **moved)
        done += 1
        left = min((len(every) - done) * (time.monotonic() - start) / done, 60 * minutes - (time.monotonic() - start))
        voice.now_and_then(f"{done} of {len(every)} positions, about {max(1, round(left / 60))} min left")
    print(f"{done} of {len(every)} slider positions ready after {time.monotonic() - start:.0f} s", flush=True)
    if done < len(every):
        print(f"The other {len(every) - done} are computed when they are shown. The same command goes on with them.", flush=True)


def check(found: Talk) -> None:
    """Raise UserError for a pair whose weights are not here and cannot be fetched."""
    for number, step in enumerate(found.steps, 1):
        pair = read_pair(step.values.get("pair", controls.DEFAULTS["pair"]))
        missing = pair.missing()
        if missing and not pair.base.wheel and step.page in talk.SLIDERS:
            raise UserError(f"Step {number}: {missing}")


def main(path: str, name: str, minutes: str) -> int:
    session.PATIENCE = LONGEST
    found, voice, start = read_talk(Path(path)), Voice(), time.monotonic()
    check(found)
    for number, step in enumerate(found.steps, 1):
        begun = time.monotonic()
        show(name, number, step, voice)
        print(f"Step {number} of {len(found.steps)}, {step.page}: ready after {time.monotonic() - begun:.0f} s", flush=True)
    sliders(name, found, float(minutes), voice)
    print(f"Prepared in {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except UserError as error:
        print(f"mechdiff: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
