"""The original study's rank cut: of the map `procrustes_scaled` itself, between whitened states, not of its outputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechdiff.maths.linalg import each_site, svd
from mechdiff.maths.linear_maps import Map, PcaSpread, inverse_or_zero, paired, shrunk


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
    root_x, root_y = shrunk(x).sqrt(), shrunk(y).sqrt()
    whitened = x.scores * inverse_or_zero(root_x).unsqueeze(-2)
    left, sigma, right = each_site(svd, whitened.mT @ (y.scores * inverse_or_zero(root_y).unsqueeze(-2)))
    sigma = sigma * paired(sigma)
    into = x.directions @ (inverse_or_zero(root_x).unsqueeze(-1) * left)
    out = y.directions @ (root_y.unsqueeze(-1) * right.mT)
    size = inverse_or_zero(whitened.square().sum((-2, -1)))
    return WhitenedMap(x.mean, into * paired(sigma).unsqueeze(-2), out, y.mean, sigma.cumsum(-1) * size.unsqueeze(-1))
