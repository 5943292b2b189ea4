"""Penalties on seeds, one value per image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from plugip.linalg import dot


class Penalty(Protocol):
    """Says how unlikely a seed is.

    Attributes:
        setting: Name of its weight where it is to be weighed against a likelihood, for errors;
            empty where it weighs nothing.
    """

    @property
    def setting(self) -> str: ...

    def __call__(self, z: Tensor) -> Tensor:
        """Returns the penalty, (B, ...) -> (B,), differentiable."""
        ...


def _require_weight(weight: float) -> None:
    if weight < 0:
        raise ValueError(f"seed_weight must not be negative, got {weight}")


@dataclass(frozen=True)
class GaussianPenalty:
    r"""Minus the log density of N(0, I), lambda ‖z‖² / 2; least at z = 0.

    Args:
        weight: lambda; 1 is the MAP estimate, 0 none.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        _require_weight(self.weight)

    @property
    def setting(self) -> str:
        return "seed_weight" if self.weight else ""

    def __call__(self, z: Tensor) -> Tensor:
        return 0.5 * self.weight * dot(z, z)


@dataclass(frozen=True)
class ChiPenalty:
    r"""Minus the log density of the norm of a Gaussian seed; least at ‖z‖ = sqrt(d - 1).

    .. math:: \lambda \left( \tfrac{1}{2} \|z\|^2 - (d - 1) \log \|z\| \right)

    Almost flat around its minimum, and blind to directions. Open code had it with the wrong sign
    until March 2026, where it pushed seeds away from the shell.

    Args:
        weight: lambda.

    Source: Ben-Hamu et al. 2024 (D-Flow).
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        _require_weight(self.weight)

    @property
    def setting(self) -> str:
        return "seed_weight" if self.weight else ""

    def __call__(self, z: Tensor) -> Tensor:
        squared = dot(z, z)
        # At z = 0 the logarithm would have no value; the floor's gradient there is zero.
        log_norm = 0.5 * squared.clamp_min(1e-12).log()
        return self.weight * (0.5 * squared - (z[0].numel() - 1) * log_norm)
