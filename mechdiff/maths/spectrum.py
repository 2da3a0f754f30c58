"""A matrix's singular values: its size, its effective ranks and its leading directions.

Small matrices are factorised exactly, large ones by random projection, and a product of two thin factors exactly from those.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechdiff.maths.linalg import descending_eigh, svd

EXACT = 1024  # up to this smaller side every singular value is computed; above it, the leading ones by random projection
LEADING = 128  # singular values that are computed of a larger matrix
POWERS = 4  # power iterations of the random projection
SHARE = 0.9  # of the squared norm, for rank_90
ROUNDING = 1e-5  # a singular value below this share of the largest is rounding error


@dataclass(frozen=True)
class Factors:
    """The matrix left @ right without its dense form, such as a LoRA adapter's change."""

    left: Float[Tensor, "rows inner"]
    right: Float[Tensor, "inner columns"]

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    def to(self, device: torch.device | str) -> "Factors":
        return Factors(self.left.to(device), self.right.to(device))

    def dense(self) -> Float[Tensor, "rows columns"]:
        return self.left @ self.right


@dataclass(frozen=True)
class Spectrum:
    """A matrix's size and how it is spread over directions.

    norm: Frobenius. participation_ratio: (sum s^2)^2 / sum s^4, so that k equal singular values give k.
    stable_rank: norm^2 / s_1^2. rank_90: the fewest directions with 90 % of norm^2; None if more than were computed.
    singular: the leading singular values, largest first. left, right: their singular vectors.
    """

    norm: float
    participation_ratio: float
    stable_rank: float
    rank_90: int | None
    singular: Float[Tensor, " k"]
    left: Float[Tensor, "rows k"]
    right: Float[Tensor, "columns k"]

    @property
    def rank(self) -> int:
        """How many of the computed singular values are larger than rounding error."""
        return int((self.singular > ROUNDING * self.singular[0]).sum()) if self.norm else 0


def spectrum(matrix: Float[Tensor, "rows columns"] | Factors, seed: int = 0) -> Spectrum:
    """Size, ranks and leading directions of a matrix; all zero for the zero matrix.

    seed: of the random projection, which only a dense matrix with a smaller side over EXACT needs.
    Source: participation ratio, e.g. Gao and Ganguli 2015; random projection, Halko, Martinsson and Tropp 2011, algorithm 4.4.
    """
    if isinstance(matrix, Factors):
        return spectrum_of_factors(matrix)
    matrix = matrix.float()
    energy = sum(float(matrix[rows].double().square().sum()) for rows in slices(len(matrix)))
    if not energy:
        return empty_spectrum(matrix)
    exact = min(matrix.shape) <= EXACT
    left, singular, right = all_singular(matrix) if exact else leading(matrix, seed)
    fourth = float(singular.double().pow(4).sum()) if exact else gram_energy(matrix)
    return summarise_singular(energy, fourth, left, singular, right.mT)


def spectrum_of_factors(factors: Factors) -> Spectrum:
    """The exact spectrum of left @ right: QR of each factor, then the small matrix between them, in float64.

    It has at most `inner` singular values, and all of them are returned.
    """
    left, small_left = torch.linalg.qr(factors.left.double())
    right, small_right = torch.linalg.qr(factors.right.mT.double())
    small, singular, small_t = svd(small_left @ small_right.mT)
    squares = singular.square()
    energy = float(squares.sum())
    if not energy:
        return empty_spectrum(factors)
    directions = (left @ small).float(), singular.float(), (right @ small_t.mT).float()
    return summarise_singular(energy, float(squares.square().sum()), *directions)


def empty_spectrum(matrix: Tensor | Factors) -> Spectrum:
    """That of the zero matrix: no direction."""
    rows, columns = matrix.shape
    return Spectrum(0.0, 0.0, 0.0, 0, torch.zeros(0), torch.zeros(rows, 0), torch.zeros(columns, 0))


def summarise_singular(energy: float, fourth: float, left: Tensor, singular: Tensor, right: Tensor) -> Spectrum:
    """energy, fourth: the sums of the second and fourth powers of all singular values, whether they were computed or not."""
    squares = singular.double().square()
    reached = (squares.cumsum(0) >= SHARE * energy * (1 - 1e-6)).nonzero()
    rank_90 = int(reached[0]) + 1 if len(reached) else None
    return Spectrum(energy**0.5, energy**2 / fourth, energy / float(squares[0]), rank_90, singular, left, right)


def all_singular(matrix: Float[Tensor, "rows columns"]) -> tuple[Tensor, Tensor, Tensor]:
    """Every singular value and vector: left, values, right transposed.

    From the smaller Gram matrix in float64: far faster than an SVD, and accurate enough for float32. On the longer side a
    direction of size zero is the zero vector.
    """
    if matrix.shape[0] > matrix.shape[1]:
        right, singular, left = all_singular(matrix.mT)
        return left.mT, singular, right.mT
    double = matrix.double()
    values, left = descending_eigh(double @ double.mT)
    singular = values.clamp(min=0).sqrt()
    nonzero = singular > ROUNDING**2 * singular[0]
    inverse = torch.where(nonzero, 1 / singular.where(nonzero, torch.ones_like(singular)), 0)
    right = (left.mT @ double) * inverse[:, None]
    return left.float(), singular.float(), right.float()


def leading(matrix: Float[Tensor, "rows columns"], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The LEADING largest singular values and vectors, by random projection with power iterations.

    Returns left [rows, k], values [k], right transposed [k, columns].
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.shape[1], LEADING + LEADING // 4, generator=generator).to(matrix.device)
    basis = torch.linalg.qr(matrix @ start).Q
    for _ in range(POWERS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ basis).Q).Q
    left, singular, right = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
    return (basis @ left)[:, :LEADING], singular[:LEADING], right[:LEADING]


def gram_energy(matrix: Float[Tensor, "rows columns"]) -> float:
    """The sum of the fourth powers of all singular values, from the smaller Gram matrix, without factorising it."""
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    scale = float(matrix.abs().max())  # so that no square overflows float32
    matrix = matrix / scale
    return scale**4 * sum(float((matrix[rows] @ matrix.mT).double().square().sum()) for rows in slices(len(matrix)))


def slices(count: int, size: int = 1024) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
