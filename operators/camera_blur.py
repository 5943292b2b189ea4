"""Blur as a camera makes it: light adds up linearly, and is then bent by the response curve."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plugip.operator import Operator, Shape
from plugip.operators._options import require_positive
from plugip.operators.blur import GaussianBlur, require_room
from plugip.operators.separable import BOUNDARIES, fold
from plugip.options import require_choice


class CameraResponseBlur(Operator):
    r"""Blurs the light behind an image, not its pixel values: a nonlinear deblurring task.

    .. math:: y = 2\, g\big(k \star g^{-1}((x + 1) / 2)\big) - 1, \qquad g(u) = u^{1/\gamma}

    x and y are (B, C, H, W) in [-1, 1]; constants map to themselves. Bright pixels spread further
    than dark ones, as in photographs. Needs no weights. The value is exact; since g is infinitely
    steep at 0, its *gradient* is evaluated at max(v, epsilon) (slope at most 69 at the defaults):
    adding epsilon inside the power instead would darken mid-tones.

    Estimates may leave [-1, 1]. Below -1 both curves continue as odd functions,
    sign(u) |u|^p, and above 1 as they are: nothing is clamped, so that no gradient vanishes and
    gamma = 1 is the linear blur for every x.

    Args:
        std: Standard deviation of the Gaussian kernel in pixels. The default, 1.5 with 9 taps, is
            our choice for 64 x 64: relative to the image twice as wide as DPS's blur at 256.
        size: Taps of the Gaussian kernel per side, odd.
        gamma: Exponent of the response curve; 2.2 approximates cameras (GoPro).
        boundary: reflect, circular, zero, replicate or symmetric; see ``GaussianBlur``.
        epsilon: Light level, on [0, 1], below which the gradient of g no longer grows.
        kernel: Kernel that replaces the Gaussian, (rows, columns), odd, not negative, with sum 1;
            correlated, not flipped.

    Raises:
        ValueError: If an argument is out of range; when called, if the image is too small.

    Source: Nah et al. 2017 (GoPro) for the response curve.
    """

    kernel: Tensor | None

    def __init__(
        self,
        std: float = 1.5,
        size: int = 9,
        gamma: float = 2.2,
        boundary: str = "reflect",
        epsilon: float = 1e-4,
        kernel: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.gaussian = GaussianBlur(std, size, boundary) if kernel is None else None
        self.register_buffer("kernel", None if kernel is None else _require_kernel(kernel))
        self.boundary = require_choice(boundary, BOUNDARIES, "boundary")
        self.gamma = require_positive(gamma, "gamma")
        self.epsilon = require_positive(epsilon, "epsilon")

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        light = signed_power((x + 1) / 2, self.gamma, self.epsilon)
        return 2 * signed_power(self._blur(light), 1 / self.gamma, self.epsilon) - 1

    def check_domain(self, x_shape: Shape) -> None:
        if self.gaussian is not None:
            self.gaussian.check_domain(x_shape)
        elif self.kernel is not None:
            rows, columns = self.kernel.shape
            require_room((rows, columns), x_shape, self.boundary)

    def _blur(self, light: Tensor) -> Tensor:
        if self.gaussian is not None:
            return self.gaussian(light)
        return correlate(light, self.kernel, self.boundary)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, boundary={self.boundary!r}, epsilon={self.epsilon}"


def signed_power(u: Tensor, p: float, epsilon: float) -> Tensor:
    """Raises to a power as an odd function, sign(u) |u|^p, with a bounded slope where p < 1.

    The value is exact everywhere. For p < 1 the slope is p max(|u|, epsilon)^(p - 1), for reverse
    and forward mode and for second derivatives.

    Args:
        u: Any shape.
        p: Exponent, positive.
        epsilon: Where the slope stops growing, positive.
    """
    size = u.abs()
    if p >= 1:
        return u.sign() * size.pow(p)
    # Near 0 a straight line gives the slope, and a constant corrects the value: the slope does not
    # depend on u there, so detaching the constant loses no derivative of any order.
    line = p * epsilon ** (p - 1) * u
    near = line + (u.sign() * size.pow(p) - line).detach()
    return torch.where(size <= epsilon, near, u.sign() * size.clamp_min(epsilon).pow(p))


def correlate(x: Tensor, kernel: Tensor, boundary: str) -> Tensor:
    """Correlates every channel with one kernel; the kernel is not flipped.

    Direct sums, not FFTs: light is not negative, and so are they, to the last digit, which the
    steep response curve needs.

    Args:
        x: (B, C, H, W).
        kernel: (rows, columns), odd.
        boundary: One of ``BOUNDARIES``.

    Returns:
        Same shape as ``x``.
    """
    rows, columns = kernel.shape
    padded = _extended(_extended(x, rows // 2, boundary, -2), columns // 2, boundary, -1)
    maps = torch.nn.functional.conv2d(padded.flatten(0, 1)[:, None], kernel.to(x)[None, None])
    return maps.reshape(x.shape)


def _extended(x: Tensor, margin: int, boundary: str, dim: int) -> Tensor:
    side = x.shape[dim]
    index = torch.from_numpy(fold(np.arange(-margin, side + margin), side, boundary)).to(x.device)
    inside = (index >= 0).to(x.dtype).reshape((-1, 1) if dim == -2 else (-1,))
    return x.index_select(dim, index.clamp_min(0)) * inside


def _require_kernel(kernel: Tensor) -> Tensor:
    if kernel.ndim != 2 or any(side % 2 == 0 for side in kernel.shape):
        raise ValueError(
            f"kernel must be (rows, columns), both odd, got shape {tuple(kernel.shape)}"
        )
    if not kernel.is_floating_point() or bool((kernel < 0).any()):
        raise ValueError("kernel must be floating point and not negative: it weighs light")
    total = float(kernel.double().sum())
    if not abs(total - 1) < 1e-5:
        raise ValueError(f"kernel must have sum 1, got {total:.6g}; use kernel / kernel.sum()")
    return kernel
