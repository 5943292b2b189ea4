r"""DPS: diffusion posterior sampling, the reference among the interleaving methods."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.method import Info, residual_of
from plugip.options import choose, require_choice
from plugip.prior import Prior
from plugip.problem import Problem
from plugip.reverse import CLIPS, GRIDS, ancestral_step
from plugip.rng import Rng

VARIANCES = ("posterior", "learned")


@dataclass(frozen=True)
class DPSState:
    """Noisy states at the current time, the random streams, and the number of steps made."""

    x_t: Tensor
    rng: Rng
    k: int


@dataclass(frozen=True)
class DPS:
    r"""Samples along the reverse process and pulls each step towards the measurement.

    .. math:: x_s = \mathrm{ancestral}(x_t, \hat x_0) - \zeta\, \nabla_{x_t} \|y - A(\hat
    x_0(x_t))\|_2

    The norm is taken per image; the official code takes one norm over the whole batch, so that
    there an image's answer depends on its neighbours. Costs one NFE and one VJP a step.

    Args:
        steps: Reverse steps; 1000 in the paper.
        zeta: Guidance step. Published for 1000 steps at 256 x 256 and std 0.05: 0.3 for
            super-resolution and deblurring, 0.5 for inpainting, 1.0 for phase retrieval.
        grid: Time grid: uniform, leading, trailing, quadratic or poly7.
        eta: Share of fresh noise; 1 is the ancestral (DDPM) step, 0 DDIM.
        clip: Clip mode for estimates of x_0: none, hard or straight_through; hard in the paper's
            code.
        variance: Of the fresh noise: posterior, or learned, the network's own, as in the paper's
            code; priors that learned none (flows, for instance) have the posterior's then.

    Raises:
        ValueError: If an argument is out of range or a name is unknown.

    Source: Chung et al. 2023 (DPS, ICLR), algorithm 1. The gradient is of the norm, not of its
    square.
    """

    steps: int = 1000
    zeta: float = 0.3
    grid: str = "uniform"
    eta: float = 1.0
    clip: str = "hard"
    variance: str = "posterior"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.zeta < 0 or not 0 <= self.eta <= 1:
            raise ValueError(f"need zeta >= 0 and eta in [0, 1], got {self.zeta} and {self.eta}")
        choose(GRIDS, self.grid, "grid")
        choose(CLIPS, self.clip, "clip")
        require_choice(self.variance, VARIANCES, "variance")
        if self.variance == "learned" and self.eta != 1:
            raise ValueError(f"variance=learned is that of a step with eta=1, got eta={self.eta}")

    @property
    def iterations(self) -> int:
        """Number of steps that ``solve`` makes."""
        return self.steps

    def init(self, problem: Problem, rng: Rng) -> DPSState:
        """Starts every image at its own Gaussian noise."""
        return DPSState(rng.normal(problem.prior.shape, like=problem.y.real), rng, 0)

    def step(self, problem: Problem, state: DPSState) -> tuple[DPSState, Info]:
        """Makes one guided reverse transition."""
        prior, times = problem.prior, GRIDS[self.grid](problem.prior.path, self.steps)
        t, s = times[state.k], times[state.k + 1]
        with torch.enable_grad():
            x_t = state.x_t.detach().requires_grad_()
            mean, variance = self._denoised(prior, x_t, t)
            x0 = CLIPS[self.clip](mean, prior.value_range)
            x_hat = prior.decode(x0)
            y_clean = problem.operator(x_hat)
            distance = problem.squared_residual(y_clean).sqrt()
            # Summing before autograd keeps the images apart: each norm has its own gradient.
            (grad,) = torch.autograd.grad(distance.sum(), x_t)
        noise = state.rng.normal(prior.shape, like=state.x_t)
        variance = None if variance is None else variance.detach()
        known = (prior.path, x0.detach(), state.x_t, t, s)
        moved = ancestral_step(*known, noise, self.eta, variance)
        moved = moved - self.zeta * grad
        last = state.k + 1 == self.steps
        # The answer is the guided state at t = 0, as in the paper, not the last clean estimate.
        x = prior.decode(moved) if last else x_hat.detach()
        x_hat = x.clamp(-1, 1)
        known = None if last else problem.residual(y_clean.detach())
        residual = None if known is None else residual_of(problem, x_hat, x, known)
        done = torch.full_like(distance, last, dtype=torch.bool)
        info = Info(x_hat=x_hat, loss=distance.detach(), done=done, residual=residual)
        return DPSState(moved, state.rng, state.k + 1), info

    def _denoised(self, prior: Prior, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.variance == "learned":
            return prior.with_variance(x_t, t)
        return prior(x_t, t), None

    def finish(self, problem: Problem, state: DPSState) -> Tensor:
        """Returns the state as an image, (B, C, H, W), clamped to [-1, 1]."""
        return problem.prior.decode(state.x_t).clamp(-1, 1)
