"""The original study's own map, and its rank cut: of the map itself, between whitened states, not of its outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from mechdiff.maths.linalg import each_site, orthonormal, svd
from mechdiff.maths.linear_maps import SHRINKAGE, Dense, Map, PcaSpread, inverse_or_zero, paired, shrunk


@dataclass(frozen=True)
class WhitenedMap(Map):
    """`procrustes_scaled` by the singular directions of the whitened cross-covariance, the strongest first.

    Cut to rank k it is s_k (x - mean_x) C_x^-1/2 U_k V_k' C_y^1/2 + mean_y with s_k = (S_1 + ... + S_k) / ||X_w||^2. The scale
    grows with k, so a low rank returns nearly the mean. into: C_x^-1/2 U, [sites, d, r]. out: C_y^1/2 V. strength: s_1 to s_r.
    """

    mean_x: Float[Tensor, "*sites d_x"]
    into: Float[Tensor, "*sites d_x r"]
    out: Float[Tensor, "*sites d_y r"]
    mean_y: Float[Tensor, "*sites d_y"]
    strength: Float[Tensor, "*sites r"]

    def apply(self, x: Float[Tensor, "... b d_x"]) -> Float[Tensor, "... b d_y"]:
        coordinates = (x - self.mean_x.unsqueeze(-2)) @ self.into * self.strength[..., -1:, None]
        return coordinates @ self.out.mT + self.mean_y.unsqueeze(-2)

    def cut(self, x: Float[Tensor, "b d_x"], cuts: Sequence[tuple[float, int]]) -> Float[Tensor, "b m d_y"]:
        """alpha x the map cut to a rank, for each (alpha, rank); of one site. Rank 0 is alpha x mean_y.

        Alpha scales the whole state, the mean included, as in the study. A rank above the map's own keeps all of it.
        """
        alphas = torch.tensor([alpha for alpha, _ in cuts]).to(x)
        ranks = torch.tensor([min(rank, len(self.strength)) for _, rank in cuts], device=x.device)
        scales = torch.cat([self.strength.new_zeros(1), self.strength])[ranks]
        inside = torch.arange(len(self.strength), device=x.device) < ranks[:, None]
        coordinates = ((x - self.mean_x) @ self.into)[:, None] * (inside * scales[:, None])
        return (coordinates @ self.out.T + self.mean_y) * alphas[:, None]


def fit_whitened(x: PcaSpread, y: PcaSpread) -> WhitenedMap:
    """The map between shrunk-whitened states: see WhitenedMap."""
    left, right, strength = paired_directions(x, y)
    into = x.directions @ (inverse_or_zero(shrunk(x).sqrt()).unsqueeze(-1) * left)
    out = y.directions @ (shrunk(y).sqrt().unsqueeze(-1) * right)
    return WhitenedMap(x.mean, into, out, y.mean, strength)


def paired_directions(
    x: PcaSpread, y: PcaSpread
) -> tuple[Float[Tensor, "sites r k"], Float[Tensor, "sites s k"], Float[Tensor, "sites k"]]:
    """U and V of M = X_w' Y_w in the sides' principal directions, zero where there is no pair, and the scales s_1 to s_k."""
    whitened_x, whitened_y = (side.scores * inverse_or_zero(shrunk(side).sqrt()).unsqueeze(-2) for side in (x, y))
    left, sigma, right = each_site(svd, whitened_x.mT @ whitened_y)
    pairs = paired(sigma)
    size = inverse_or_zero(whitened_x.square().sum((-2, -1)))
    strength = (sigma * pairs).cumsum(-1) * size.unsqueeze(-1)
    return left * pairs.unsqueeze(-2), right.mT * pairs.unsqueeze(-2), strength


def fit_procrustes_full(x: PcaSpread, y: PcaSpread, seed: int = 0) -> Dense:
    """`procrustes_scaled` with a rotation Q of the whole space, as the original study has it: size C_x^-1/2 Q C_y^1/2.

    On the paired directions of the train states Q is U V'. On the rest, of which M = X_w' Y_w says nothing, the study's Q is
    whatever its solver returned; here it is a random rotation, by seed.
    """
    left, right, strength = paired_directions(x, y)
    bases = zip(x.directions @ left, y.directions @ right)
    rotation = torch.stack([completed(u, v, seed) for u, v in bases])
    matrix = coloured(x, coloured(y, rotation.mT, 0.5).mT, -0.5)
    return Dense(x.mean, matrix, strength[:, -1], y.mean)


def coloured(side: PcaSpread, columns: Float[Tensor, "sites d m"], power: float) -> Float[Tensor, "sites d m"]:
    """C^power times some columns, where C is a side's shrunk covariance in the whole space."""
    variance = side.scale.square().sum(-1) / (side.states.shape[-2] - 1)
    beyond = (SHRINKAGE * variance / side.states.shape[-1])[:, None, None] ** power
    inside = shrunk(side).unsqueeze(-1) ** power - beyond
    return columns * beyond + side.directions @ (inside * (side.directions.mT @ columns))


def completed(left: Float[Tensor, "d k"], right: Float[Tensor, "d k"], seed: int) -> Float[Tensor, "d d"]:
    """U V', and a random rotation, by seed, of what both leave of the space. A column of zeros is no pair."""
    pairs = left.square().sum(0) > 0
    left, right = left[:, pairs], right[:, pairs]
    drawn = random_columns(left.shape[0], left.shape[0] - left.shape[1], seed)
    return left @ right.T + complement(left, drawn[0]) @ complement(right, drawn[1]).T


def complement(basis: Float[Tensor, "d k"], columns: Float[Tensor, "d m"]) -> Float[Tensor, "d m"]:
    """An orthonormal basis of the m = d - k dimensions that an orthonormal basis leaves: a random one for random columns."""
    return orthonormal(torch.cat([basis, columns.to(basis)], 1))[:, basis.shape[1] :]


@lru_cache(maxsize=1)  # the same for every layer and stream
def random_columns(d: int, m: int, seed: int) -> tuple[Float[Tensor, "d m"], Float[Tensor, "d m"]]:
    """Two matrices of standard normal numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(d, m, generator=generator, dtype=torch.float64) for _ in range(2))
    return first, second
