"""A rule that is chosen by what the noise says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from plugip.method import Info
from plugip.problem import Problem
from plugip.stopping.residual import Discrepancy, expected_moments
from plugip.stopping.rule import Rule, Verdict
from plugip.stopping.variance import ESWMV


@dataclass(frozen=True)
class ByNoise:
    """Judges by one rule where the noise level is known, and by another where it is not.

    Args:
        known: The rule for noise that says how large its residuals are.
        unknown: The rule for any other noise.
    """

    known: Rule[Any] = field(default_factory=Discrepancy)
    unknown: Rule[Any] = field(default_factory=ESWMV)

    def init(self, problem: Problem) -> Any:
        """Returns the first state of the rule that applies."""
        return self._rule(problem).init(problem)

    def update(self, problem: Problem, state: Any, info: Info) -> tuple[Any, Verdict]:
        """Judges one iterate by the rule that applies."""
        return self._rule(problem).update(problem, state, info)

    def _rule(self, problem: Problem) -> Rule[Any]:
        return self.unknown if expected_moments(problem) is None else self.known
