"""Before the first computation: does the row engine give what plain hooks give, on this model, in this dtype?"""

import torch

from mechdiff.anatomy import Anatomy, Unreadable
from mechdiff.hooks import run_hooks
from mechdiff.rows import Edit, Rows, run_rows
from mechdiff.trace import Trace

STREAMS = ("resid_post", "attn_out", "mlp_out", "heads")


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

    def keep(into):
        def measure(logits, prompt, row):
            for p, r, line in zip(prompt.tolist(), row.tolist(), logits.float().log_softmax(-1)):
                into[p, r] = line

        return measure

    by_rows, by_hooks = {}, {}
    try:
        list(run_rows(anatomy, trace, rows, keep(by_rows), 64, 64))
    except Unreadable as error:
        return float("nan"), str(error)
    list(run_hooks(anatomy, prompts, rows, keep(by_hooks)))
    found = [(by_rows[cell] - by_hooks[cell]).abs().max().item() for cell in by_hooks]
    return max(found), None
