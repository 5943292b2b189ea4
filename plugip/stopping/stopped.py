"""A method whose answer is chosen by a stopping rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from plugip.diagnostics import Certificate
from plugip.linalg import where
from plugip.method import Info, Method, require_method, require_theta
from plugip.operator import Unknown
from plugip.problem import Problem
from plugip.refusals import require_part
from plugip.rng import Rng
from plugip.stopping.rule import Rule

S = TypeVar("S")
BESIDE = ("seed", "theta", "certificate")  # what a method may say of an iterate


@dataclass(frozen=True)
class StoppedState:
    """States of method and rule, the picks, and the step of each pick (0: none yet).

    Attributes:
        method, rule: Their states.
        picked: Images, None before the first step.
        beside: What the method said of the picked iterates: seed, theta, certificate.
        picked_step: Steps of the picks, (B,).
        latest: The last iterate.
        step: Steps made.
    """

    method: Any
    rule: Any
    picked: Tensor | None
    beside: dict[str, Any]
    picked_step: Tensor
    latest: Tensor | None
    step: int


@dataclass(frozen=True)
class Stopped(Generic[S]):
    """A method whose answer is chosen by a stopping rule.

    The rule sees only what the method reports. Its pick is kept apart, so that the last iterate
    stays known beside it. An image on which the rule never fires is answered with its last
    iterate.

    Args:
        method: The method that makes the iterates.
        rule: The rule that picks one.
        halt: End an image when the rule says so; False goes on to the method's own end and only
            remembers the pick, to compare both.
    """

    method: Method[Any]
    rule: Rule[Any]
    halt: bool = True

    def __post_init__(self) -> None:
        require_method(self.method)
        require_part(self.rule, Rule, "rule", "make one, such as plugip.stopping.Discrepancy()")

    @property
    def iterations(self) -> int | None:
        """Steps after which the method itself ends, if it is known."""
        return getattr(self.method, "iterations", None)

    def init(self, problem: Problem, rng: Rng) -> StoppedState:
        """Returns the first states of rule and method."""
        require_theta(problem, self.method)
        rule = self.rule.init(problem)
        step = torch.zeros(problem.batch, dtype=torch.long, device=problem.y.device)
        return StoppedState(self.method.init(problem, rng), rule, None, {}, step, None, 0)

    def step(self, problem: Problem, state: StoppedState) -> tuple[StoppedState, Info]:
        """Makes one step of the method and lets the rule judge it."""
        inner, info = self.method.step(problem, state.method)
        told = {name: self._told(name, inner) for name in BESIDE}
        if info.residual is None:
            known = problem.known(told["theta"])
            with torch.no_grad():
                residual = known.residual(known.operator(info.x_hat))
            info = replace(info, residual=residual)
        rule, verdict = self.rule.update(problem, state.rule, info)
        picked = _kept(verdict.pick, info.x_hat, state.picked)
        kept = {n: _kept(verdict.pick, now, state.beside.get(n)) for n, now in told.items()}
        at = torch.where(verdict.pick, state.step + 1, state.picked_step)
        moved = StoppedState(inner, rule, picked, kept, at, info.x_hat, state.step + 1)
        done = info.done | verdict.stop if self.halt else info.done
        return moved, replace(info, done=done)

    def finish(self, problem: Problem, state: StoppedState) -> Tensor:
        """Returns the picked images, and the last iterate where nothing was picked."""
        if state.picked is None or state.latest is None:
            return self.method.finish(problem, state.method)
        return where(state.picked_step > 0, state.picked, state.latest)

    def seed(self, state: StoppedState) -> Tensor | None:
        """Returns the seed of each image's answer, if the method has seeds."""
        return self._answer(state, "seed")

    def theta(self, state: StoppedState) -> Unknown | None:
        """Returns each image's value of a blind operator's unknown, if the method has one."""
        return self._answer(state, "theta")

    def certificate(self, state: StoppedState) -> Certificate | None:
        """Returns the certificate of each image's answer, if the method has one."""
        return self._answer(state, "certificate")

    def _answer(self, state: StoppedState, name: str) -> Any:
        latest, picked = self._told(name, state.method), state.beside.get(name)
        if latest is None or picked is None:
            return latest
        return _kept(state.picked_step > 0, picked, latest)

    def _told(self, name: str, state: Any) -> Any:
        function = getattr(self.method, name, None)
        return None if function is None else function(state)

    def start_losses(self, state: StoppedState) -> Tensor | None:
        """Returns what each start was judged by, (B, S), if the method has several."""
        return self._told("start_losses", state.method)

    def picked_step(self, state: StoppedState) -> Tensor:
        """Returns the step of each image's answer, (B,); 0 where the rule never fired."""
        return state.picked_step


def _kept(pick: Tensor, now: Any, before: Any) -> Any:
    if now is None or before is None:
        return now
    if isinstance(now, dict):
        return {name: where(pick, now[name], before[name]) for name in now}
    if isinstance(now, Certificate):
        return Certificate(
            where(pick, now.stationarity, before.stationarity),
            where(pick, now.violation, before.violation),
        )
    return where(pick, now, before)
