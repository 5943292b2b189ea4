r"""Noise paths x_t = alpha(t) x_0 + sigma(t) eps, with t = 0 data and t = 1 noise.

A diffusion model and a flow model differ only in their path. Dividing by alpha + sigma maps any
path onto the rectified flow, x' = (1 - f) x_0 + f eps with f = sigma / (alpha + sigma); this
*bridge* lets one network serve both families.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from plugip.linalg import wide, widened


class Prediction(StrEnum):
    """What a network's output means."""

    X0 = "sample"
    EPS = "epsilon"
    V = "v_prediction"  # alpha eps - sigma x0, Salimans and Ho 2022
    VELOCITY = "velocity"  # dx/df = eps - x0 on the rectified path, pointing towards noise
    SCORE = "score"


@dataclass(frozen=True)
class ValueRange:
    """Range [low, high] of the values that a prior's network was trained on."""

    low: float = -1.0
    high: float = 1.0

    def from_signed(self, x: Tensor) -> Tensor:
        """Maps [-1, 1] onto this range."""
        if self == SIGNED:
            return x
        return self.low + (x + 1) * (self.high - self.low) / 2

    def to_signed(self, x: Tensor) -> Tensor:
        """Maps this range onto [-1, 1]."""
        if self == SIGNED:
            return x
        return 2 * (x - self.low) / (self.high - self.low) - 1


SIGNED = ValueRange(-1.0, 1.0)
UNIT = ValueRange(0.0, 1.0)

# Least sigma of a positive time: float32 can divide by it, and no picture shows it.
LEAST_NOISE = 1e-30


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """Returns ``value`` with the gradient of ``x``, as if one were the other."""
    return x + (value - x).detach()


def within(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Clamps x; on a bound, and where only rounding took it beyond, the gradient passes."""
    bounded = x.clamp_min(low).clamp_max(high)  # whose own gradient is 0 on a bound
    near = (x - bounded).abs() <= torch.finfo(x.dtype).eps ** 0.5 * bounded.abs()
    return torch.where(near, straight_through(x, bounded), bounded)


class Path(ABC):
    """The two functions alpha(t) and sigma(t), and the bridge to the rectified flow."""

    train_steps: int | None = None
    least_level: float = 0.0  # least noise level sigma / alpha of the training, where it is known

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Returns the share of the image at time t, same shape as ``t``."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Returns the share of the noise at time t, same shape as ``t``."""

    @abstractmethod
    def time_of(self, flow_time: Tensor) -> Tensor:
        """Returns the t at which sigma / (alpha + sigma) equals ``flow_time``."""

    def flow_time(self, t: Tensor) -> Tensor:
        """Returns the bridge's time f = sigma / (alpha + sigma), in [0, 1]."""
        sigma = self.noise(t)
        return sigma / (self.alpha(t) + sigma)

    def noise(self, t: Tensor) -> Tensor:
        """Returns sigma(t), which only t = 0 has at 0: at least ``LEAST_NOISE`` elsewhere."""
        sigma = self.sigma(t)
        return torch.where(t > 0, sigma.clamp_min(LEAST_NOISE), sigma)

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Returns alpha(t) and sigma(t), shaped to multiply ``like`` (B, ...); t is () or (B,).

        A scalar time stays where it is, usually float64 on the CPU: it multiplies tensors on any
        device and of any float type without a copy or a synchronisation.
        """
        alpha, sigma = self.alpha(t), self.noise(t)
        if t.ndim == 0:
            return alpha, sigma
        shape = t.shape + (1,) * (like.ndim - t.ndim)
        return alpha.reshape(shape).to(like), sigma.reshape(shape).to(like)

    def noisiest(self, like: Tensor) -> Tensor:
        """Returns the largest flow time, that of t = 1, as a scalar of the type of ``like``."""
        return self.flow_time(like.new_ones(()))

    def reachable(self, flow_time: Tensor) -> Tensor:
        """Clamps flow times to the noisiest; up to rounding beyond it the gradient passes."""
        return within(flow_time, 0.0, self.noisiest(flow_time))

    def ended(self, t: Tensor, flow_time: Tensor) -> Tensor:
        """Returns times of ``reachable`` flow times; exactly 1 from the noisiest on."""
        ends = flow_time >= self.noisiest(flow_time)
        return straight_through(t, torch.where(ends, torch.ones_like(t), t.clamp_max(1)))


@dataclass(frozen=True)
class FlowPath(Path):
    """Rectified flow: alpha = 1 - t, sigma = t.

    Source: Liu et al. 2023 (rectified flow); Lipman et al. 2023, with time reversed.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time_of(self, flow_time: Tensor) -> Tensor:
        return flow_time


@dataclass(frozen=True)
class ShiftedFlowPath(Path):
    r"""Rectified flow whose noise level rises early, sigma = s t / (1 + (s - 1) t), s the shift.

    The states are those of ``FlowPath``; equal steps of t lie closer together near the noise, as
    large images need it, whose coarse structure survives more noise.

    Args:
        shift: The shift s, positive; 3 in Stable Diffusion 3, 1 is ``FlowPath``.

    Raises:
        ValueError: If the shift is not positive.

    Source: Esser et al. 2024 (Stable Diffusion 3), on resolution-dependent time shifts.
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift must be positive, got {self.shift:g}")

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t) / (1 + (self.shift - 1) * t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 + (self.shift - 1) * t)

    def time_of(self, flow_time: Tensor) -> Tensor:
        return flow_time / (self.shift - (self.shift - 1) * flow_time)


@dataclass(frozen=True)
class VPPath(Path):
    r"""Continuous variance-preserving path with linear beta(t).

    .. math:: \log \alpha(t) = -\tfrac14 t^2 (\beta_1 - \beta_0) - \tfrac12 t \beta_0

    Source: Song et al. 2021 (score SDE), the VP perturbation kernel.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def alpha(self, t: Tensor) -> Tensor:
        return (-0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min).exp()

    def sigma(self, t: Tensor) -> Tensor:
        twice = -0.5 * t**2 * (self.beta_max - self.beta_min) - t * self.beta_min
        return (-torch.expm1(twice)).sqrt()

    def time_of(self, flow_time: Tensor) -> Tensor:
        # sigma/alpha = r gives log alpha = -log(1 + r^2) / 2, a quadratic in t.
        f = self.reachable(flow_time)
        minus_log_alpha = 0.5 * torch.log1p((f / (1 - f)).square())
        root = (self.beta_min**2 + 4 * (self.beta_max - self.beta_min) * minus_log_alpha).sqrt()
        # Not (root - beta_min) / spread, which is lost in rounding near t = 0.
        return self.ended(4 * minus_log_alpha / (root + self.beta_min), flow_time)


@dataclass(frozen=True)
class VEPath(Path):
    r"""Variance-exploding path, x_t = x_0 + sigma(t) eps, with EDM's spacing of the levels.

    .. math:: \alpha(t) = 1, \quad \sigma(t) = \sigma_{max}\, t^{\rho}

    K equal steps of t are EDM's K steps with lowest level 0, and ``poly7`` is its published grid.
    At t = 1 a state has standard deviation ``sigma_max``, while methods start at unit noise: so a
    prior is served along ``EDMPath``, the same levels with scaled states, or by ``as_flow``.

    Args:
        sigma_max: Noise level at t = 1, in the units of the clean states.
        rho: Exponent, at least 1; 7 in EDM.

    Raises:
        ValueError: If ``sigma_max`` is not positive or ``rho`` is below 1.

    Source: Song et al. 2021 (score SDE), the VE kernel; Karras et al. 2022, eq. 5.
    """

    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not self.sigma_max > 0 or not self.rho >= 1:
            raise ValueError(
                f"need sigma_max > 0 and rho >= 1, got {self.sigma_max:g} and {self.rho:g}"
            )

    def level(self, t: Tensor) -> Tensor:
        """Returns the noise level sigma / alpha at time t, same shape as ``t``."""
        return self.sigma_max * t**self.rho

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.level(t)

    def time_of(self, flow_time: Tensor) -> Tensor:
        f = self.reachable(flow_time)
        return self.ended((f / (1 - f) / self.sigma_max) ** (1 / self.rho), flow_time)


@dataclass(frozen=True)
class EDMPath(VEPath):
    r"""The noise levels of ``VEPath`` for states of unit variance, x_t / sqrt(1 + sigma^2).

    .. math:: \alpha(t) = 1 / \sqrt{1 + \sigma^2}, \quad \sigma_t = \sigma / \sqrt{1 + \sigma^2},
        \quad \sigma = \sigma_{max}\, t^{\rho}

    Pure noise is N(0, I) here, as methods and seeds expect it. Arguments as for ``VEPath``.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return (1 + self.level(t).square()).rsqrt()

    def sigma(self, t: Tensor) -> Tensor:
        level = self.level(t)
        return level * (1 + level.square()).rsqrt()


class DiscretePath(Path):
    """Variance-preserving path given by a table of alpha-bar, as diffusion checkpoints carry it.

    Index i of T training steps is time (i + 1) / T, and t = 0 is the clean image, alpha-bar = 1;
    so exact indices reproduce published numbers. Between indices alpha-bar is interpolated
    linearly.

    Args:
        alphas_cumprod: The T cumulative products of 1 - beta, decreasing, in (0, 1).

    Raises:
        ValueError: If the table is not a decreasing sequence in (0, 1).
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).cpu()
        inside = table.ndim == 1 and len(table) > 1 and bool(((table > 0) & (table < 1)).all())
        if not inside or bool((table.diff() >= 0).any()):
            raise ValueError("alphas_cumprod must be a decreasing 1-D table with values in (0, 1)")
        self.table = torch.cat([table.new_ones(1), table])
        self.train_steps = self._total = len(table)
        self.least_level = float(((1 - table[0]) / table[0]).sqrt())
        self._copies: dict[tuple[torch.device, bool], Tensor] = {}

    @classmethod
    def linear(
        cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> DiscretePath:
        """Returns the linear-beta schedule of DDPM and of the guided-diffusion checkpoints."""
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        return cls((1 - betas).cumprod(0))

    @classmethod
    def cosine(cls, steps: int = 1000, beta_max: float = 0.999) -> DiscretePath:
        """Returns the cosine schedule: alpha-bar falls as a squared cosine, each beta capped.

        Source: Nichol and Dhariwal 2021 (improved DDPM).
        """
        time = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        bars = ((time + 0.008) / 1.008 * (torch.pi / 2)).cos().square()
        return cls((bars[1:] / bars[:-1]).clamp_min(1 - beta_max).cumprod(0))

    def index(self, t: Tensor) -> Tensor:
        """Returns the training index t T - 1 that a network expects, float, exact on the grid."""
        return _home(self._position(t) - 1, t)

    def alpha_bar(self, t: Tensor) -> Tensor:
        """Returns alpha-bar at time t, float64 where the device has it."""
        return self._interpolated(t)

    def alpha(self, t: Tensor) -> Tensor:
        return self.alpha_bar(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return self._interpolated(t, noise=True).sqrt()

    def time_of(self, flow_time: Tensor) -> Tensor:
        f = widened(self.reachable(flow_time))
        wanted = f.square() / (f.square() + (1 - f).square())  # 1 - alpha-bar
        noise = self._table_on(f.device, noise=True)
        low = (torch.searchsorted(noise, wanted.contiguous()) - 1).clamp(0, self._total - 1)
        inverse = 1 / noise.diff()
        position = low + (wanted - noise[low]) * inverse[low]
        # On an entry the slope is the mean of both sides, as in _interpolated.
        entry = position.round().long()
        slope = (inverse[entry - 1] + inverse[entry.clamp_max(self._total - 1)]) / 2
        on_entry = ((position - entry).abs() < 1e-6) & (entry > 0)
        there = straight_through(slope * wanted, entry.to(wanted))
        time = torch.where(on_entry, there, position) / self._total
        return self.ended(_home(time, flow_time), flow_time)

    def _position(self, t: Tensor) -> Tensor:
        """Returns t T, on the grid where only rounding took it off, but never on t = 0."""
        position = widened(t) * self._total
        entry = position.round()
        rounding = min(1e-3, 4 * torch.finfo(t.dtype).eps * self._total)
        on_entry = ((position - entry).abs() < rounding) & (entry > 0)
        return torch.where(on_entry, straight_through(position, entry), position)

    def _interpolated(self, t: Tensor, noise: bool = False) -> Tensor:
        """Reads a table at time t; on an entry the slope is the mean of both sides."""
        position = within(self._position(t), 0.0, float(self._total))
        table, low = self._table_on(position.device, noise), position.floor().long()
        left = torch.where(position == low, low - 1, low).clamp_min(0)
        right = (low + 1).clamp_max(self._total)
        slope = (table[right] - table[left]) / (right - left)
        return _home(table[low] + slope * (position - low), t)

    def _table_on(self, device: torch.device, noise: bool = False) -> Tensor:
        if (device, noise) not in self._copies:
            table = 1 - self.table if noise else self.table
            self._copies[device, noise] = table.to(device)
        return self._copies[device, noise]


def _home(value: Tensor, t: Tensor) -> Tensor:
    """Brings a float64 result to the device of t, in the widest type that it has."""
    return value.to(t.device, wide(t))


def to_x0(kind: Prediction, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Converts a network's output into E[x_0 | x_t].

    Args:
        kind: What the output means.
        output: The network's output, same shape as ``x_t``.
        x_t: Noisy images, (B, ...).
        alpha: alpha(t), broadcastable to ``x_t``.
        sigma: sigma(t), broadcastable to ``x_t``.

    Returns:
        Denoised images, same shape as ``x_t``. An epsilon or score output has no limit at alpha =
        0.
    """
    if kind is Prediction.X0:
        return output
    if kind is Prediction.EPS:
        return (x_t - sigma * output) / alpha
    if kind is Prediction.V:
        return (alpha * x_t - sigma * output) / (alpha**2 + sigma**2)
    if kind is Prediction.VELOCITY:
        return (x_t - sigma * output) / (alpha + sigma)
    return (x_t + sigma**2 * output) / alpha


def from_x0(kind: Prediction, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Converts E[x_0 | x_t] into the named prediction; the inverse of ``to_x0`` for sigma > 0."""
    if kind is Prediction.X0:
        return x0
    eps = (x_t - alpha * x0) / sigma
    if kind is Prediction.EPS:
        return eps
    if kind is Prediction.V:
        return alpha * eps - sigma * x0
    if kind is Prediction.VELOCITY:
        return eps - x0
    return -eps / sigma
