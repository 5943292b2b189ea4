"""Far-field diffraction imaging: coded, oversampled, or beside a reference; phases are lost."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from plugip.operator import LinearOperator, Operator, Shape, damping_like
from plugip.operators._complex import (
    FieldOperator,
    complex_like,
    not_drawn,
    parts_of,
    require_complex_batch,
    require_drawer,
    require_streams,
    with_buffers,
)
from plugip.operators._memo import Remembers
from plugip.operators._options import require_count
from plugip.operators.phase import PaddedFourier, Phaseless, split_object
from plugip.options import require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng


@runtime_checkable
class CodeSampler(Protocol):
    """Draws complex masks for coded diffraction, ``count`` for each image."""

    @property
    def count(self) -> int: ...

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws masks for images of shape (B, C, H, W), as (B, L, H, W), complex."""
        ...


@dataclass(frozen=True)
class OctanaryCodes:
    """Draws the octanary masks of coded diffraction, eight values, E|d|² = 1.

    d = b1 b2 with b1 one of 1, -1, i, -i, and b2 = sqrt(1/2) four times of five, else sqrt(3).

    Args:
        count: Masks per image, L; 4 to 8 in the literature.

    Raises:
        ValueError: If count is not a positive whole number.

    Source: Candès, Li and Soltanolkotabi 2015, coded diffraction patterns.
    """

    count: int = 4

    def __post_init__(self) -> None:
        require_count(self.count, 1, "count")

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        shape = (self.count, *x_shape[-2:])
        quarter = (4 * rng.uniform(shape)).long()
        large = rng.uniform(shape) < 0.2
        turns = torch.tensor([1, -1, 1j, -1j], dtype=torch.complex128)
        sizes = torch.tensor([0.5, 3.0], dtype=torch.float64).sqrt()
        return turns[quarter] * sizes[large.long()]


@dataclass(frozen=True)
class UniformPhaseCodes:
    """Draws masks of modulus 1 whose phase is uniform on the circle.

    Args:
        count: Masks per image, L.

    Raises:
        ValueError: If count is not a positive whole number.
    """

    count: int = 4

    def __post_init__(self) -> None:
        require_count(self.count, 1, "count")

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        phase = 2 * pi * rng.uniform((self.count, *x_shape[-2:])).double()
        return torch.polar(torch.ones_like(phase), phase)


class CodedFourier(Remembers, FieldOperator):
    r"""The Fourier transforms of an object behind several masks, y_l = F(d_l ⊙ o).

    y is (B, C L, H, W), orthonormal FFT, zero frequency first. A*A is the pixel-wise product with
    Σ|d_l|², so that damped solves and the pseudo-inverse are closed forms.

    Args:
        codes: Masks d, (1|B, L, H, W), complex or real; or a sampler such as ``OctanaryCodes(4)``.
        domain: As in ``FieldOperator``.

    Raises:
        ValueError: If the masks have another shape, or all are 0 at a pixel; when called, if x
            does not fit them.
        TypeError: If codes is neither a tensor nor a sampler.
        RuntimeError: When used before ``realise``.
    """

    per_image = ("codes_parts",)
    codes_parts: Tensor
    sampler: CodeSampler | None

    def __init__(self, codes: Tensor | CodeSampler, domain: str = "real") -> None:
        super().__init__(domain)
        given = isinstance(codes, Tensor)
        self.sampler = None if given else require_drawer(codes, "codes", "OctanaryCodes(4)")
        empty = torch.empty(0, 0, 0, 0, 2)  # keeps the device until masks are drawn
        self.register_buffer("codes_parts", parts_of(_require_codes(codes)) if given else empty)

    def codes(self, like: Tensor) -> Tensor:
        """Returns the masks in the precision of ``like``, (1|B, L, H, W), complex."""
        if self.sampler is not None:
            raise not_drawn("coded diffraction", "masks", self.sampler)
        parts, dtype = self.codes_parts, like.dtype.to_real()  # .real would make a view
        return self._remember("codes", parts, dtype, lambda: complex_like(parts, like))

    def propagate(self, o: Tensor) -> Tensor:
        codes = self.codes(o)
        alone = 1 in (codes.shape[1], o.shape[1])  # nothing to lay out, and fewer steps
        behind = codes * o if alone else (codes[:, None] * o[:, :, None]).flatten(1, 2)
        return torch.fft.fft2(behind, norm="ortho")

    def propagate_back(self, y: Tensor) -> Tensor:
        codes, behind = self._conjugates(y), torch.fft.ifft2(y, norm="ortho")
        if codes.shape[1] == 1:
            return codes * behind
        return (codes[:, None] * behind.unflatten(1, (-1, codes.shape[1]))).sum(2)

    def _conjugates(self, like: Tensor) -> Tensor:
        codes = self.codes(like)  # lazy conjugates would cost at each call
        return self._remember("conjugates", codes, None, lambda: codes.conj().resolve_conj())

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        return b / (self._energy(b) + damping_like(lam, b))

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / self._energy(y)

    def _energy(self, like: Tensor) -> Tensor:
        return self.codes(like).abs().square().sum(1, keepdim=True)

    def check_domain(self, x_shape: Shape) -> None:
        super().check_domain(x_shape)
        held = self.codes_parts.shape[:4]
        if self.sampler is None and (held[0] not in (1, x_shape[0]) or held[2:] != x_shape[2:]):
            raise ValueError(
                f"codes of shape {tuple(held)} do not fit images of shape {tuple(x_shape)}; they "
                "must be (1 or B, L, H, W)"
            )

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        count = self.codes_parts.shape[1] if self.sampler is None else self.sampler.count
        return (x_shape[0], self.objects(x_shape[1]) * count, *x_shape[2:])

    def domain_shape(self, y_shape: Shape) -> Shape:
        objects = y_shape[1] // max(self.codes_parts.shape[1], 1)
        return (y_shape[0], self.image_channels(objects), *y_shape[2:])

    def realise(self, rng: Rng, x_shape: Shape) -> Self:
        if self.sampler is None:
            return self
        require_streams(rng, x_shape)
        self.check_domain(x_shape)
        codes = _require_codes(self.sampler.draw(rng.child("codes"), x_shape))
        chosen = with_buffers(self, {"codes_parts": parts_of(codes).to(self.codes_parts.device)})
        chosen.sampler = None
        return chosen


class CodedDiffraction(Phaseless):
    r"""Measures far-field intensities of an object behind several known masks.

    .. math:: y_l = |F(d_l \odot o)|^2, \quad l = 1, ..., L

    x is (B, C, H, W), each channel an object (or two channels one complex object); y is
    (B, C L, H, W), real, not negative, zero frequency first. Only the global phase, a sign for
    real objects, is lost: ``align(..., turns=False)``.

    Args:
        codes: Masks d, (1|B, L, H, W), complex or real; or a sampler such as ``OctanaryCodes(4)``
            or ``UniformPhaseCodes(4)``: then call ``realise(rng, x_shape)`` first.
        object: What x stands for: "real": o = x. "unit": o = (x + 1) / 2. "phase":
            o = exp(i phase_scale x). "channels": o = x_0 + i x_1. "complex": o = x, complex.
        output: "intensity" or "amplitude".
        phase_scale: Radians at x = 1, for "phase" only.

    Attributes:
        linear_part: The ``CodedFourier`` inside, with adjoint and pseudo-inverse.

    Raises:
        ValueError, TypeError: If an argument is out of range; when called, if x does not fit.
        RuntimeError: When used before ``realise``.

    Source: Candès, Li and Soltanolkotabi 2015.
    """

    def __init__(
        self,
        codes: Tensor | CodeSampler,
        object: str = "real",
        output: str = "intensity",
        phase_scale: float = 1.0,
    ) -> None:
        domain, range_in = split_object(object)
        super().__init__(CodedFourier(codes, domain), output, range_in, phase_scale)


class FarFieldCDI(Phaseless):
    r"""Measures oversampled far-field intensities of an isolated object, as X-ray imaging does.

    .. math:: y = m \odot |F P (1_S \odot o)|^2

    with the orthonormal FFT, zero frequency in the middle. x is (B, C, H, W), or (B, C, D, H, W)
    for ``axes=3`` (Bragg imaging); y has sides ceil(oversample_side * side). Photon counts: scale
    through a Poisson noise model. Global phase, conjugate turn, and shifts within a loose support
    are lost: see ``align``.

    Args:
        object: What x stands for, as in ``CodedDiffraction``.
        oversample_side: Padded side over side, at least 2 for a unique answer.
        support: 1 where the object may be, 0 elsewhere, (1|B, 1|C, H, W), or None: everywhere.
        beam_stop: Radius in detector pixels of the disk about zero frequency that is not measured,
            0 for none. Call ``realise(rng, x_shape)`` first if it is not 0.
        detector: 1 where the detector sees, of y's shape or broadcastable, instead of a beam stop.
        output: "intensity" or "amplitude".
        phase_scale: Radians at x = 1, for object "phase" only.
        axes: 2 or 3.

    Attributes:
        linear_part: m F P 1_S, a ``PaddedFourier``, with its adjoint.
        observed: The detector's mask: residuals and noise count what it sees only.

    Raises:
        ValueError, TypeError: If an argument is out of range; when called, if x does not fit.
        RuntimeError: When used before ``realise`` with a beam stop.

    Source: Miao et al. 1998 for oversampling; Robinson et al. 2001 for Bragg geometry.
    """

    place: Tensor

    def __init__(
        self,
        object: str = "channels",
        oversample_side: float = 2.0,
        support: Tensor | None = None,
        beam_stop: float = 0.0,
        detector: Tensor | None = None,
        output: str = "intensity",
        phase_scale: float = 1.0,
        axes: int = 2,
    ) -> None:
        if axes not in (2, 3):
            raise ValueError(f"axes must be 2 (images) or 3 (volumes), got {axes}")
        if not 0 <= beam_stop < float("inf"):
            raise ValueError(f"beam_stop must be a radius in pixels, at least 0, got {beam_stop}")
        if beam_stop > 0 and detector is not None:
            raise ValueError("give beam_stop or detector, not both")
        domain, range_in = split_object(object)
        linear = PaddedFourier(
            oversample_side=oversample_side,
            support=support,
            detector=detector,
            domain=domain,
            axes=axes,
        )
        super().__init__(linear, output, range_in, phase_scale)
        self.beam_stop = beam_stop
        self.register_buffer("place", torch.empty(0), persistent=False)  # keeps the device

    @property
    def observed(self) -> Tensor | None:
        self._require_realised()
        return self.linear_part.observed

    def forward(self, x: Tensor) -> Tensor:
        self._require_realised()
        return super().forward(x)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        return self.linear_part.measurement_shape(x_shape)

    def realise(self, rng: Rng, x_shape: Shape) -> Self:
        if not self._waits():
            return self
        sides = self.measurement_shape(x_shape)[2:]
        axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in sides]
        square = sum(g.square() for g in torch.meshgrid(*axes, indexing="ij"))
        seen = (square > self.beam_stop**2).float()[None, None]  # type: ignore[operator]
        if not seen.any():
            raise ValueError(f"a beam stop of radius {self.beam_stop} hides all of {sides} pixels")
        return self._with(with_buffers(self.linear_part, {"detector": seen.to(self.place.device)}))

    def _waits(self) -> bool:
        return self.beam_stop > 0 and self.linear_part.observed is None

    def _require_realised(self) -> None:
        if self._waits():
            raise not_drawn("FarFieldCDI", "detector mask", f"beam_stop={self.beam_stop}")


class FourierHolography(Operator):
    r"""Measures far-field intensities of an object beside a known reference.

    .. math:: y = |F P [o, r]|^2

    with the orthonormal FFT, zero frequency first, and P appending zeros up to twice the sides.
    x is (B, C, H, W) and r stands to its right; y is (B, C, 2 H, 2 (W + W_r)), real, not negative.
    The reference removes all ambiguities. Subtract the part without it to get linear equations.

    Args:
        reference: Reference r, (H, W_r), real or complex, such as one bright point far to the
            right, or a block.
        object: "real": o = x. "unit": o = (x + 1) / 2.

    Attributes:
        linear_part: F P [o, 0], the part that is linear in the object.

    Raises:
        ValueError: If the reference has another number of axes or is not finite; when called, if
            its height is not the image's.

    Source: Saliba et al. 2012 and Barmherzig et al. 2019, holographic phase retrieval.
    """

    reference_parts: Tensor

    def __init__(self, reference: Tensor, object: str = "unit") -> None:
        super().__init__()
        self.object = require_choice(object, ("real", "unit"), "object")
        require_complex_batch(reference, 2, "reference values", "(H, W_r)")
        self.register_buffer("reference_parts", parts_of(reference))

    @property
    def linear_part(self) -> LinearOperator:
        return _BesideReference(self.reference_parts.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        o = (x + 1) / 2 if self.object == "unit" else x
        r = complex_like(self.reference_parts, x).expand(*x.shape[:2], -1, -1)
        field = _fourier_twice(torch.cat([o.to(r.dtype), r], dim=-1))
        return field.real.square() + field.imag.square()

    def check_domain(self, x_shape: Shape) -> None:
        if x_shape[-2] != self.reference_parts.shape[0]:
            raise ValueError(
                f"the reference is {self.reference_parts.shape[0]} pixels high, the images "
                f"{x_shape[-2]}; they stand side by side and need the same height"
            )

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return self.linear_part.measurement_shape(x_shape)


class _BesideReference(FieldOperator):
    """F P [o, 0] with room of so many columns for a reference."""

    def __init__(self, room: int) -> None:
        super().__init__("real")
        self.room = room

    def propagate(self, o: Tensor) -> Tensor:
        return _fourier_twice(torch.nn.functional.pad(o, (0, self.room)))

    def propagate_back(self, y: Tensor) -> Tensor:
        h, w = self.domain_shape(tuple(y.shape))[-2:]
        return torch.fft.ifft2(y, norm="ortho")[..., :h, :w]

    def measurement_shape(self, x_shape: Shape) -> Shape:
        return (*x_shape[:2], 2 * x_shape[2], 2 * (x_shape[3] + self.room))

    def domain_shape(self, y_shape: Shape) -> Shape:
        return (*y_shape[:2], y_shape[2] // 2, y_shape[3] // 2 - self.room)


def _fourier_twice(field: Tensor) -> Tensor:
    h, w = field.shape[-2:]
    return torch.fft.fft2(field, s=(2 * h, 2 * w), norm="ortho")


def _require_codes(codes: Tensor) -> Tensor:
    require_complex_batch(codes, 4, "codes", "(1 or B, L, H, W)")
    if not bool(codes.abs().sum(1).all()):
        raise ValueError("codes must not all be 0 at a pixel, which would never be measured")
    return codes
