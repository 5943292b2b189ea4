"""The inverse problem that a method receives: y, operator, noise and prior; never x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.noise import Noise, count_observed, sum_of_squares
from plugip.operator import Operator
from plugip.prior import Prior
from plugip.rng import Rng


@dataclass(frozen=True)
class Problem:
    """An inverse problem y = A(x) + n with a prior on x.

    The true image is in no object that is reachable from here, so no method can look at it.

    Args:
        y: Measurements, (B, *Y), in the units of the operator's output.
        operator: The forward map A.
        noise: The noise model of n.
        prior: The prior on x.

    Raises:
        ValueError, TypeError: If y is not a finite floating-point batch, does not fit the
        operator, is
            on another scale or device, or the operator cannot take the prior's images.
    """

    y: Tensor
    operator: Operator
    noise: Noise
    prior: Prior

    def __post_init__(self) -> None:
        _require_finite_float(self.y)
        _require_shape(self)
        _require_device(self)
        _require_scale(self)

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.y.shape[0]

    def squared_residual(self, y_clean: Tensor) -> Tensor:
        """Returns ‖y_clean - y‖² over observed entries, per image, (B,)."""
        return sum_of_squares(y_clean - self.y, self.operator.observed)

    def observed_count(self) -> Tensor | int:
        """Returns the number of observed real entries of y per image."""
        return count_observed(self.y, self.operator.observed)

    def residual(self, y_clean: Tensor) -> Tensor:
        """Returns the root mean square of y_clean - y over observed entries, per image, (B,)."""
        return (self.squared_residual(y_clean) / self.observed_count()).sqrt()

    def nll(self, y_clean: Tensor) -> Tensor:
        """Returns the negative log-likelihood of y per image, (B,)."""
        return self.noise.nll(y_clean, self.y, self.operator.observed)

    def select(self, rows: list[int]) -> Problem:
        """Returns the problem of some images of the batch."""
        if rows == list(range(self.batch)):
            return self
        return _unchecked(self.y[rows], self.operator.select(rows), self.noise, self.prior)


def measure(
    operator: Operator,
    x: Tensor,
    noise: Noise,
    rng: Rng | int = 0,
    ids: Sequence[str] | None = None,
) -> Tensor:
    """Simulates measurements y = A(x) + n; the only place where noise is added.

    Args:
        operator: The forward map.
        x: Images, (B, C, H, W), in [-1, 1].
        noise: The noise model.
        rng: Streams of the images, or the integer seed from which they are opened.
        ids: Names of the images when ``rng`` is an integer; "0", "1", ... by default.

    Returns:
        Measurements, (B, *Y); zero where the operator observes nothing.

    Raises:
        ValueError: If x is not in [-1, 1] or holds a NaN, or the operator cannot take its shape.
    """
    require_signed(x)
    operator.check_domain(tuple(x.shape))
    streams = rng if isinstance(rng, Rng) else open_streams(rng, "measure", x.shape[0], ids)
    y = noise.sample(operator(x), streams)
    return y if operator.observed is None else y * operator.observed


def open_streams(rng_seed: int, purpose: str, batch: int, ids: Sequence[str] | None = None) -> Rng:
    """Opens one stream per image; without ids the images are called "0", "1", ..."""
    return Rng(rng_seed, purpose, ids if ids is not None else [str(i) for i in range(batch)])


def require_signed(x: Tensor, slack: float = 0.05) -> None:
    """Raises one clear sentence if images are not in [-1, 1]."""
    if not x.is_floating_point():
        raise TypeError(
            f"images must be floating point in [-1, 1], got {x.dtype}; use x.float() / 127.5 - 1"
        )
    low, high = (float(v) for v in torch.aminmax(x))
    if not (low >= -1 - slack and high <= 1 + slack):
        hint = "x / 127.5 - 1" if high > 2 else "clamp or rescale it"
        raise ValueError(
            f"images must lie in [-1, 1], got values from {low:.3g} to {high:.3g}; {hint}"
        )


def _require_finite_float(y: Tensor) -> None:
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a torch tensor, got {type(y).__name__}")
    if not (y.is_floating_point() or y.is_complex()):
        raise TypeError(
            f"y must be floating point in the units of A(x), got {y.dtype}; "
            "for 8-bit images of an operator that keeps [-1, 1] use y.float() / 127.5 - 1"
        )
    bad = int((~torch.isfinite(y)).sum())
    if bad:
        raise ValueError(
            f"y holds {bad} NaN or infinite values of {y.numel()}; "
            "replace them, and mark missing entries with an inpainting mask"
        )


def _require_shape(problem: Problem) -> None:
    name, image = type(problem.operator).__name__, problem.prior.image_shape
    if problem.y.ndim < 2:
        raise ValueError(
            f"y must have a batch axis, got shape {tuple(problem.y.shape)}; use y[None]"
        )
    given, x_shape = tuple(problem.y.shape), (problem.y.shape[0], *image)
    try:
        expected = problem.operator.measurement_shape(x_shape)
    except RuntimeError as error:
        raise ValueError(
            f"{name} cannot take the prior's images of shape {image}: {error}"
        ) from error
    if given == expected[1:]:
        raise ValueError(f"y has shape {given} without a batch axis; use y[None]")
    if given != expected:
        raise ValueError(
            f"y has shape {given}, but {name} gives {expected} for the prior's images of shape "
            f"{image}; check the image size, the channels and the operator's settings"
        )


def _require_device(problem: Problem) -> None:
    tensors = [*problem.prior.parameters(), *problem.prior.buffers(), *problem.operator.buffers()]
    devices = {str(t.device) for t in tensors} | {str(problem.y.device)}
    if len(devices) > 1:
        raise ValueError(
            f"y, operator and prior are on different devices ({', '.join(sorted(devices))}); "
            "move all three with .to(device)"
        )


def _require_scale(problem: Problem) -> None:
    shape = (1, *problem.prior.image_shape)
    like = problem.y.real
    one = problem.operator.select([0])
    with torch.no_grad():
        tops = [
            one(torch.full(shape, v, dtype=like.dtype, device=like.device))
            for v in (-1.0, 0.0, 1.0)
        ]
    bound = max(float(top.abs().max()) for top in tops) + (problem.noise.std or 0)
    highest = float(problem.y.abs().max())
    if highest > 10 * bound:
        raise ValueError(
            f"y reaches {highest:.3g}, but {type(problem.operator).__name__} gives about "
            f"{bound:.3g} at most for images in [-1, 1]; bring y to the operator's units, "
            "for 0...255 images by y / 127.5 - 1"
        )


def _unchecked(y: Tensor, operator: Operator, noise: Noise, prior: Prior) -> Problem:
    # The parts were checked when the whole was built; a second dry run would cost passes of A.
    chosen = object.__new__(Problem)
    for name, value in (("y", y), ("operator", operator), ("noise", noise), ("prior", prior)):
        object.__setattr__(chosen, name, value)
    return chosen
