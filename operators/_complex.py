"""Complex images and fields: how real images stand for them, centred transforms, storage."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from plugip.operator import LinearOperator, Operator, Shape
from plugip.options import require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng

DOMAINS = ("real", "channels", "complex")
T = TypeVar("T")
A = TypeVar("A", bound=Operator)


def as_complex(x: Tensor) -> Tensor:
    """Reads two channels as real and imaginary part, (B, 2, ...) -> (B, 1, ...), complex."""
    return torch.complex(x[:, :1], x[:, 1:])


def as_channels(z: Tensor) -> Tensor:
    """Writes real and imaginary part as two channels, (B, 1, ...) complex -> (B, 2, ...)."""
    return torch.cat([z.real, z.imag], dim=1)


def fft2c(x: Tensor) -> Tensor:
    """Centred orthonormal Fourier transform of the last two axes, at odd sizes too."""
    axes = (-2, -1)
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x, axes), norm="ortho"), axes)


def ifft2c(k: Tensor) -> Tensor:
    """The inverse, and adjoint, of ``fft2c``."""
    axes = (-2, -1)
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(k, axes), norm="ortho"), axes)


def parts_of(values: Tensor) -> Tensor:
    """Returns a complex (or real) tensor as (..., 2), real and imaginary part, for a buffer.

    Complex buffers do not survive ``module.to(torch.float64)``, which drops the imaginary part.
    """
    given = values if values.is_complex() else values.to(values.dtype.to_complex())
    return torch.view_as_real(given.resolve_conj()).clone()


def complex_like(parts: Tensor, x: Tensor) -> Tensor:
    """Returns what ``parts_of`` stored, (...) complex, in the precision of ``x``."""
    return torch.view_as_complex(parts.to(x.real.dtype))


def require_reals(x: Tensor, domain: str, owner: str) -> None:
    """Raises a TypeError unless ``x`` is complex exactly where the domain says so."""
    if x.is_complex() != (domain == "complex"):
        kind = "complex" if x.is_complex() else "real"
        raise TypeError(
            f"{owner} has domain={domain!r}, but the images are {kind} ({x.dtype}); "
            "use domain='complex' for complex images, 'channels' for two real channels "
            "(real part, imaginary part), 'real' for real ones"
        )


def require_channels(x_shape: Shape, domain: str, owner: str) -> None:
    """Raises a ValueError if two channels are due and others were given."""
    if domain == "channels" and x_shape[1] != 2:
        raise ValueError(
            f"{owner} has domain='channels': images need 2 channels, real and imaginary part, "
            f"got {x_shape[1]} in shape {tuple(x_shape)}"
        )


def require_streams(rng: Rng, x_shape: Shape) -> None:
    """Raises a ValueError unless there is one random stream per image."""
    if len(rng) != x_shape[0]:
        raise ValueError(f"need one stream per image, got {len(rng)} for {x_shape[0]} images")


def require_drawer(given: T, what: str, example: str) -> T:
    """Returns ``given`` if it is a sampler, an object with ``draw``; else raises a TypeError."""
    if callable(getattr(given, "draw", None)):
        return given
    raise TypeError(
        f"{what} must be a tensor or a sampler such as {example}, got {type(given).__name__}"
    )


def not_drawn(owner: str, what: str, sampler: object) -> RuntimeError:
    """Returns the error of an operator that is used before ``realise``."""
    return RuntimeError(
        f"{owner} has no {what} yet, it draws from {sampler}; "
        "call operator = operator.realise(rng, x.shape) first"
    )


def require_complex_batch(values: Tensor, ndim: int, what: str, layout: str) -> Tensor:
    """Returns a floating-point or complex tensor with ``ndim`` axes and finite entries."""
    if values.ndim != ndim:
        raise ValueError(f"{what} must have shape {layout}, got {tuple(values.shape)}")
    if not (values.is_complex() or values.is_floating_point()):
        raise ValueError(f"{what} must be floating point or complex, got {values.dtype}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{what} hold NaN or infinite values; replace them")
    return values


def as_pairs(values: Iterable[Iterable[int]], what: str) -> tuple[tuple[int, int], ...]:
    """Reads a list of (row, column) pairs of whole numbers."""
    pairs = tuple(tuple(int(v) for v in pair) for pair in values)
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{what} must be a list of (row, column) pairs, got {values!r}")
    return pairs  # type: ignore[return-value]


class FieldOperator(LinearOperator):
    r"""A linear map from a complex object to complex fields, for real images that stand for it.

    Subclasses write ``propagate`` and ``propagate_back``, a map and its adjoint on objects
    (B, C, ...), real or complex, and ``domain_shape``.

    Args:
        domain: "real": the object is x. "channels": x has two channels, real and imaginary part,
            as networks like it. "complex": x is complex.

    Raises:
        ValueError: If the domain is unknown; when called, if channels are missing.
        TypeError: When called, if x is complex and should not be, or the other way round.
    """

    def __init__(self, domain: str) -> None:
        super().__init__()
        self.domain = require_choice(domain, DOMAINS, "domain")
        self.complex_domain = domain == "complex"

    @abstractmethod
    def propagate(self, o: Tensor) -> Tensor:
        """Maps objects to fields."""

    @abstractmethod
    def propagate_back(self, y: Tensor) -> Tensor:
        """Maps fields to complex objects by the adjoint."""

    def forward(self, x: Tensor) -> Tensor:
        return self.propagate(self.object_of(x))

    def adjoint(self, y: Tensor) -> Tensor:
        x_shape = self.domain_shape(tuple(y.shape))
        due = self.measurement_shape(x_shape)
        if due != tuple(y.shape):
            raise ValueError(
                f"{type(self).__name__} gives measurements of shape {due}, but y has shape "
                f"{tuple(y.shape)}"
            )
        return self.image_of(self.propagate_back(y))

    def object_of(self, x: Tensor) -> Tensor:
        """Returns the objects that images stand for; refuses images that do not fit."""
        require_reals(x, self.domain, type(self).__name__)
        self.check_domain(tuple(x.shape))
        return as_complex(x) if self.domain == "channels" else x

    def image_of(self, o: Tensor) -> Tensor:
        """Returns the images that stand for objects, the adjoint of ``object_of``."""
        if self.domain == "channels":
            return as_channels(o)
        return o if self.domain == "complex" else o.real

    def check_domain(self, x_shape: Shape) -> None:
        require_channels(x_shape, self.domain, type(self).__name__)

    def objects(self, channels: int) -> int:
        """Returns how many objects images with so many channels hold."""
        return 1 if self.domain == "channels" else channels

    def image_channels(self, objects: int) -> int:
        """Returns how many channels images of so many objects have."""
        return 2 if self.domain == "channels" else objects


def with_buffers(operator: A, buffers: dict[str, Tensor]) -> A:
    """Returns a shallow copy that has other tensors in some buffers."""
    chosen = copy.copy(operator)
    chosen._buffers = operator._buffers | buffers
    return chosen
