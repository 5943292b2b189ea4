"""Where a seed optimisation starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from plugip.problem import Problem
from plugip.rng import Rng


class Start(Protocol):
    """Chooses the first seed of each image."""

    def __call__(self, problem: Problem, rng: Rng) -> Tensor:
        """Returns seeds, (B, *prior.shape)."""
        ...


@dataclass(frozen=True)
class ZeroStart:
    """Starts at z = 0, the mode of the seed prior: smooth first, details as y asks for them."""

    def __call__(self, problem: Problem, rng: Rng) -> Tensor:
        """Returns zeros, (B, *prior.shape)."""
        like = problem.y.real
        shape = (problem.batch, *problem.prior.shape)
        return torch.zeros(shape, dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class GaussianStart:
    """Starts at scale * N(0, I), each image from its own stream; DMPlug published scale 1."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ValueError(f"scale must not be negative, got {self.scale}")

    def __call__(self, problem: Problem, rng: Rng) -> Tensor:
        """Returns Gaussian seeds, (B, *prior.shape)."""
        return self.scale * rng.normal(problem.prior.shape, like=problem.y.real)
