"""Similarity and divergence: tensors in, tensors out."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from mechdiff.common.errors import UserError
from mechdiff.maths import triton_kernels

JACKKNIFE_SUBSETS = 200
CONSTANT = 1e-12  # a site whose variance is below this share of its square size does not vary


def kl(p: Float[Tensor, "... v"], q: Float[Tensor, "... v"]) -> Float[Tensor, "..."]:
    """KL(p || q) in nats between two distributions given as log-probabilities. Never below zero.

    The difference is taken before the sum, so that a small divergence keeps its digits.
    """
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def divergences(logits: Float[Tensor, "n v"], clean: Float[Tensor, " v"], donor: Float[Tensor, " v"]) -> tuple[Tensor, Tensor]:
    """KL(patched || clean) and KL(donor || patched), [n] each, of rows of logits against two rows of log-probabilities."""
    patched = logits.log_softmax(-1, dtype=torch.float32)
    return kl(patched, clean), kl(donor, patched)


SLICE = 16  # rows whose divergences are computed together on a CPU: their temporaries then stay in its caches


def divergences_at(logits: Float[Tensor, "n v"], clean: Tensor, donor: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """`divergences` of rows that belong to different lines of clean and donor, [places, v]. places: [n], each row's line."""
    if triton_kernels.available(logits):
        return triton_kernels.divergences(logits, clean, donor, places.to(logits.device, non_blocking=True))
    alone, parts, start = divergences_on(logits.device.type), [], 0
    for place, count in zip(*(found.tolist() for found in torch.unique_consecutive(places, return_counts=True))):
        for some in logits[start : start + count].split(SLICE if logits.device.type == "cpu" else count):
            parts.append(alone(some, clean[place], donor[place]))
        start += count
    return tuple(torch.cat(values) for values in zip(*parts))


@lru_cache(maxsize=2)
def divergences_on(device: str):
    """`divergences`, on a GPU compiled into one pass over the logits; as it is where the compiler is missing or fails."""
    return torch.compile(divergences, dynamic=True) if device == "cuda" else divergences


def grams(x: Float[Tensor, "sites n d"]) -> Float[Tensor, "sites n n"]:
    """Inner products of the centred rows at each site, in float64, scaled to a mean diagonal of 1.

    nan at a site that is constant over the prompts: no similarity is defined there.
    """
    x = x.double()
    centred = x - x.mean(1, keepdim=True)
    gram = centred @ centred.mT
    scale = gram.diagonal(dim1=1, dim2=2).mean(1)
    constant = scale <= CONSTANT * x.square().sum(2).mean(1)
    return gram / scale.masked_fill(constant, torch.nan)[:, None, None]


def hsic(k: Tensor, l: Tensor) -> Tensor:
    """The biased estimator's numerator: sum of the products of the doubly centred Gram matrices. k, l: [..., n, n]."""
    return (centre(k) * centre(l)).sum((-2, -1))


def centre(gram: Tensor) -> Tensor:
    return gram - gram.mean(-1, keepdim=True) - gram.mean(-2, keepdim=True) + gram.mean((-2, -1), keepdim=True)


def hsic_debiased(k: Tensor, l: Tensor) -> Tensor:
    """The unbiased estimator of HSIC (Song et al. 2012, equation 5). k, l: [..., n, n], n >= 4."""
    n = k.shape[-1]
    off = 1 - torch.eye(n, dtype=k.dtype, device=k.device)
    k, l = k * off, l * off
    trace, sums = (k * l).sum((-2, -1)), (k.sum(-1) * l.sum(-1)).sum(-1)
    total = k.sum((-2, -1)) * l.sum((-2, -1)) / ((n - 1) * (n - 2))
    return (trace + total - 2 * sums / (n - 2)) / (n * (n - 3))


def cka_of_grams(k: Tensor, l: Tensor, debiased: bool) -> Tensor:
    estimate = hsic_debiased if debiased else hsic
    own = estimate(k, k) * estimate(l, l)
    return estimate(k, l) / own.clamp(min=torch.finfo(k.dtype).tiny).sqrt()


def linear_cka(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"], debiased: bool = False) -> float:
    """How alike two models place the same n prompts, whatever the rotation and scale.

    x, y: activations at one site, a row per prompt. The widths p and q may differ.
    Returns a number without unit; 1 means the same geometry. Plain CKA lies in [0, 1] and is biased upward when n is
    smaller than the width; the debiased estimate is not, and may be negative.
    Raises UserError if one side is constant, since no similarity is then defined, or n < 4.
    Source: Kornblith et al. 2019, arXiv:1905.00414, linear kernel, n-by-n Gram form; debiased: Murphy et al. 2024.
    """
    check_enough(len(x))
    similarity = cka_of_grams(grams(x[None]), grams(y[None]), debiased).item()
    if similarity != similarity:
        raise UserError("One side has the same state for every prompt, so no similarity is defined. Use different prompts.")
    return similarity


def check_enough(n: int) -> None:
    if n < 4:
        raise UserError(f"CKA needs at least 4 prompts; there are {n}.\nTry:  --limit 32")


def jackknife_subsets(clusters: list[str], subsets: int = JACKKNIFE_SUBSETS, seed: int = 0) -> tuple[list[Tensor], float]:
    """Delete-d subsets that leave out whole templates, and the factor that turns their scatter into a variance.

    clusters: the template of each of n prompts. A fifth of the G templates is left out (at least sqrt(G), as consistency
    asks: Shao & Wu 1989). Returns kept prompt indices per subset, and (G - d) / d.
    """
    names = sorted(set(clusters))
    left_out = max(round(len(names) / 5), int(len(names) ** 0.5) + 1)
    generator = torch.Generator().manual_seed(seed)
    groups = {name: torch.tensor([i for i, c in enumerate(clusters) if c == name]) for name in names}
    kept = []
    for _ in range(subsets):
        order = torch.randperm(len(names), generator=generator)[left_out:].tolist()
        kept.append(torch.cat([groups[names[i]] for i in order]).sort().values)
    return kept, (len(names) - left_out) / left_out


def cka_with_interval(x: Float[Tensor, "sites n p"], y: Float[Tensor, "sites n q"], clusters: list[str]) -> dict[str, Tensor]:
    """Plain and debiased CKA at each site, with a 95 % delete-d jackknife interval each.

    clusters: the template of each prompt. Returns cka, low, high, cka_debiased, low_debiased, high_debiased: [sites].
    Resampling with replacement would duplicate prompts and put the removed bias back, so subsets are drawn without.
    Intervals are nan where too few templates (under 5) or prompts are left; everything is where one side is constant.
    """
    check_enough(x.shape[1])
    k, l = grams(x), grams(y)
    result = {}
    subsets, factor = jackknife_subsets(clusters) if len(set(clusters)) >= 5 else ([], 0.0)
    subsets = [kept for kept in subsets if len(kept) >= 4]
    for debiased, suffix in ((False, ""), (True, "_debiased")):
        full = cka_of_grams(k, l, debiased)
        error = torch.full_like(full, torch.nan)
        if subsets:
            parts = torch.stack([cka_of_grams(k[:, s][:, :, s], l[:, s][:, :, s], debiased) for s in subsets])
            error = (factor * parts.var(0, correction=0)).sqrt()
        result |= {f"cka{suffix}": full, f"low{suffix}": full - 1.96 * error, f"high{suffix}": full + 1.96 * error}
    return result
