"""The few-step reverse process z -> x_0: time grids, steps, and their composition.

One DDIM step is an Euler step of the probability-flow equation on the rectified path, whatever the
prior's own path; Heun and midpoint steps are taken there as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from plugip.linalg import where
from plugip.options import choose
from plugip.path import Path, ValueRange, straight_through
from plugip.prior import Prior

# -----------------------------------------------------------------------------------------------
# grids


def uniform_grid(path: Path, steps: int) -> Tensor:
    """Returns ``steps`` + 1 equally spaced times from 1 to 0."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def leading_grid(path: Path, steps: int) -> Tensor:
    """Returns DDIM's "leading" times: 666, 333, 0 of 1000 for three steps, then t = 0."""
    total = _training_steps(path, steps)
    indices = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (total // steps)
    return torch.cat([(indices + 1) / total, indices.new_zeros(1)])


def trailing_grid(path: Path, steps: int) -> Tensor:
    """Returns "trailing" times: 999, 666, 332 of 1000 for three steps, then the clean image."""
    total = _training_steps(path, steps)
    counts = torch.arange(steps, 0, -1, dtype=torch.float64) * total / steps
    return torch.cat([counts.round() / total, counts.new_zeros(1)])


def quadratic_grid(path: Path, steps: int) -> Tensor:
    """Returns times proportional to squares, from 1 to 0, denser near the image."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64).square()


def poly7_grid(path: Path, steps: int, high: float = 80.0, low: float = 0.002) -> Tensor:
    """Returns EDM's times: noise levels sigma/alpha with equally spaced seventh roots, then 0.

    Source: Karras et al. 2022, eq. 5 with rho = 7.
    """
    end = torch.tensor(1.0, dtype=torch.float64)
    high = min(high, float(path.sigma(end) / path.alpha(end)))  # the noisiest level that there is
    roots = torch.linspace(high ** (1 / 7), low ** (1 / 7), steps, dtype=torch.float64)
    levels = roots**7
    return torch.cat([path.time_of(levels / (1 + levels)).double(), levels.new_zeros(1)])


def _training_steps(path: Path, steps: int) -> int:
    total = path.train_steps or 1000
    if steps > total:
        raise ValueError(
            f"steps must be at most {total}, the training steps of the path, got {steps}"
        )
    return total


GRIDS: dict[str, Callable[[Path, int], Tensor]] = {
    "uniform": uniform_grid,
    "leading": leading_grid,
    "trailing": trailing_grid,
    "quadratic": quadratic_grid,
    "poly7": poly7_grid,
}

# -----------------------------------------------------------------------------------------------
# clips


def clip_hard(x0: Tensor, bounds: ValueRange | None) -> Tensor:
    """Clamps to the prior's range; no gradient where it acts."""
    return x0 if bounds is None else x0.clamp(bounds.low, bounds.high)


def clip_straight_through(x0: Tensor, bounds: ValueRange | None) -> Tensor:
    """Clamps the value and lets the gradient pass as if it had not."""
    return straight_through(x0, clip_hard(x0, bounds))


def clip_none(x0: Tensor, bounds: ValueRange | None) -> Tensor:
    """Leaves the value as it is."""
    return x0


Clip = Callable[[Tensor, ValueRange | None], Tensor]
CLIPS: dict[str, Clip] = {
    "none": clip_none,
    "hard": clip_hard,
    "straight_through": clip_straight_through,
}

# -----------------------------------------------------------------------------------------------
# steps


def ddim_step(prior: Prior, x_t: Tensor, t: Tensor, s: Tensor, clip: Clip = clip_none) -> Tensor:
    r"""Moves x_t from time t to s < t along the deterministic reverse process.

    .. math:: x_s = \alpha_s \hat{x}_0 + \sigma_s (x_t - \alpha_t \hat{x}_0) / \sigma_t

    Differentiable in x_t. Costs one NFE.

    Args:
        prior: Gives the estimate of x_0.
        x_t: Noisy states, (B, *prior.shape).
        t: Current time, () or (B,), in (0, 1].
        s: Target time, same shape as ``t``, in [0, t).
        clip: Applied to the estimate of x_0; eps is derived from the clipped estimate.

    Returns:
        States at time s, (B, *prior.shape).

    Source: Song et al. 2021 (DDIM), eq. 12 with eta = 0.
    """
    x0 = clip(prior(x_t, t), prior.value_range)
    return interpolate(prior.path, x0, x_t, t, s)


def interpolate(path: Path, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Returns alpha_s x0 + sigma_s eps, eps being the noise that x0 leaves in x_t."""
    alpha_t, sigma_t = path.coefficients(t, x_t)
    alpha_s, sigma_s = path.coefficients(s, x_t)
    ratio = sigma_s / sigma_t
    return (alpha_s - alpha_t * ratio) * x0 + ratio * x_t


def ancestral_step(
    path: Path,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    s: Tensor,
    noise: Tensor,
    eta: float = 1.0,
    variance: Tensor | None = None,
) -> Tensor:
    r"""Moves x_t to time s with fresh noise.

    eta = 1 is the DDPM posterior given x_0, eta = 0 the DDIM step.

    .. math:: c = \eta \frac{\sigma_s}{\sigma_t}
        \sqrt{\sigma_t^2 - (\alpha_t / \alpha_s)^2 \sigma_s^2}, \quad
        x_s = \alpha_s x_0 + \sqrt{\sigma_s^2 - c^2}\, \epsilon + c\, n

    Args:
        path: The prior's path.
        x0: Estimate of the clean states, (B, ...).
        x_t: Noisy states, (B, ...).
        t: Current time, () or (B,).
        s: Target time, same shape.
        noise: Standard normal n, same shape as ``x_t``.
        eta: Share of fresh noise, in [0, 1].
        variance: The prior's own variance of the fresh noise, as ``Prior.with_variance`` gives it,
            (B, ...); that of the formula if None. The mean stays that of the formula.

    Source: Song et al. 2021 (DDIM), eq. 16; any Gaussian path by the same algebra.
    """
    alpha_t, sigma_t = path.coefficients(t, x_t)
    alpha_s, sigma_s = path.coefficients(s, x_t)
    jump = (sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2).clamp_min(0)
    c = eta * sigma_s / sigma_t * jump.sqrt()
    eps = (x_t - alpha_t * x0) / sigma_t
    mean = alpha_s * x0 + (sigma_s**2 - c**2).clamp_min(0).sqrt() * eps
    if variance is None:
        return mean + c * noise
    # The logarithm of the variance lies between those of c^2 (at eta = 1) and of the jump.
    std = jump.sqrt() * (sigma_s / sigma_t) ** (1 - variance)
    return mean + torch.where(sigma_s > 0, std, torch.zeros_like(std)) * noise


def heun_step(prior: Prior, x_t: Tensor, t: Tensor, s: Tensor, clip: Clip = clip_none) -> Tensor:
    """Moves x_t to time s by Heun's rule on the rectified path; two NFE, one when s is 0.

    A flow time of s below ``VANISHING`` times that of t counts as 0: the noise in x_s is then lost
    in rounding, and its slope with it. Arguments as in ``ddim_step``.

    Source: Karras et al. 2022, algorithm 1, on the flow's time.
    """
    x0 = clip(prior(x_t, t), prior.value_range)
    x_s = interpolate(prior.path, x0, x_t, t, s)
    ends = prior.path.flow_time(s) <= VANISHING * prior.path.flow_time(t)
    if bool(ends.all()):
        return x_s
    # Images that end now take the Euler step; t stands in for their s, where no noise is left.
    middle = torch.where(ends, t, s)
    x0_s = clip(prior(x_s, middle), prior.value_range)
    slope_t, slope_s = _velocity(prior.path, x0, x_t, t), _velocity(prior.path, x0_s, x_s, middle)
    return where(ends, x_s, _advance(prior.path, x_t, t, s, (slope_t + slope_s) / 2))


def midpoint_step(
    prior: Prior, x_t: Tensor, t: Tensor, s: Tensor, clip: Clip = clip_none
) -> Tensor:
    """Moves x_t to time s by the midpoint rule on the rectified path; two NFE.

    Arguments as in ``ddim_step``.
    """
    path = prior.path
    middle = path.time_of((path.flow_time(t) + path.flow_time(s)) / 2)
    x_m = ddim_step(prior, x_t, t, middle, clip)
    x0_m = clip(prior(x_m, middle), prior.value_range)
    return _advance(path, x_t, t, s, _velocity(path, x0_m, x_m, middle))


def _velocity(path: Path, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    alpha_t, sigma_t = path.coefficients(t, x_t)
    return (x_t - alpha_t * x0) / sigma_t - x0


def _advance(path: Path, x_t: Tensor, t: Tensor, s: Tensor, velocity: Tensor) -> Tensor:
    alpha_t, sigma_t = path.coefficients(t, x_t)
    alpha_s, sigma_s = path.coefficients(s, x_t)
    scale_t, scale_s = alpha_t + sigma_t, alpha_s + sigma_s
    return scale_s * (x_t / scale_t + (sigma_s / scale_s - sigma_t / scale_t) * velocity)


VANISHING = 1e-3  # share of the noise at which a slope can still be read from float32 states

Step = Callable[[Prior, Tensor, Tensor, Tensor, Clip], Tensor]
STEPS: dict[str, Step] = {"ddim": ddim_step, "heun": heun_step, "midpoint": midpoint_step}

# --- the whole
# process


def reverse(
    prior: Prior,
    z: Tensor,
    times: Tensor,
    step: Step = ddim_step,
    clip: Clip = clip_none,
    checkpoint: bool = False,
) -> Tensor:
    """Runs the reverse process from a seed to a clean state, differentiably.

    Args:
        prior: The prior; its path gives the coefficients.
        z: Latent seeds, (B, *prior.shape), taken as the state at ``times[0]``.
        times: Decreasing times, (K + 1,), the last one 0 for a clean state.
        step: One step, such as ``ddim_step``.
        clip: Clip mode for the estimates of x_0.
        checkpoint: Recompute each step in the backward pass: memory constant in K, one more NFE a
            step.

    Returns:
        Clean states h, (B, *prior.shape); ``prior.decode`` makes images of them.
    """
    for t, s in pairwise(times):
        if checkpoint:
            z = recompute(step, prior, z, t, s, clip, use_reentrant=False)  # type: ignore[assignment]
        else:
            z = step(prior, z, t, s, clip)
    return z


@dataclass(frozen=True)
class Generator:
    """The map R from seeds to images: a reverse process followed by the prior's decoder.

    A prior that is such a map itself (a GAN, a consistency model) makes its images in its own way,
    and nothing here applies to it.

    Args:
        steps: Number of reverse steps K.
        grid: Time grid: uniform, leading, trailing, quadratic or poly7; or the K times themselves,
            decreasing within (0, 1], to which the final 0 is added.
        solver: Step rule: ddim, heun or midpoint.
        clip: Clip mode for estimates of x_0: none, hard or straight_through.
        checkpoint: Recompute activations; memory constant in ``steps``, about half more time.

    Raises:
        ValueError: If a name is unknown (the nearest is suggested), ``steps`` is below 1, or given
            times are not one for each step, decreasing within (0, 1].
    """

    steps: int = 3
    grid: str | Sequence[float] = "uniform"
    solver: str = "ddim"
    clip: str = "none"
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if isinstance(self.grid, str):
            choose(GRIDS, self.grid, "grid")
        else:  # as a tuple, so that equal settings are equal and have one hash
            object.__setattr__(self, "grid", _given_times(self.grid, self.steps))
        choose(STEPS, self.solver, "solver")
        choose(CLIPS, self.clip, "clip")

    def times(self, path: Path) -> Tensor:
        """Returns the K + 1 decreasing times on a path."""
        if isinstance(self.grid, str):
            return GRIDS[self.grid](path, self.steps)
        return torch.tensor([*self.grid, 0.0], dtype=torch.float64)

    def __call__(self, prior: Prior, z: Tensor) -> Tensor:
        """Maps seeds (B, *prior.shape) to images (B, C, H, W)."""
        if not prior.denoises:
            return prior.decode(z)
        h = reverse(
            prior, z, self.times(prior.path), STEPS[self.solver], CLIPS[self.clip], self.checkpoint
        )
        return prior.decode(h)


def _given_times(grid: Iterable[float], steps: int) -> tuple[float, ...]:
    times = [float(t) for t in grid] if isinstance(grid, Iterable) else []
    falls = all(t > s for t, s in pairwise([*times, 0.0]))
    if len(times) != steps or not falls or times[0] > 1:
        raise ValueError(
            f"grid must be a name ({', '.join(GRIDS)}) or one time for each of the {steps} steps, "
            f"decreasing within (0, 1], got {grid}"
        )
    return tuple(times)
