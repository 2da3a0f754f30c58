"""The GPU's own kernels against torch in float64. Needs a GPU, or Triton's interpreter (TRITON_INTERPRET=1)."""

import os

import pytest
import torch

from mechdiff.engine.rows import Prefix, row_attention
from mechdiff.maths import similarity, triton_kernels

pytest.importorskip("triton")
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
pytestmark = pytest.mark.skipif(not CUDA and not os.environ.get("TRITON_INTERPRET"), reason="no GPU, and no interpreter")
DTYPES = [torch.float32, torch.bfloat16] if CUDA else [torch.float32]  # numpy, which interprets, has no bfloat16
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 5e-3}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize(
    ("b", "heads", "groups", "rows", "width", "seen"),
    [(2, 4, 2, 5, 8, 7), (2, 4, 1, 33, 64, 70), (1, 9, 3, 40, 64, 130), (2, 4, 4, 3, 96, 17), (3, 8, 2, 70, 128, 33)],
)
def test_attention_of_rows(b, heads, groups, rows, width, seen, softcap, dtype):
    torch.manual_seed(0)
    query, key, value = (torch.randn(b, rows, n, width, dtype=dtype, device=DEVICE) for n in (heads, groups, groups))
    keys, values = (torch.randn(b, groups, seen, width, dtype=dtype, device=DEVICE) for _ in range(2))
    hidden = torch.rand(b, 1, 1, seen, device=DEVICE) < 0.3
    hidden[0] = True  # nothing but itself
    own = [part.transpose(1, 2) for part in (query, key, value)]
    output = triton_kernels.row_attention(*own, keys, values, hidden, width**-0.5, softcap).cpu().double()
    inside = torch.zeros(b, 1, 1, 1, dtype=torch.bool)
    prefix = Prefix(keys.cpu().double(), values.cpu().double(), hidden.cpu(), inside)
    expected, _ = row_attention(None, *(part.cpu().double() for part in own), prefix, softcap=softcap)
    assert (output - expected).norm() <= ROUNDING[dtype] * expected.norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_divergences(dtype):
    torch.manual_seed(0)
    logits = (torch.randn(11, 5000, device=DEVICE) * 3).to(dtype)
    clean, donor = (torch.randn(3, 5000, device=DEVICE).log_softmax(-1) for _ in range(2))
    places = torch.tensor([0] * 4 + [1] * 3 + [2] * 4)
    divergences = torch.stack(triton_kernels.divergences(logits, clean, donor, places.to(DEVICE))).cpu().double()
    lines = [
        similarity.divergences(row[None].cpu().double(), clean[place].cpu().double(), donor[place].cpu().double())
        for row, place in zip(logits, places)
    ]
    torch.testing.assert_close(divergences, torch.tensor(lines).T.double(), rtol=1e-5, atol=1e-5)


def test_what_is_the_same_has_no_divergence():
    logits = torch.randn(1, 5000, device=DEVICE)
    same = logits.log_softmax(-1)
    effect, apart = triton_kernels.divergences(logits, same, same, torch.tensor([0], device=DEVICE))
    assert max(effect.item(), apart.item()) < 2e-6
