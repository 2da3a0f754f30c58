"""The run: everyone does the same cells of the same prompts, taking turns, and the figures that come of it."""

from collections import defaultdict
from importlib.metadata import version
from statistics import mean

import torch
from torch import Tensor

from benchmarks.peers import ONE
from benchmarks.work import Cell, kl, spread
from mechdiff.engine.build_rows import as_rows
from mechdiff.engine.intervention import Condition
from mechdiff.engine.rows import run_rows
from mechdiff.engine.trace import run_trace
from mechdiff.questions.shared.measure import Measure, piece_sizes
from mechdiff.validation.bench import run_all, timed

FLOOR = 1e-4  # nats: differences of smaller effects count as differences of this one, for float32 rounds the logits


class Mechdiff:
    """Row by row, every cell of every prompt together. cells: (layer, head), all that the recipient has."""

    def __init__(self, subject):
        self.subject, (self.base, self.tuned) = subject, subject.anatomies()
        self.cells = [(layer, head) for layer in range(len(self.tuned.layers)) for head in range(self.tuned.heads)]
        self.clean()

    def clean(self) -> None:
        """Both models' clean passes over all prompts."""
        self.donor = run_trace(self.base, self.subject.donor_ids, keep_calls=False)
        self.recipient = run_trace(self.tuned, self.subject.ids)

    def rows(self, cells: list[Cell]):
        conditions = [Condition(layer, "heads", heads=(head,)) for layer, head in cells]
        return as_rows(conditions, self.tuned, self.donor, self.recipient, {})

    def sweep(self) -> None:
        """The effect of every cell on every prompt, measured as the app does."""
        rows = self.rows(self.cells)
        measure = Measure(rows.count, self.donor, self.recipient, (), True)
        run_all(run_rows(self.tuned, self.recipient, rows, measure, *piece_sizes(self.tuned)))

    def answers(self, cells: list[Cell]) -> Tensor:
        """KL of these cells [cells, prompts], taken in float64 of the same logits."""
        divergences = torch.zeros(len(cells), len(self.subject.ids), dtype=torch.float64)

        def measure(logits, prompts, rows):
            for vector, prompt, row in zip(logits, prompts.tolist(), rows.tolist()):
                divergences[row, prompt] = precise_kl(vector[None], self.recipient.logprobs[prompt][None])[0]

        run_all(run_rows(self.tuned, self.recipient, self.rows(cells), measure, *piece_sizes(self.tuned)))
        return divergences


def precise_kl(patched: Tensor, clean: Tensor) -> Tensor:
    """As `work.kl`, the softmax in float64: what then differs between two libraries lies in their logits."""
    return kl(patched.double(), clean.double()).cpu()


class Rounds:
    """Seconds and answers as they come. A form is (library, form); each of its cells is done once a prompt."""

    def __init__(self, one_by_one: int, batch: int):
        self.one_by_one, self.batch = one_by_one, batch
        self.seconds, self.answers = defaultdict(list), defaultdict(dict)

    def mechdiff(self, engine: Mechdiff) -> None:
        prompts = len(engine.subject.ids)
        self.seconds["mechdiff", "clean"].append(timed(engine.clean) / prompts)
        self.seconds["mechdiff", "cell"].append(timed(engine.sweep) / prompts / len(engine.cells))

    @torch.no_grad()
    def peer(self, peer, prompt: int, cells: list[Cell]) -> None:
        self.seconds[peer.library, "clean"].append(timed(lambda: peer.clean(prompt)))
        for form, method in peer.forms.items():
            size, count = (1, self.one_by_one) if method == "one" else (self.batch, 2 * self.batch)
            sample, logits = spread(cells, count), []

            def work(form=form, size=size, sample=sample, logits=logits):
                for start in range(0, len(sample), size):
                    logits.append(peer.work(form, sample[start : start + size]))
                    kl(logits[-1], peer.clean_logits)

            self.seconds[peer.library, form].append(timed(work) / len(sample))
            divergences = precise_kl(torch.cat(logits), peer.clean_logits)
            self.answers[peer.library, form] |= {(prompt, *cell): float(value) for cell, value in zip(sample, divergences)}


def largest_difference(answers: dict, expected: dict) -> float:
    """Of two tables of answers, relative to the expected one or the floor, over what both have."""
    both = answers.keys() & expected.keys()
    return max((abs(answers[key] - expected[key]) / max(expected[key], FLOOR) for key in both), default=float("nan"))


def measure(subject, peers: dict, one_by_one: int, batch: int) -> dict:
    """All figures of one run. peers: name -> class; each turn of a prompt begins with another of them.

    Seconds are a prompt, for the full sweep: a cell's mean seconds times the cells. clean_s: both models' clean passes, which
    come before. ratio: over mechdiff's sweep; ratio_with_clean: the same with the clean passes on both sides.
    difference: the largest of KL, relative (see FLOOR), from mechdiff's and from plain hooks' one by one.
    """
    engine, rounds = Mechdiff(subject), Rounds(one_by_one, batch)
    engine.sweep()  # warm: a GPU compiles
    engine.sweep()
    ready = [peer(subject) for peer in peers.values()]
    for peer in ready:
        warm_up(peer, engine.cells, batch)
    for prompt in range(len(subject.ids)):
        rounds.mechdiff(engine)
        for turn in range(len(ready)):
            rounds.peer(ready[(prompt + turn) % len(ready)], prompt, engine.cells)
    return {
        "subject": subject.name,
        "cells": len(engine.cells),
        "prompts": len(subject.ids),
        "tokens": mean(map(len, subject.ids)),
        "batch": batch,
        "device": torch.cuda.get_device_name()
        if engine.tuned.device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "dtype": str(engine.tuned.dtype).removeprefix("torch."),
        "versions": {name: version(name) for peer in ready for name in peer.packages},
        "forms": figures(rounds, expected(engine, rounds), len(engine.cells)),
    }


@torch.no_grad()
def warm_up(peer, cells: list[Cell], batch: int) -> None:
    peer.clean(0)
    for form, method in peer.forms.items():
        peer.work(form, cells[: 1 if method == "one" else batch])


def expected(engine: Mechdiff, rounds: Rounds) -> dict:
    """mechdiff's answers to every cell that anyone did: (prompt, layer, head) -> KL."""
    done = sorted({key[1:] for answers in rounds.answers.values() for key in answers})
    divergences = engine.answers(done)
    return {
        (prompt, *cell): float(divergences[i, prompt]) for i, cell in enumerate(done) for prompt in range(divergences.shape[1])
    }


def figures(rounds: Rounds, ours: dict, cells: int) -> list[dict]:
    """A line a form, mechdiff first."""
    seconds = {form: mean(values) for form, values in rounds.seconds.items()}
    sweep, clean = seconds["mechdiff", "cell"] * cells, seconds["mechdiff", "clean"]
    lines = [{"library": "mechdiff", "form": "rows", "sweep_s": sweep, "clean_s": clean}]
    hooks = rounds.answers.get(("plain hooks", ONE), {})
    for (library, form), answers in rounds.answers.items():
        its_sweep, its_clean = seconds[library, form] * cells, seconds[library, "clean"]
        lines.append(
            {
                "library": library,
                "form": form,
                "sweep_s": its_sweep,
                "clean_s": its_clean,
                "ratio": its_sweep / sweep,
                "ratio_with_clean": (its_sweep + its_clean) / (sweep + clean),
                "difference_from_mechdiff": largest_difference(answers, ours),
                "difference_from_hooks": largest_difference(answers, hooks),
            }
        )
    return lines
