"""What a stopping rule is: it watches the iterates of each image, and never the true image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from plugip.method import Info
from plugip.problem import Problem

S = TypeVar("S")


@dataclass(frozen=True)
class Verdict:
    """A rule's word on one iterate, (B,) bool each: the new answer? the end?"""

    pick: Tensor
    stop: Tensor


@runtime_checkable
class Rule(Protocol[S]):
    """Watches the iterates of each image; a frozen dataclass of settings."""

    def init(self, problem: Problem) -> S:
        """Returns the state before the first iterate; refuses what it cannot judge."""
        ...

    def update(self, problem: Problem, state: S, info: Info) -> tuple[S, Verdict]:
        """Judges one iterate."""
        ...
