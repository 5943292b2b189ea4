"""Imaging through turbulent air: light is tilted, differently at each pixel, and blurred."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.operator import BlindOperator, Operator, Shape
from plugip.operators._options import as_sides, require_count, require_positive
from plugip.operators.blind_blur import CONSTRAINTS, KernelDraw, drawn_kernel, first_guess
from plugip.operators.blur import Blur, Origin, tap_origin
from plugip.operators.correlation import require_fit
from plugip.operators.separable import BOUNDARIES
from plugip.operators.separable_blur import gaussian_taps
from plugip.operators.warp import Warp
from plugip.options import choose, require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng


def turbulence(
    tilt: Tensor, kernel: Tensor, boundary: str = "zero", origin: Origin = None
) -> Operator:
    r"""Returns the known turbulence operator: tilt, then blur.

    .. math:: y = k \star \mathrm{warp}(x; d)

    Linear in x, of the same shape. Beyond the edges the warp sees zeros (mid-grey).

    Args:
        tilt: Displacements d in pixels, channel 0 along columns, (1|B, 2, H, W).
        kernel: (1|B, 1|C, rows, columns), not flipped.
        boundary: Of the blur; zero in BlindDPS and DMPlug.
        origin: Of the kernel; see ``Blur``.

    Source: Chung et al. 2023 (BlindDPS), code.
    """
    return Blur(kernel, boundary, origin=origin) @ Warp(tilt, outside="zero")


@dataclass(frozen=True)
class TiltSampler:
    """Draws the tilt maps of BlindDPS: sums of patches of smoothed noise at random places.

    The defaults are the published ones at 256 x 256, where the standard deviation of a tilt is
    0.55 pixels in the middle and 0.16 at the outer 16 pixels.

    Args:
        patches: Number of patches.
        patch: Side of a patch in pixels, even; None: a quarter of the shorter image side.
        strength: Range of a patch's factor.
        limit: Largest tilt in pixels; what lies beyond is clipped.

    Raises:
        ValueError: If an argument is out of range; when drawn, if a patch exceeds the image.

    Source: Chung et al. 2023 (BlindDPS), code; after Chimitt and Chan 2020.
    """

    patches: int = 500
    patch: int | None = None
    strength: tuple[float, float] = (0.1, 0.4)
    limit: float = 2.5

    def __post_init__(self) -> None:
        require_count(self.patches, 1, "patches")
        require_positive(self.limit, "limit")
        if self.patch is not None and require_count(self.patch, 2, "patch") % 2:
            raise ValueError(f"patch must be even, got {self.patch}")
        low, high = self.strength
        if not 0 <= low <= high < float("inf"):
            raise ValueError(
                f"strength must be (low, high) with 0 <= low <= high, got {low, high}"
            )

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws tilts in pixels, (B, 2, H, W), for images of shape (B, C, H, W)."""
        h, w = x_shape[-2:]
        side = self.patch or min(h, w) // 8 * 2
        if not 2 <= side <= min(h, w):
            raise ValueError(f"patches of {side} pixels do not fit images of {h} x {w} pixels")
        return torch.cat([self._one(rng.select([i]), side, h, w) for i in range(len(rng))])

    def _one(self, rng: Rng, side: int, h: int, w: int) -> Tensor:
        place = rng.uniform((self.patches, 2))[0] * torch.tensor([h - side + 1, w - side + 1])
        low, high = self.strength
        factor = low + (high - low) * rng.uniform((self.patches, 1, 1, 1))[0]
        noise = factor * _smooth(rng.normal((self.patches, 2, side, side))[0])
        tilt = torch.zeros(1, 2, h, w)
        for (top, left), patch in zip(place.long().tolist(), noise, strict=True):
            tilt[0, :, top : top + side, left : left + side] += patch
        return tilt.clamp(-self.limit, self.limit)


def _smooth(noise: Tensor) -> Tensor:
    taps = torch.from_numpy(gaussian_taps(1.0, 7)).to(noise)
    flat = noise.flatten(0, 1)[:, None]
    down = torch.nn.functional.conv2d(flat, taps.reshape(1, 1, -1, 1), padding=(3, 0))
    across = torch.nn.functional.conv2d(down, taps.reshape(1, 1, 1, -1), padding=(0, 3))
    return across.reshape(noise.shape)


class BlindTurbulence(BlindOperator[dict[str, Tensor]]):
    r"""Deturbulence with unknown tilt map and unknown blur kernel.

    .. math:: y = k \star \mathrm{warp}(x; d)

    Theta is a dict: "tilt", d in pixels, (B, 2, H, W), free; and "kernel", (B, 1, rows, columns),
    not negative with sum 1, as in ``BlindBlur``. The first guess of the tilt is 0.01 n with
    standard normal n. Gradients in d are constant inside a pixel.

    Args:
        kernel_size: Taps of the kernel per side, or (rows, columns). 64 at 256 in DMPlug.
        constraint: simplex (softmax, DMPlug) or nonneg.
        boundary: Of the blur; zero in BlindDPS and DMPlug.
        origin: Of the kernel; needed for even sizes, (31, 31) for 64 in DMPlug.
        tilt: Draws the true tilt; None: tilts as in BlindDPS.
        truth: Draws the true kernel, as in ``BlindBlur``; None: measurements cannot be simulated.

    Raises:
        ValueError: If an argument is out of range.

    Source: Chung et al. 2023 (BlindDPS) and Wang et al. 2024 (DMPlug), code. DMPlug gives the tilt
    a step of 1e-7, which leaves it at its first guess; the hint here, 0.01 pixel, moves it.
    """

    told_by = ("truth", "tilt")

    def __init__(
        self,
        kernel_size: int | tuple[int, int] = 33,
        constraint: str = "simplex",
        boundary: str = "zero",
        origin: Origin = None,
        tilt: TiltSampler | None = None,
        truth: KernelDraw | None = None,
    ) -> None:
        super().__init__(truth)
        self.kernel_size = as_sides(kernel_size, "kernel_size")
        self.constraint = require_choice(constraint, CONSTRAINTS, "constraint")
        self.boundary = require_choice(boundary, BOUNDARIES, "boundary")
        self.origin = tap_origin(self.kernel_size, origin)
        self.tilt: TiltSampler | None = TiltSampler() if tilt is None else tilt
        self.learning_rate_hint = {"tilt": 0.01, "kernel": CONSTRAINTS[constraint].step}

    def init_theta(self, rng: Rng, like: Tensor) -> dict[str, Tensor]:
        tilt = 0.01 * rng.child("tilt").normal((2, *like.shape[-2:]), like=like)
        shape = (1, *self.kernel_size)
        return {"tilt": tilt, "kernel": first_guess(self.constraint, rng, shape, like)}

    def constrain(self, theta: dict[str, Tensor]) -> dict[str, Tensor]:
        kernel = choose(CONSTRAINTS, self.constraint, "constraint").apply(theta["kernel"])
        return {"tilt": theta["tilt"], "kernel": kernel}

    def at(self, theta: dict[str, Tensor]) -> Operator:
        return turbulence(theta["tilt"], theta["kernel"], self.boundary, self.origin)

    def draw_theta(self, rng: Rng, x_shape: Shape) -> dict[str, Tensor]:
        if self.truth is None or self.tilt is None:
            return super().draw_theta(rng, x_shape)
        kernel = drawn_kernel(
            self.truth, rng.child("kernel"), x_shape, self.kernel_size, self.origin
        )
        return {"tilt": self.tilt.draw(rng.child("tilt"), x_shape), "kernel": kernel}

    def check_domain(self, x_shape: Shape) -> None:
        require_fit(self.kernel_size, self.origin, x_shape, self.boundary)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, constraint={self.constraint!r}, {self.tilt}"
