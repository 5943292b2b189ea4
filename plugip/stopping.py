"""Stopping rules: which iterate to answer with, decided per image and without the true image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from plugip.diagnostics import Certificate
from plugip.linalg import where
from plugip.method import Info, Method, require_theta
from plugip.noise import residual_moments
from plugip.noise.base import Moments
from plugip.operator import Unknown
from plugip.problem import Problem
from plugip.rng import Rng

S = TypeVar("S")
BESIDE = ("seed", "theta", "certificate")  # what a method may say of an iterate


@dataclass(frozen=True)
class Verdict:
    """A rule's word on one iterate, (B,) bool each: the new answer? the end?"""

    pick: Tensor
    stop: Tensor


class Rule(Protocol[S]):
    """Watches the iterates of each image; a frozen dataclass of settings."""

    def init(self, problem: Problem) -> S:
        """Returns the state before the first iterate; refuses what it cannot judge."""
        ...

    def update(self, problem: Problem, state: S, info: Info) -> tuple[S, Verdict]:
        """Judges one iterate."""
        ...


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
            info = Info(info.x_hat, info.loss, info.done, residual)
        rule, verdict = self.rule.update(problem, state.rule, info)
        picked = _kept(verdict.pick, info.x_hat, state.picked)
        kept = {n: _kept(verdict.pick, now, state.beside.get(n)) for n, now in told.items()}
        at = torch.where(verdict.pick, state.step + 1, state.picked_step)
        moved = StoppedState(inner, rule, picked, kept, at, info.x_hat, state.step + 1)
        done = info.done | verdict.stop if self.halt else info.done
        return moved, Info(info.x_hat, info.loss, done, info.residual)

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


@dataclass(frozen=True)
class DiscrepancyState:
    """Which images have stopped, (B,) bool, and at which residual each of them does, (B,)."""

    stopped: Tensor
    limit: Tensor


@dataclass(frozen=True)
class Discrepancy:
    """Stops at the first iterate whose residual is as small as the noise (Morozov).

    Where the noise depends on the signal (photons), its size is that of noise around y.

    Args:
        tau: Stop when chi-square, ‖A(x) - y‖² over its mean for pure noise, is at most tau. None
            means two standard deviations above 1: 1 + 2 sqrt((2 + k) / m) for m entries of noise
            of one level, whose excess kurtosis k is 0 for Gaussian noise.

    Source: Morozov 1966; the limit as in the chi-square test.
    """

    tau: float | None = None

    def __post_init__(self) -> None:
        if self.tau is not None and self.tau <= 0:
            raise ValueError(f"tau must be positive, got {self.tau}")

    def init(self, problem: Problem) -> DiscrepancyState:
        """Returns each image's limit; needs to know how large residuals of pure noise are."""
        squared = self._limit(problem) / problem.observed_count()
        limit = squared.sqrt().to(problem.y.real)
        return DiscrepancyState(torch.zeros_like(limit, dtype=torch.bool), limit)

    def update(
        self, problem: Problem, state: DiscrepancyState, info: Info
    ) -> tuple[DiscrepancyState, Verdict]:
        """Picks the first iterate below the limit."""
        stopped = state.stopped | (info.residual <= state.limit)  # type: ignore[operator]
        return replace(state, stopped=stopped), Verdict(stopped & ~state.stopped, stopped)

    def _limit(self, problem: Problem) -> Tensor:
        """Returns the largest ‖A(x) - y‖² of each image that passes for noise, (B,) float64."""
        noise, moments = problem.noise, expected_moments(problem)
        if moments is not None:
            mean, variance = moments
            return mean + 2 * variance.sqrt() if self.tau is None else self.tau * mean
        if noise.std is None:
            raise TypeError(
                f"Discrepancy needs a known noise level, which {type(noise).__name__} "
                "does not have; use stopping=es_wmv, or give noise.std"
            )
        if self.tau is None:
            raise TypeError(
                f"Discrepancy needs to know how much a residual varies, which "
                f"{type(noise).__name__} does not state as excess_kurtosis; give "
                "stopping.tau, such as 1.1"
            )
        count = torch.as_tensor(problem.observed_count(), device=problem.y.device)
        return self.tau * noise.std**2 * count.double().expand(problem.batch)


def expected_moments(problem: Problem) -> Moments | None:
    """Returns mean and variance of ‖n‖² for noise around y, or None if they are not known."""
    return residual_moments(problem.noise, problem.y, problem.operator.observed)


@dataclass(frozen=True)
class BestLoss:
    """Answers with the iterate of least loss, measured on y alone; never stops early."""

    def init(self, problem: Problem) -> Tensor:
        """Returns the least losses so far, infinite."""
        return torch.full((problem.batch,), torch.inf, device=problem.y.device)

    def update(self, problem: Problem, state: Tensor, info: Info) -> tuple[Tensor, Verdict]:
        """Picks the iterate if its loss is the least so far."""
        better = info.loss < state
        return torch.where(better, info.loss, state), Verdict(better, torch.zeros_like(better))


@dataclass(frozen=True)
class Budget:
    """Stops after a number of steps and answers with the last one.

    Args:
        steps: Steps allowed per image.
    """

    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def init(self, problem: Problem) -> int:
        """Returns the number of steps made."""
        return 0

    def update(self, problem: Problem, state: int, info: Info) -> tuple[int, Verdict]:
        """Picks every iterate until the budget is spent."""
        spent = torch.full_like(info.done, state + 1 >= self.steps)
        within = torch.full_like(info.done, state + 1 <= self.steps)
        return state + 1, Verdict(within, spent)


@dataclass(frozen=True)
class WMVState:
    """The last images, ring-ordered, with running sums; everything per image, float64.

    ``ring`` (B, W, n), ``total`` (B, n) the sum of images, ``energy`` (B,) the sum of squared
    norms, ``best`` (B,) the least variance and ``waited`` (B,) the steps since.
    """

    ring: Tensor | None
    total: Tensor | None
    energy: Tensor | None
    best: Tensor
    waited: Tensor
    seen: int


@dataclass(frozen=True)
class ESWMV:
    r"""Stops at the least windowed moving variance of the iterates; needs no noise level.

    Iterates settle on the content first and start to move again when they fit the noise. The
    variance of the last W images has its minimum in between:

    .. math:: v_k = \frac{1}{W n} \sum_{w < W} \|x_{k-w} - \bar x_k\|^2

    The iterate that ends the window of least variance is kept. One update costs O(n), whatever W:
    sums are updated with the image that enters and the one that leaves.

    Args:
        window: W, in steps. The published 100 is meant for thousands of Adam steps; L-BFGS, which
            needs thirty, wants about 4.
        patience: Steps without a smaller variance before an image stops.

    Raises:
        ValueError: If window is below 2 or patience below 1.

    Source: Wang et al. 2023 (early stopping for deep image prior, TMLR), and its code.
    """

    window: int = 100
    patience: int = 1000

    def __post_init__(self) -> None:
        if self.window < 2 or self.patience < 1:
            raise ValueError(
                f"need window >= 2 and patience >= 1, got {self.window} and {self.patience}"
            )

    def init(self, problem: Problem) -> WMVState:
        """Returns an empty window."""
        best = torch.full(
            (problem.batch,), torch.inf, dtype=torch.float64, device=problem.y.device
        )
        return WMVState(None, None, None, best, torch.zeros_like(best), 0)

    def update(self, problem: Problem, state: WMVState, info: Info) -> tuple[WMVState, Verdict]:
        """Slides the window by one image and compares its variance with the least so far."""
        ring, total, energy = self._slide(state, info.x_hat.flatten(1))
        spread = energy / self.window - (total / self.window).square().sum(dim=1)
        variance = (spread / total.shape[1]).clamp_min(0)
        full = state.seen + 1 >= self.window
        better = (variance < state.best) & full
        waited = torch.where(better, 0.0, state.waited + float(full))
        best = torch.where(better, variance, state.best)
        moved = WMVState(ring, total, energy, best, waited, state.seen + 1)
        return moved, Verdict(better, waited >= self.patience)

    def _slide(self, state: WMVState, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # float64, because the variance is a small difference of large sums.
        image = image.double()
        if state.ring is None or state.total is None or state.energy is None:
            ring = image.new_zeros(image.shape[0], self.window, image.shape[1])
            total, energy = torch.zeros_like(image), image.new_zeros(image.shape[0])
        else:
            ring, total, energy = state.ring, state.total, state.energy
        slot = state.seen % self.window
        leaving = ring[:, slot]
        total = total + image - leaving
        energy = energy + image.square().sum(dim=1) - leaving.square().sum(dim=1)
        ring[:, slot] = image
        return ring, total, energy


@dataclass(frozen=True)
class EMVState:
    """Running mean (B, n) and variance (B,) of the images, float64; the rest as ``WMVState``."""

    mean: Tensor | None
    variance: Tensor
    best: Tensor
    waited: Tensor
    seen: int


@dataclass(frozen=True)
class ESEMV:
    r"""Stops at the least exponential moving variance of the iterates; keeps one image only.

    .. math:: \delta_k = x_k - m_{k-1}, \quad m_k = m_{k-1} + \alpha \delta_k, \quad
        v_k = (1 - \alpha) (v_{k-1} + \alpha \|\delta_k\|^2 / n)

    The reference answers with the running mean m; here the iterate of least variance is kept, so
    that the answer is one that the method has found. The mean starts at the first iterate; there
    it starts at zero, and the first hundred steps are not judged.

    Args:
        alpha: Share of the newest image in the running mean, in (0, 1); 0.1 as published.
        patience: Steps without a smaller variance before an image stops.
        warmup: First steps, which are not judged.

    Raises:
        ValueError: If an argument is out of range.

    Source: Wang et al. 2023 (early stopping for deep image prior, TMLR), and its code.
    """

    alpha: float = 0.1
    patience: int = 1000
    warmup: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must lie in (0, 1), got {self.alpha}")
        if self.patience < 1 or self.warmup < 1:
            raise ValueError(
                f"need patience >= 1 and warmup >= 1, got {self.patience} and {self.warmup}"
            )

    def init(self, problem: Problem) -> EMVState:
        """Returns the state without a mean."""
        zero = torch.zeros(problem.batch, dtype=torch.float64, device=problem.y.device)
        return EMVState(None, zero, torch.full_like(zero, torch.inf), zero, 0)

    def update(self, problem: Problem, state: EMVState, info: Info) -> tuple[EMVState, Verdict]:
        """Moves mean and variance by one image and compares the variance with the least so far."""
        image = info.x_hat.flatten(1).double()
        before = image if state.mean is None else state.mean
        moved = image - before
        step = moved.square().mean(dim=1)
        variance = (1 - self.alpha) * (state.variance + self.alpha * step)
        judged = state.seen + 1 > self.warmup
        better = (variance < state.best) & judged
        waited = torch.where(better, 0.0, state.waited + float(judged))
        best = torch.where(better, variance, state.best)
        mean = before + self.alpha * moved
        after = EMVState(mean, variance, best, waited, state.seen + 1)
        return after, Verdict(better, waited >= self.patience)


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
