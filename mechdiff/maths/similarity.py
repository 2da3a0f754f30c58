"""Similarity and divergence: tensors in, tensors out."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechdiff.common.errors import UserError
from mechdiff.maths import triton_kernels

JACKKNIFE_SUBSETS = 200
CONSTANT = 1e-12  # a site whose variance is below this share of its mean square does not vary
NULLS = 20  # random orders whose mean is a null
FEWEST_TEMPLATES = 8  # for which CKA over templates, and its jackknife, are defined and mean something
SLICE = 16  # rows whose divergences are computed together on a CPU: their temporaries then stay in its caches


def kl(p: Float[Tensor, "*#batch v"], q: Float[Tensor, "*#batch v"]) -> Float[Tensor, "..."]:
    """KL(p || q) in nats between distributions given as log-probabilities, broadcast. Never below zero.

    The difference is taken before the sum, so that a small divergence keeps its digits.
    """
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def divergences(
    logits: Float[Tensor, "n v"], clean: Float[Tensor, " v"], donor: Float[Tensor, " v"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """KL(patched || clean) and KL(donor || patched) of each row, in nats.

    logits: of the patched model. clean, donor: log-probabilities that every row is compared with.
    """
    patched = logits.log_softmax(-1, dtype=torch.float32)
    return kl(patched, clean), kl(donor, patched)


def divergences_at(
    logits: Float[Tensor, "n v"], clean: Float[Tensor, "lines v"], donor: Float[Tensor, "lines v"], places: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """`divergences` of rows that are compared with different lines of clean and donor. places: each row's line."""
    if triton_kernels.available(logits):
        return triton_kernels.divergences(logits, clean, donor, places.to(logits.device))
    compute, parts, start = divergences_on(logits.device.type), [], 0
    lines, counts = torch.unique_consecutive(places, return_counts=True)
    for line, count in zip(lines.tolist(), counts.tolist()):
        for rows in logits[start : start + count].split(SLICE if logits.device.type == "cpu" else count):
            parts.append(compute(rows, clean[line], donor[line]))
        start += count
    from_clean, to_donor = (torch.cat(values) for values in zip(*parts))
    return from_clean, to_donor


@lru_cache(maxsize=2)
def divergences_on(device: str) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`divergences`, compiled on a GPU into one pass over the logits; not compiled if the compiler is missing or fails."""
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


def hsic(k: Float[Tensor, "*sites n n"], l: Float[Tensor, "*sites n n"]) -> Float[Tensor, "*sites"]:
    """The biased estimator's numerator: sum of the products of the doubly centred Gram matrices.

    Source: Gretton et al. 2005, without the factor (n - 1)^-2, which cancels in CKA.
    """
    return (centre(k) * centre(l)).sum((-2, -1))


def centre(gram: Float[Tensor, "*sites n n"]) -> Float[Tensor, "*sites n n"]:
    """A Gram matrix whose rows and columns have mean zero."""
    return gram - gram.mean(-1, keepdim=True) - gram.mean(-2, keepdim=True) + gram.mean((-2, -1), keepdim=True)


def hsic_debiased(k: Float[Tensor, "*sites n n"], l: Float[Tensor, "*sites n n"]) -> Float[Tensor, "*sites"]:
    """The unbiased estimator of HSIC from two Gram matrices, n >= 4. Source: Song et al. 2012, equation 5."""
    n = k.shape[-1]
    off = 1 - torch.eye(n, dtype=k.dtype, device=k.device)
    k, l = k * off, l * off
    trace, sums = (k * l).sum((-2, -1)), (k.sum(-1) * l.sum(-1)).sum(-1)
    total = k.sum((-2, -1)) * l.sum((-2, -1)) / ((n - 1) * (n - 2))
    return (trace + total - 2 * sums / (n - 2)) / (n * (n - 3))


def cka_of_grams(k: Float[Tensor, "*sites n n"], l: Float[Tensor, "*sites n n"], debiased: bool) -> Float[Tensor, "*sites"]:
    """CKA of each site from both sides' Gram matrices; see linear_cka."""
    estimate = hsic_debiased if debiased else hsic
    own = estimate(k, k) * estimate(l, l)
    return estimate(k, l) / own.clamp(min=torch.finfo(k.dtype).tiny).sqrt()


class TemplateGrams:
    """What HSIC over templates needs of two Gram matrices: sums over prompts of products and rows, by template.

    k, l: [sites, n, n]. clusters: the template of each of the n rows. Only prompts of different templates are ever compared, so
    that near copies within a template do not count as agreement.
    """

    def __init__(self, k: Float[Tensor, "sites n n"], l: Float[Tensor, "sites n n"], clusters: Sequence[str]):
        names = sorted(set(clusters))
        self.index = torch.tensor([names.index(name) for name in clusters], device=k.device)
        inside = torch.nn.functional.one_hot(self.index, len(names)).to(k)
        self.share = inside / inside.sum(0)  # [n, templates]: means over a template's prompts
        apart = 1 - inside
        self.rows = tuple((gram @ self.share) * apart for gram in (k, l))  # mean over row a and template j, a not in j
        self.blocks = tuple(self.share.mT @ rows for rows in self.rows)  # means over pairs of templates; zero within one
        off = 1 - torch.eye(len(names), dtype=k.dtype, device=k.device)
        self.products = (self.share.mT @ (k * l) @ self.share) * off

    def hsic(self, masks: Float[Tensor, "subsets templates"]) -> Float[Tensor, "sites subsets"]:
        """The U-statistic of HSIC over templates: unbiased. masks: 1 for each template that counts, at least 4 of them; else 0.

        A / (G)_2 - 2 B / (G)_3 + C / (G)_4, (G)_m = G (G - 1) ... (G - m + 1), with sums over different templates: A of the means
        of K o L, B of rows that share a prompt, C of pairs that share nothing. With one prompt a template it is hsic_debiased.
        """
        count, ours = masks.sum(1), masks[:, self.index] * self.share.sum(1)
        a = ((masks @ self.products) * masks).sum(-1)
        (k_rows, l_rows), (k_blocks, l_blocks) = self.rows, self.blocks
        both = (k_rows @ masks.mT) * (l_rows @ masks.mT) - (k_rows * l_rows) @ masks.mT  # [sites, n, subsets]
        b = (both * ours.mT).sum(1)
        k_sums, l_sums = ((masks @ blocks) * masks for blocks in (k_blocks, l_blocks))  # [sites, subsets, templates]
        pairs = ((masks @ (k_blocks * l_blocks)) * masks).sum(-1)
        c = k_sums.sum(-1) * l_sums.sum(-1) - 4 * (k_sums * l_sums).sum(-1) + 2 * pairs
        falling = [torch.stack([count - i for i in range(m)]).prod(0) for m in (2, 3, 4)]
        return a / falling[0] - 2 * b / falling[1] + c / falling[2]


def own_scale(
    k: Float[Tensor, "sites n n"],
    l: Float[Tensor, "sites n n"],
    clusters: Sequence[str],
    masks: Float[Tensor, "subsets templates"],
) -> Float[Tensor, "sites subsets"]:
    """What CKA over templates divides HSIC by."""
    own = [TemplateGrams(gram, gram, clusters).hsic(masks) for gram in (k, l)]
    return (own[0] * own[1]).clamp(min=torch.finfo(k.dtype).tiny).sqrt()


def other_templates(clusters: Sequence[str], generator: torch.Generator) -> Int[Tensor, " n"]:
    """For each prompt one of another template: templates change places whole, the first prompt with the first, and so on."""
    names = sorted(set(clusters))
    members = {name: [i for i, c in enumerate(clusters) if c == name] for name in names}
    order = torch.randperm(len(names), generator=generator).tolist()
    place = dict(zip(names, (members[names[i]] for i in order)))
    seen: dict[str, int] = dict.fromkeys(names, 0)
    chosen = []
    for name in clusters:
        chosen.append(place[name][seen[name] % len(place[name])])
        seen[name] += 1
    return torch.tensor(chosen)


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
    if math.isnan(similarity):
        raise UserError("One side has the same state for every prompt, so no similarity is defined.\nTry:  other prompts")
    return similarity


def check_enough(n: int) -> None:
    """Raises UserError if CKA is not defined over n prompts."""
    if n < 4:
        raise UserError(f"CKA needs at least 4 prompts; there are {n}.\nTry:  --limit 32")


def jackknife_subsets(
    clusters: Sequence[str], subsets: int = JACKKNIFE_SUBSETS, seed: int = 0
) -> tuple[list[Int[Tensor, " _"]], float]:
    """Delete-d subsets that leave out whole templates, and the factor that turns their scatter into a variance.

    clusters: the template of each of n prompts. A fifth of the G templates is left out, and at least sqrt(G), which consistency
    requires. Returns the prompt indices that each subset retains, and (G - d) / d. Source: Shao and Wu 1989.
    """
    names = sorted(set(clusters))
    left_out = max(round(len(names) / 5), int(len(names) ** 0.5) + 1)
    generator = torch.Generator().manual_seed(seed)
    groups = {name: torch.tensor([i for i, c in enumerate(clusters) if c == name]) for name in names}
    retained = []
    for _ in range(subsets):
        order = torch.randperm(len(names), generator=generator)[left_out:].tolist()
        retained.append(torch.cat([groups[names[i]] for i in order]).sort().values)
    return retained, (len(names) - left_out) / left_out


def cka_with_interval(
    x: Float[Tensor, "sites n p"], y: Float[Tensor, "sites n q"], clusters: Sequence[str]
) -> dict[str, Float[Tensor, " sites"]]:
    """Plain and debiased CKA at each site, with a 95 % delete-d jackknife interval each.

    clusters: the template of each prompt. Returns cka, low, high, the same with _debiased and with _templates (see
    TemplateGrams), and cka_null: cka_templates with the second model's templates in other orders, on average. All are [sites].
    Resampling with replacement would duplicate prompts and bring the removed bias back, so subsets are drawn without it.
    Intervals are nan if there are too few templates (under 5) or prompts; a site where one side is constant is nan throughout.
    Raises UserError for fewer than 4 prompts. Source: as linear_cka and jackknife_subsets.
    """
    check_enough(x.shape[1])
    k, l = grams(x), grams(y)
    result = cka_by_template(k, l, clusters)
    subsets, factor = jackknife_subsets(clusters) if len(set(clusters)) >= 5 else ([], 0.0)
    subsets = [indices for indices in subsets if len(indices) >= 4]
    for debiased, suffix in ((False, ""), (True, "_debiased")):
        full = cka_of_grams(k, l, debiased)
        error = torch.full_like(full, torch.nan)
        if subsets:
            parts = torch.stack([cka_of_grams(k[:, s][:, :, s], l[:, s][:, :, s], debiased) for s in subsets])
            error = (factor * parts.var(0, correction=0)).sqrt()
        result |= {f"cka{suffix}": full, f"low{suffix}": full - 1.96 * error, f"high{suffix}": full + 1.96 * error}
    return result


def cka_by_template(
    k: Float[Tensor, "sites n n"], l: Float[Tensor, "sites n n"], clusters: Sequence[str], seed: int = 0
) -> dict[str, Float[Tensor, " sites"]]:
    """cka_templates with its interval, low_templates and high_templates, and cka_null; nan under 8 templates."""
    names = sorted(set(clusters))
    if len(names) < FEWEST_TEMPLATES:
        blank = torch.full(k.shape[:1], torch.nan, dtype=k.dtype)
        return dict.fromkeys(("cka_templates", "low_templates", "high_templates", "cka_null"), blank)
    retained, factor = jackknife_subsets(clusters, seed=seed)
    which = torch.tensor([names.index(name) for name in clusters])
    masks = torch.zeros(1 + len(retained), len(names), dtype=k.dtype, device=k.device)
    masks[0] = 1
    for number, indices in enumerate(retained, 1):
        masks[number, which[indices]] = 1
    scale = own_scale(k, l, clusters, masks)
    estimates = TemplateGrams(k, l, clusters).hsic(masks) / scale
    error = (factor * estimates[:, 1:].var(1, correction=0)).sqrt()
    generator, nulls = torch.Generator().manual_seed(seed), []
    for _ in range(NULLS):
        order = other_templates(clusters, generator).to(k.device)
        nulls.append(TemplateGrams(k, l[:, order][:, :, order], clusters).hsic(masks[:1]))
    null = torch.stack(nulls).mean(0) / scale[:, :1]
    middle = estimates[:, 0]
    ends = {"low_templates": middle - 1.96 * error, "high_templates": middle + 1.96 * error}
    return {"cka_templates": middle} | ends | {"cka_null": null[:, 0]}
