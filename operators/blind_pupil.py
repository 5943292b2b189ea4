"""Fourier ptychography through an unknown pupil: the lens is found together with the object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from plugip.operator import BlindOperator, Shape
from plugip.operators._options import require_positive
from plugip.operators.ptychography import FourierPtychography, Pairs, disk_pupil
from plugip.options import require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng


class PupilSampler(Protocol):
    """Draws true pupils, one for each image."""

    def draw(self, rng: Rng, side: int, radius: float) -> Tensor:
        """Draws pupils of this radius on a grid of frequencies, (B, side, side), complex."""
        ...


@dataclass(frozen=True)
class PupilAberrations:
    """Draws clear pupils of a lens with low-order aberrations, random sums of ``zernike`` maps.

    Args:
        rms: Root mean square of the phase over the pupil in radians, in expectation.

    Raises:
        ValueError: If ``rms`` is not positive.

    Source: Noll 1976 for the maps; equal shares for all of them are our choice.
    """

    rms: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self.rms, "rms")

    def draw(self, rng: Rng, side: int, radius: float) -> Tensor:
        """Draws pupils, (B, side, side), complex128, of modulus 1 in the disk and 0 outside."""
        maps = zernike(side, radius)
        shares = self.rms / len(maps) ** 0.5 * rng.normal((len(maps), 1, 1)).double()
        phase = torch.zeros(len(rng), side, side, dtype=torch.float64)
        for k, aberration in enumerate(maps):  # a matrix product would round by the batch's size
            phase += shares[:, k] * aberration
        return torch.polar(disk_pupil(side, radius).expand_as(phase), phase)


def zernike(side: int, radius: float) -> Tensor:
    """Lists the aberrations of a lens: defocus, astigmatism, coma, trefoil, spherical aberration.

    They are orthonormal as functions on the disk: each has mean 0 and mean square 1.

    Args:
        side: Grid points per side; the disk is about the middle one, as in ``disk_pupil``.
        radius: Radius of the disk in grid points.

    Returns:
        Numbers 4 to 11 of the Zernike polynomials, (8, side, side), float64, 0 outside the disk.

    Source: Noll 1976, Table I.
    """
    inside = disk_pupil(side, radius)
    offset = (torch.arange(side, dtype=torch.float64) - side // 2) / radius
    rho = torch.hypot(offset[:, None], offset)
    angle = torch.atan2(offset[:, None].expand(side, side), offset.expand(side, side))
    radial = [
        (0, 3**0.5 * (2 * rho**2 - 1)),
        (2, 6**0.5 * rho**2),
        (1, 8**0.5 * (3 * rho**3 - 2 * rho)),
        (3, 8**0.5 * rho**3),
        (0, 5**0.5 * (6 * rho**4 - 6 * rho**2 + 1)),
    ]
    maps = []
    for order, profile in radial:
        waves = [(order * angle).sin(), (order * angle).cos()] if order else [1.0]
        maps += [profile * wave for wave in waves]
    return inside * torch.stack(maps)


@dataclass(frozen=True)
class PupilForm:
    """How free parameters become a pupil.

    Attributes:
        parts: Free numbers for each frequency.
        apply: Maps (B, parts, m, m) to real and imaginary part, (B, 2, m, m), of modulus <= 1.
        guess: Turns standard normal numbers into first free parameters.
        step: Step of Adam in the units of the free parameters.
    """

    parts: int
    apply: Callable[[Tensor], Tensor]
    guess: Callable[[Tensor], Tensor]
    step: float


def _phase(theta: Tensor) -> Tensor:
    return torch.cat([theta.cos(), theta.sin()], dim=1)


def _unit_disk(theta: Tensor) -> Tensor:
    # Smooth, and onto the closed disk: modulus 1 is reached at 1, where a clear lens is.
    return 2 * theta / (1 + theta.square().sum(1, keepdim=True))


def _nearly_clear(noise: Tensor) -> Tensor:
    return noise.new_tensor([0.8, 0.0])[:, None, None] + 0.01 * noise


FORMS = {
    # Radians.
    "phase": PupilForm(1, _phase, lambda n: 0.01 * n, 0.05),
    # Parts of the full amplitude.
    "unit_disk": PupilForm(2, _unit_disk, _nearly_clear, 0.02),
}


class BlindFourierPtychography(BlindOperator[Tensor]):
    r"""Fourier ptychography where the pupil of the lens is to be found as well.

    .. math:: y_l = |F^{-1}(P \odot \mathrm{crop}_l(F o))|^2, \qquad |P| \le 1

    x and y are as in ``FourierPtychography``. The radius of P is known, what it does inside is
    not. ``constrain`` makes pupils of free parameters, real and imaginary part, (B, 2, m, m), 0
    outside the disk, and ``at(pupil)`` the known operator. Theta is (B, 1, m, m), a phase in
    radians, or (B, 2, m, m), an amplitude.

    y does not tell a phase of P that is constant, nor one that is a plane: with it the object
    moves. With "unit_disk" a darker lens and a brighter object give the same y, too.

    Args:
        shifts: (row, column) shift of the spectrum for each lamp, in frequency pixels, such as
            ``led_grid(5, 4)``. Windows that overlap more tell P better.
        pupil: Radius in frequency pixels of the disk, edge included.
        side: Side m of the pictures in pixels.
        size: Side of the images in pixels, or (H, W).
        object: What x stands for, as in ``FourierPtychography``.
        output: "intensity" or "amplitude".
        phase_scale: Radians at x = 1, for object "phase" only.
        constraint: "phase": a clear lens with aberrations, |P| = 1 in the disk. "unit_disk": a
            lens that may absorb as well, |P| <= 1.
        truth: Draws true pupils to simulate measurements, such as ``PupilAberrations(0.5)``.

    Raises:
        ValueError, TypeError: If an argument is out of range or a window leaves the spectrum; when
            called, if x does not fit.

    Source: Ou, Zheng and Yang 2014.
    """

    disk: Tensor

    def __init__(
        self,
        shifts: Pairs,
        pupil: float = 12.0,
        side: int = 32,
        size: int | Iterable[int] = 64,
        object: str = "unit",
        output: str = "intensity",
        phase_scale: float = 1.0,
        constraint: str = "phase",
        truth: PupilSampler | None = None,
    ) -> None:
        super().__init__(truth)
        self.clear = FourierPtychography(shifts, pupil, side, size, object, output, phase_scale)
        self.complex_domain = self.clear.complex_domain
        self.radius, self.side = pupil, side
        self.constraint = require_choice(constraint, FORMS, "constraint")
        self.learning_rate_hint = FORMS[constraint].step
        self.register_buffer("disk", disk_pupil(side, pupil))

    def init_theta(self, rng: Rng, like: Tensor) -> Tensor:
        form = FORMS[self.constraint]
        shape = (form.parts, self.side, self.side)
        return form.guess(rng.child("pupil").normal(shape, like=like.real))

    def constrain(self, theta: Tensor) -> Tensor:
        return self.disk.to(theta) * FORMS[self.constraint].apply(theta)

    def at(self, theta: Tensor) -> FourierPtychography:
        if theta.ndim != 4 or tuple(theta.shape[1:]) != (2, self.side, self.side):
            raise ValueError(
                f"a pupil has real and imaginary part, (B, 2, {self.side}, {self.side}), got "
                f"{tuple(theta.shape)}; use constrain(theta) for free parameters"
            )
        return self.clear.through(torch.complex(theta[:, 0], theta[:, 1]))

    def draw_theta(self, rng: Rng, x_shape: Shape) -> Tensor:
        if self.truth is None:
            return super().draw_theta(rng, x_shape)
        drawn = self.truth.draw(rng, self.side, self.radius)
        return torch.stack([drawn.real, drawn.imag], dim=1)

    def check_domain(self, x_shape: Shape) -> None:
        self.clear.check_domain(x_shape)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        return self.clear.measurement_shape(x_shape)

    def extra_repr(self) -> str:
        return f"radius={self.radius}, constraint={self.constraint!r}"
