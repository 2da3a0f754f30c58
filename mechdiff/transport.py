"""Maps from one model's states to another's, fitted on the train split: tensors in, tensors out."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

CONSTANT = 1e-6  # a dimension whose scale is below this share of its size does not vary


@dataclass(frozen=True)
class Zscore:
    """Each dimension of x moved and scaled to y's mean and scale. mean_x, scale, mean_y: [..., d]."""

    mean_x: Tensor
    scale: Tensor
    mean_y: Tensor

    def __call__(self, x: Float[Tensor, "... b d"]) -> Float[Tensor, "... b d"]:
        mapped = (x.double() - self.mean_x.unsqueeze(-2)) * self.scale.unsqueeze(-2) + self.mean_y.unsqueeze(-2)
        return mapped.to(x.dtype)

    def to(self, device: str) -> "Zscore":
        return Zscore(self.mean_x.to(device), self.scale.to(device), self.mean_y.to(device))


def fit_zscore(x: Float[Tensor, "... n d"], y: Float[Tensor, "... n d"]) -> Zscore:
    """Per-dimension mean and scale matching, x to y. A dimension that is constant in x maps to y's mean.

    x, y: donor and recipient states at one or more sites, a row per train prompt.
    """
    x, y = x.double(), y.double()
    mean_x, mean_y, std_x, std_y = x.mean(-2), y.mean(-2), x.std(-2), y.std(-2)
    varies = std_x > CONSTANT * x.abs().amax(-2)
    scale = torch.where(varies, std_y / std_x.where(varies, torch.ones_like(std_x)), torch.zeros_like(std_x))
    return Zscore(mean_x, scale, mean_y)
