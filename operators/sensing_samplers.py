"""Random parts of compressed sensing: which rows are kept, which signs flip, which matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from plugip.rng import Rng

LARGEST = 4096  # pixels per channel; a matrix of 4096 x 4096 numbers takes 134 MB in float64


@runtime_checkable
class RowSampler(Protocol):
    """Draws which coefficients are measured."""

    def count(self, n: int) -> int:
        """Returns how many of n coefficients are kept."""
        ...

    def draw(self, rng: Rng, n: int) -> Tensor:
        """Draws distinct indices below n, (1 or B, count(n)), int64."""
        ...


@runtime_checkable
class SignSampler(Protocol):
    """Draws a sign for every pixel."""

    def draw(self, rng: Rng, n: int) -> Tensor:
        """Draws n signs, (1 or B, n), 1 or -1."""
        ...


@runtime_checkable
class MatrixSampler(Protocol):
    """Draws measurement matrices."""

    def count(self, n: int) -> int:
        """Returns the number of rows of a matrix with n columns."""
        ...

    def draw(self, rng: Rng, n: int) -> Tensor:
        """Draws matrices with n columns, (1 or B, count(n), n)."""
        ...


@dataclass(frozen=True)
class _Share:
    """What samplers of a part of n rows share: how many, and for whom they are drawn."""

    keep: float = 0.25
    shared: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(
                f"keep must lie in (0, 1], got {self.keep}; 1 / keep is the compression ratio"
            )

    def count(self, n: int) -> int:
        """Returns how many of n rows are kept."""
        if int(self.keep * n) < 1:
            raise ValueError(
                f"keep={self.keep} of {n} leaves no measurement; raise it to {1 / n:.3g}"
            )
        return int(self.keep * n)


@dataclass(frozen=True)
class RandomRows(_Share):
    """Keeps int(keep * n) coefficients, the first ones of a random permutation.

    Args:
        keep: Fraction of coefficients kept, in (0, 1]; 0.5 in DDRM.
        shared: One draw for all images of a run, as a real instrument has; else one per image.

    Raises:
        ValueError: If ``keep`` is not in (0, 1]; when drawn, if nothing would be kept.

    Source: Kawar et al. 2022 (DDRM), code: ratio = 1 / keep, and one permutation for all.
    """

    keep: float = 0.5

    def draw(self, rng: Rng, n: int) -> Tensor:
        """Draws indices, (1 or B, count(n)), int64."""
        return streams(rng, self.shared).permutation(n)[:, : self.count(n)]


@dataclass(frozen=True)
class RandomSigns:
    """Flips the sign of each pixel with probability 1/2, which spreads images over all rows.

    Args:
        shared: One draw for all images of a run, as a real instrument has; else one per image.
    """

    shared: bool = True

    def draw(self, rng: Rng, n: int) -> Tensor:
        """Draws signs, (1 or B, n), 1 or -1."""
        return torch.where(streams(rng, self.shared).uniform((n,)) < 0.5, -1.0, 1.0)


@dataclass(frozen=True)
class GaussianMatrix(_Share):
    """Draws independent Gaussian entries of variance 1 / m for m = int(keep * n) rows.

    Args:
        keep: Measurements per pixel, in (0, 1].
        shared: One matrix for all images of a run, as a real instrument has; else one per image.

    Raises:
        ValueError: If ``keep`` is not in (0, 1]; when drawn, if there are no rows or more than
            4096 columns.

    Source: Candès and Tao 2006.
    """

    def draw(self, rng: Rng, n: int) -> Tensor:
        """Draws matrices, (1 or B, count(n), n)."""
        _require_small(n)
        m = self.count(n)
        return streams(rng, self.shared).normal((m, n)) / m**0.5


@dataclass(frozen=True)
class OrthonormalRows(_Share):
    """Draws m = int(keep * n) rows of a uniformly distributed orthogonal matrix.

    Args:
        keep: Measurements per pixel, in (0, 1]; 0.25 in DDNM, of 1024 pixels per block.
        shared: One matrix for all images of a run, as a real instrument has; else one per image.

    Raises:
        ValueError: If ``keep`` is not in (0, 1]; when drawn, if there are no rows or more than
            4096 columns.

    Source: Wang et al. 2023 (DDNM), code; Mezzadri 2007 for the signs.
    """

    def draw(self, rng: Rng, n: int) -> Tensor:
        """Draws matrices, (1 or B, count(n), n), float64."""
        _require_small(n)
        columns = streams(rng, self.shared).normal((n, self.count(n))).double()
        # Signs from R make the draw uniform, and the same for every QR routine.
        q, r = torch.linalg.qr(columns)
        return (q * torch.diagonal(r, dim1=-2, dim2=-1).sgn()[:, None]).mT.contiguous()


def streams(rng: Rng, shared: bool) -> Rng:
    """Returns the streams of the images, or one stream that is the same in every batch."""
    return rng.shared() if shared else rng


def _require_small(n: int) -> None:
    if n > LARGEST:
        raise ValueError(
            f"a dense matrix for {n} pixels is too large, at most {LARGEST} are allowed; use "
            "WalshHadamard, or BlockSensing with smaller blocks"
        )
