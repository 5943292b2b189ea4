"""Frequency bands of images: what is alike across a band may be told in one number."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from plugip.linalg import wide

CHUNK = 64  # images that are analysed at a time


class Bands(nn.Module):
    """The orthonormal cosine transform of images, and which band each coefficient is in.

    The transform runs over channels, rows and columns; of three channels it makes brightness and
    two colour differences. Each of the C channels of coefficients has ``count`` bands, rings of
    equal width in frequency; a count of 0 stands for one band of everything, without a transform.

    Args:
        shape: Shape of one image, (C, H, W).
        count: Bands of each channel, J; 0 for white.
    """

    index: Tensor
    channels: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        super().__init__()
        self.shape, self.white = shape, count == 0
        self.bands = max(1, shape[0] * count)
        index = torch.zeros(shape, dtype=torch.int64) if self.white else _rings(shape, count)
        self.register_buffer("index", index.flatten(), persistent=False)
        for name, size in zip(("channels", "rows", "columns"), shape, strict=True):
            self.register_buffer(name, cosines(size), persistent=False)

    def analyse(self, x: Tensor) -> Tensor:
        """Maps images to coefficients, (B, d) -> (B, d)."""
        return x if self.white else self._along_axes(x, transposed=False)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Maps coefficients to images, (B, d) -> (B, d); the inverse of ``analyse``."""
        return coefficients if self.white else self._along_axes(coefficients, transposed=True)

    def power(self, x: Tensor) -> Tensor:
        """Returns the sum of squared coefficients in each band, (B, d) -> (bands,), float64."""
        squares = torch.zeros(x.shape[1], dtype=wide(x), device=x.device)
        for part in x.split(CHUNK):
            squares += self.analyse(part).square().sum(0, dtype=wide(x))
        return self.sums(squares)

    def sums(self, values: Tensor) -> Tensor:
        """Returns the sum of values over each band, (d,) -> (bands,)."""
        return values.new_zeros(self.bands).index_add_(0, self.index, values)

    def spread(self, values: Tensor) -> Tensor:
        """Gives each coefficient its band's value, (..., bands) -> (..., d)."""
        return values if self.white else values[..., self.index]

    def grams(self, rows: Tensor) -> Tensor:
        """Returns inner products of rows within each band, (r, d) -> (bands, r, r)."""
        if self.white:
            return (rows @ rows.T)[None]
        parts = torch.cat([self.analyse(part) for part in rows.split(CHUNK)])
        masks = (parts[:, self.index == band] for band in range(self.bands))
        return torch.stack([part @ part.T for part in masks])

    def _along_axes(self, x: Tensor, transposed: bool) -> Tensor:
        bases = (self.channels, self.rows, self.columns)
        channels, rows, columns = (b.mT if transposed else b for b in (b.to(x) for b in bases))
        images = rows @ x.unflatten(1, self.shape) @ columns.mT
        return torch.einsum("ec,bchw->behw", channels, images).flatten(1)


def cosines(size: int) -> Tensor:
    """Returns the orthonormal cosine transform (DCT-II) of ``size`` numbers, float64.

    Source: Ahmed, Natarajan and Rao 1974.
    """
    place = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi * (place + 0.5) * place[:, None] / size) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves


def _rings(shape: tuple[int, ...], count: int) -> Tensor:
    """Returns the band of each coefficient, (C, H, W): J rings for each channel in turn."""
    channels, height, width = shape
    rows, columns = (torch.arange(n, dtype=torch.float64) / n for n in (height, width))
    radius = torch.hypot(rows[:, None], columns[None, :]) / math.sqrt(2)  # in [0, 1)
    # What lies on a border belongs to the outer ring, whatever the rounding.
    rings = (radius * count + 1e-9).long().clamp_max(count - 1)
    return rings + count * torch.arange(channels)[:, None, None]
