"""GPU kernels that take one pass over memory where torch's own operations take many: the attention of rows, and divergences.

Written in Triton, which comes with torch's CUDA builds. If it is missing, `available` is False and callers use torch.
"""

from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

try:
    from mechdiff.maths import triton_source
except ImportError:
    triton_source = cast("Any", None)

ATTENTION = 64, 32, 4  # rows of one program, tokens of the prefix at a time, warps; for 16-bit numbers
ROWS, TOKENS, WARPS = 2, 2048, 4  # of one program of the divergences: its rows share what they are compared with


def available(tensor: Tensor) -> bool:
    """Whether the kernels can run on this tensor."""
    return triton_source is not None and tensor.is_cuda


def row_attention(
    query: Float[Tensor, "b heads n width"],
    key: Float[Tensor, "b groups n width"],
    value: Float[Tensor, "b groups n width"],
    prefix_keys: Float[Tensor, "b groups seen width"],
    prefix_values: Float[Tensor, "b groups seen width"],
    hidden: Bool[Tensor, "b 1 1 seen"],
    scaling: float,
    softcap: float | None,
) -> Float[Tensor, "b n heads width"]:
    """Attention of one-token rows, each to its prompt's prefix and to its own key; softmax in float32.

    key, value: the rows' own. hidden: True where no row may look. softcap: of the scaled scores, None for none.
    """
    each = (query, key, value, prefix_keys, prefix_values)
    query, key, value, prefix_keys, prefix_values = (t if t.stride(-1) == 1 else t.contiguous() for t in each)
    (b, heads, n, width), (groups, seen) = query.shape, prefix_keys.shape[1:3]
    output = query.new_empty(b, n, heads, width)
    rows, small = n * (heads // groups), query.element_size() == 2
    block, step, warps = ATTENTION if rows >= 64 and small else (32 if rows >= 64 else 16, 32, 4)
    grid = (blocks(rows, block), b * groups)
    _launch(
        triton_source.row_attention,
        grid,
        *(query, key, value, prefix_keys, prefix_values, hidden, output),
        *(scaling, softcap or 1.0, n, seen, heads // groups, groups),
        *(*query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *prefix_keys.stride()[:3], *prefix_values.stride()[:3]),
        *(hidden.stride(0), hidden.stride(3), *output.stride()[:3]),
        *(width, max(16, 1 << (width - 1).bit_length()), block, step),
        softcap is not None,
        "ieee" if query.dtype == torch.float32 else "tf32",
        num_warps=warps,
    )
    return output


def divergences(
    logits: Float[Tensor, "n v"], clean: Float[Tensor, "lines v"], donor: Float[Tensor, "lines v"], places: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """KL(patched || clean) and KL(donor || patched) of each row, in nats, float32.

    logits: of the patched model. clean, donor: log-probabilities, float32. places: the line of both that a row is compared with.
    The difference is taken before the sum, so that a small divergence keeps its digits.
    """
    n, vocabulary = logits.shape
    from_clean, to_donor = (torch.empty(n, dtype=torch.float32, device=logits.device) for _ in range(2))
    if n:
        _launch(
            triton_source.divergences,
            (blocks(n, ROWS),),
            *(logits, clean, donor, places, from_clean, to_donor, n, vocabulary),
            *(logits.stride(0), clean.stride(0), donor.stride(0), ROWS, TOKENS),
            num_warps=WARPS,
        )
    return from_clean, to_donor


def blocks(count: int, size: int) -> int:
    """How many blocks of a size hold so many."""
    return -(-count // size)


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    kernel[grid](*arguments, **options)
