"""What a plug-in method looks for, as one vector per image, and the image that it stands for.

A *value of the unknowns* v is a tensor (B, ...): a seed in its own shape, or several parts (a
seed and a kernel, a seed and a time) laid out one after the other as (B, n).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from plugip.engine.penalties import GaussianPenalty, Penalty
from plugip.engine.spaces import Free, SeedSpace
from plugip.operator import BlindOperator, Unknown
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng

Shape = tuple[int, ...]
SEED_STEP = 0.01  # Adam's step for a seed of unit variance, to which operators' hints compare


class Unknowns(ABC):
    """Says what a vector of unknowns means; a frozen dataclass.

    Fields may hold tensors whose first axis is the batch, such as a guide image per measurement:
    the loop drops the rows of finished images from them.
    """

    @abstractmethod
    def image(self, problem: Problem, v: Tensor) -> Tensor:
        """Returns images (B, C, H, W), differentiable in v."""

    def known(self, problem: Problem, v: Tensor) -> Problem:
        """Returns the problem with its unknown part held at what v says, differentiably."""
        return problem

    def penalty(self, v: Tensor) -> Tensor:
        """Returns what is added to the misfit, (B,)."""
        return v.new_zeros(v.shape[0])

    def project(self, v: Tensor) -> Tensor:
        """Returns the nearest admissible unknowns."""
        return v

    def rates(self, v: Tensor) -> Tensor | None:
        """Returns relative step lengths of the coordinates, shape v[0]; None: all alike."""
        return None

    def seed(self, v: Tensor) -> Tensor | None:
        """Returns the latent seeds in v, (B, ...), if there are any."""
        return None

    def theta(self, problem: Problem, v: Tensor) -> Unknown | None:
        """Returns admissible values of the operator's unknown part, if it has one."""
        return None

    @property
    def weighted(self) -> str:
        """Names the setting that weighs a penalty against a likelihood; empty if none does."""
        return ""


@dataclass(frozen=True)
class Seeds(Unknowns):
    """The seed of a generator, v = z, (B, *prior.shape).

    Args:
        generator: The map R.
        penalty_of: Penalty on the seed.
        space: Where the seed may lie.
    """

    generator: Generator
    penalty_of: Penalty = field(default_factory=lambda: GaussianPenalty(0.0))
    space: SeedSpace = field(default_factory=Free)

    def image(self, problem: Problem, v: Tensor) -> Tensor:
        return self.generator(problem.prior, v)

    def penalty(self, v: Tensor) -> Tensor:
        return self.penalty_of(v)

    def project(self, v: Tensor) -> Tensor:
        return self.space(v)

    def seed(self, v: Tensor) -> Tensor:
        return v

    @property
    def weighted(self) -> str:
        return self.penalty_of.setting


@dataclass(frozen=True)
class Layout:
    """Where the parts of a vector of unknowns lie.

    Args:
        shapes: Shape of each part for one image, in the order in which they are laid out.
    """

    shapes: Mapping[str, Shape]

    @staticmethod
    def of(parts: Mapping[str, Tensor]) -> Layout:
        """Returns the layout of parts that have a batch axis."""
        return Layout({name: tuple(part.shape[1:]) for name, part in parts.items()})

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Lays parts (B, *shape) out as (B, n)."""
        return torch.cat([parts[name].flatten(1) for name in self.shapes], dim=1)

    def split(self, v: Tensor) -> dict[str, Tensor]:
        """Returns the parts of v (B, n), as views."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        pieces = v.split(sizes, dim=1)
        named = zip(self.shapes.items(), pieces, strict=True)
        return {name: piece.reshape(-1, *shape) for (name, shape), piece in named}

    def spread(self, values: Mapping[str, float], like: Tensor) -> Tensor:
        """Returns (n,), each part filled with its value."""
        parts = [like.new_full((math.prod(s),), values[n]) for n, s in self.shapes.items()]
        return torch.cat(parts)


@dataclass(frozen=True)
class WithTheta(Unknowns):
    """Other unknowns together with the free parameters of a blind operator; v is (B, n).

    Args:
        inner: The other unknowns.
        layout: Where they and the parameters lie.
        steps: Step of each parameter, relative to that of the inner unknowns.
        single: Whether the operator's theta is one tensor rather than a dict of them.
    """

    inner: Unknowns
    layout: Layout
    steps: Mapping[str, float]
    single: bool

    def image(self, problem: Problem, v: Tensor) -> Tensor:
        return self.inner.image(problem, self._inner(v))

    def known(self, problem: Problem, v: Tensor) -> Problem:
        return problem.known(self.theta(problem, v))

    def penalty(self, v: Tensor) -> Tensor:
        return self.inner.penalty(self._inner(v))

    def project(self, v: Tensor) -> Tensor:
        parts = self.layout.split(v)
        return self.layout.join(parts | {_REST: self.inner.project(parts[_REST])})

    def rates(self, v: Tensor) -> Tensor:
        parts = self.layout.split(v)
        first = self.inner.rates(parts[_REST])
        rates = {name: torch.full_like(parts[name][:1], step) for name, step in self.steps.items()}
        rest = torch.ones_like(parts[_REST][:1]) if first is None else first[None]
        return self.layout.join({_REST: rest, **rates})[0]

    def seed(self, v: Tensor) -> Tensor | None:
        return self.inner.seed(self._inner(v))

    def theta(self, problem: Problem, v: Tensor) -> Unknown:
        parts = self.layout.split(v)
        free = {name: parts[name] for name in self.steps}
        operator = problem.operator
        if not isinstance(operator, BlindOperator):  # its unknown part was fixed meanwhile
            raise TypeError(f"{type(operator).__name__} has no unknown part")
        return operator.constrain(free[_THETA] if self.single else free)

    @property
    def weighted(self) -> str:
        return self.inner.weighted

    def _inner(self, v: Tensor) -> Tensor:
        return self.layout.split(v)[_REST]


_REST, _THETA = "rest of the unknowns", "theta"


def with_theta(
    problem: Problem,
    inner: Unknowns,
    v: Tensor,
    rng: Rng,
    steps: float | Mapping[str, float] | None = None,
) -> tuple[Unknowns, Tensor]:
    """Adds the unknown part of the problem's operator to other unknowns, if it has one.

    Args:
        problem: The problem.
        inner: The other unknowns.
        v: Their first value, (B, ...).
        rng: Streams of the images; the first guess of theta is drawn from children of them.
        steps: Adam's step of theta, or of each of its parts by name, where the seed's is 0.01;
            None for what the operator suggests.

    Returns:
        All unknowns, and their first value.

    Raises:
        ValueError: If ``steps`` names other parts than the operator has, or is negative.
    """
    operator = problem.operator
    if not isinstance(operator, BlindOperator):
        return inner, v
    like = problem.y.real.new_zeros((problem.batch, *problem.prior.image_shape))
    theta = operator.init_theta(rng.child("theta"), like)
    single = isinstance(theta, Tensor)
    free = {_THETA: theta} if isinstance(theta, Tensor) else dict(theta)
    wanted = _named(operator, steps, free)
    parts = {_REST: v, **free}
    layout = Layout.of(parts)
    ratios = {name: step / SEED_STEP for name, step in wanted.items()}
    return WithTheta(inner, layout, ratios, single), layout.join(parts)


def _named(
    operator: BlindOperator[Any],
    steps: float | Mapping[str, float] | None,
    free: Mapping[str, Tensor],
) -> dict[str, float]:
    given = operator.learning_rate_hint if steps is None else steps
    named = dict(given) if isinstance(given, Mapping) else dict.fromkeys(free, float(given))
    if set(named) != set(free):
        raise ValueError(
            f"theta_steps names {', '.join(sorted(named))}, but the unknown part of "
            f"{type(operator).__name__} is {', '.join(free)}"
        )
    if any(step < 0 for step in named.values()):
        raise ValueError(f"theta_steps must not be negative, got {named}")
    return named


def seeds(generator: Generator, seed_weight: float = 0.0, space: SeedSpace | None = None) -> Seeds:
    """Returns the unknowns of a plain seed search: lambda ‖z‖² / 2 and a seed space."""
    unknowns = Seeds(generator, GaussianPenalty(seed_weight))
    return unknowns if space is None else replace(unknowns, space=space)
