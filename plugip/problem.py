"""The inverse problem that a method receives: y, operator, noise and prior; never x."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.composition import require_operator
from plugip.noise import Hidden, Noise, UnknownNoise, count_observed, sum_of_squares
from plugip.operator import BlindOperator, Operator, Unknown
from plugip.prior import Prior
from plugip.refusals import require_batch, require_part, require_tensor
from plugip.rng import Rng, require_seed


@dataclass(frozen=True)
class Problem:
    """An inverse problem y = A(x) + n with a prior on x.

    The true image is in no object that is reachable from here, so no method can look at it: y is
    a copy without history, a blind operator forgets what draws its true unknown, and a hidden
    noise model becomes ``UnknownNoise``.

    Args:
        y: Measurements, (B, *Y), in the units of the operator's output.
        operator: The forward map A.
        noise: The noise model of n.
        prior: The prior on x.

    Raises:
        ValueError, TypeError: If y is not a finite floating-point batch, does not fit the
            operator, is on another scale, device or precision, or the operator cannot take the
            prior's images.
    """

    y: Tensor
    operator: Operator
    noise: Noise
    prior: Prior

    def __post_init__(self) -> None:
        require_operator(self.operator)
        require_noise(self.noise)
        require_prior(self.prior)
        _require_finite_float(self.y)
        _forget_the_truth(self)
        _require_shape(self)
        _require_device(self)
        _require_precision(self)
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

    @property
    def blind(self) -> bool:
        """Whether the operator has an unknown part, theta."""
        return isinstance(self.operator, BlindOperator)

    def known(self, theta: Unknown | None) -> Problem:
        """Returns the problem with its unknown part held at admissible values.

        Args:
            theta: One value per image, as ``operator.constrain`` returns it; not looked at where
                the operator has no unknown part.

        Raises:
            TypeError: If the operator has an unknown part and theta is None.
        """
        if not isinstance(self.operator, BlindOperator):
            return self
        if theta is None:
            raise TypeError(
                f"{type(self.operator).__name__} has an unknown part; give theta, as "
                "operator.constrain(operator.init_theta(rng, x)) returns it"
            )
        return _unchecked(self.y, self.operator.at(theta), self.noise, self.prior)

    def measured_by(self, operator: Operator) -> Problem:
        """Returns the problem with another operator that makes measurements of the same shape."""
        return _unchecked(self.y, operator, self.noise, self.prior)

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
        ValueError: If x is not in [-1, 1] or holds a NaN, the operator cannot take its shape, or
            there is not one stream per image.
    """
    require_operator(operator)
    require_noise(noise)
    require_signed(x)
    require_batch(x, operator.domain_ndim, type(operator).__name__)
    operator.check_domain(tuple(x.shape))
    streams = open_streams(rng, "measure", x.shape[0], ids)
    y = noise.sample(operator(x), streams)
    return y if operator.observed is None else y * operator.observed


def open_streams(
    rng: Rng | int, purpose: str, batch: int, ids: Sequence[str] | None = None
) -> Rng:
    """Returns one stream per image: those given, or fresh ones opened from an integer seed.

    Args:
        rng: Streams, or the integer seed.
        purpose: What fresh streams are for.
        batch: Number of images.
        ids: Names of the images of fresh streams; "0", "1", ... by default.

    Raises:
        ValueError: If there is not one stream per image.
        TypeError: If ``rng`` is neither streams nor an integer.
    """
    if not isinstance(rng, Rng):
        require_seed(rng, "rng")
        if isinstance(ids, str):
            raise TypeError(
                f"ids must be a list of one text per image, got {ids!r}; use [{ids!r}]"
            )
        rng = Rng(rng, purpose, ids if ids is not None else [str(i) for i in range(batch)])
    if len(rng) != batch:
        raise ValueError(
            f"rng has {len(rng)} streams for a batch of {batch} images; give one id per image"
        )
    return rng


def require_signed(x: Tensor, slack: float = 0.05) -> None:
    """Raises one clear sentence if images are not in [-1, 1]."""
    require_tensor(x, "images must be")
    if not x.is_floating_point():
        raise TypeError(
            f"images must be floating point in [-1, 1], got {x.dtype}; use x.float() / 127.5 - 1"
        )
    _require_some(x, "x")
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if not math.isfinite(low + high):
        raise ValueError("images hold NaN or infinite values; replace them")
    if not (low >= -1 - slack and high <= 1 + slack):
        hint = "x / 127.5 - 1" if high > 2 else "clamp or rescale it"
        raise ValueError(
            f"images must lie in [-1, 1], got values from {low:.3g} to {high:.3g}; {hint}"
        )


def require_noise(noise: object) -> None:
    """Raises a TypeError unless it is a noise model."""
    advice = "a level is GaussianNoise(0.05), given measurements have UnknownNoise()"
    require_part(noise, Noise, "noise", advice)


def require_prior(prior: object) -> None:
    """Raises a TypeError unless it is a prior."""
    advice = "wrap a network by a class of plugip.priors, such as VelocityPrior(network, shape)"
    require_part(prior, Prior, "prior", advice)


def _require_some(batch: Tensor, name: str) -> None:
    if batch.numel() == 0:
        raise ValueError(f"{name} is empty, shape {tuple(batch.shape)}; give at least one image")


def _require_finite_float(y: Tensor) -> None:
    require_tensor(y, "y must be")
    if not (y.is_floating_point() or y.is_complex()):
        raise TypeError(
            f"y must be floating point in the units of A(x), got {y.dtype}; "
            "for 8-bit images of an operator that keeps [-1, 1] use y.float() / 127.5 - 1"
        )
    _require_some(y, "y")
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
    tensors = [problem.y, *_tensors(problem.prior), *_tensors(problem.operator)]
    devices = {str(t.device) for t in tensors}
    if len(devices) > 1:
        raise ValueError(
            f"y, operator and prior are on different devices ({', '.join(sorted(devices))}); "
            "move all three with .to(device)"
        )


def _require_precision(problem: Problem) -> None:
    # Seeds take y's precision; float64, NumPy's default, is the one that slips in unnoticed.
    given = problem.y.real.dtype
    known = {t.dtype for t in _tensors(problem.prior) if t.is_floating_point()}
    if given == torch.float64 and known and given not in known:
        raise ValueError(
            f"y is {given}, but the prior computes in {', '.join(map(str, known))}; "
            "use y.float(), or prior.double() and operator.double()"
        )


def _tensors(module: torch.nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _require_scale(problem: Problem) -> None:
    one = _guess(problem.operator.select([0]), (1, *problem.prior.image_shape), problem.y.real)
    with torch.no_grad():
        tops = [float(one(probe).abs().max()) for probe in _probes(problem)]
    bound = max(tops) + (problem.noise.std or 0)
    highest = float(problem.y.abs().max())
    if highest > 10 * bound:
        raise ValueError(
            f"y reaches {highest:.3g}, but {type(problem.operator).__name__} gives about "
            f"{bound:.3g} at most for images in [-1, 1]; bring y to the operator's units, "
            "for 0...255 images by y / 127.5 - 1"
        )


def _guess(operator: Operator, x_shape: tuple[int, ...], like: Tensor) -> Operator:
    if not isinstance(operator, BlindOperator):
        return operator
    theta = operator.init_theta(Rng(0, "scale", ["0"]), like.new_zeros(x_shape))
    return operator.at(operator.constrain(theta))


def _probes(problem: Problem) -> list[Tensor]:
    # Constants alone would find nothing in operators that look at differences; signs do.
    shape = (1, *problem.prior.image_shape)
    signs = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    flat = torch.ones(shape)
    return [v.to(problem.y.real) for v in (-flat, 0 * flat, flat, signs)]


def _forget_the_truth(problem: Problem) -> None:
    # y without noise may be a view of x, and a graph keeps what it was made of.
    y, operator, noise = problem.y.detach().clone(), problem.operator, problem.noise
    seen = operator.unknown() if isinstance(operator, BlindOperator) else operator
    _fill(problem, y, seen, UnknownNoise() if isinstance(noise, Hidden) else noise, problem.prior)


def _unchecked(y: Tensor, operator: Operator, noise: Noise, prior: Prior) -> Problem:
    # The parts were checked when the whole was built; a second dry run would cost passes of A.
    chosen = object.__new__(Problem)
    _fill(chosen, y, operator, noise, prior)
    return chosen


def _fill(problem: Problem, y: Tensor, operator: Operator, noise: Noise, prior: Prior) -> None:
    for name, value in (("y", y), ("operator", operator), ("noise", noise), ("prior", prior)):
        object.__setattr__(problem, name, value)
