"""Priors that know the log density of their noisy states, and the arithmetic that they share."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from plugip.linalg import wide
from plugip.prior import Prior
from plugip.rng import Rng


class DensityPrior(Prior):
    """A prior with an exact density: it scores states and draws them, besides denoising them.

    ``forward`` and ``log_density`` belong together: by Tweedie's formula E[x_0 | x_t] is
    (x_t + sigma² ∇ log p_t(x_t)) / alpha.
    """

    @abstractmethod
    def log_density(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns log p_t(x_t) in nats, normalised, differentiable in x_t.

        Args:
            x_t: Noisy states, (B, *shape).
            t: Time in [0, 1], () or (B,). t = 0 scores clean states, and needs a prior with some
                variance in every direction.

        Returns:
            Log densities, (B,), float64 where the device has it.
        """

    @abstractmethod
    def sample(self, rng: Rng) -> Tensor:
        """Draws one clean state for each image of the streams, (B, *shape)."""


def gain(alpha: Tensor, sigma: Tensor, variances: Tensor) -> Tensor:
    """Returns alpha v / (alpha² v + sigma²), the slope of E[x_0 | x_t]; 0 where v is 0."""
    spread = alpha**2 * variances + sigma**2
    return alpha * variances / spread.clamp_min(torch.finfo(spread.dtype).tiny)


def noisy_std(alpha: Tensor, sigma: Tensor, stds: Tensor) -> Tensor:
    """Returns sqrt(alpha² s² + sigma²), the standard deviations of x_t where x_0 has s."""
    return ((alpha * stds).square() + sigma**2).sqrt()


def gaussian_log(scaled: Tensor, scales: Tensor) -> Tensor:
    """Returns the log density of independent normals over the last axis.

    Args:
        scaled: (x - mean) / standard deviation, (..., d).
        scales: Standard deviations, broadcastable to ``scaled``.

    Returns:
        Log densities, (...).
    """
    kind = wide(scaled)
    volume = scales.to(kind).log().expand_as(scaled).sum(-1)
    constant = scaled.shape[-1] * math.log(2 * math.pi) / 2
    return -scaled.square().sum(-1, dtype=kind) / 2 - volume - constant
