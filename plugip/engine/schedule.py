"""How a solver's step shrinks as it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """Says by what the step is multiplied."""

    def __call__(self, updates: int) -> float:
        """Returns the factor of the next update after so many were made."""
        ...


@dataclass(frozen=True)
class Milestones:
    """Multiplies the step by a factor at each milestone.

    Args:
        at: Updates after which the step shrinks, SelfDeblur's by default.
        factor: What each milestone multiplies by.

    Raises:
        ValueError: If the factor is not in (0, 1], or a milestone is below 1.
    """

    at: Sequence[int] = (2000, 3000, 4000)
    factor: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1 or any(n < 1 for n in self.at):
            raise ValueError(
                f"factor must lie in (0, 1] and milestones be at least 1, got {self.factor} "
                f"and {list(self.at)}"
            )
        object.__setattr__(self, "at", tuple(self.at))  # so that equal settings are equal

    def __call__(self, updates: int) -> float:
        return self.factor ** sum(updates >= n for n in self.at)
