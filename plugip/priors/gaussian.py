"""A Gaussian prior with exact answers: independent pixels, or a dense covariance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plugip.linalg import widened
from plugip.path import SIGNED, FlowPath, Path, ValueRange
from plugip.priors.density import DensityPrior, gain, gaussian_log, noisy_std
from plugip.rng import Rng


class GaussianPrior(DensityPrior):
    r"""Images drawn from one normal distribution; E[x_0 | x_t] in closed form.

    .. math:: E[x_0 | x_t] = m + \alpha C (\alpha^2 C + \sigma^2 I)^{-1} (x_t - \alpha m)

    Args:
        mean: Mean m, (C, H, W), or one number, which needs ``shape``.
        std: Standard deviation of independent pixels, one number or a tensor that broadcasts to
            (C, H, W); in the units of ``value_range``.
        path: Noise path; the rectified flow by default.
        value_range: Range of the images' values.
        covariance: Instead of ``std``: C for flattened images, (d, d) with d = C H W. For large
            images use ``LowRankGaussian``.
        shape: Shape (C, H, W) where ``mean`` is a number.

    Raises:
        ValueError: If not exactly one of ``std`` and ``covariance`` is given, a shape does not
            fit, or the covariance is not symmetric and positive semi-definite.

    Source: Bishop 2006, eqs. 2.116 and 2.117, for the linear-Gaussian model x_t = alpha x_0 + n.
    """

    mean: Tensor
    variances: Tensor
    axes: Tensor | None

    def __init__(
        self,
        mean: Tensor | float,
        std: Tensor | float | None = None,
        path: Path | None = None,
        value_range: ValueRange = SIGNED,
        covariance: Tensor | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if (std is None) == (covariance is None):
            raise ValueError("give std or covariance, one of the two")
        mean = _full(mean, shape)
        self.shape, self.path = tuple(mean.shape), path or FlowPath()
        self.value_range = value_range
        if covariance is None:
            variances, axes = _variances(torch.as_tensor(std, dtype=mean.dtype), mean), None
        else:
            variances, axes = _principal(covariance, mean)
        self.register_buffer("mean", mean)
        self.register_buffer("variances", variances)
        self.register_buffer("axes", axes)
        self.freeze()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        mean = self.mean.to(x_t)
        alpha, sigma = self.path.coefficients(t, x_t)
        slope = gain(alpha, sigma, self.variances.to(x_t))
        return mean + self._from_axes(slope * self._to_axes(x_t - alpha * mean))

    def log_density(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.path.coefficients(t, x_t)
        rest = self._to_axes(x_t - alpha * self.mean.to(x_t))
        scales = noisy_std(alpha, sigma, self.variances.to(x_t).sqrt()).expand_as(rest)
        return gaussian_log((rest / scales).flatten(1), scales.flatten(1))

    def sample(self, rng: Rng) -> Tensor:
        noise = rng.normal(self.shape, like=self.mean)
        return self.mean + self._from_axes(self.variances.sqrt() * noise)

    def covariance_times(self, v: Tensor) -> Tensor:
        """Returns C v for each of some states, (B, *shape)."""
        return self._from_axes(self.variances.to(v) * self._to_axes(v))

    def _to_axes(self, x: Tensor) -> Tensor:
        return x if self.axes is None else (x.flatten(1) @ self.axes.to(x)).view_as(x)

    def _from_axes(self, x: Tensor) -> Tensor:
        return x if self.axes is None else (x.flatten(1) @ self.axes.to(x).T).view_as(x)


def _full(mean: Tensor | float, shape: Sequence[int] | None) -> Tensor:
    value = torch.as_tensor(mean)
    if value.ndim == 0 and shape is not None:
        value = torch.full(tuple(shape), float(value))
    if value.ndim != 3:
        raise ValueError(
            f"mean must have shape (C, H, W), got {tuple(value.shape)}; "
            "a number needs shape=[C, H, W]"
        )
    return value


def _variances(std: Tensor, mean: Tensor) -> Tensor:
    if not bool((std >= 0).all()):
        raise ValueError("std must not be negative")
    if torch.broadcast_shapes(std.shape, mean.shape) != mean.shape:
        raise ValueError(f"std {tuple(std.shape)} does not fit a mean {tuple(mean.shape)}")
    return std.square().expand_as(mean).contiguous()


def _principal(covariance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the variances along the principal axes, (C, H, W), and the axes, (d, d)."""
    c, size = widened(covariance), mean.numel()
    if c.shape != (size, size) or not torch.allclose(c, c.T, atol=1e-6 * float(c.abs().max())):
        raise ValueError(f"covariance must be symmetric, ({size}, {size}); got {tuple(c.shape)}")
    variances, axes = torch.linalg.eigh(c)
    if float(variances[0]) < -1e-6 * float(variances[-1]):
        raise ValueError(f"covariance has a negative eigenvalue, {float(variances[0]):.3g}")
    return variances.clamp_min(0).to(mean).view_as(mean), axes.to(mean)
