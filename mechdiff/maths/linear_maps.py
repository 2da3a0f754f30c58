"""Maps from one model's states to another's, fitted on the train split: tensors in, tensors out.

x, y: donor and recipient states at some sites, a row per train prompt and position. All maps are affine,
f(x) = mean_y + (x - mean_x) W, and W lives where the train states vary: at most n - 1 directions. So each side is first written
by its principal directions (`pca_spread`), and every fit is then a small problem of size min(n - 1, d). Outside that span an
orthogonal W would be arbitrary; that part is dropped.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechdiff.maths.linalg import descending_eigh, each_site, orthonormal, svd

CONSTANT = 1e-6  # a dimension whose scale is below this share of its size does not vary
ROUNDING = 1e-7  # a principal direction whose scale is below this share of the largest does not vary
UNRELATED = 1e-12  # a pair of directions whose covariance is below this share of the largest is not paired
SHRINKAGE = 0.05  # of both covariances in `procrustes_scaled`
GCV_GRID = torch.logspace(-8, 2, 81, dtype=torch.float64)
TEMPLATE_FOLDS, PROMPT_FOLDS = 10, 5

Shrinkage = float | Float[Tensor, "sites 1"]
Kind = TypeVar("Kind", bound="Map")


@dataclass(frozen=True)
class PcaSpread:
    """Centred states of one model at some sites, by their principal directions in order of variance.

    states: as given, [sites, n, d]. mean: over rows. scores: the centred states' coordinates. scale: the length of each column of
    scores. directions: orthonormal; zero where the scale is. groups: the template of each row, [n], from zero; None: each row its
    own. Rows of one template are near copies: what is chosen on rows that are left out leaves out whole templates.

    Example:
        >>> from mechdiff.maths.linear_maps import pca_spread
        >>> pca_spread(torch.randn(1, 8, 4)).directions.shape
        torch.Size([1, 4, 4])
    """

    states: Float[Tensor, "sites n d"]
    mean: Float[Tensor, "sites d"]
    scores: Float[Tensor, "sites n r"]
    scale: Float[Tensor, "sites r"]
    directions: Float[Tensor, "sites d r"]
    groups: Int[Tensor, " n"] | None = None

    def pick(self, rows: Int[Tensor, " n"]) -> "PcaSpread":
        """The same states in another order of rows, which changes no direction. rows: their indices, [n]."""
        groups = None if self.groups is None else self.groups[rows]
        return PcaSpread(self.states[:, rows], self.mean, self.scores[:, rows], self.scale, self.directions, groups)


def pca_spread(states: Float[Tensor, "sites n d"], groups: Int[Tensor, " n"] | None = None) -> PcaSpread:
    """Principal directions of the states at each site, in float64; r = min(n - 1, d). groups: the template of each row, [n]."""
    mean, scores, scale, directions = each_site(pca_of_site, states)
    return PcaSpread(states, mean, scores, scale, directions, groups)


def pca_of_site(states: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mean [d], scores [n, r], scale [r] and directions [d, r] of one site, as in PcaSpread."""
    n, d = states.shape
    centred = states.double()
    mean = centred.mean(0)
    centred = centred - mean
    values, vectors = descending_eigh(centred @ centred.T if n <= d else centred.T @ centred)
    values, vectors = values[: n - 1], vectors[:, : n - 1]
    scale = values.clamp(min=0).sqrt()
    scale = scale.where(scale > ROUNDING * scale[0], torch.zeros_like(scale))
    if n <= d:
        return mean, vectors * scale, scale, centred.T @ (vectors * inverse_or_zero(scale))
    directions = vectors * (scale > 0)
    return mean, centred @ directions, scale, directions


def inverse_or_zero(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1 / values, and zero for zero."""
    return torch.where(values > 0, 1 / values.where(values > 0, torch.ones_like(values)), torch.zeros_like(values))


@dataclass(frozen=True)
class Map(ABC):
    """A map of states at one or more sites: a frozen dataclass of float64 tensors, whose first axis is the site, and `apply`.

    Applied to states [..., b, d_x] it gives [..., b, d_y], computed in float64, in the dtype of x. `to`, and an index over
    sites, give the same kind of map.

    Example:
        >>> @dataclass(frozen=True)
        ... class Half(md.Map):
        ...     mean: torch.Tensor
        ...     def apply(self, x):
        ...         return 0.5 * (x + self.mean.unsqueeze(-2))
        >>> Half(torch.zeros(1, 4))(torch.ones(1, 2, 4))[0, 0]
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """

    @abstractmethod
    def apply(self, x: Float[Tensor, "... b d_x"]) -> Float[Tensor, "... b d_y"]:
        """The mapped states, [..., b, d_y]. x: float64 states, [..., b, d_x]. A map of one's own has its own."""

    def __call__(self, x: Float[Tensor, "... b d_x"]) -> Float[Tensor, "... b d_y"]:
        """The mapped states, computed in float64, in x's dtype."""
        return self.apply(x.double()).to(x.dtype)

    def to(self: Kind, device: str | torch.device) -> Kind:
        """The same map with its tensors on a device. device: as for torch."""
        return self._each(lambda tensor: tensor.to(device))

    def __getitem__(self: Kind, site: int) -> Kind:
        return self._each(lambda tensor: tensor[site])

    def _each(self: Kind, change: Callable[[Tensor], Tensor]) -> Kind:
        return type(self)(**{spec.name: change(getattr(self, spec.name)) for spec in fields(self)})


@dataclass(frozen=True)
class Scaling(Map):
    """Each dimension of x shifted and scaled: (x - mean_x) scale + mean_y. `zscore`, and `none` with scale 1.

    mean_x, scale, mean_y: [sites, d], in float64.

    Example:
        >>> md.Scaling(torch.zeros(1, 2), torch.full((1, 2), 3.0), torch.ones(1, 2))(torch.ones(1, 1, 2))
        tensor([[[4., 4.]]])
    """

    mean_x: Float[Tensor, "*sites d"]
    scale: Float[Tensor, "*sites d"]
    mean_y: Float[Tensor, "*sites d"]

    def apply(self, x: Float[Tensor, "... b d"]) -> Float[Tensor, "... b d"]:
        return (x - self.mean_x.unsqueeze(-2)) * self.scale.unsqueeze(-2) + self.mean_y.unsqueeze(-2)


@dataclass(frozen=True)
class Linear(Map):
    """An affine map through r dimensions: (x - mean_x) into out' + mean_y.

    mean_x: [sites, d_x]. into: [sites, d_x, r]. out: [sites, d_y, r]. mean_y: [sites, d_y]. size: [sites], the map's one scale,
    or nan if it has none. All in float64.

    Example:
        >>> zero, eye = torch.zeros(1, 2).double(), torch.eye(2).double()[None]
        >>> md.Linear(zero, eye, 2 * eye, zero, torch.tensor([2.0]).double())(torch.ones(1, 1, 2))
        tensor([[[2., 2.]]])
    """

    mean_x: Float[Tensor, "*sites d_x"]
    into: Float[Tensor, "*sites d_x r"]
    out: Float[Tensor, "*sites d_y r"]
    mean_y: Float[Tensor, "*sites d_y"]
    size: Float[Tensor, "*sites"]

    def apply(self, x: Float[Tensor, "... b d_x"]) -> Float[Tensor, "... b d_y"]:
        return (x - self.mean_x.unsqueeze(-2)) @ self.into @ self.out.mT + self.mean_y.unsqueeze(-2)


def fit_none(x: PcaSpread, y: PcaSpread) -> Scaling:
    """The donor's state as it is."""
    return Scaling(torch.zeros_like(x.mean), torch.ones_like(x.mean), torch.zeros_like(x.mean))


def fit_zscore(x: PcaSpread, y: PcaSpread) -> Scaling:
    """Per-dimension mean and scale matching, x to y. A dimension that is constant in x maps to y's mean."""
    std_x, std_y = x.states.double().std(-2), y.states.double().std(-2)
    varies = std_x > CONSTANT * x.states.abs().amax(-2)
    scale = torch.where(varies, std_y / std_x.where(varies, torch.ones_like(std_x)), torch.zeros_like(std_x))
    return Scaling(x.mean, scale, y.mean)


def fit_shift(x: PcaSpread, y: PcaSpread) -> Scaling:
    """The mean difference between the two sides, added to every state of x: what one constant vector does."""
    return Scaling(x.mean, torch.ones_like(x.mean), y.mean)


def fit_ridge(x: PcaSpread, y: PcaSpread) -> Linear:
    """Ridge regression on centred states; lambda by generalised cross-validation over s1^2 * logspace(-8, 2, 81).

    The intercept counts as one fitted parameter, so GCV has a minimum even where n <= d. Source: Golub, Heath & Wahba 1979.
    """
    others = x.states.shape[-2] - 1  # degrees of freedom apart from the intercept
    cross = x.scores.mT @ y.scores
    explained = cross.square().sum(-1) * inverse_or_zero(x.scale.square())  # of y's variance, along each direction of x
    varying = x.scale > 0
    unexplained = (y.scale.square().sum(-1) - explained.sum(-1)).clamp(min=0) * (varying.sum(-1) < others)
    lambdas = x.scale[..., :1].square() * GCV_GRID.to(x.scale)
    shrink = lambdas.unsqueeze(-1) / (lambdas.unsqueeze(-1) + x.scale.square().unsqueeze(-2)).clamp(min=1e-300)
    residual = (shrink.square() * explained.unsqueeze(-2)).sum(-1) + unexplained.unsqueeze(-1)
    freedom = (shrink * varying.unsqueeze(-2)).sum(-1) + (others - varying.sum(-1)).unsqueeze(-1)
    best = (residual / freedom.square().clamp(min=1e-300)).argmin(-1, keepdim=True)
    penalty = lambdas.gather(-1, best)
    core = cross * inverse_or_zero(x.scale.square() + penalty).unsqueeze(-1)
    return linear_map(x, core, y, torch.full_like(x.scale[..., 0], torch.nan))


def fit_procrustes(x: PcaSpread, y: PcaSpread) -> Linear:
    """Orthogonal map between the centred states times the least-squares scale. Source: Schoenemann 1966."""
    rotation, sigma = partial_isometry(x.scores.mT @ y.scores)
    size = sigma.sum(-1) * inverse_or_zero(x.scale.square().sum(-1))
    return linear_map(x, rotation * size[..., None, None], y, size)


def fit_procrustes_scaled(x: PcaSpread, y: PcaSpread, shrinkage: Shrinkage = SHRINKAGE) -> Linear:
    """Whiten with shrunk covariances, rotate with one scale, colour with the recipient's covariance: the study's own map.

    C_g = (1 - g) C + g (tr C / d) I; scale = sum of singular values / ||x whitened||^2. shrinkage: g, of all sites or [sites, 1].
    """
    root_x, root_y = shrunk(x, shrinkage).sqrt(), shrunk(y, shrinkage).sqrt()
    whitened = x.scores * inverse_or_zero(root_x).unsqueeze(-2)
    rotation, sigma = partial_isometry(whitened.mT @ (y.scores * inverse_or_zero(root_y).unsqueeze(-2)))
    size = sigma.sum(-1) * inverse_or_zero(whitened.square().sum((-2, -1)))
    core = inverse_or_zero(root_x).unsqueeze(-1) * rotation * root_y.unsqueeze(-2) * size[..., None, None]
    return linear_map(x, core, y, size)


FITS: dict[str, Callable[[PcaSpread, PcaSpread], Scaling | Linear]] = {
    "none": fit_none,
    "zscore": fit_zscore,
    "shift": fit_shift,
    "ridge": fit_ridge,
    "procrustes": fit_procrustes,
    "procrustes_scaled": fit_procrustes_scaled,
}


def shrunk(side: PcaSpread, shrinkage: Shrinkage = SHRINKAGE) -> Float[Tensor, "sites r"]:
    """Variance along each principal direction after shrinkage. Source: Ledoit and Wolf 2004, with a given weight."""
    variance = side.scale.square() / (side.states.shape[-2] - 1)
    return (1 - shrinkage) * variance + shrinkage * variance.sum(-1, keepdim=True) / side.states.shape[-1]


def partial_isometry(cross: Float[Tensor, "sites r s"]) -> tuple[Float[Tensor, "sites r s"], Float[Tensor, "sites k"]]:
    """The partial isometry U V' of each cross-covariance, and its singular values; directions without a pair are dropped."""
    rotation, sigma = each_site(partial_isometry_of_site, cross)
    return rotation, sigma


def partial_isometry_of_site(cross: Float[Tensor, "r s"]) -> tuple[Float[Tensor, "r s"], Float[Tensor, " k"]]:
    left, sigma, right = svd(cross)
    sigma = sigma * paired(sigma)
    return (left * (sigma > 0)) @ right, sigma


def paired(sigma: Float[Tensor, "*sites k"]) -> Bool[Tensor, "*sites k"]:
    """Which singular values of a cross-covariance belong to a pair of directions, and are not rounding."""
    return sigma > UNRELATED * sigma[..., :1]


def linear_map(x: PcaSpread, core: Float[Tensor, "sites r s"], y: PcaSpread, size: Float[Tensor, " sites"]) -> Linear:
    """The map whose matrix is `core` in the two sides' principal directions."""
    return Linear(x.mean, x.directions @ core, y.directions, y.mean, size)


@dataclass(frozen=True)
class Dense(Map):
    """size (x - mean_x) matrix + mean_y, with a matrix of the whole space. size: the map's one scale. All in float64."""

    mean_x: Float[Tensor, "*sites d_x"]
    matrix: Float[Tensor, "*sites d_x d_y"]
    size: Float[Tensor, "*sites"]
    mean_y: Float[Tensor, "*sites d_y"]

    def apply(self, x: Float[Tensor, "... b d_x"]) -> Float[Tensor, "... b d_y"]:
        return (x - self.mean_x.unsqueeze(-2)) @ self.matrix * self.size[..., None, None] + self.mean_y.unsqueeze(-2)


@lru_cache(maxsize=2)
def random_orthogonal(d: int, seed: int, device: torch.device) -> Float[Tensor, "d d"]:
    """A random rotation or reflection, by seed, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return orthonormal(torch.randn(d, d, generator=generator, dtype=torch.float64).to(device))


def random_rotation(fitted: Map, x: PcaSpread, y: PcaSpread, seed: int) -> Dense:
    """A control: a random rotation of the centred states, scaled so that it spreads the train states as far as `fitted` does.

    One rotation, by seed, for all sites.
    """
    d = x.states.shape[-1]
    rotation = random_orthogonal(d, seed, x.mean.device)
    reach = fitted.apply(x.states.double())
    reach = (reach - reach.mean(-2, keepdim=True)).square().sum((-2, -1)).sqrt()
    size = reach * inverse_or_zero(x.scale.square().sum(-1).sqrt())
    return Dense(x.mean, rotation.expand(len(x.mean), d, d), size, y.mean)


def effective_rank(scale: Float[Tensor, "sites r"]) -> Float[Tensor, " sites"]:
    """The exponential of the entropy of the normalised singular values. Source: Roy & Vetterli 2007."""
    share = scale / scale.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1).exp()


def overlap(first: Float[Tensor, "*sites d r"], second: Float[Tensor, "*sites d s"], k: int) -> Float[Tensor, "*sites"]:
    """How far the first k directions of two orthonormal bases span the same space: k / d by chance, 1 for the same space."""
    return (first[..., :k].mT @ second[..., :k]).square().sum((-2, -1)) / k


def output_directions(fitted: Map, x: PcaSpread) -> Float[Tensor, "sites d r"]:
    """Right singular vectors of the fitted, centred outputs on train, in order of the variance they carry."""
    return pca_spread(fitted.apply(x.states.double())).directions


def cut(
    mapped: Float[Tensor, "b d"],
    own: Float[Tensor, "b d"],
    mean: Float[Tensor, " d"],
    directions: Float[Tensor, "d r"],
    cuts: Sequence[tuple[float, int | None, str]],
) -> Float[Tensor, "b m d"]:
    """Scaled and cut states, one for each cut (alpha, rank or None for full, complement).

    f = alpha x mapped. Rank k keeps the first k directions; complement says what fills the rest of the space.
    mean: m + V_k V_k'(f - m), where rank 0 is mean ablation. own: y + V_k V_k'(f - y), where rank 0 changes nothing.
    A rank above the map's own keeps all its directions.
    """
    alphas = torch.tensor([alpha for alpha, _, _ in cuts]).to(mapped)
    whole = torch.tensor([rank is None for _, rank, _ in cuts], device=mapped.device)
    of_own = torch.tensor([complement == "own" for _, _, complement in cuts], device=mapped.device)
    ranks = torch.tensor([rank or 0 for _, rank, _ in cuts], device=mapped.device)
    basis = directions[:, : max(1, int(ranks.max()))]
    rest = torch.where(of_own[:, None], own[:, None], mean)
    scaled = mapped[:, None] * alphas[:, None]
    inside = scaled @ basis - torch.where(of_own[:, None], (own @ basis)[:, None], mean @ basis)
    inside = inside * (torch.arange(basis.shape[1], device=mapped.device) < ranks[:, None])
    return torch.where(whole[:, None], scaled, rest + inside @ basis.T)


def folds(groups: Int[Tensor, " n"], seed: int, most: int = TEMPLATE_FOLDS) -> Iterator[tuple[Tensor, Tensor]]:
    """Contiguous folds of a seeded permutation of the groups: the rows to fit on, and the rows held out.

    groups: the template (or the prompt) of each row, from zero; its rows stay together. most: folds, if there are as many groups.
    """
    count = int(groups.max()) + 1
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for held in order.tensor_split(min(most, count)):
        inside = torch.isin(groups, held)
        yield (~inside).nonzero().squeeze(1), inside.nonzero().squeeze(1)


def difference_cut(
    donor: Float[Tensor, "b d"],
    own: Float[Tensor, "b d"],
    mean: Float[Tensor, " d"],
    directions: Float[Tensor, "d r"],
    ranks: Sequence[int],
) -> Float[Tensor, "b m d"]:
    """The recipient's state, plus the train mean of donor - recipient, plus k directions of what is left of the difference.

    y + mean + V_k V_k' (donor - y - mean), a row for each k of ranks. mean, directions: of the differences on train. k = 0 is one
    constant shift for all prompts; a k above the number of directions keeps them all.
    """
    basis = directions[:, : max([1, *ranks])]
    inside = (donor - own - mean) @ basis
    kept = torch.arange(basis.shape[1], device=own.device) < torch.tensor(ranks, device=own.device)[:, None]
    return (own + mean)[:, None] + (inside[:, None] * kept) @ basis.T


def size_ratios(fitted: Map, x: Float[Tensor, "sites n d_x"], y: Float[Tensor, "sites n d_y"]) -> Float[Tensor, "sites n"]:
    """||y|| / ||mapped x|| of each row."""
    return y.double().norm(dim=-1) / fitted.apply(x.double()).norm(dim=-1).clamp(min=1e-300)
