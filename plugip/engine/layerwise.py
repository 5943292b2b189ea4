r"""Fitting a generator layer by layer, from the last to the first, with sparse deviations.

With codes :math:`h_{i+1} = g_i(h_i) + \nu_i` and the image :math:`x = D(h_K)`, one layer solves

.. math:: \min_{h_i, \nu_i}\; \mathrm{mean}\,|M_i(g_i(h_i) + \nu_i) - \tau_i|^2
    + \lambda\,\mathrm{mean}\,|\nu_i| + \mu\,\mathrm{mean}\,h_i^2

where the last layer's M is :math:`A \circ D` and its target a measurement, and the others' M is
the identity and their target the code that the layer above has just found. Only one layer is in
the graph at a time, so memory does not grow with K.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plugip.engine.adam import Adam, AdamState
from plugip.engine.layers import Layers, split
from plugip.engine.objective import Evaluation, Objective
from plugip.engine.start import Start
from plugip.engine.unknowns import Layout
from plugip.linalg import dot
from plugip.method import Info
from plugip.noise import sum_of_squares
from plugip.prior import lacks_denoiser
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng

CODE, DEVIATION = "code", "deviation"


@dataclass(frozen=True)
class LayerFit(Objective):
    """How well one layer's output meets its target; the unknowns are (B, n), code and deviation.

    Args:
        problem: The problem.
        layers: All layers.
        layer: Which one.
        target: A measurement (B, *Y) for the last layer, the next code (B, ...) for others.
        layout: Where code and deviation lie.
        deviation_weight: lambda.
        code_weight: mu.
        deviation_rate: Step of the deviation relative to that of the code.
    """

    problem: Problem
    layers: Layers
    layer: int
    target: Tensor
    layout: Layout
    deviation_weight: float
    code_weight: float
    deviation_rate: float

    def __call__(self, v: Tensor) -> Tensor:
        """Returns the objective per image, (B,), differentiable in v."""
        parts = self.layout.split(v)
        misfit, _ = self._misfit(parts)
        return misfit + self._penalty(parts)

    def evaluate(self, v: Tensor) -> Evaluation:
        """Returns value and gradient, and the layer's output as ``x``; one layer each way."""
        with torch.enable_grad():
            free = v.detach().requires_grad_()
            parts = self.layout.split(free)
            misfit, output = self._misfit(parts)
            loss = misfit + self._penalty(parts)
            (grad,) = torch.autograd.grad(loss.sum(), free)
        return Evaluation(loss.detach(), grad, output.detach(), misfit.detach().sqrt())

    def rates(self, v: Tensor) -> Tensor:
        return self.layout.spread({CODE: 1.0, DEVIATION: self.deviation_rate}, v)

    def _misfit(self, parts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = self.layers.maps[self.layer](parts[CODE]) + parts[DEVIATION]
        if self.layer < len(self.layers) - 1:
            gap = output - self.target
            return dot(gap, gap) / gap[0].numel(), output
        operator = self.problem.operator
        gap = operator(self.layers.decode(output)) - self.target
        return sum_of_squares(gap, operator.observed) / gap[0].numel(), output

    def _penalty(self, parts: dict[str, Tensor]) -> Tensor:
        code, sparse = parts[CODE], parts[DEVIATION].abs().flatten(1).mean(dim=1)
        energy = dot(code, code) / code[0].numel()
        return self.deviation_weight * sparse + self.code_weight * energy


@dataclass(frozen=True)
class LayerState:
    """A running fit.

    Attributes:
        codes: h_0 to h_K, (B, ...) each: those of the last re-roll, or newer where fitted since.
        deviations: nu_0 to nu_(K-1).
        solver: Adam's state for the layer that is being fitted.
        aim: The measurement that the last layer is fitted to, (B, *Y); None before the round.
        x: Images of the last re-roll, (B, C, H, W), in [-1, 1].
        residual: Root mean square of A(x) - y, (B,).
        layer: The layer that is being fitted.
        rounds: Rounds that are complete.
    """

    codes: tuple[Tensor, ...]
    deviations: tuple[Tensor, ...]
    solver: AdamState
    aim: Tensor | None
    x: Tensor
    residual: Tensor
    layer: int
    rounds: int

    @property
    def v(self) -> Tensor:
        """Code and deviation of the layer that is being fitted, (B, n)."""
        return self.solver.z


class LayerWise(ABC):
    """A method that fits the reverse steps one at a time; subclasses are frozen dataclasses.

    A round fits every layer by ``inner`` updates, last to first, and then rolls forward again from
    the seed with the deviations found. One step is one update. What it reports as its image (and
    that image's residual) is the last re-roll, which is what the method would answer; its loss is
    that of the layer at hand. So residuals can be compared between steps, losses within a layer.

    Attributes:
        generator: The map R.
        start: Where the seed starts.
        outer: Rounds.
        inner: Adam updates per layer and round.
        lr_z: Adam's step of the codes.
        lr_nu: Adam's step of the deviations.
        deviation_weight: lambda.
        code_weight: mu.
    """

    generator: Generator
    start: Start
    outer: int
    inner: int
    lr_z: float
    lr_nu: float
    deviation_weight: float
    code_weight: float

    @abstractmethod
    def aim(self, problem: Problem, x: Tensor | None) -> Tensor:
        """Returns what the last layer's measurement should be in the coming round, (B, *Y).

        Args:
            problem: The problem.
            x: Images of the last re-roll; None in the first round, where they are chance.
        """

    def __post_init__(self) -> None:
        if self.outer < 1 or self.inner < 1:
            raise ValueError(
                f"outer and inner must be at least 1, got {self.outer} and {self.inner}"
            )
        if self.lr_z <= 0 or self.lr_nu < 0:
            raise ValueError(
                f"lr_z must be positive and lr_nu not negative, got {self.lr_z} and {self.lr_nu}"
            )
        if self.deviation_weight < 0 or self.code_weight < 0:
            raise ValueError(
                "deviation_weight and code_weight must not be negative, got "
                f"{self.deviation_weight} and {self.code_weight}"
            )

    @property
    def iterations(self) -> int:
        """Number of steps."""
        return self.outer * self.generator.steps * self.inner

    def init(self, problem: Problem, rng: Rng) -> LayerState:
        """Returns the state at the start: the codes of R's own way from the first seed."""
        if not problem.prior.denoises:
            raise lacks_denoiser(problem.prior, type(self).__name__)
        layers, seed = split(problem.prior, self.generator), self.start(problem, rng)
        return self._rolled(problem, seed, (torch.zeros_like(seed),) * len(layers), 0)

    def objective(self, problem: Problem, state: LayerState) -> LayerFit:
        """Returns what the layer at hand minimises."""
        layers = split(problem.prior, self.generator)
        last = state.layer == len(layers) - 1
        target = self._aim(problem, state) if last else state.codes[state.layer + 1]
        layout = Layout.of(_parts(state.codes, state.deviations, state.layer))
        weights = self.deviation_weight, self.code_weight, self.lr_nu / self.lr_z
        return LayerFit(problem, layers, state.layer, target, layout, *weights)

    def step(self, problem: Problem, state: LayerState) -> tuple[LayerState, Info]:
        """Makes one update of one layer; the last of a round is followed by the re-roll."""
        state = replace(state, aim=self._aim(problem, state))
        objective = self.objective(problem, state)
        solver, _, here, stuck = Adam(self.lr_z).step(objective, state.solver)
        moved = replace(state, solver=solver)
        if solver.updates >= self.inner:
            moved = self._next_layer(problem, moved, objective.layout.split(solver.z))
        return moved, Info(moved.x, here.loss, stuck, moved.residual)

    def finish(self, problem: Problem, state: LayerState) -> Tensor:
        """Returns the images of the last re-roll, (B, C, H, W), in [-1, 1]."""
        return state.x

    def seed(self, state: LayerState) -> Tensor:
        """Returns the seed of the last re-roll, (B, ...)."""
        return state.codes[0]

    def _next_layer(
        self, problem: Problem, state: LayerState, found: dict[str, Tensor]
    ) -> LayerState:
        i = state.layer
        codes = _with(state.codes, i, found[CODE])
        deviations = _with(state.deviations, i, found[DEVIATION])
        if i == 0:
            return self._rolled(problem, codes[0], deviations, state.rounds + 1)
        solver = _fresh(codes, deviations, i - 1)
        return replace(state, codes=codes, deviations=deviations, solver=solver, layer=i - 1)

    def _aim(self, problem: Problem, state: LayerState) -> Tensor:
        if state.aim is not None:
            return state.aim
        return self.aim(problem, state.x if state.rounds else None)

    def _rolled(
        self, problem: Problem, seed: Tensor, deviations: tuple[Tensor, ...], rounds: int
    ) -> LayerState:
        layers = split(problem.prior, self.generator)
        last = len(layers) - 1
        with torch.no_grad():
            codes = layers.roll(seed, deviations)
            x = layers.decode(codes[-1]).clamp(-1, 1)
            residual = problem.residual(problem.operator(x))
        solver = _fresh(codes, deviations, last)
        return LayerState(codes, deviations, solver, None, x, residual, last, rounds)


def _parts(
    codes: tuple[Tensor, ...], deviations: tuple[Tensor, ...], layer: int
) -> dict[str, Tensor]:
    return {CODE: codes[layer], DEVIATION: deviations[layer]}


def _fresh(codes: tuple[Tensor, ...], deviations: tuple[Tensor, ...], layer: int) -> AdamState:
    """Returns Adam's state at the start of a layer; nothing is carried over from another."""
    parts = _parts(codes, deviations, layer)
    return Adam().init(Layout.of(parts).join(parts))


def _with(values: tuple[Tensor, ...], i: int, value: Tensor) -> tuple[Tensor, ...]:
    return (*values[:i], value, *values[i + 1 :])
