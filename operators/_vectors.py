"""What measurements that are lists of numbers share: shapes, picked entries, orthonormal rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from plugip.linalg import damping_like
from plugip.operator import LinearOperator, Shape, SpectralOperator
from plugip.spectral import Spectrum


class RowOrthonormal(SpectralOperator):
    """An operator with A A* = I: its adjoint is its pseudo-inverse, and A* A a projection."""

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        damping = damping_like(lam, b)
        seen = self.adjoint(self(b))
        return (b - seen) / damping + seen / (1 + damping)


@dataclass(frozen=True, eq=False)
class SelectionSpectrum(Spectrum):
    """The spectrum of a choice of pixels: they are the coefficients, and s marks the chosen."""

    s: Tensor
    operator: LinearOperator

    def Vt(self, x: Tensor) -> Tensor:
        return x

    def V(self, coefficients: Tensor) -> Tensor:
        return coefficients

    def Ut(self, y: Tensor) -> Tensor:
        return self.operator.adjoint(y)

    def U(self, coefficients: Tensor) -> Tensor:
        return self.operator(coefficients)

    def to(self, like: Tensor) -> SelectionSpectrum:
        return SelectionSpectrum(self.s.to(like.real), self.operator)


def require_image_size(owner: str, image_size: tuple[int, int] | None, x_shape: Shape) -> None:
    """Raises a ValueError if an operator was built for images of another size."""
    given = tuple(x_shape[-2:])
    if image_size not in (None, given):
        raise ValueError(
            f"this {owner} was built for images of {image_size} pixels, got {given}; change "
            "image_size or resize the images"
        )


def image_shape(
    owner: str, y_shape: Shape, count: int | None, image_size: tuple[int, int] | None
) -> Shape:
    """Returns the shape of the images behind measurements (B, C, m).

    Args:
        owner: Name of the operator, for errors.
        y_shape: Shape of the measurements.
        count: Numbers per channel, m; None where they are not drawn yet: any.
        image_size: (H, W), or None if nobody told.

    Raises:
        ValueError: If y has another shape, or the size of the images is not known.
    """
    if len(y_shape) != 3 or count not in (None, y_shape[2]):
        due = "m" if count is None else count
        raise ValueError(f"measurements have shape (B, C, {due}), got {tuple(y_shape)}")
    if image_size is None:
        raise ValueError(
            f"the size of the images cannot be read from y; give image_size to {owner}"
        )
    return (*y_shape[:2], *image_size)


def picked(vectors: Tensor, index: Tensor) -> Tensor:
    """Takes some entries of each vector.

    Args:
        vectors: (B, C, n).
        index: Places, (1 or B, m), int64.

    Returns:
        (B, C, m).
    """
    # Even for one list of places: on CPUs index_select is several times slower.
    return vectors.gather(-1, index[:, None].expand(*vectors.shape[:2], -1))


def placed(entries: Tensor, index: Tensor, n: int) -> Tensor:
    """Puts entries at distinct places, (B, C, m) -> (B, C, n), with zeros elsewhere."""
    zeros = entries.new_zeros(*entries.shape[:2], n)
    return zeros.scatter(-1, index[:, None].expand(entries.shape), entries)
