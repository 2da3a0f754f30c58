"""Before the first computation: does the row engine give what plain hooks give, on this model, in this dtype? How fast is it?"""

import time

import torch

from mechdiff.engine.anatomy import Anatomy, Unreadable
from mechdiff.engine.hooks import run_hooks
from mechdiff.engine.rows import Edit, Rows, run_rows
from mechdiff.engine.trace import Trace, run_trace
from mechdiff.models.clean_passes import CleanPasses

STREAMS = ("resid_post", "attn_out", "mlp_out", "heads")
ROWS = 4  # a layer, for timing: several, as in a sweep, where they share the reading of the weights
LIMITS = {"float32": 1e-3, "bfloat16": 1.5, "float16": 0.3}  # largest difference to plain hooks, in log-probability
LIMITS |= {"4bit": 1.5, "8bit": 3.0}  # their kernels round states too; 8bit as the other states of the same pass have it


class Preflight:
    """The row engine's check, once per recipient. A model that fails it runs by plain hooks.

    differences: the largest difference to plain hooks, in log-probability, by recipient. by_hooks: the sides that run by hooks.
    """

    def __init__(self, models: dict[str, Anatomy], passes: CleanPasses, quantization: str | None):
        self.models, self.passes, self.quantization = models, passes, quantization
        self.differences: dict[str, float] = {}
        self.by_hooks: set[str] = set()
        self.notices: list[str] = []

    def limit(self, side: str) -> float:
        """How far the row engine may be from plain hooks, in log-probability: what rounding alone does."""
        return LIMITS[self.quantization or str(self.models[side].dtype).removeprefix("torch.")]

    def check(self, side: str, texts: tuple[str, ...]) -> None:
        """Compare a few rows with plain hooks, on the first two prompts. On a difference, fall back to hooks, with a notice."""
        if side in self.differences:
            return
        trace = self.passes.trace(side, texts[:2], True)
        ids = [self.passes.tokens.encode(text, side) for text in texts[:2]]
        placement = self.passes.placement
        with placement.lock, placement.resident(side):
            self.differences[side], why = parity(self.models[side], trace, ids)
        limit = self.limit(side)
        if why is None and self.differences[side] > limit:
            why = f"it differs from plain hooks by {self.differences[side]:.2g} in log-probability (limit {limit})"
        if why is not None:
            self.by_hooks.add(side)
            self.notices.append(f"The {side} model runs by plain hooks, exact but slow: for the row engine, {why}.")


def parity(anatomy: Anatomy, trace: Trace, prompts: list[list[int]]) -> tuple[float, str | None]:
    """The largest difference in log-probability over four rows a prompt (each stream, at four depths), and why it failed.

    Each row takes its state from the next prompt: a large but natural change. The second value is None if the engine ran.
    """
    depth = len(anatomy.layers)
    edits = []
    for row, stream in enumerate(STREAMS):
        layer = (2 * row + 1) * depth // (2 * len(STREAMS))
        edits.append(Edit(layer, stream, torch.tensor([row]), trace.states[stream][layer].roll(1, 0).unsqueeze(1)))
    rows = Rows(len(STREAMS), edits)

    def measuring(into):
        def measure(logits, prompt, row):
            for p, r, line in zip(prompt.tolist(), row.tolist(), logits.float().log_softmax(-1)):
                into[p, r] = line

        return measure

    by_rows, by_hooks = {}, {}
    try:
        list(run_rows(anatomy, trace, rows, measuring(by_rows), 64, 64))
    except Unreadable as error:
        return float("nan"), str(error)
    list(run_hooks(anatomy, prompts, rows, measuring(by_hooks)))
    return max((by_rows[cell] - by_hooks[cell]).abs().max().item() for cell in by_hooks), None


def pace(donor: Anatomy, recipient: Anatomy, donor_ids: list, ids: list, by_hooks: bool) -> tuple[float, float]:
    """Seconds that the clean passes of both models take a prompt, and one patched cell: the donor's state at each layer.

    donor_ids, ids: the same prompts for either model. The caller holds the weights' lock, and has run both models before.
    """
    start = time.monotonic()
    states, trace = run_trace(donor, donor_ids, False).states["resid_post"], run_trace(recipient, ids)
    read = time.monotonic()
    each = 1 if by_hooks else ROWS
    edits = [
        Edit(layer, "resid_post", torch.arange(each) + each * layer, state.unsqueeze(1).expand(-1, each, -1))
        for layer, state in enumerate(states)
    ]
    rows = Rows(each * len(states), edits)

    def measure(logits, prompt, row):
        logits.log_softmax(-1).max().item()

    pieces = run_hooks(recipient, ids, rows, measure) if by_hooks else run_rows(recipient, trace, rows, measure, 512, 160)
    for _ in pieces:
        pass
    return (read - start) / len(ids), (time.monotonic() - read) / (rows.count * len(ids))
