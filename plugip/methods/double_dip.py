r"""Double DIP: phase retrieval of complex objects by two untrained networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from plugip.engine.adam import Adam
from plugip.engine.plugin import require_iterations
from plugip.engine.unknowns import Layout, Unknowns
from plugip.engine.untrained import Rollback, UntrainedPlugIn, require_fit_settings
from plugip.engine.weights import OwnNetworks, Shakable, counted, signed
from plugip.options import choose
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.untrained import Network, Skip


def _polar(first: Tensor, second: Tensor) -> Tensor:
    phase = math.pi * signed(second)
    return first.sigmoid() * torch.cat([phase.cos(), phase.sin()], dim=1)


def _cartesian(first: Tensor, second: Tensor) -> Tensor:
    return signed(torch.cat([first, second], dim=1))


# How two networks' values (B, 1, H, W) become real and imaginary part, (B, 2, H, W) in [-1, 1].
PARTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"polar": _polar, "cartesian": _cartesian}


@dataclass(frozen=True)
class Pair(Shakable):
    """The weights of two networks per image, of the two parts of a complex object.

    Args:
        first: Networks of the magnitude, or of the real part, (B, 1, H, W).
        second: Networks of the phase, or of the imaginary part.
        layout: Where the weights of both lie.
        parts: "polar" or "cartesian".
    """

    first: OwnNetworks
    second: OwnNetworks
    layout: Layout
    parts: str

    def image(self, problem: Problem, v: Tensor) -> Tensor:
        weights = self.layout.split(v)
        first = counted(problem.prior, self.first(weights["first"]))
        second = counted(problem.prior, self.second(weights["second"]))
        return PARTS[self.parts](first, second)

    def shaken(self, std: float, rng: Rng) -> Self:
        both = self.first.shaken(std, rng), self.second.shaken(std, rng)
        return replace(self, first=both[0], second=both[1])


@dataclass(frozen=True)
class DoubleDIP(UntrainedPlugIn):
    r"""Retrieves complex objects by two untrained networks, one of magnitude, one of phase.

    .. math:: \min_{v, w}\; \ell(y, A(m e^{i \varphi})), \quad
        m = \mathrm{sigmoid}(f_v(u)), \; \varphi = \pi (2\, \mathrm{sigmoid}(g_w(u')) - 1)

    Magnitude and phase of an object are simpler images than its real and imaginary part, where
    the phase varies much. Images are the two channels real and imaginary part: take an operator
    with ``object=channels`` and ``prior.shape=[2, H, W]``; for real images and for objects of
    pure phase (``object=phase``) take ``method=dip``. Answers are known up to a global phase, and
    for far-field magnitudes up to a shift and a conjugate half turn: see
    ``plugip.operators.align``. One step costs two NFE and two VJP.

    Args:
        iterations: Adam steps.
        generator: The form of both networks.
        parts: "polar" (magnitude in (0, 1) and phase) or "cartesian" (real and imaginary part).
        solver: Adam.
        jitter: Noise that is added to the codes, afresh in every step.
        average: Weight of the past in the running mean of images; 0: none.
        rollback: When to go back to earlier weights; null: never.
        loss: "mean", "sum" or "likelihood".
        theta_steps: Adam's step of the unknown part of a blind operator, such as a pupil.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If images do not have two channels.

    Source: Zhuang et al. 2022 (double DIP for Bragg coherent diffraction imaging) for the idea;
    their loss and steps were not available, and are DIP's here.
    """

    iterations: int = 3000
    generator: Network = field(default_factory=Skip)
    parts: str = "polar"
    solver: Adam = field(default_factory=Adam)
    jitter: float = 0.03
    average: float = 0.0
    rollback: Rollback | None = field(default_factory=Rollback)
    loss: str = "mean"
    theta_steps: float | Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        require_iterations(self.iterations)
        require_fit_settings(self.jitter, self.average)
        choose(PARTS, self.parts, "parts")

    def search(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Looks for the weights of both networks."""
        channels, *sides = problem.prior.image_shape
        if channels != 2:
            raise TypeError(
                f"DoubleDIP makes images of two channels, but the prior's have {channels}; "
                "take operator.object=channels and prior.shape=[2, H, W], or method=dip"
            )
        shape, like = (1, *sides), problem.y.real
        first, v = OwnNetworks.draw(self.generator, shape, rng.child("first"), like)
        second, w = OwnNetworks.draw(self.generator, shape, rng.child("second"), like)
        layout = Layout.of({"first": v, "second": w})
        return Pair(first, second, layout, self.parts), layout.join({"first": v, "second": w})
