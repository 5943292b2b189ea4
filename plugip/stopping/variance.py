"""Rules that look at the moving variance of the iterates; they need no noise level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.linalg import wide
from plugip.method import Info
from plugip.problem import Problem
from plugip.stopping.rule import Verdict


@dataclass(frozen=True)
class WMVState:
    """The last images, ring-ordered, with running sums; everything per image, float64.

    ``ring`` is W images (B, n), ``total`` (B, n) the sum of images, ``energy`` (B,) the sum of
    squared norms, ``best`` (B,) the least variance and ``waited`` (B,) the steps since.
    """

    ring: tuple[Tensor, ...]
    total: Tensor | None
    energy: Tensor | None
    best: Tensor
    waited: Tensor
    seen: int


@dataclass(frozen=True)
class ESWMV:
    r"""Stops at the least windowed moving variance of the iterates; needs no noise level.

    Iterates settle on the content first and start to move again when they fit the noise. The
    variance of the last W images has its minimum in between:

    .. math:: v_k = \frac{1}{W n} \sum_{w < W} \|x_{k-w} - \bar x_k\|^2

    The iterate that ends the window of least variance is kept. One update costs O(n), whatever W:
    sums are updated with the image that enters and the one that leaves.

    Args:
        window: W, in steps. The published 100 is meant for thousands of Adam steps; L-BFGS, which
            needs thirty, wants about 4.
        patience: Steps without a smaller variance before an image stops.

    Raises:
        ValueError: If window is below 2 or patience below 1.

    Source: Wang et al. 2023 (early stopping for deep image prior, TMLR), and its code.
    """

    window: int = 100
    patience: int = 1000

    def __post_init__(self) -> None:
        if self.window < 2 or self.patience < 1:
            raise ValueError(
                f"need window >= 2 and patience >= 1, got {self.window} and {self.patience}"
            )

    def init(self, problem: Problem) -> WMVState:
        """Returns an empty window."""
        best = torch.full(
            (problem.batch,), torch.inf, dtype=wide(problem.y), device=problem.y.device
        )
        return WMVState((), None, None, best, torch.zeros_like(best), 0)

    def update(self, problem: Problem, state: WMVState, info: Info) -> tuple[WMVState, Verdict]:
        """Slides the window by one image and compares its variance with the least so far."""
        ring, total, energy = self._slide(state, info.x_hat.flatten(1))
        spread = energy / self.window - (total / self.window).square().sum(dim=1)
        variance = (spread / total.shape[1]).clamp_min(0)
        full = state.seen + 1 >= self.window
        better = (variance < state.best) & full & _is_image(info.x_hat)
        waited = torch.where(better, 0.0, state.waited + float(full))
        best = torch.where(better, variance, state.best)
        moved = WMVState(ring, total, energy, best, waited, state.seen + 1)
        return moved, Verdict(better, waited >= self.patience)

    def _slide(self, state: WMVState, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        # float64, because the variance is a small difference of large sums.
        image = _numbers(image.to(wide(image)))
        if state.total is None or state.energy is None:
            ring = (torch.zeros_like(image),) * self.window
            total, energy = torch.zeros_like(image), image.new_zeros(image.shape[0])
        else:
            ring, total, energy = state.ring, state.total, state.energy
        slot = state.seen % self.window
        leaving = ring[slot]
        total = total + image - leaving
        energy = energy + image.square().sum(dim=1) - leaving.square().sum(dim=1)
        return (*ring[:slot], image, *ring[slot + 1 :]), total, energy


def _numbers(image: Tensor) -> Tensor:
    """Puts 0 for what is no number, which would stay in running sums for ever."""
    return image.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _is_image(x_hat: Tensor) -> Tensor:
    """Tells which images hold numbers alone, (B,); others are never picked."""
    return torch.isfinite(x_hat).flatten(1).all(dim=1)


@dataclass(frozen=True)
class EMVState:
    """Running mean (B, n) and variance (B,) of the images, float64; the rest as ``WMVState``."""

    mean: Tensor | None
    variance: Tensor
    best: Tensor
    waited: Tensor
    seen: int


@dataclass(frozen=True)
class ESEMV:
    r"""Stops at the least exponential moving variance of the iterates; keeps one image only.

    .. math:: \delta_k = x_k - m_{k-1}, \quad m_k = m_{k-1} + \alpha \delta_k, \quad
        v_k = (1 - \alpha) (v_{k-1} + \alpha \|\delta_k\|^2 / n)

    The reference answers with the running mean m; here the iterate of least variance is kept, so
    that the answer is one that the method has found. The mean starts at the first iterate; there
    it starts at zero, and the first hundred steps are not judged.

    Args:
        alpha: Share of the newest image in the running mean, in (0, 1); 0.1 as published.
        patience: Steps without a smaller variance before an image stops.
        warmup: First steps, which are not judged.

    Raises:
        ValueError: If an argument is out of range.

    Source: Wang et al. 2023 (early stopping for deep image prior, TMLR), and its code.
    """

    alpha: float = 0.1
    patience: int = 1000
    warmup: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must lie in (0, 1), got {self.alpha}")
        if self.patience < 1 or self.warmup < 1:
            raise ValueError(
                f"need patience >= 1 and warmup >= 1, got {self.patience} and {self.warmup}"
            )

    def init(self, problem: Problem) -> EMVState:
        """Returns the state without a mean."""
        zero = torch.zeros(problem.batch, dtype=wide(problem.y), device=problem.y.device)
        return EMVState(None, zero, torch.full_like(zero, torch.inf), zero, 0)

    def update(self, problem: Problem, state: EMVState, info: Info) -> tuple[EMVState, Verdict]:
        """Moves mean and variance by one image and compares the variance with the least so far."""
        image = _numbers(info.x_hat.flatten(1).to(wide(info.x_hat)))
        before = image if state.mean is None else state.mean
        moved = image - before
        step = moved.square().mean(dim=1)
        variance = (1 - self.alpha) * (state.variance + self.alpha * step)
        judged = state.seen + 1 > self.warmup
        better = (variance < state.best) & judged & _is_image(info.x_hat)
        waited = torch.where(better, 0.0, state.waited + float(judged))
        best = torch.where(better, variance, state.best)
        mean = before + self.alpha * moved
        after = EMVState(mean, variance, best, waited, state.seen + 1)
        return after, Verdict(better, waited >= self.patience)
