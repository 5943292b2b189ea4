"""Where seeds may lie; each space is a projection that solvers apply after every move.

What happens to a solver's memory: Adam and Nesterov keep their moments, which belong to
directions and not to places; L-BFGS measures its pairs between projected points, and its line
search judges projected trials by their own loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from plugip.linalg import norm, per_image, where


class SeedSpace(Protocol):
    """Maps seeds to the nearest admissible ones, image by image."""

    def __call__(self, z: Tensor) -> Tensor:
        """Returns admissible seeds, (B, ...) -> (B, ...); those that are so already stay."""
        ...


@dataclass(frozen=True)
class Free:
    """Every seed is admissible."""

    def __call__(self, z: Tensor) -> Tensor:
        return z


@dataclass(frozen=True)
class Shell:
    r"""Seeds whose norm is that of Gaussian noise, to within a margin.

    .. math:: (1 - \epsilon) \sqrt d \le \|z\| \le (1 + \epsilon) \sqrt d

    The nearest one is found by scaling. ‖z‖ of true noise has a standard deviation of about
    1 / sqrt(2): at d = 12 288 the published margin of 0.025 is 2.8, or four of them.

    Args:
        epsilon: Relative margin, 0.025 as published; 0 is the sphere itself.

    Raises:
        ValueError: If the margin is not in [0, 1).

    Source: FMPlug, 2025 (arXiv 2511.16520).
    """

    epsilon: float = 0.025

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"epsilon must lie in [0, 1), got {self.epsilon}")

    def __call__(self, z: Tensor) -> Tensor:
        size, radius = norm(z), math.sqrt(z[0].numel())
        wanted = size.clamp((1 - self.epsilon) * radius, (1 + self.epsilon) * radius)
        # A seed of length zero has no direction; it gets the first constant one.
        z = torch.where(per_image(size > 0, z), z, torch.ones_like(z))
        size = torch.where(size > 0, size, torch.full_like(size, radius))
        # Admissible seeds stay bit for bit.
        return z * per_image(torch.where(wanted == size, torch.ones_like(size), wanted / size), z)


@dataclass(frozen=True)
class Sphere:
    """Seeds of norm sqrt(d), ‖z‖ as a Gaussian's on average."""

    def __call__(self, z: Tensor) -> Tensor:
        return Shell(0.0)(z)


@dataclass(frozen=True)
class White:
    r"""Seeds that look like white noise: flat spectrum on average, and blocks of equal energy.

    A shell fixes one number. Here each ring of spatial frequencies has the energy of white noise,
    and after it each block of pixels, to within a margin; both are projections by scaling, taken
    in turn ``rounds`` times. The two sets have no closed joint projection, so the result holds the
    second exactly and the first nearly. A ring or block without energy has no direction to scale;
    it takes that of one fixed draw of noise.

    Args:
        rings: Rings of equal width in radial frequency.
        block: Side of the square blocks in pixels.
        margin: Allowed departure of each norm, in standard deviations of white noise's.
        rounds: How often the two projections alternate.

    Raises:
        ValueError: If an argument is out of range, or seeds are no pictures (B, C, H, W).

    Source: arXiv 2602.08646 projects onto spectrum and block norms; rings, margins and rounds are
    chosen here.
    """

    rings: int = 8
    block: int = 8
    margin: float = 3.0
    rounds: int = 2

    def __post_init__(self) -> None:
        if self.rings < 1 or self.block < 1 or self.rounds < 1:
            raise ValueError(
                "rings, block and rounds must be at least 1, got "
                f"{self.rings}, {self.block} and {self.rounds}"
            )
        if self.margin < 0:
            raise ValueError(f"margin must not be negative, got {self.margin}")

    def __call__(self, z: Tensor) -> Tensor:
        if z.ndim != 4:
            raise ValueError(
                f"White needs seeds (B, C, H, W), got shape {tuple(z.shape)}; use Shell"
            )
        for _ in range(self.rounds):
            z = self._blocks(self._spectrum(z))
        return z

    def _spectrum(self, z: Tensor) -> Tensor:
        index, spectrum = self._rings_of(z), torch.fft.fft2(z, norm="ortho")
        count, total = self._counts(index, z, self.rings), self._sums(spectrum, index, self.rings)
        empty = self._empty(total, count)
        if bool(empty.any()):
            noise = torch.fft.fft2(_noise_like(z), norm="ortho")
            spectrum = spectrum + _spread(empty, index, z) * noise
            total = self._sums(spectrum, index, self.rings)
        gain = self._gain(total, count)
        shaped = torch.fft.ifft2(spectrum * _spread(gain, index, z), norm="ortho").real
        # Admissible seeds stay bit for bit; the transform and back would round them.
        return where((gain == 1).all(dim=1), z, shaped)

    def _rings_of(self, z: Tensor) -> Tensor:
        high, wide = (torch.fft.fftfreq(n, device=z.device) for n in z.shape[-2:])
        radius = (high[:, None] ** 2 + wide**2).sqrt().flatten()
        return (radius / (math.sqrt(0.5) + 1e-6) * self.rings).long().clamp_max(self.rings - 1)

    def _blocks(self, z: Tensor) -> Tensor:
        index = self._blocks_of(z)
        blocks = int(index[-1]) + 1
        count, total = self._counts(index, z, blocks), self._sums(z, index, blocks)
        empty = self._empty(total, count)
        if bool(empty.any()):
            z = z + _spread(empty, index, z) * _noise_like(z)
            total = self._sums(z, index, blocks)
        return z * _spread(self._gain(total, count), index, z)

    def _blocks_of(self, z: Tensor) -> Tensor:
        rows, columns = (torch.arange(n, device=z.device) // self.block for n in z.shape[-2:])
        return (rows[:, None] * (columns[-1] + 1) + columns).flatten()

    @staticmethod
    def _sums(values: Tensor, index: Tensor, groups: int) -> Tensor:
        """Returns the energy of each group of places, over channels, (B, groups)."""
        energy = values.abs().square().sum(dim=1).flatten(1)
        return energy.new_zeros((energy.shape[0], groups)).index_add(1, index, energy)

    @staticmethod
    def _counts(index: Tensor, z: Tensor, groups: int) -> Tensor:
        return torch.bincount(index, minlength=groups).to(z) * z.shape[1]

    def _least(self, count: Tensor) -> Tensor:
        # The norm of n standard normal numbers is about sqrt(n), with deviation 1 / sqrt(2).
        return (count.sqrt() - self.margin * math.sqrt(0.5)).clamp_min(0)

    def _empty(self, total: Tensor, count: Tensor) -> Tensor:
        """Tells which groups need energy and have none; what rounding left there is none."""
        rounding = (64 * torch.finfo(total.dtype).eps) ** 2 * total.sum(dim=1, keepdim=True)
        return (total <= rounding) & (self._least(count) > 0)

    def _gain(self, total: Tensor, count: Tensor) -> Tensor:
        """Returns factors that bring norms to within the margin of sqrt(count); 1 inside it."""
        usable = total > 0
        size = torch.where(usable, total, 1.0).sqrt()  # a root of 0 would have no gradient
        most = count.sqrt() + self.margin * math.sqrt(0.5)
        wanted = size.maximum(self._least(count)).minimum(most)
        return torch.where(usable, wanted / size, 1.0)


def _spread(values: Tensor, index: Tensor, z: Tensor) -> Tensor:
    """Gives each place the value of its group, (B, groups) -> (B, 1, H, W)."""
    return values.to(z.dtype)[:, index].reshape(-1, 1, *z.shape[-2:])


def _noise_like(z: Tensor) -> Tensor:
    """Returns the one fixed draw of noise, the same for all images and devices, (1, C, H, W)."""
    stream = torch.Generator().manual_seed(0)
    return torch.randn((1, *z.shape[1:]), generator=stream).to(z)
