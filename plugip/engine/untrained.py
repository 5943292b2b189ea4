"""What methods with untrained networks share: disturbed inputs, a running mean, and a way back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plugip.engine.adam import Adam, AdamState
from plugip.engine.misfit import Misfit
from plugip.engine.plugin import PlugIn, PlugInState
from plugip.engine.unknowns import Unknowns, with_theta
from plugip.engine.weights import shaken
from plugip.linalg import where
from plugip.method import Info, residual_of
from plugip.operator import Unknown
from plugip.problem import Problem
from plugip.rng import Rng


@dataclass(frozen=True)
class Rollback:
    """Goes back to earlier weights when the fit to y has got much worse since they were saved.

    Fits of untrained networks blow up now and then. Adam's moments are kept, as published: the
    large gradients in them make the next steps short. Where they hold no numbers any more, those
    of the last look take their place.

    Args:
        drop: Fall of the PSNR between A(x) and y that is too much, in dB.
        every: Steps between looks; weights that pass are saved.

    Raises:
        ValueError: If ``drop`` is not positive or ``every`` below 1.

    Source: Ulyanov et al. 2018 (Deep Image Prior), code of the denoising example.
    """

    drop: float = 5.0
    every: int = 100

    def __post_init__(self) -> None:
        if self.drop <= 0 or self.every < 1:
            raise ValueError(
                f"need drop > 0 dB and every >= 1 step, got {self.drop} and {self.every}"
            )

    def look(self, now: Saved, before: Saved | None) -> tuple[Tensor, Saved]:
        """Returns which images fell, (B,) bool, and what is saved from now on."""
        if before is None:
            return torch.zeros_like(now.residual, dtype=torch.bool), now
        # 20 log10 of a ratio of residuals is a difference of PSNRs, whatever the peak. The
        # negation finds a residual that is no number, too.
        limit = (before.residual * 10 ** (self.drop / 20)).clamp_max(_LARGEST)
        fell = ~(now.residual <= limit)
        kept = where(fell, before.v, now.v), where(fell, before.residual, now.residual)
        return fell, Saved(*kept)


@dataclass(frozen=True)
class Saved:
    """Unknowns to go back to, (B, n), and their residual, (B,)."""

    v: Tensor
    residual: Tensor


_LARGEST = torch.finfo(torch.float32).max  # an infinite residual is a fall as well


@dataclass(frozen=True)
class FitState(PlugInState):
    """A running fit of untrained networks.

    Attributes:
        rng: Streams that disturb the networks' inputs.
        steps: Steps made.
        mean: Running mean of the images, (B, C, H, W), where one is kept.
        saved: Unknowns to go back to; None before the first look.
        first: Those of the start, to go back to from a first look that finds no numbers.
        moments: Adam's at the last look, or at the start, where they held numbers.
    """

    rng: Rng
    steps: int = 0
    mean: Tensor | None = None
    saved: Saved | None = None
    first: Saved | None = None
    moments: AdamState | None = None


class UntrainedPlugIn(PlugIn):
    """A plug-in method whose unknowns are the weights of untrained networks.

    Attributes:
        solver: Adam; quasi-Newton methods cannot follow inputs that change in every step.
        jitter: Standard deviation of the noise that is added to the networks' inputs, afresh in
            every step and for every image.
        average: Weight a of the past in the running mean m <- a m + (1 - a) x, which then is the
            estimate and the answer; 0: none is kept.
        rollback: When to go back to earlier weights; None: never.
    """

    solver: Adam  # pyright: ignore[reportIncompatibleVariableOverride]
    jitter: float = 0.0
    average: float = 0.0
    rollback: Rollback | None = None

    def unknowns(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Returns all unknowns, and their first value, (B, n)."""
        return with_theta(problem, *self.search(problem, rng), rng, self.theta_steps)

    def shown(
        self, problem: Problem, x: Tensor, theta: Unknown | None
    ) -> tuple[Tensor, Unknown | None]:
        """Returns the estimate, (B, C, H, W), and theta, of what the networks made."""
        return x, theta

    def init(self, problem: Problem, rng: Rng) -> FitState:
        """Returns the state at the first weights; calls no network."""
        unknowns, v = self.unknowns(problem, rng)
        Misfit(problem, unknowns, self.loss).require_likelihood()
        solver, jitter = self.solver.init(v), rng.child("jitter")
        state = FitState(unknowns, solver, v, None, None, jitter)
        if self.rollback is None:
            return state
        start = Saved(v, torch.full_like(v[:, 0], torch.inf))
        return replace(state, first=start, moments=solver)

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]  # states come from ``init``
        self, problem: Problem, state: FitState
    ) -> tuple[FitState, Info]:
        """Makes one update of the weights; one forward and one backward call of each network."""
        unknowns = state.unknowns
        if self.jitter:
            unknowns = shaken(unknowns, self.jitter, state.rng)
        objective = self.objective(problem, replace(state, unknowns=unknowns))
        solver, v, here, stuck = self.solver.step(objective, state.solver)
        with torch.no_grad():
            x, theta = self.shown(problem, here.x, unknowns.theta(problem, v))
        mean = self._mean(state.mean, x)
        x_hat = (x if mean is None else mean).clamp(-1, 1)
        moved = replace(state, solver=solver, v=v, x=x_hat, theta=theta, mean=mean)
        moved = self._watched(replace(moved, steps=state.steps + 1), here.residual)
        if mean is not None:
            return moved, Info(x_hat, here.loss, stuck)  # the loop measures the mean's residual
        residual = residual_of(problem.known(theta), x_hat, here.x, here.residual)
        return moved, Info(x_hat, here.loss, stuck, residual)

    def finish(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, problem: Problem, state: FitState
    ) -> Tensor:
        """Returns the last estimate, (B, C, H, W); the running mean where one is kept."""
        if state.x is not None:
            return state.x
        with torch.no_grad():
            theta = state.unknowns.theta(problem, state.v)
            return self.shown(problem, state.unknowns.image(problem, state.v), theta)[0]

    def _mean(self, before: Tensor | None, x: Tensor) -> Tensor | None:
        if not self.average or before is None:
            return x if self.average else None
        moved = self.average * before + (1 - self.average) * x
        return where(_sound(x), moved, before)  # what is no number would stay in it for ever

    def _watched(self, state: FitState, residual: Tensor) -> FitState:
        """Looks back where it is time to, and returns what goes on."""
        before, held, solver = state.saved or state.first, state.moments, state.solver
        if self.rollback is None or held is None or state.steps % self.rollback.every:
            return state
        fell, kept = self.rollback.look(Saved(state.v, residual), before)
        sound = _sound(solver.first) & _sound(solver.second)
        solver = replace(
            solver,
            z=where(fell | ~_sound(solver.z), kept.v, solver.z),
            first=where(sound, solver.first, held.first),
            second=where(sound, solver.second, held.second),
        )
        return replace(state, solver=solver, saved=kept, moments=solver)


def _sound(values: Tensor) -> Tensor:
    """Tells which images hold numbers alone, (B,)."""
    return torch.isfinite(values).flatten(1).all(dim=1)


def require_fit_settings(jitter: float, average: float) -> None:
    """Raises a ValueError if jitter is negative or the running mean's weight not in [0, 1)."""
    if jitter < 0 or not 0 <= average < 1:
        raise ValueError(f"need jitter >= 0 and average in [0, 1), got {jitter} and {average}")
