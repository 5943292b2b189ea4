r"""What the network learns: noise a clean state to h_t = alpha h + sigma eps, and regress.

An objective is a path and a prediction; plugip's ``DiffusersUNet`` reads the same two from
``plugip_prior.json``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from plugip.path import DiscretePath, FlowPath, Path, Prediction
from plugip.reverse import Clip, clip_hard, clip_none

TIME_SCALE = 1000.0  # from t to the network's time input, as in the embedded prior
STEPS = 1000  # noise levels of the discrete table, as plugip's path named ddpm has them

# The network: (states, time input) -> output.
Model = Callable[[Tensor, Tensor], Tensor]


class Objective(ABC):
    """A regression loss along a noise path.

    Attributes:
        path: The noise path.
        prediction: What the output means.
        declared: The path's name and its further facts for ``plugip_prior.json``.
        clip: How estimates of the clean image are clipped when samples are drawn.
    """

    path: Path
    prediction: Prediction
    declared: ClassVar[dict[str, Any]]
    clip: Clip

    @abstractmethod
    def time(self, level: Tensor) -> Tensor:
        """Maps levels in [0, 1), (B,), to times in [0, 1]."""

    @abstractmethod
    def time_input(self, t: Tensor) -> Tensor:
        """Maps times, (B,), to what the network's time embedding is given."""

    @abstractmethod
    def target(self, h: Tensor, eps: Tensor) -> Tensor:
        """Returns what the network should put out, (B, ...)."""

    def errors(self, model: Model, h: Tensor, level: Tensor, eps: Tensor) -> Tensor:
        """Returns the mean squared error of each image, (B,), float32.

        Args:
            model: The network.
            h: Clean states, (B, ...), float32.
            level: Numbers in [0, 1), (B,), from which times are made.
            eps: Standard normal noise, like ``h``.
        """
        t = self.time(level)
        alpha, sigma = self.path.coefficients(t, h)
        output = model(alpha * h + sigma * eps, self.time_input(t).to(h.dtype))
        return (output.float() - self.target(h, eps)).square().flatten(1).mean(1)

    def declaration(self, patch: int) -> dict[str, Any]:
        """Returns the content of ``plugip_prior.json``."""
        facts = {"prediction": str(self.prediction), "value_range": [-1, 1]}
        return facts | {"space_to_depth": patch} | self.declared


class Velocity(Objective):
    """Flow matching: h_t = (1 - t) h + t eps, the network predicts eps - h.

    Source: Lipman et al. 2023; Liu et al. 2023 (rectified flow).
    """

    path = FlowPath()
    prediction = Prediction.VELOCITY
    declared: ClassVar[dict[str, Any]] = {"path": "flow", "time_scale": TIME_SCALE}
    clip = staticmethod(clip_none)

    def time(self, level: Tensor) -> Tensor:
        return level

    def time_input(self, t: Tensor) -> Tensor:
        return t * TIME_SCALE

    def target(self, h: Tensor, eps: Tensor) -> Tensor:
        return eps - h


class Epsilon(Objective):
    """DDPM: a table of 1000 noise levels with linear betas, the network predicts eps.

    Source: Ho et al. 2020, the simplified loss.
    """

    table = DiscretePath.linear(STEPS)
    path = table
    prediction = Prediction.EPS
    declared: ClassVar[dict[str, Any]] = {"path": "ddpm"}
    # At the noisiest level the estimate of h holds the output's error 157 times.
    clip = staticmethod(clip_hard)

    def time(self, level: Tensor) -> Tensor:
        return ((level.double() * STEPS).floor() + 1) / STEPS

    def time_input(self, t: Tensor) -> Tensor:
        return self.table.index(t)

    def target(self, h: Tensor, eps: Tensor) -> Tensor:
        return eps


OBJECTIVES: dict[str, Objective] = {"velocity": Velocity(), "epsilon": Epsilon()}
