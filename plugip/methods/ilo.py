r"""ILO: optimise the seed, then the code after the first layer, then the next, ..."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from plugip.engine.adam import Adam, AdamState
from plugip.engine.layers import split
from plugip.engine.misfit import Misfit
from plugip.engine.plugin import info
from plugip.engine.start import GaussianStart, Start
from plugip.engine.unknowns import Unknowns
from plugip.linalg import norm, per_image, project_l1
from plugip.method import Info
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng


@dataclass(frozen=True)
class Ramp:
    """Raises a step from 0 in the first part of a run and lowers it to 0 in the last.

    Args:
        total: Updates of the run.
        up: Share of it in which the factor grows linearly.
        down: Share of it in which the factor falls as a half cosine.
    """

    total: int
    up: float = 0.05
    down: float = 0.75

    def __call__(self, updates: int) -> float:
        """Returns the factor of the next update, in [0, 1]; the first one is 0."""
        t = updates / self.total
        fall = 0.5 - 0.5 * math.cos(math.pi * _share(1 - t, self.down))
        return fall * _share(t, self.up)


def _share(t: float, whole: float) -> float:
    return min(1.0, t / whole) if whole else 1.0


@dataclass(frozen=True)
class Code(Unknowns):
    """What enters one layer, v = h_i, (B, ...), bound to where it started.

    Args:
        generator: The map R.
        layer: i; 0 is the seed.
        first: Where it started, (B, ...).
        sphere: Keep the norm that it started with.
        l1_radius: Largest sum of absolute values of its deviation from there; None: any.
    """

    generator: Generator
    layer: int
    first: Tensor
    sphere: bool
    l1_radius: float | None

    def image(self, problem: Problem, v: Tensor) -> Tensor:
        return split(problem.prior, self.generator).image(v, self.layer)

    def project(self, v: Tensor) -> Tensor:
        if self.l1_radius is not None:
            v = self.first + project_l1(v - self.first, self.l1_radius)
        if self.sphere:
            size = norm(v)
            v = v * per_image(norm(self.first) / torch.where(size > 0, size, 1.0), v)
        return v


@dataclass(frozen=True)
class ILOState:
    """A running search.

    Attributes:
        unknowns: What the code at hand means.
        solver: Adam's state for it.
        v: The code of the last evaluation, (B, ...).
        x: Its images, (B, C, H, W); None before the first evaluation.
    """

    unknowns: Code
    solver: AdamState
    v: Tensor
    x: Tensor | None


@dataclass(frozen=True)
class ILO:
    r"""Restores images by inverting a generator at deeper and deeper layers.

    First the seed is optimised. Then the code that the first layer makes of it is set free and
    optimised through the rest of the generator, and so on: each layer reaches images that those
    before it do not.

    .. math:: \hat h_i = \arg\min_h\; \|A(g_{K-1} \circ \dots \circ g_i(h)) - y\|^2
        \quad\text{from}\quad g_{i-1}(\hat h_{i-1})

    The layers are the stages of a network z -> x (its prior says which), or the reverse steps of a
    diffusion or flow. One step is one Adam update; at layer i it costs what the layers from i on
    cost: one NFE and VJP for a network, K - i for a reverse process, and one more NFE when a
    reverse step is left behind. Published is the answer of least loss: stopping=best_loss.

    What was published for StyleGAN2 beside this (perceptual and geodesic terms, noise inputs) is
    left out. The seed's radius is kept as a whole; there it is that of each style vector.

    Args:
        steps: Adam updates at each layer, from the seed on; 0 passes through a layer.
        generator: The reverse process; not looked at where the prior maps seeds to images itself.
        start: Where the seed starts.
        lr: Adam's step at its highest.
        ramp_up: Share of a layer's updates in which the step grows.
        ramp_down: Share in which it falls.
        keep_radius: Scale the seed back to the norm that it started with after each update.
        l1_radii: How far each code after the seed may move in l1 norm, one radius for each layer
            after the first; None: anywhere. Published radii: 1000, 1000, 6000, off by default.
        loss: "mean", "sum" or "likelihood".

    Raises:
        ValueError: If an argument is out of range; when it starts, if there are fewer layers than
            entries of ``steps``, or the radius of a seed at 0 is to be kept.
        TypeError: When it starts, if the generator cannot be split into layers.

    Source: Daras et al. 2021 (ILO), and its code for steps, ramps and radii.
    """

    steps: Sequence[int] = (50, 50, 25, 25)
    generator: Generator = field(default_factory=Generator)
    start: Start = field(default_factory=GaussianStart)
    lr: float = 0.1
    ramp_up: float = 0.05
    ramp_down: float = 0.75
    keep_radius: bool = True
    l1_radii: Sequence[float] | None = None
    loss: str = "mean"

    def __post_init__(self) -> None:
        _require_counts(self.steps)
        if not (0 <= self.ramp_up <= 1 and 0 <= self.ramp_down <= 1):
            raise ValueError(
                "ramp_up and ramp_down must lie in [0, 1], got "
                f"{self.ramp_up} and {self.ramp_down}"
            )
        radii = self.l1_radii
        if radii is not None and (len(radii) != len(self.steps) - 1 or min(radii, default=0) < 0):
            raise ValueError(
                f"l1_radii must be one radius of at least 0 for each of the {len(self.steps) - 1} "
                f"layers after the first, got {list(radii)}"
            )
        self._adam(1)

    @property
    def iterations(self) -> int:
        """Number of steps."""
        return sum(self.steps)

    def init(self, problem: Problem, rng: Rng) -> ILOState:
        """Returns the state at the start; checks that the generator has as many layers."""
        count = len(split(problem.prior, self.generator))
        if count < len(self.steps):
            raise ValueError(
                f"steps has {len(self.steps)} entries, but the generator has {count} layers"
            )
        seed = self.start(problem, rng)
        if self.keep_radius and not bool((norm(seed) > 0).all()):
            raise ValueError(
                "a seed at 0 has no radius to keep; start at noise, or set keep_radius=false"
            )
        state = self._entered(problem, seed, 0)
        self.objective(problem, state).require_likelihood()
        return state

    def objective(self, problem: Problem, state: ILOState) -> Misfit:
        """Returns the function of the code at hand that is minimised, one value per image."""
        return Misfit(problem, state.unknowns, self.loss)

    def step(self, problem: Problem, state: ILOState) -> tuple[ILOState, Info]:
        """Makes one update; the info belongs to the code that was evaluated."""
        layer = state.unknowns.layer
        adam = self._adam(self.steps[layer])
        solver, v, here, stuck = adam.step(self.objective(problem, state), state.solver)
        moved = replace(state, solver=solver, v=v, x=here.x)
        if solver.updates >= self.steps[layer] and any(self.steps[layer + 1 :]):
            moved = replace(self._entered(problem, *self._beyond(problem, moved)), x=here.x)
        return moved, info(problem, here, stuck)

    def finish(self, problem: Problem, state: ILOState) -> Tensor:
        """Returns the image of the last evaluation, (B, C, H, W), clamped to [-1, 1]."""
        if state.x is not None:
            return state.x.clamp(-1, 1)
        with torch.no_grad():
            return state.unknowns.image(problem, state.v).clamp(-1, 1)

    def _adam(self, total: int) -> Adam:
        return Adam(self.lr, schedule=Ramp(total, self.ramp_up, self.ramp_down))

    def _beyond(self, problem: Problem, state: ILOState) -> tuple[Tensor, int]:
        """Returns the code after the layer that is complete, and the number of the next."""
        layer = state.unknowns.layer
        with torch.no_grad():
            code = split(problem.prior, self.generator).maps[layer](state.solver.z)
        return code, layer + 1

    def _entered(self, problem: Problem, code: Tensor, layer: int) -> ILOState:
        """Returns the state before the first update at a layer, or at the next one with any."""
        while not self.steps[layer]:
            with torch.no_grad():
                code = split(problem.prior, self.generator).maps[layer](code)
            layer += 1
        bound = self.l1_radii[layer - 1] if self.l1_radii is not None and layer else None
        sphere = self.keep_radius and layer == 0
        unknowns = Code(self.generator, layer, code, sphere, bound)
        return ILOState(unknowns, self._adam(1).init(code), code, None)


def _require_counts(steps: Sequence[int]) -> None:
    if not steps or min(steps) < 0 or not any(steps):
        raise ValueError(
            "steps must be one count of updates, 0 or more, for each layer, and one of them "
            f"positive, got {list(steps)}"
        )
