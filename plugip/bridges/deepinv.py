r"""Bridge to deepinv: its physics as plugip operators, plugip methods as its reconstructors.

Images of deepinv lie in [0, 1], those of plugip in [-1, 1]. A linear map of the former is affine
in the latter, A((x + 1) / 2) = (A x + A 1) / 2, so the range is named wherever it matters.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from plugip.loop import solve
from plugip.method import Method
from plugip.noise import GaussianNoise, Noise, UnknownNoise
from plugip.operator import LinearOperator, Operator, Shape
from plugip.options import require_choice
from plugip.prior import Prior
from plugip.problem import Problem

try:
    from deepinv.models import Reconstructor
    from deepinv.physics import LinearPhysics, Physics, StackedPhysics, ZeroNoise
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] != "deepinv":
        raise
    raise ImportError(
        "plugip.bridges.deepinv needs the package deepinv; pip install plugip[deepinv]"
    ) from error

IMAGE_RANGES = ("unit", "signed")

# Parameters of physics that hold one entry for each image, if they have four axes or more.
PER_IMAGE = ("mask", "filter", "filters", "multipliers", "angle", "coil_maps")


@overload
def from_deepinv(physics: Physics, image_range: Literal["unit"] = "unit") -> FromDeepinv: ...
@overload
def from_deepinv(physics: Physics, image_range: str) -> FromDeepinv | FromDeepinvLinear: ...
def from_deepinv(physics: Physics, image_range: str = "unit") -> FromDeepinv | FromDeepinvLinear:
    """Turns a physics object of deepinv into an operator.

    Args:
        physics: Any physics whose measurement is one tensor; it is copied, not changed.
        image_range: Images that the physics receives. "unit": (x + 1) / 2 in [0, 1], so y is what
            ``physics.A`` gives for images of deepinv. "signed": x itself, in [-1, 1].

    Returns:
        A LinearOperator for linear physics and "signed", otherwise an Operator: with "unit",
        linear physics are affine in x, which no linear method may be given.

    Raises:
        TypeError: If it is not a physics object, or gives a list of measurements.
        ValueError: If the range is unknown.
    """
    if require_choice(image_range, IMAGE_RANGES, "image_range") == "unit":
        return FromDeepinv(physics, "unit")
    linear = isinstance(physics, LinearPhysics)
    return FromDeepinvLinear(physics) if linear else FromDeepinv(physics, "signed")


class FromDeepinv(Operator):
    r"""Measures with the noise-free map of a deepinv physics object.

    .. math:: y = A\big(\tfrac{x + 1}{2}\big) \text{ (unit)} \quad \text{or} \quad
        y = A(x) \text{ (signed)}

    x is (B, C, H, W) in [-1, 1]; y is in the units of the physics. The physics is copied: its
    parameters are frozen, it never sees a caller's tensor, its noise is left out (also that of
    physics inside it) and its sensor model is not applied.

    Args:
        physics: Any physics whose measurement is one tensor.
        image_range: "unit" or "signed", as in ``from_deepinv``.

    Raises:
        TypeError: If it is not a physics object, or gives a list of measurements.
        ValueError: If the range is unknown; when called, if there is not one y per image.
    """

    physics: Any  # a Physics, or in FromDeepinvLinear a LinearPhysics

    def __init__(self, physics: Physics, image_range: str = "unit") -> None:
        super().__init__()
        self.image_range = require_choice(image_range, IMAGE_RANGES, "image_range")
        self.physics = _frozen_copy(_require_physics(physics))

    def forward(self, x: Tensor) -> Tensor:
        # Both are new tensors, so physics that write into their input cannot reach the caller's.
        seen = (x + 1) / 2 if self.image_range == "unit" else x.clone()
        return _require_rows(self.physics.A(seen), x.shape[0], self.physics, "measurements")

    def select(self, rows: list[int]) -> FromDeepinv:
        cut = {id(t): t[rows] for t in _per_image(self.physics)}
        if not cut:
            return self
        chosen = copy.copy(self)
        shared = {id(t): t for t in self._tensors()}
        chosen._modules = {"physics": _copied(self.physics, {**shared, **cut})}
        return chosen

    def extra_repr(self) -> str:
        return f"image_range={self.image_range!r}"


class FromDeepinvLinear(FromDeepinv, LinearOperator):
    r"""Measures with a linear deepinv physics object that receives images in [-1, 1].

    .. math:: y = A x, \quad x \in [-1, 1]

    y is not what the physics gives for images of deepinv: ``from_unit`` converts that. The adjoint
    is ``physics.A_adjoint``, which is exact for most physics; ``plugip.testing.check_operator``
    tells. There is no ``pinv``, as ``physics.A_dagger`` may be approximate.

    Args:
        physics: Linear physics whose measurement is one tensor.

    Raises:
        TypeError: If the physics is not linear, or gives a list of measurements.
    """

    def __init__(self, physics: LinearPhysics) -> None:
        if not isinstance(physics, LinearPhysics):
            raise TypeError(
                f"FromDeepinvLinear takes linear physics, got {type(physics).__name__}; "
                "use FromDeepinv"
            )
        super().__init__(physics, "signed")

    def adjoint(self, y: Tensor) -> Tensor:
        back = _require_rows(self.physics.A_adjoint(y.clone()), len(y), self.physics, "images")
        return back if y.is_complex() == back.is_complex() else back.real

    def domain_shape(self, y_shape: Shape) -> Shape:
        like = next((t for t in self._tensors() if t.is_floating_point()), torch.empty(0))
        with torch.no_grad():
            return tuple(self.adjoint(like.new_zeros(y_shape)).shape)

    def from_unit(self, y: Tensor) -> Tensor:
        r"""Converts measurements of images in [0, 1] to those of the same images in [-1, 1].

        .. math:: A x = 2 A\big(\tfrac{x + 1}{2}\big) - A 1

        The standard deviation of noise in y doubles.
        """
        ones = y.real.new_ones(self.domain_shape(tuple(y.shape)))
        return 2 * y - self(ones)


def as_deepinv_model(
    method: Method[Any],
    prior: Prior,
    noise: Noise,
    rng_seed: int = 0,
    image_range: str = "unit",
) -> PlugipModel:
    """Turns a method of plugip into a reconstructor of deepinv, called as ``model(y, physics)``.

    Args:
        method: Any method; one that needs a linear operator needs ``image_range="signed"``.
        prior: The prior on the images.
        noise: The noise in y, in the units of the y that deepinv gives: for measurements like
            images, a std on [0, 1].
        rng_seed: The integer of reproducibility.
        image_range: What the method solves: "unit" y = A((x + 1) / 2) + n; "signed", for linear
            physics, A x = 2 y - A 1 with twice the noise: the same problem, with a
            LinearOperator.

    Returns:
        A callable (y, physics) -> images in [0, 1].

    Raises:
        ValueError: If the range is unknown.
        TypeError: When called, if "signed" meets physics that are not linear or noise that cannot
            be rescaled.
    """
    return PlugipModel(method, prior, noise, rng_seed, image_range)


class PlugipModel(Reconstructor):
    """Solves deepinv's inverse problems with a method of plugip; see ``as_deepinv_model``."""

    def __init__(
        self,
        method: Method[Any],
        prior: Prior,
        noise: Noise,
        rng_seed: int = 0,
        image_range: str = "unit",
    ) -> None:
        super().__init__()
        self.image_range = require_choice(image_range, IMAGE_RANGES, "image_range")
        self.method, self.prior, self.noise, self.rng_seed = method, prior, noise, rng_seed

    def forward(  # type: ignore[override]
        self, y: Tensor, physics: Physics, ids: Sequence[str] | None = None
    ) -> Tensor:
        """Restores images.

        Args:
            y: Measurements of ``physics``, (B, *Y); they are not changed.
            physics: The physics; it is not changed.
            ids: Names of the images, which choose their random streams; "0", "1", ... by
                default.

        Returns:
            Images, (B, C, H, W), in [0, 1].
        """
        solution = solve(self._problem(y, physics), self.method, self.rng_seed, ids=ids)
        return (solution.x_hat + 1) / 2

    def _problem(self, y: Tensor, physics: Physics) -> Problem:
        operator = from_deepinv(physics, self.image_range)
        if self.image_range == "unit":
            return Problem(y.clone(), operator, self.noise, self.prior)
        if not isinstance(operator, FromDeepinvLinear):
            raise TypeError(
                f'image_range="signed" needs linear physics, got {type(physics).__name__}; '
                'use image_range="unit"'
            )
        return Problem(operator.from_unit(y), operator, _doubled(self.noise), self.prior)


def _doubled(noise: Noise) -> Noise:
    if isinstance(noise, UnknownNoise):
        return noise
    if isinstance(noise, GaussianNoise):
        return GaussianNoise(2 * noise.std)
    raise TypeError(
        f'image_range="signed" doubles the noise, which {type(noise).__name__} does not allow; '
        'use GaussianNoise, UnknownNoise or image_range="unit"'
    )


def _require_physics(physics: object) -> Physics:
    if not isinstance(physics, Physics):
        raise TypeError(f"physics must be a deepinv Physics, got {type(physics).__name__}")
    if isinstance(physics, StackedPhysics):
        raise TypeError(
            f"{type(physics).__name__} gives a list of measurements, and plugip takes one tensor; "
            "bridge the parts one by one and join them with plugip's stack"
        )
    return physics


def _require_rows(values: object, rows: int, physics: Physics, what: str) -> Tensor:
    name = type(physics).__name__
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} gives a {type(values).__name__}, and plugip takes one tensor")
    if values.shape[0] != rows:
        raise ValueError(
            f"{name} gives {values.shape[0]} {what} for a batch of {rows}; its parameters must "
            "have one entry, or one for each image of the batch"
        )
    return values


def _frozen_copy(physics: Physics) -> Physics:
    """Copies physics without noise, in its parts too: PhaseRetrieval would call its B's noise."""
    parts = [m for m in physics.modules() if isinstance(m, Physics)]
    silent = {id(m.noise_model): ZeroNoise() for m in parts}
    detached = {id(t): t.detach().clone() for t in physics.buffers()}
    return _copied(physics, {**detached, **silent}).requires_grad_(False)


def _copied(physics: Physics, instead: dict[int, Any]) -> Physics:
    # Generators cannot be copied, and nothing that is called here draws.
    held = [v for module in physics.modules() for v in vars(module).values()]
    generators = {id(v): None for v in held if isinstance(v, torch.Generator)}
    return copy.deepcopy(physics, {**generators, **instead})


def _per_image(physics: Physics) -> list[Tensor]:
    named = [*physics.named_buffers(), *physics.named_parameters()]
    known = [t for name, t in named if name.rpartition(".")[2] in PER_IMAGE]
    return [t for t in known if t.ndim >= 4 and t.shape[0] > 1]
