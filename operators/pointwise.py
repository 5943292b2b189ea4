"""Pixel by pixel: clipping as by a sensor's limited range, and quantisation to few grey levels."""

from __future__ import annotations

import torch
from torch import Tensor

from plugip.operator import Operator
from plugip.operators._options import require_count, require_positive
from plugip.options import require_choice

GRADIENTS = ("exact", "straight")


class Clip(Operator):
    r"""Brightens an image beyond the sensor's range, where it saturates: high dynamic range.

    .. math:: y = \mathrm{clip}(s x, -1, 1)

    x and y are (B, C, H, W); y lies in [-1, 1]. Where y is saturated nothing is known but a bound,
    and the exact gradient is 0; ``y / scale`` is a usual start for a solver.

    Args:
        scale: s, positive. 2 in DAPS and RED-diff.
        gradient: "exact", or "straight", which passes gradients as if nothing were clipped.

    Raises:
        ValueError: If scale is not positive or the gradient is unknown.

    Source: Mardani et al. 2024 (RED-diff) and Zhang et al. 2025 (DAPS), code.
    """

    def __init__(self, scale: float = 2.0, gradient: str = "exact") -> None:
        super().__init__()
        self.scale = require_positive(scale, "scale")
        self.gradient = require_choice(gradient, GRADIENTS, "gradient")

    def forward(self, x: Tensor) -> Tensor:
        scaled = self.scale * x
        clipped = scaled.clamp(-1, 1)
        return clipped if self.gradient == "exact" else straight_through(clipped, scaled)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, gradient={self.gradient!r}"


class Quantize(Operator):
    r"""Rounds grey values to 2^bits equally spaced levels, from black to white.

    .. math:: y = 2\, \lfloor u L + 1/2 \rfloor / L - 1, \quad u = (x + 1) / 2, \; L = 2^b - 1

    x and y are (B, C, H, W) in [-1, 1]; values beyond are rounded to levels beyond, not clipped.
    The error is at most 1 / L, half a step. Exactly, the gradient is 0 almost everywhere.

    Args:
        bits: b, 1 to 16.
        gradient: "straight" passes gradients as if nothing were rounded; "exact" is 0.

    Raises:
        ValueError: If bits is not a whole number from 1 to 16 or the gradient is unknown.

    Source: Mardani et al. 2024 (RED-diff), code; Bengio et al. 2013 for the gradient.
    """

    def __init__(self, bits: int = 4, gradient: str = "straight") -> None:
        super().__init__()
        if require_count(bits, 1, "bits") > 16:
            raise ValueError(f"bits must be at most 16, got {bits}")
        self.bits, self.gradient = bits, require_choice(gradient, GRADIENTS, "gradient")

    def forward(self, x: Tensor) -> Tensor:
        steps = 2**self.bits - 1
        rounded = 2 * torch.floor((x + 1) / 2 * steps + 0.5) / steps - 1
        return rounded if self.gradient == "exact" else straight_through(rounded, x)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, gradient={self.gradient!r}"


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Returns ``value`` to the last digit, with the gradient of ``surrogate``."""
    # Where the surrogate is not finite the value would be lost; it is finite for finite images.
    return value.detach() + (surrogate - surrogate.detach())
