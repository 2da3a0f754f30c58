"""Plain forward hooks: the same rows as rows.py, each by a complete forward pass.

The reference that the row engine is checked and timed against, and the fallback for a model that the engine cannot run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor

from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.batches import pad_right
from mechdiff.engine.memory import in_parts
from mechdiff.engine.rows import Edit, Rows, blend


@contextmanager
def patched(
    anatomy: Anatomy,
    edits: list[Edit],
    prompts: Int[Tensor, " items"],
    rows: Int[Tensor, " items"],
    tokens: Int[Tensor, " items"],
) -> Iterator[None]:
    """Hook the model so that item i of its next batch is row rows[i] of prompt prompts[i], edited at token tokens[i]."""
    handles = []

    def hook(edit: Edit):
        items = torch.isin(rows, edit.rows).nonzero().squeeze(1)
        if not len(items):
            return
        place = torch.tensor([edit.rows.tolist().index(row) for row in rows[items].tolist()])
        value, weight = edit.value[prompts[items], place], None if edit.weight is None else edit.weight[place]

        def change(states):
            states = states.clone()
            states[items, tokens[items]] = blend(states[items, tokens[items]], value, weight)
            return states

        def before(module, args, kwargs):
            return (change(args[0]), *args[1:]), kwargs

        def after(module, args, output):
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        part = anatomy.layers[edit.layer]
        if edit.stream in ("resid_pre", "heads"):
            module = part.block if edit.stream == "resid_pre" else part.projection
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        else:
            module = {"resid_post": part.block, "attn_out": part.attention, "mlp_out": part.mlp}[edit.stream]
            handles.append(module.register_forward_hook(after))

    try:
        for edit in edits:
            hook(edit)
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_hooks(
    anatomy: Anatomy, prompts: list[list[int]], rows: Rows, measure: Callable, batch: int = 1, span: int = 1, read: int = 1
) -> Iterator[int]:
    """Every row of every prompt by a complete forward pass, `batch` of them together. Otherwise as `rows.run_rows`.

    span, read: as in `trace.run_trace`; the edits are at the span's first token.
    """
    item_prompt = torch.arange(len(prompts)).repeat_interleave(rows.count)
    item_row = torch.arange(rows.count).repeat(len(prompts))

    def run(items: Tensor) -> Tensor:
        """The logits at the last `read` tokens, [items, read, vocabulary]."""
        padded, last = pad_right([prompts[i] for i in item_prompt[items].tolist()])
        with torch.no_grad(), patched(anatomy, rows.edits, item_prompt[items], item_row[items], last - span + 1):
            logits = anatomy.model(input_ids=padded.to(anatomy.device), use_cache=False).logits
        return logits[torch.arange(len(items))[:, None], last[:, None] + torch.arange(1 - read, 1)]

    for together in torch.arange(len(item_row)).split(batch):
        for items, logits in in_parts(run, together, anatomy.device):
            for step in range(read):
                measure(logits[:, step], item_prompt[items] * read + step, item_row[items])
                yield len(items)
