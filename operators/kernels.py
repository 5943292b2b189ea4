"""Blur kernels: fixed ones (Gaussian, box, disk, file) and motion kernels drawn per image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from plugip.operator import Shape
from plugip.operators._from_file import kernel_values
from plugip.operators._options import as_sides, require_count, require_odd, require_positive

if TYPE_CHECKING:
    from plugip.rng import Rng


@runtime_checkable
class KernelSampler(Protocol):
    """Draws kernels, one for each image."""

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws kernels for images of shape (B, C, H, W), as (B, kh, kw), float64."""
        ...


class FixedKernel(ABC):
    """A kernel without a random part, described by a few numbers."""

    @abstractmethod
    def build(self) -> Tensor:
        """Returns the kernel, (kh, kw), float64, with sum 1."""

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Returns the kernel once for each image, (B, kh, kw)."""
        return self.build().repeat(len(rng), 1, 1)


@dataclass(frozen=True)
class GaussianKernel(FixedKernel):
    """Builds a Gaussian with two widths at any angle, sampled at the pixels and cut to its size.

    Unlike ``GaussianBlur``, what lies beyond the window is lost, not folded back.

    Args:
        std: Standard deviations in pixels, (down, across); one number for both.
        size: Taps per side, odd.
        angle: Turns the axes counter-clockwise, in degrees.

    Raises:
        ValueError: If a standard deviation is not positive or the size is even.
    """

    std: float | tuple[float, float] = (1.0, 4.0)
    size: int = 25
    angle: float = 0.0

    def __post_init__(self) -> None:
        as_pair(self.std, "std")
        require_odd(self.size, "size")

    def build(self) -> Tensor:
        """Returns the kernel, (size, size), float64, with sum 1."""
        down, across = as_pair(self.std, "std")
        row, column = _grid(self.size)
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        # Rows count downwards: a counter-clockwise turn of the picture.
        u, v = row * cos + column * sin, column * cos - row * sin
        return _normalised(torch.exp(-0.5 * ((u / down) ** 2 + (v / across) ** 2)))


@dataclass(frozen=True)
class UniformKernel(FixedKernel):
    """Builds a box with equal weights.

    Args:
        size: Side in pixels, or (height, width). 9 in DDRM.

    Raises:
        ValueError: If a side is not a positive whole number.
    """

    size: int | tuple[int, int] = 9

    def __post_init__(self) -> None:
        as_sides(self.size, "size")

    def build(self) -> Tensor:
        """Returns the kernel, (height, width), float64, with sum 1."""
        return _normalised(torch.ones(as_sides(self.size, "size"), dtype=torch.float64))


@dataclass(frozen=True)
class DefocusKernel(FixedKernel):
    r"""Builds the image of a point out of focus, a disk with a soft edge.

    .. math:: k \propto \mathrm{clip}(r + 1/2 - \rho, 0, 1)

    with the distance rho to the middle.

    Args:
        radius: r in pixels. ImageNet-C uses 3, 4, 6, 8, 10.
        size: Taps per side, odd; by default just large enough.
        alias_std: Standard deviation in pixels of a Gaussian that smooths the disk, 0 for none.
            ImageNet-C uses 0.1 (radius 3) and 0.5.

    Raises:
        ValueError: If the radius is not positive, the size is even or alias_std is negative.

    Source: Hendrycks and Dietterich 2019 (ImageNet-C) for the radii.
    """

    radius: float = 3.0
    size: int | None = None
    alias_std: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self.radius, "radius")
        if self.size is not None:
            require_odd(self.size, "size")
        if not 0 <= self.alias_std < math.inf:
            raise ValueError(f"alias_std must be finite and not negative, got {self.alias_std!r}")

    def build(self) -> Tensor:
        """Returns the kernel, (size, size), float64, with sum 1."""
        reach = math.ceil(self.radius + 0.5 + 3 * self.alias_std) - 1
        row, column = _grid(self.size or 2 * max(reach, 0) + 1)
        disk = (self.radius + 0.5 - torch.hypot(row, column)).clamp(0, 1)
        return _normalised(_smoothed(disk, self.alias_std) if self.alias_std else disk)


@dataclass(frozen=True)
class FileKernel(FixedKernel):
    """Reads a kernel from a NumPy file (.npy) or a grey picture, and scales it to sum 1.

    A picture may have 8 or 16 bits, or be a TIFF of int32 or float32; black is 0. A kernel drawn
    in one colour on a transparent ground is its alpha. Files that leave open which values are the
    kernel, such as coloured plots, are refused.

    Args:
        path: File; relative paths start at the working directory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no two-dimensional array, leaves open which values are meant, or
            its sum is not positive.
    """

    path: str

    def __post_init__(self) -> None:
        if not Path(self.path).is_file():
            raise FileNotFoundError(f"no kernel file {self.path!r} (from {Path.cwd()})")

    def build(self) -> Tensor:
        """Returns the kernel, (kh, kw), float64, with sum 1."""
        kernel = torch.from_numpy(kernel_values(Path(self.path)).astype(np.float64))
        total, size = float(kernel.sum()), float(kernel.abs().sum())
        # A sum that is rounding alone, of a kernel whose mean was taken off, would blow it up.
        if not size < math.inf or not total > 1e-6 * size:
            raise ValueError(
                f"the kernel in {self.path} must be finite with a positive sum, got {total:.6g}"
            )
        return _normalised(kernel)


@dataclass(frozen=True)
class MotionKernel:
    """Draws one kernel per image: the trace of a camera that was shaken during the exposure.

    Args:
        size: Taps per side. 61 in DPS and DAPS, 64 in DMPlug.
        intensity: 0 for straight lines, 1 for wild paths; 0.5 in DPS, DAPS and DMPlug.

    Raises:
        ValueError: If the size is below 3 or the intensity is not in [0, 1].

    Source: LeviBorodenko/motionblur, as used by Chung et al. 2023 (DPS).
    """

    size: int = 61
    intensity: float = 0.5

    def __post_init__(self) -> None:
        require_count(self.size, 3, "size")
        if not 0 <= self.intensity <= 1:
            raise ValueError(f"intensity must lie in [0, 1], got {self.intensity!r}")

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws kernels, (B, size, size), float64, not negative, with sum 1."""
        return torch.stack([rasterise(path, self.size) for path in self.paths(rng)])

    def paths(self, rng: Rng) -> list[np.ndarray]:
        """Draws the paths behind the kernels, one (n, 2) array per image; see ``trajectory``."""
        # NumPy promises that RandomState's streams never change, on any machine.
        states = [np.random.RandomState(s) for s in rng.integers(0, 2**31)]
        return [trajectory(self.size, *_variates(s, self.size, self.intensity)) for s in states]


def trajectory(size: int, steps: np.ndarray, headings: np.ndarray, rotation: float) -> np.ndarray:
    """Adds up steps to a path, and puts its mean at the middle of a canvas of twice the size.

    Args:
        size: Taps per side of the kernel to come.
        steps: Lengths in canvas pixels, (n,).
        headings: Directions in radians, (n,): absolute, not turns.
        rotation: Angle by which the path is turned about its mean, in radians.

    Returns:
        Points (across, down) in canvas pixels, (n, 2).

    Source: LeviBorodenko/motionblur.
    """
    points = np.cumsum(steps * np.exp(1j * headings))
    centred = (points - points.mean()) * np.exp(1j * rotation)
    return np.stack([centred.real, centred.imag], axis=1) + size


def rasterise(path: np.ndarray, size: int) -> Tensor:
    """Draws a path as a thin, slightly blurred line and reduces it to a kernel.

    Lines are at least one pixel wide; the published code draws none for sizes below 54.

    Args:
        path: Points (across, down) on a canvas of 2 size x 2 size pixels, (n, 2).
        size: Taps per side.

    Returns:
        Kernel, (size, size), float64, not negative, with sum 1.

    Raises:
        ValueError: If the path leaves nothing on the canvas.
    """
    from PIL import Image, ImageDraw, ImageFilter

    diagonal = _diagonal(size)
    canvas = Image.new("L", (2 * size, 2 * size))
    line = [(float(across), float(down)) for across, down in path]
    ImageDraw.Draw(canvas).line(line, fill=255, width=max(1, int(diagonal / 150)))
    soft = canvas.filter(ImageFilter.GaussianBlur(int(0.01 * diagonal)))
    grey = np.asarray(soft.resize((size, size), Image.Resampling.LANCZOS), dtype=np.float64)
    if not grey.any():
        raise ValueError(
            f"the path leaves nothing on a canvas of {2 * size} x {2 * size} pixels; it needs at "
            "least two points near the middle"
        )
    return torch.from_numpy(grey / grey.sum())


def legacy_motion_kernel(
    state: np.random.RandomState, size: int = 61, intensity: float = 0.5, draws: int = 1
) -> Tensor:
    """Draws the motion kernel that the published code draws from the same NumPy state.

    Args:
        state: NumPy's legacy generator, such as ``np.random.RandomState(0)``; it advances.
        size: Taps per side.
        intensity: As in ``MotionKernel``.
        draws: How many kernels are drawn; the last one counts. DPS and DAPS discard their first
            kernel: 2.

    Returns:
        Kernel, (size, size), float64; equal to 2/255 of the peak across Pillow versions.

    Source: Chung et al. 2023 (DPS), the order of draws in their blur.
    """
    for _ in range(require_count(draws, 1, "draws") - 1):
        _variates(state, size, intensity)
    return rasterise(trajectory(size, *_variates(state, size, intensity)), size)


def as_pair(value: float | tuple[float, float], what: str) -> tuple[float, float]:
    """Reads one positive number, or two, as (down, across)."""
    pair = tuple(value) if isinstance(value, Iterable) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{what} must be one number or two (down, across), got {value!r}")
    return require_positive(pair[0], what), require_positive(pair[1], what)


def _variates(
    state: np.random.RandomState, size: int, intensity: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Draws steps, headings and rotation; the order of draws is that of the published code."""
    diagonal = _diagonal(size)
    cap = 0.75 * diagonal * (state.uniform() + state.uniform(0, intensity**2))
    steps: list[float] = []
    while sum(steps) < cap:
        step = state.beta(1, 30) * (1.1 - intensity) * diagonal
        if step < cap:
            steps.append(step)
    headings = _headings(state, len(steps), intensity)
    return np.array(steps), headings, state.uniform(0, np.pi)


def _headings(state: np.random.RandomState, count: int, intensity: float) -> np.ndarray:
    widest = state.uniform(0, np.pi * intensity)
    flips = state.beta(2, 20)
    headings = [state.uniform(-widest, widest)]
    while len(headings) < count:
        size = state.triangular(0, intensity * widest, widest + 0.1)
        sign = -1 if state.uniform() < flips else 1
        headings.append(sign * np.sign(headings[-1]) * size)
    return np.array(headings)


def _diagonal(size: int) -> float:
    return 2 * size * 2**0.5


def _grid(size: int) -> tuple[Tensor, Tensor]:
    line = torch.arange(size, dtype=torch.float64) - size // 2
    return line[:, None], line[None, :]


def _normalised(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()


def _smoothed(kernel: Tensor, std: float) -> Tensor:
    bell = torch.exp(-0.5 * (torch.arange(-4, 5, dtype=torch.float64) / std) ** 2)
    bell = torch.outer(bell, bell) / bell.sum() ** 2
    return torch.nn.functional.conv2d(kernel[None, None], bell[None, None], padding=4)[0, 0]
