"""Gradient steps with Nesterov's momentum, with the state outside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.engine.objective import Evaluation, Objective
from plugip.linalg import norm, per_image


@dataclass(frozen=True)
class NesterovState:
    """Unknowns and their velocity."""

    z: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Nesterov:
    """Plain gradient steps with momentum that looks ahead; every image for itself.

    Equal to ``torch.optim.SGD(nesterov=True)`` on one image. Unlike Adam's its steps follow the
    scale of the loss, so ``lr`` belongs to one loss and one noise level.

    Args:
        lr: Step length in units of the gradient, times the objective's own rates.
        momentum: Share of the velocity that is kept, in [0, 1).
        clip: Largest norm of a gradient, per image; None for no limit.

    Raises:
        ValueError: If an argument is out of range.

    Source: Nesterov 1983; in the form of Sutskever et al. 2013.
    """

    lr: float
    momentum: float = 0.9
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive, or null for no limit, got {self.clip}")

    def init(self, z: Tensor) -> NesterovState:
        """Returns the state at rest."""
        return NesterovState(z, torch.zeros_like(z))

    def step(
        self, objective: Objective, state: NesterovState
    ) -> tuple[NesterovState, Tensor, Evaluation, Tensor]:
        """Evaluates at the current unknowns, then moves; one evaluation."""
        here = objective.evaluate(state.z)
        grad = self._clipped(here.grad)
        velocity = self.momentum * state.velocity + grad
        move = self.lr * (grad + self.momentum * velocity)
        rates = objective.rates(state.z)
        z = objective.project(state.z - (move if rates is None else rates * move))
        done = torch.zeros_like(here.loss, dtype=torch.bool)
        return NesterovState(z, velocity), state.z, here, done

    def _clipped(self, grad: Tensor) -> Tensor:
        if self.clip is None:
            return grad
        size = norm(grad)
        share = self.clip / size.clamp_min(self.clip)  # 1 where the gradient is short enough
        return per_image(share, grad) * grad
