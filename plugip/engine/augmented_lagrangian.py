r"""Augmented Lagrangian: a cost is minimised while one number per image is kept within bounds.

.. math:: \min_v f(v) \quad\text{subject to}\quad a \le c(v) \le b

is solved in rounds. Each round minimises, with multiplier mu and penalty weight rho of its own for
each image,

.. math:: L(v) = f(v) + \tfrac{\rho}{2} \operatorname{dist}^2(c(v) + \mu / \rho,\ [a, b])

and then updates them: mu becomes rho times the signed distance. a = b is an equality, a = -inf an
inequality. At the end of a round the gradient of L is that of the Lagrangian f + mu c with the
updated multiplier, which is what a certificate states.

Source: Rockafellar 1976 and Bertsekas 1982 for bounds on both sides; the penalty rule as in
Birgin and Martinez 2014.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from plugip.diagnostics import Ending
from plugip.engine.lbfgs import LBFGS, LBFGSState
from plugip.engine.misfit import Misfit
from plugip.engine.objective import Evaluation, Objective
from plugip.linalg import norm, per_image
from plugip.method import take


@dataclass(frozen=True)
class Bound:
    """The interval [low, high] in which c must lie, in its unit; either end may be infinite."""

    low: float
    high: float

    def excess(self, c: Tensor) -> Tensor:
        """Returns the signed distance of c from the interval, (B,)."""
        return c - c.clamp(self.low, self.high)


@dataclass(frozen=True)
class Constrained(Objective, ABC):
    """An augmented Lagrangian at given multipliers; subclasses say what f and c are.

    Both are functions of the seeds z and of the data term, so that one evaluation of the latter
    serves them.

    Attributes:
        data: The data term, without a penalty.
        bound: Where c must lie.
        multiplier: mu, (B,).
        penalty: rho, (B,).
    """

    data: Misfit
    bound: Bound
    multiplier: Tensor
    penalty: Tensor

    @abstractmethod
    def cost(self, z: Tensor, data: Tensor) -> Tensor:
        """Returns f, (B,), from seeds (B, ...) and data terms (B,), differentiably."""

    @abstractmethod
    def constraint(self, z: Tensor, squared: Tensor) -> Tensor:
        """Returns c, (B,), from seeds and ‖A(x) - y‖², (B,), differentiably.

        Where the second is looked at, the data term must be it (loss "sum").
        """

    def parts(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Returns f and c per image, (B,) each, differentiable in v."""
        z, data = self._seed(v), self.data(v)
        return self.cost(z, data), self.constraint(z, data)

    def __call__(self, v: Tensor) -> Tensor:
        """Returns L per image, (B,), differentiable in v."""
        return self._combine(v, self.data(v))

    def evaluate(self, v: Tensor) -> Evaluation:
        """Returns value and gradient of L; costs what an evaluation of the data term costs."""
        here = self.data.evaluate(v)
        with torch.enable_grad():
            free, data = v.detach().requires_grad_(), here.loss.detach().requires_grad_()
            total = self._combine(free, data)
            direct, weight = torch.autograd.grad(
                total.sum(), (free, data), allow_unused=True, materialize_grads=True
            )
        grad = direct + per_image(weight, v) * here.grad
        return replace(here, loss=total.detach(), grad=grad)

    def evaluate_rows(self, v: Tensor, rows: list[int]) -> Evaluation:
        with self.data.problem.prior.counter.only(rows):
            return take(self, rows).evaluate(v[rows])

    def project(self, v: Tensor) -> Tensor:
        return self.data.project(v)

    def rates(self, v: Tensor) -> Tensor | None:
        return self.data.rates(v)

    def place(self, v: Tensor, here: Evaluation) -> Tensor:
        """Returns c, (B,), at evaluated unknowns; makes no network call."""
        squared = here.residual.square() * self.data.problem.observed_count()
        return self.constraint(self._seed(v), squared)

    def excess(self, c: Tensor) -> Tensor:
        """Returns the signed distance of c + mu / rho from the interval, (B,)."""
        return self.bound.excess(c + self.multiplier / self.penalty)

    def gap(self, c: Tensor) -> Tensor:
        """Returns |c - the point of the interval that L draws it to|, (B,).

        It vanishes where c is admissible and the multiplier of an inactive bound is 0.
        """
        return (self.excess(c) - self.multiplier / self.penalty).abs()

    def _combine(self, v: Tensor, data: Tensor) -> Tensor:
        z = self._seed(v)
        pull = self.excess(self.constraint(z, data))
        return self.cost(z, data) + 0.5 * self.penalty * pull.square()

    def _seed(self, v: Tensor) -> Tensor:
        z = self.data.unknowns.seed(v)
        return v if z is None else z


@dataclass(frozen=True)
class ALState:
    """A running search.

    Attributes:
        inner: State of the inner solver.
        multiplier: mu per image, (B,).
        penalty: rho per image, (B,).
        gap: |c - its nearest admissible value| that the last round ended with, (B,).
        stationarity: Of the last evaluation, (B,).
        violation: Of the last evaluation, (B,).
        ending: How the search stands, (B,) int64: converged, or stuck within the round.
        steps: Inner iterations made, in all rounds.
    """

    inner: LBFGSState
    multiplier: Tensor
    penalty: Tensor
    gap: Tensor
    stationarity: Tensor
    violation: Tensor
    ending: Tensor
    steps: int


@dataclass(frozen=True)
class AugmentedLagrangian:
    """Rounds of L-BFGS iterations, each followed by an update of multipliers and penalty weights.

    Args:
        inner_iterations: L-BFGS iterations of one round, at least 2: the first one evaluates. An
            image that is far from its round's minimum then goes on with another round like it.
        penalty: First weight rho, in units of the cost's size as the method states it.
        growth: Factor of rho where a round did not bring c much closer to its bounds.
        shrink: A round is good enough if it leaves this share of the last round's gap.
        stationarity: An image ends when the Lagrangian's gradient is at most this, relative to
            max(1, ‖v‖), and
        feasibility: its gap at most this.
        inner: The inner solver; it keeps its memory from round to round.

    Raises:
        ValueError: If an argument is out of range.
    """

    inner_iterations: int = 10
    penalty: float = 10.0
    growth: float = 4.0
    shrink: float = 0.5
    stationarity: float = 1e-3
    feasibility: float = 1e-3
    inner: LBFGS = field(default_factory=lambda: LBFGS(history=20))

    def __post_init__(self) -> None:
        if self.inner_iterations < 2:
            raise ValueError(f"inner_iterations must be at least 2, got {self.inner_iterations}")
        if self.penalty <= 0 or self.growth <= 1 or not 0 < self.shrink < 1:
            raise ValueError(
                "need penalty > 0, growth > 1 and 0 < shrink < 1, got "
                f"{self.penalty}, {self.growth} and {self.shrink}"
            )

    def init(self, z: Tensor) -> ALState:
        """Returns the state with no multipliers and an infinite gap."""
        zero = z.new_zeros(z.shape[0])
        end, weight = torch.full_like(zero, torch.inf), torch.full_like(zero, self.penalty)
        inner = self.inner.init(z)
        return ALState(inner, zero, weight, end, end, end, inner.ending, 0)

    def step(
        self, objective: Constrained, state: ALState
    ) -> tuple[ALState, Tensor, Evaluation, Tensor]:
        """Makes one inner iteration; the last one of a round updates mu and rho."""
        inner, v, here, stuck = self.inner.step(objective, state.inner)
        c, flatness = objective.place(v, here), _relative(here, v)
        gap, violation = objective.gap(c), objective.bound.excess(c).abs()
        done = (flatness <= self.stationarity) & (gap <= self.feasibility)
        ending = torch.where(inner.ending == Ending.STUCK, inner.ending, int(Ending.OPEN))
        ending = torch.where(done, int(Ending.CONVERGED), ending)
        state = replace(state, inner=inner, stationarity=flatness, violation=violation)
        state = replace(state, ending=ending, steps=state.steps + 1)
        if state.steps % self.inner_iterations == 0:
            # A round whose minimum is not reached says little about mu, and nothing about rho.
            ready = stuck | (flatness <= 10 * gap.clamp_min(self.stationarity))
            state = self._next_round(state, objective, c, ready)
        return state, v, here, done

    def _next_round(
        self, state: ALState, objective: Constrained, c: Tensor, ready: Tensor
    ) -> ALState:
        gap = objective.gap(c)
        slow = (gap > self.shrink * state.gap) & (gap > self.feasibility)
        grown = torch.where(slow, self.growth, 1.0) * state.penalty
        updated = objective.penalty * objective.excess(c)
        return replace(
            state,
            inner=self.inner.again(state.inner),
            multiplier=torch.where(ready, updated, state.multiplier),
            penalty=torch.where(ready, grown, state.penalty),
            gap=torch.where(ready, gap, state.gap),
        )


def _relative(here: Evaluation, v: Tensor) -> Tensor:
    size = norm(here.grad) / norm(v).clamp_min(1)
    return size if here.unit is None else size / here.unit
