"""Separable maps: one small matrix for the rows and one for the columns, at any boundary rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from plugip.operator import Shape, SpectralOperator
from plugip.options import require_choice
from plugip.spectral import KroneckerSpectrum, Spectrum


def _reflect(position: np.ndarray, side: int) -> np.ndarray:
    period = max(1, 2 * side - 2)
    return np.minimum(position % period, -position % period)


def _symmetric(position: np.ndarray, side: int) -> np.ndarray:
    inside = position % (2 * side)
    return np.minimum(inside, 2 * side - 1 - inside)


BOUNDARIES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "reflect": _reflect,  # edge pixel not repeated: torch's reflect, OpenCV's REFLECT_101
    "symmetric": _symmetric,  # edge pixel repeated: Matlab's symmetric, scipy's reflect
    "replicate": lambda position, side: np.clip(position, 0, side - 1),
    "circular": lambda position, side: position % side,
    "zero": lambda position, side: np.where((0 <= position) & (position < side), position, -1),
}


def fold(position: np.ndarray, side: int, boundary: str) -> np.ndarray:
    """Maps positions beyond an image's edge to the pixel that stands in for them.

    Args:
        position: Integer positions, any shape; 0 is the first pixel.
        side: Number of pixels.
        boundary: One of ``BOUNDARIES``.

    Returns:
        Positions in [0, side), or -1 where the boundary rule puts a zero.

    Raises:
        ValueError: If the boundary is unknown.
    """
    return BOUNDARIES[require_choice(boundary, BOUNDARIES, "boundary")](position, side)


def gathered(position: np.ndarray, weight: np.ndarray, side: int, boundary: str) -> np.ndarray:
    """Writes weighted sums as a matrix: row i gives sum_k weight[i, k] x[position[i, k]].

    Args:
        position: Integer positions, (rows, k), also beyond the edges.
        weight: Weights, (rows, k).
        side: Number of pixels.
        boundary: One of ``BOUNDARIES``.

    Returns:
        Matrix, (rows, side), float64.
    """
    index = fold(position, side, boundary)
    matrix = np.zeros((position.shape[0], side))
    rows = np.broadcast_to(np.arange(position.shape[0])[:, None], index.shape)
    np.add.at(matrix, (rows, index), np.where(index < 0, 0.0, weight))
    return matrix


def toeplitz(taps: np.ndarray, side: int, boundary: str) -> np.ndarray:
    """Writes the correlation with ``taps``, origin at the middle, as a (side, side) matrix."""
    offsets = np.arange(len(taps)) - len(taps) // 2
    position = np.arange(side)[:, None] + offsets
    return gathered(position, np.broadcast_to(taps, position.shape), side, boundary)


class Recipe(Protocol):
    """A hashable value that says how to build the matrix for any number of pixels."""

    def matrix(self, side: int) -> np.ndarray:
        """Returns the matrix for ``side`` input pixels, (rows, side), float64."""
        ...


class Separable(SpectralOperator):
    """Applies y = L x R^T to every channel; L and R are built from one recipe.

    Matrices are float64 masters, made once per size for the whole process and cast when used, so
    that neither ``.to()`` nor ``state_dict`` nor copies know of them.

    Args:
        recipe: How to build the matrix for a number of pixels.
    """

    spectrum_type = KroneckerSpectrum

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        left, right = self._matrices(tuple(x.shape), x)
        return left @ x @ right.mT

    def adjoint(self, y: Tensor) -> Tensor:
        left, right = self._matrices(self.domain_shape(tuple(y.shape)), y)
        return left.mT @ y @ right

    def spectrum(self, x_shape: Shape) -> Spectrum:
        self.check_domain(x_shape)
        return _kronecker(self.recipe, *x_shape[-2:])

    def _matrices(self, x_shape: Shape, like: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = x_shape[-2:]
        left = _matrix(self.recipe, rows, like.dtype, like.device)
        return left, _matrix(self.recipe, columns, like.dtype, like.device)


@lru_cache(maxsize=64)
def _matrix(recipe: Recipe, side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what inference mode makes cannot be used in training
        return torch.from_numpy(recipe.matrix(side)).to(device, dtype)


@lru_cache(maxsize=8)
def _kronecker(recipe: Recipe, rows: int, columns: int) -> KroneckerSpectrum:
    with torch.inference_mode(False):
        left, right = (torch.from_numpy(recipe.matrix(side)) for side in (rows, columns))
        return KroneckerSpectrum.of(left, right)
