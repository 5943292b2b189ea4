"""Blur as a camera makes it: light adds up linearly, and is then bent by the response curve."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import softplus

from plugip.linalg import widened
from plugip.operator import Operator, Shape
from plugip.operators._options import require_positive
from plugip.operators.correlation import Correlation, require_fit
from plugip.operators.kernels import FixedKernel, KernelSampler
from plugip.operators.separable import BOUNDARIES
from plugip.operators.separable_blur import GaussianBlur
from plugip.options import require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng

Kernel = Tensor | FixedKernel | KernelSampler


class _LightBlur(Operator):
    """Takes an image to light and blurs it; what the sensor makes of it is up to the leaf."""

    per_image = ("kernel",)
    kernel: Tensor | None

    def __init__(
        self,
        std: float,
        size: int,
        gamma: float,
        boundary: str,
        epsilon: float,
        kernel: Kernel | None,
    ) -> None:
        super().__init__()
        self.gaussian = GaussianBlur(std, size, boundary) if kernel is None else None
        given = kernel.build() if isinstance(kernel, FixedKernel) else kernel
        fixed = given is None or isinstance(given, Tensor)
        self.sampler = None if fixed else _require_sampler(given)
        self.register_buffer(
            "kernel", _require_kernel(given) if isinstance(given, Tensor) else None
        )
        self.boundary = require_choice(boundary, BOUNDARIES, "boundary")
        self.gamma = require_positive(gamma, "gamma")
        self.epsilon = require_positive(epsilon, "epsilon")

    def check_domain(self, x_shape: Shape) -> None:
        if self.gaussian is not None:
            self.gaussian.check_domain(x_shape)
        elif self.kernel is not None:
            images, rows, columns = self.kernel.shape
            if images not in (1, x_shape[0]):
                raise ValueError(
                    f"there are {images} kernels for a batch of {x_shape[0]} images; "
                    "give one kernel, or one per image"
                )
            require_fit((rows, columns), (rows // 2, columns // 2), x_shape, self.boundary)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return tuple(x_shape)

    def realise(self, rng: Rng, x_shape: Shape) -> Operator:
        if self.sampler is None:
            return self
        if len(rng) != x_shape[0]:
            raise ValueError(f"need one stream per image, got {len(rng)} for {x_shape[0]} images")
        fixed = copy.copy(self)
        kernel = _require_kernel(self.sampler.draw(rng.child("kernel"), x_shape))
        fixed._buffers, fixed.sampler = self._buffers | {"kernel": kernel}, None
        return fixed

    def _blurred_light(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        light = signed_power((x + 1) / 2, self.gamma, self.epsilon)
        if self.gaussian is not None:
            return self.gaussian(light)
        if self.kernel is None:
            raise RuntimeError(
                f"{type(self).__name__} has no kernel yet, it draws one per image from "
                f"{self.sampler}; call operator = operator.realise(rng, x.shape) first"
            )
        return correlate(light, self.kernel, self.boundary)

    def _seen(self, light: Tensor) -> Tensor:
        return 2 * signed_power(light, 1 / self.gamma, self.epsilon) - 1

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, boundary={self.boundary!r}, epsilon={self.epsilon}"


class CameraResponseBlur(_LightBlur):
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
        kernel: Replaces the Gaussian: (rows, columns), odd, not negative, with sum 1, or one per
            image; or a fixed kernel or sampler, such as ``MotionKernel(61)``, which needs
            ``realise(rng, x_shape)``. Correlated, not flipped.

    Raises:
        ValueError: If an argument is out of range; when called, if the image is too small.

    Source: Nah et al. 2017 (GoPro) for the response curve.
    """

    def __init__(
        self,
        std: float = 1.5,
        size: int = 9,
        gamma: float = 2.2,
        boundary: str = "reflect",
        epsilon: float = 1e-4,
        kernel: Kernel | None = None,
    ) -> None:
        super().__init__(std, size, gamma, boundary, epsilon, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return self._seen(self._blurred_light(x))


class SaturatedBlur(_LightBlur):
    r"""Blurs light that is too bright for the sensor: highlights saturate after the blur.

    .. math:: y = 2\, g\big(\min(1, c\, k \star g^{-1}((x + 1) / 2))\big) - 1

    with g as in ``CameraResponseBlur``. x and y are (B, C, H, W) in [-1, 1]. With the hard knee
    saturated pixels have gradient 0; the soft knee replaces min(1, v) by
    v - w (softplus((v - 1) / w) - softplus(-1 / w)), which is 0 at 0 and rises everywhere.

    Args:
        exposure: c, the gain of the light before the sensor, positive; 1.2 to 2 are usual.
        knee: "hard" or "soft".
        width: w, the width of the soft knee, in light on [0, 1]; the curve lies below min(1, v)
            by at most 0.7 w.
        std: As in ``CameraResponseBlur``, and so are the following.
        size: Taps of the Gaussian kernel per side, odd.
        gamma: Exponent of the response curve.
        boundary: reflect, circular, zero, replicate or symmetric.
        epsilon: Light level below which the gradient of g no longer grows.
        kernel: Replaces the Gaussian.

    Raises:
        ValueError: If an argument is out of range; when called, if the image is too small.

    Source: Whyte et al. 2014 for saturation after blur.
    """

    def __init__(
        self,
        exposure: float = 1.8,
        knee: str = "hard",
        width: float = 0.05,
        std: float = 1.5,
        size: int = 9,
        gamma: float = 2.2,
        boundary: str = "reflect",
        epsilon: float = 1e-4,
        kernel: Kernel | None = None,
    ) -> None:
        super().__init__(std, size, gamma, boundary, epsilon, kernel)
        self.exposure = require_positive(exposure, "exposure")
        self.knee = require_choice(knee, ("hard", "soft"), "knee")
        self.width = require_positive(width, "width")

    def forward(self, x: Tensor) -> Tensor:
        light = self.exposure * self._blurred_light(x)
        if self.knee == "hard":
            return self._seen(light.clamp_max(1))
        w = self.width
        at_zero = softplus(light.new_tensor(-1 / w))
        return self._seen(light - w * (softplus((light - 1) / w) - at_zero))

    def extra_repr(self) -> str:
        return f"exposure={self.exposure}, knee={self.knee!r}, {super().extra_repr()}"


def signed_power(u: Tensor, p: float, epsilon: float) -> Tensor:
    """Raises to a power as an odd function, sign(u) |u|^p, with a bounded slope where p < 1.

    The value is exact everywhere. For p < 1 the slope is p max(|u|, epsilon)^(p - 1), for reverse
    and forward mode and for second derivatives.

    Args:
        u: Any shape.
        p: Exponent, positive.
        epsilon: Where the slope stops growing, positive.
    """
    if p == 1:
        return u
    size = u.abs()
    if p > 1:
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
        kernel: (rows, columns), odd, or (1 or B, rows, columns).
        boundary: One of ``BOUNDARIES``.

    Returns:
        Same shape as ``x``.
    """
    kernels = (kernel if kernel.ndim == 3 else kernel[None]).to(x)
    rows, columns = kernels.shape[-2:]
    image = (int(x.shape[-2]), int(x.shape[-1]))
    geometry = Correlation((rows, columns), (rows // 2, columns // 2), boundary, image)
    return geometry.directly(x, kernels[:, None])


def _require_sampler(kernel: object) -> KernelSampler:
    if isinstance(kernel, KernelSampler):
        return kernel
    raise TypeError(
        "kernel must be a tensor, a kernel such as DefocusKernel(3) or a sampler such as "
        f"MotionKernel(61), got {type(kernel).__name__}"
    )


def _require_kernel(kernel: Tensor) -> Tensor:
    if kernel.ndim not in (2, 3) or any(side % 2 == 0 for side in kernel.shape[-2:]):
        raise ValueError(
            "kernel must be (rows, columns), both odd, or one such kernel per image, "
            f"got shape {tuple(kernel.shape)}"
        )
    if not kernel.is_floating_point() or bool((kernel < 0).any()):
        raise ValueError("kernel must be floating point and not negative: it weighs light")
    kernels = kernel if kernel.ndim == 3 else kernel[None]
    totals = widened(kernels).sum((-2, -1))
    if not bool(((totals - 1).abs() < 1e-5).all()):
        worst = float(totals[(totals - 1).abs().argmax()])
        raise ValueError(f"kernel must have sum 1, got {worst:.6g}; use kernel / kernel.sum()")
    return kernels
