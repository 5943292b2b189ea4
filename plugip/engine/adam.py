"""Adam, with its state outside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.engine.objective import Evaluation, Objective
from plugip.engine.schedule import Schedule


@dataclass(frozen=True)
class AdamState:
    """Unknowns, first and second moments, and the number of updates made."""

    z: Tensor
    first: Tensor
    second: Tensor
    updates: int


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction; coordinates are independent, so images are too.

    Equal to ``torch.optim.Adam``; written out because its state must be a value that can lose
    rows.

    Args:
        lr: Step length per coordinate, times the objective's own rates; DMPlug published 0.01.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root of the second moment. Losses that are means over y have gradients
            near 1e-7, where this floor slows Adam down; likelihood losses do not.
        schedule: How lr changes with the number of updates; None: it does not.

    Source: Kingma and Ba 2015, algorithm 1.
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")

    def init(self, z: Tensor) -> AdamState:
        """Returns the state with zero moments."""
        return AdamState(z, torch.zeros_like(z), torch.zeros_like(z), 0)

    def step(
        self, objective: Objective, state: AdamState
    ) -> tuple[AdamState, Tensor, Evaluation, Tensor]:
        """Evaluates at the current unknowns, then moves; one evaluation."""
        here = objective.evaluate(state.z)
        k = state.updates + 1
        first = self.beta1 * state.first + (1 - self.beta1) * here.grad
        second = self.beta2 * state.second + (1 - self.beta2) * here.grad.square()
        lr = self.lr if self.schedule is None else self.lr * self.schedule(state.updates)
        rate = lr / (1 - self.beta1**k)
        spread = (second / (1 - self.beta2**k)).sqrt() + self.eps
        rates = objective.rates(state.z)
        move = rate * first / spread if rates is None else rate * rates * first / spread
        moved = AdamState(objective.project(state.z - move), first, second, k)
        return moved, state.z, here, torch.zeros_like(here.loss, dtype=torch.bool)
