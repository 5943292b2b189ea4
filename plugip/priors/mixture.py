"""Mixtures with exact answers: of Gaussians, and of any priors that know their densities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plugip.linalg import widened
from plugip.path import SIGNED, FlowPath, Path, ValueRange
from plugip.prior import Prior
from plugip.priors.density import DensityPrior, gain, gaussian_log, noisy_std
from plugip.rng import Rng

# Where two noise paths are compared.
TIMES = (0.01, 0.25, 0.5, 0.75, 1.0)


class GaussianMixturePrior(DensityPrior):
    r"""Images drawn from a mixture of Gaussians with independent pixels; all in closed form.

    .. math:: E[x_0 | x_t] = \sum_k r_k \Big( m_k +
        \frac{\alpha s_k^2}{\alpha^2 s_k^2 + \sigma^2} (x_t - \alpha m_k) \Big), \quad
        r_k \propto w_k \mathcal{N}(x_t; \alpha m_k, \alpha^2 s_k^2 + \sigma^2)

    For components with correlated pixels see ``MixturePrior``.

    Args:
        means: Means m_k, (K, C, H, W).
        stds: Standard deviations s_k >= 0 in the units of ``value_range``: one for each component,
            (K,), or one for each of its pixels, (K, C, H, W).
        weights: Positive weights w_k, (K,), scaled to sum to one; equal by default.
        path: Noise path; the rectified flow by default.
        value_range: Range of the images' values.

    Raises:
        ValueError: If the shapes do not fit, a weight is not positive or a deviation is negative.

    Source: Bishop 2006, section 2.3.9, with the posterior of each component as above.
    """

    means: Tensor
    stds: Tensor
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
        weights = torch.ones(count) if weights is None else torch.as_tensor(weights)
        if not count or stds.shape not in ((count,), means.shape) or weights.shape != (count,):
            raise ValueError(
                "means (K, C, H, W), stds (K,) or (K, C, H, W), and weights (K,) must agree, got "
                f"{tuple(means.shape)}, {tuple(stds.shape)} and {tuple(weights.shape)}"
            )
        if not bool((stds >= 0).all()):
            raise ValueError(f"stds must not be negative, got {float(stds.min()):.3g}")
        self.shape, self.path = tuple(means.shape[1:]), path or FlowPath()
        self.value_range = value_range
        self.register_buffer("means", means)
        self.register_buffer("stds", stds)
        self.register_buffer("log_weights", _log_weights(weights).to(means))
        self.freeze()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        means, stds, rest = self._rest(x_t, t)
        alpha, sigma = self.path.coefficients(t, rest)
        shares = self._joint(rest, stds, alpha, sigma).softmax(1).to(rest)
        centres = means + gain(alpha, sigma, stds.square()) * rest
        return (shares.unsqueeze(2) * centres).sum(1).view_as(x_t)

    def log_density(self, x_t: Tensor, t: Tensor) -> Tensor:
        _, stds, rest = self._rest(x_t, t)
        return self._joint(rest, stds, *self.path.coefficients(t, rest)).logsumexp(1)

    def sample(self, rng: Rng) -> Tensor:
        chosen = _choose_components(self.log_weights, rng)
        scale = self.stds.view(len(self.stds), -1).expand_as(self.means.flatten(1))[chosen]
        noise = rng.normal(self.shape, like=self.means)
        return self.means[chosen] + scale.view_as(noise) * noise

    def _rest(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns means (K, d), stds (K, 1 or d), and x_t - alpha m_k, (B, K, d)."""
        x = x_t.flatten(1).unsqueeze(1)
        means, stds = self.means.to(x).flatten(1), self.stds.to(x)
        alpha, _ = self.path.coefficients(t, x)
        return means, stds.view(len(stds), -1), x - alpha * means

    def _joint(self, rest: Tensor, stds: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Returns log w_k p_t(x_t | k), (B, K)."""
        scales = noisy_std(alpha, sigma, stds)
        logs = gaussian_log(rest / scales, scales)
        return logs + self.log_weights.to(logs)


class MixturePrior(DensityPrior):
    r"""Images drawn from one of several priors, each with an exact density; exact itself.

    .. math:: E[x_0 | x_t] = \sum_k r_k E_k[x_0 | x_t], \quad r_k \propto w_k p_{k,t}(x_t)

    The components may be Gaussians of any kind, low-rank ones, or mixtures again. Those without
    a density, networks for instance, are refused: how likely each of them made x_t is not known,
    and a guess would make the mixture something else than it says.

    Args:
        priors: Components of one shape, path and value range.
        weights: Positive weights w_k, (K,), scaled to sum to one; equal by default.

    Raises:
        TypeError: If a component has no log density.
        ValueError: If components do not fit each other, or a weight is not positive.

    Source: Bishop 2006, section 9.2, for the responsibilities r_k.
    """

    log_weights: Tensor

    def __init__(
        self, priors: Sequence[Prior], weights: Tensor | Sequence[float] | None = None
    ) -> None:
        super().__init__()
        parts = _require_densities(priors)
        weights = torch.ones(len(parts)) if weights is None else torch.as_tensor(weights)
        if weights.shape != (len(parts),):
            raise ValueError(
                f"weights must be one number for each of {len(parts)} priors, got "
                f"{tuple(weights.shape)}"
            )
        self.shape, self.path, self.value_range = _common(parts)
        self.priors = nn.ModuleList(parts)
        self.register_buffer("log_weights", _log_weights(weights))
        self.freeze()

    @property
    def components(self) -> list[DensityPrior]:
        """The priors that are mixed."""
        return list(self.priors)  # type: ignore[arg-type]

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        shares = self._joint(x_t, t).softmax(0).to(x_t)
        # Past the components' doors: one answer of the mixture is one call, whatever K is.
        parts = torch.stack([prior.forward(x_t, t) for prior in self.components])
        return torch.einsum("kb,kb...->b...", shares, parts)

    def log_density(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self._joint(x_t, t).logsumexp(0)

    def sample(self, rng: Rng) -> Tensor:
        chosen = _choose_components(self.log_weights, rng)
        states = torch.stack([prior.sample(rng.child("state")) for prior in self.components])
        return states[chosen, torch.arange(len(chosen), device=chosen.device)]

    def _joint(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns log w_k p_t(x_t | k), (K, B)."""
        logs = torch.stack([prior.log_density(x_t, t) for prior in self.components])
        return logs + self.log_weights.to(logs)[:, None]


def _log_weights(weights: Tensor) -> Tensor:
    weights = widened(weights)
    if not bool((weights > 0).all() and weights.isfinite().all()):
        raise ValueError(f"weights must be positive, got {weights.tolist()}")
    return (weights / weights.sum()).log()


def _choose_components(log_weights: Tensor, rng: Rng) -> Tensor:
    """Draws one component for each image, (B,), int64."""
    levels = rng.child("component").uniform(()).double()
    ends = log_weights.cpu().double().exp().cumsum(0)
    return torch.searchsorted(ends[:-1].contiguous(), levels).to(log_weights.device)


def _require_densities(priors: Sequence[Prior]) -> list[DensityPrior]:
    if len(priors) == 0:
        raise ValueError("a mixture needs at least one prior")
    for number, prior in enumerate(priors):
        if not isinstance(prior, DensityPrior):
            raise TypeError(
                f"prior {number} of the mixture, {type(prior).__name__}, has no log density, so "
                "nothing says how likely it made x_t; mix exact priors (GaussianPrior, "
                "GaussianMixturePrior, LowRankGaussian), or use one prior alone"
            )
    return list(priors)  # type: ignore[arg-type]


def _common(priors: list[DensityPrior]) -> tuple[tuple[int, ...], Path, ValueRange | None]:
    first = priors[0]
    for number, prior in enumerate(priors):
        if prior.shape != first.shape or prior.value_range != first.value_range:
            raise ValueError(
                f"prior {number} of the mixture has states {prior.shape} in {prior.value_range}, "
                f"the first one {first.shape} in {first.value_range}; they must agree"
            )
        if not _same_path(prior.path, first.path):
            raise ValueError(
                f"prior {number} of the mixture is on another noise path than the first one; give "
                "all of them the same path"
            )
    return first.shape, first.path, first.value_range


def _same_path(a: Path, b: Path) -> bool:
    times = torch.tensor(TIMES, dtype=torch.float64)
    pairs = ((a.alpha(times), b.alpha(times)), (a.sigma(times), b.sigma(times)))
    return all(torch.allclose(u, v, rtol=1e-6, atol=1e-9) for u, v in pairs)
