"""Guides: clean states close to the answer, from which a reverse process can start half-way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from plugip.data import load_image
from plugip.operator import LinearOperator
from plugip.problem import Problem

DAMPING = 1e-3  # of the linear estimate where the noise gives none; images have variance 0.2


class Guide(Protocol):
    """Gives the states from which guides are mixed."""

    def __call__(self, problem: Problem) -> Tensor:
        """Returns clean states, (B, K, *prior.shape); K = 1 where there is nothing to mix."""
        ...


@dataclass(frozen=True)
class MeasurementGuide:
    """The measurement itself as a picture: simple distortions leave it close to the image.

    A linear operator is inverted as far as the noise allows, (A*A + lam)^-1 A* y with lam five
    times the noise variance; any other measurement must have the shape of an image.

    Raises:
        TypeError: If the measurement is no picture; such problems need ``ImageGuide``.

    Source: FMPlug, 2025 (arXiv 2511.16520), which takes y as it is.
    """

    def __call__(self, problem: Problem) -> Tensor:
        x = picture(problem).clamp(-1, 1)
        return problem.prior.encode(x)[:, None]


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
    """Returns a quick estimate of the image, (B, C, H, W), without any network.

    Raises:
        TypeError: If the operator is not linear and y has not the shape of an image.
    """
    operator, y = problem.operator, problem.y
    if isinstance(operator, LinearOperator) and not y.is_complex():
        lam = 5 * problem.noise.std**2 if problem.noise.std else DAMPING
        with torch.no_grad():
            return operator.solve_normal(operator.adjoint(y), lam)
    if tuple(y.shape[1:]) == problem.prior.image_shape:
        return y
    raise TypeError(
        f"a measurement of {type(operator).__name__} is no picture of shape "
        f"{problem.prior.image_shape}, so it cannot guide; give pictures of the same kind, "
        "method.guide._target_=plugip.engine.guide.ImageGuide method.guide.files=[...]"
    )
