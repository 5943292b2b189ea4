"""Priors with exact answers: a Gaussian and a mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plugip.path import SIGNED, FlowPath, Path, ValueRange
from plugip.prior import Prior


class GaussianPrior(Prior):
    r"""Images drawn from one normal distribution; E[x_0 | x_t] in closed form.

    .. math:: E[x_0 | x_t] = m + \alpha C (\alpha^2 C + \sigma^2 I)^{-1} (x_t - \alpha m)

    Args:
        mean: Mean m, (C, H, W), or one number, which needs ``shape``.
        std: Standard deviation of independent pixels, one number or a tensor that broadcasts to
            (C, H, W); in the units of ``value_range``.
        path: Noise path; the rectified flow by default.
        value_range: Range of the images' values.
        covariance: Instead of ``std``: C for flattened images, (d, d) with d = C H W.
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
        mean, variances = self.mean.to(x_t), self.variances.to(x_t)
        alpha, sigma = self.path.coefficients(t, x_t)
        rest = self._to_axes(x_t - alpha * mean)
        gain = alpha * variances / (alpha**2 * variances + sigma**2)
        return mean + self._from_axes(gain * rest)

    def _to_axes(self, x: Tensor) -> Tensor:
        return x if self.axes is None else (x.flatten(1) @ self.axes.to(x)).view_as(x)

    def _from_axes(self, x: Tensor) -> Tensor:
        return x if self.axes is None else (x.flatten(1) @ self.axes.to(x).T).view_as(x)


class GaussianMixturePrior(Prior):
    r"""Images drawn from a mixture of round Gaussians; E[x_0 | x_t] in closed form.

    .. math:: E[x_0 | x_t] = \sum_k r_k \Big( m_k +
        \frac{\alpha s_k^2}{\alpha^2 s_k^2 + \sigma^2} (x_t - \alpha m_k) \Big), \quad
        r_k \propto w_k \mathcal{N}(x_t; \alpha m_k, (\alpha^2 s_k^2 + \sigma^2) I)

    Args:
        means: Means m_k, (K, C, H, W).
        stds: Standard deviations s_k >= 0, (K,), in the units of ``value_range``.
        weights: Positive weights w_k, (K,), scaled to sum to one; equal by default.
        path: Noise path; the rectified flow by default.
        value_range: Range of the images' values.

    Raises:
        ValueError: If the shapes do not fit, a weight is not positive or a deviation is negative.

    Source: Bishop 2006, section 2.3.9, with the posterior of each component as above.
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor

    def __init__(
        self,
        means: Tensor,
        stds: Tensor | Sequence[float],
        weights: Tensor | Sequence[float] | None = None,
        path: Path | None = None,
        value_range: ValueRange = SIGNED,
    ) -> None:
        super().__init__()
        means = torch.as_tensor(means)
        count = len(means) if means.ndim == 4 else 0
        stds = torch.as_tensor(stds, dtype=means.dtype)
        weights = torch.ones_like(stds) if weights is None else weights
        weights = torch.as_tensor(weights, dtype=means.dtype)
        if not count or stds.shape != (count,) or weights.shape != (count,):
            raise ValueError(
                "means (K, C, H, W), stds (K,) and weights (K,) must agree, got "
                f"{tuple(means.shape)}, {tuple(stds.shape)} and {tuple(weights.shape)}"
            )
        if not bool((weights > 0).all()) or not bool((stds >= 0).all()):
            raise ValueError("weights must be positive and stds not negative")
        self.shape, self.path = tuple(means.shape[1:]), path or FlowPath()
        self.value_range = value_range
        self.register_buffer("means", means)
        self.register_buffer("variances", stds.square())
        self.register_buffer("log_weights", (weights / weights.sum()).log())
        self.freeze()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x = x_t.flatten(1).unsqueeze(1)  # (B, 1, d) against K components
        means, variances = self.means.to(x).flatten(1), self.variances.to(x)[:, None]
        alpha, sigma = self.path.coefficients(t, x)
        rest = x - alpha * means
        spread = alpha**2 * variances + sigma**2
        centres = means + alpha * variances / spread * rest
        return (self._shares(rest, spread) * centres).sum(1).view_as(x_t)

    def _shares(self, rest: Tensor, spread: Tensor) -> Tensor:
        """Returns the components' posterior weights, (B, K, 1); softmax keeps them finite."""
        nats = rest.square().sum(2, keepdim=True) / spread + rest.shape[2] * spread.log()
        nats = nats - nats.amin(1, keepdim=True).detach()  # before it can drown the weights
        return (self.log_weights.to(rest)[:, None] - nats / 2).softmax(1)


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
    return std.square()


def _principal(covariance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the variances along the principal axes, (C, H, W), and the axes, (d, d)."""
    c, size = covariance.double(), mean.numel()
    if c.shape != (size, size) or not torch.allclose(c, c.T, atol=1e-6 * float(c.abs().max())):
        raise ValueError(f"covariance must be symmetric, ({size}, {size}); got {tuple(c.shape)}")
    variances, axes = torch.linalg.eigh(c)
    if float(variances[0]) < -1e-6 * float(variances[-1]):
        raise ValueError(f"covariance has a negative eigenvalue, {float(variances[0]):.3g}")
    return variances.clamp_min(0).to(mean).view_as(mean), axes.to(mean)
