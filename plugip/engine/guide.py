"""Guides: clean states close to the answer, from which a reverse process can start half-way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from plugip.data import load_image
from plugip.linalg import UnsolvedError
from plugip.operator import LinearOperator
from plugip.pictures import image_of
from plugip.problem import Problem

ROUGH = 0.1  # relative residual of a linear estimate that still guides
DAMPING = 1e-3  # of the linear estimate where the noise gives none; images have variance 0.2


class Guide(Protocol):
    """Gives the states from which guides are mixed."""

    def __call__(self, problem: Problem) -> Tensor:
        """Returns clean states, (B, K, *prior.shape); K = 1 where there is nothing to mix."""
        ...


@dataclass(frozen=True)
class MeasurementGuide:
    """The measurement itself as a picture: simple distortions leave it close to the image.

    A smaller y is read where its pixels lie, by bicubic interpolation; grey fills all channels.

    Raises:
        TypeError: If the measurement is no picture; such problems need ``ImageGuide``.

    Source: FMPlug, 2025 (arXiv 2511.16520).
    """

    def __call__(self, problem: Problem) -> Tensor:
        return problem.prior.encode(picture(problem).clamp(-1, 1))[:, None]


@dataclass(frozen=True)
class InverseGuide:
    """The damped inverse (A*A + lam)^-1 A* y of a linear operator, lam five noise variances.

    It explains y better than the measurement itself, so a search that may move towards it
    (FMPlug's time) needs a bound: at time 0 it would stop at the guide.

    At low noise the iterations for operators without a closed form may end before their tolerance.
    What they have reached is a guide as well, if it leaves at most a tenth of A* y unexplained.

    Raises:
        TypeError: If the operator is not linear, or its measurements are complex.
        UnsolvedError: If the iterations come to nothing, as with an adjoint that is not exact.
    """

    def __call__(self, problem: Problem) -> Tensor:
        operator, y = problem.operator, problem.y
        if not isinstance(operator, LinearOperator) or y.is_complex():
            raise TypeError(
                f"InverseGuide needs a linear operator with real measurements, which "
                f"{type(operator).__name__} is not; use MeasurementGuide or ImageGuide"
            )
        lam = 5 * problem.noise.std**2 if problem.noise.std else DAMPING
        with torch.no_grad():
            x = _solved(operator, operator.adjoint(y), lam)
        return problem.prior.encode(x.clamp(-1, 1))[:, None]


def _solved(operator: LinearOperator, b: Tensor, lam: float) -> Tensor:
    try:
        return operator.solve_normal(b, lam)
    except UnsolvedError as error:
        if not bool((error.residual <= ROUGH).all()):  # no number, too
            raise
        return error.solution


@dataclass(frozen=True)
class ImageGuide:
    """A few pictures of the same kind as the answer, for measurements that are no pictures.

    Args:
        files: Picture files of the prior's size; one or more.

    Raises:
        ValueError: If there are none, or one has another size than the prior's images.

    Source: FMPlug, 2025 (arXiv 2511.16520), the few-shot setting.
    """

    files: Sequence[str | Path]

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files must name at least one picture, got none")

    def __call__(self, problem: Problem) -> Tensor:
        pictures = torch.stack([self._load(problem, file) for file in self.files])
        states = problem.prior.encode(pictures.to(problem.y.real))
        return states.expand(problem.batch, *states.shape)

    def _load(self, problem: Problem, file: str | Path) -> Tensor:
        x = load_image(file)
        x = x[0] if x.ndim == 4 else x
        if tuple(x.shape) != problem.prior.image_shape:
            raise ValueError(
                f"{file} has shape {tuple(x.shape)}, but the prior's images have shape "
                f"{problem.prior.image_shape}; crop or resize it"
            )
        return x


def picture(problem: Problem) -> Tensor:
    """Returns the measurements as images, (B, C, H, W): as they are, or enlarged.

    Raises:
        TypeError: If measurements are no pictures: complex, larger, of other channels, or such
            that their rows and columns do not follow those of the image.
    """
    y, shape = problem.y, problem.prior.image_shape
    images = image_of(y, shape, problem.operator)
    if images is not None:
        return images
    raise TypeError(
        f"a measurement of {type(problem.operator).__name__}, shape {tuple(y.shape[1:])}, is no "
        f"picture that {shape} could follow, so it cannot guide; give pictures of the same kind, "
        "method.guide._target_=plugip.engine.guide.ImageGuide method.guide.files=[...]"
    )
