"""Phase retrieval: only magnitudes of a linear field are measured; align undoes what they hide."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from plugip.operator import LinearOperator, Operator, Shape
from plugip.operators._complex import (
    DOMAINS,
    FieldOperator,
    as_channels,
    as_complex,
    require_channels,
    require_reals,
    with_buffers,
)
from plugip.operators._options import require_count
from plugip.options import require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng

RANGES = ("signed", "unit")
OBJECTS = ("real", "unit", "phase", "channels", "complex")
OUTPUTS = ("amplitude", "intensity")


class Phaseless(Operator):
    r"""Measures the magnitudes of a linear field, |L o| or |L o|²; its phases are lost.

    y is real, not negative, and otherwise of the shape that L gives. Amplitudes have gradient 0
    where the field is 0, though they are not differentiable there; intensities are smooth.

    Args:
        linear_part: The linear map L, which takes objects as ``object_of`` gives them.
        output: "intensity" or "amplitude".
        range_in: "signed": o = x, as L takes it. "unit": o = (x + 1) / 2. "phase":
            o = exp(i phase_scale x), a transparent object that only delays light; L is then one
            for complex images.
        phase_scale: Phase in radians at x = 1, for "phase" only.

    Attributes:
        linear_part: L, with its adjoint; |L(object_of(x))| is what is measured.

    Raises:
        ValueError: If an option is unknown, or phase_scale is not positive.
        TypeError: When called, if x is complex and should not be, or the other way round.
    """

    linear_part: LinearOperator

    def __init__(
        self,
        linear_part: LinearOperator,
        output: str = "intensity",
        range_in: str = "signed",
        phase_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.output = require_choice(output, OUTPUTS, "output")
        self.range_in = require_choice(range_in, (*RANGES, "phase"), "range_in")
        if not 0 < phase_scale < float("inf"):
            raise ValueError(f"phase_scale must be positive and finite, got {phase_scale}")
        self.phase_scale, self.linear_part = phase_scale, linear_part
        self.domain_ndim = linear_part.domain_ndim
        self.complex_domain = linear_part.complex_domain and self.range_in != "phase"

    def object_of(self, x: Tensor) -> Tensor:
        """Returns the object whose field is measured, in the form that ``linear_part`` takes."""
        if self.range_in == "phase":
            require_reals(x, "real", type(self).__name__)
            return torch.polar(torch.ones_like(x), self.phase_scale * x)
        return (x + 1) / 2 if self.range_in == "unit" else x

    def forward(self, x: Tensor) -> Tensor:
        field = self.linear_part(self.object_of(x))
        if self.output == "amplitude":
            return field.abs()
        if not field.is_complex():
            return field.square()
        return (field * field.conj()).real.contiguous()  # no square root, and fewer steps back

    @property
    def observed(self) -> Tensor | None:
        return self.linear_part.observed

    def check_domain(self, x_shape: Shape) -> None:
        self.linear_part.check_domain(x_shape)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        return self.linear_part.measurement_shape(x_shape)

    def realise(self, rng: Rng, x_shape: Shape) -> Self:
        return self._with(self.linear_part.realise(rng, x_shape))

    def select(self, rows: list[int]) -> Self:
        return self._with(self.linear_part.select(rows))

    def _with(self, linear_part: Operator) -> Self:
        if linear_part is self.linear_part:
            return self
        chosen = with_buffers(self, {})
        chosen._modules = self._modules | {"linear_part": linear_part}
        return chosen

    def extra_repr(self) -> str:
        return f"output={self.output!r}, range_in={self.range_in!r}"


def split_object(kind: str) -> tuple[str, str]:
    """Reads what x stands for as (domain of the linear part, range_in of ``Phaseless``).

    Args:
        kind: "real": o = x. "unit": o = (x + 1) / 2. "phase": o = exp(i phase_scale x).
            "channels": o = x_0 + i x_1. "complex": o = x, complex.
    """
    domain = require_choice(kind, OBJECTS, "object")
    if domain == "phase":
        return "complex", "phase"
    return ("real", "unit") if domain == "unit" else (domain, "signed")


class PaddedFourier(FieldOperator):
    r"""The Fourier transform of a zero-padded object, seen through a support and by a detector.

    .. math:: y = m \odot F P (1_S \odot o)

    for every channel, with the orthonormal FFT over the last ``axes`` axes, zero frequency in the
    middle. The adjoint is exact.

    Args:
        oversample: Pads int(oversample / 8 * side) pixels at each end of a side.
        pad: Pixels at each end, instead.
        oversample_side: Padded side over side, instead: the padded side is
            ceil(oversample_side * side).
        support: 1 where the object may be, 0 elsewhere, (1|B, 1|C, H, W), or None.
        detector: 1 where the detector sees, 0 elsewhere, of y's shape or broadcastable, or None.
        domain: As in ``FieldOperator``.
        axes: 2 for images, 3 for volumes (B, C, D, H, W).

    Raises:
        ValueError: If an argument is out of range, or more than one padding is given.
    """

    per_image = ("support", "detector")
    support: Tensor | None
    detector: Tensor | None

    def __init__(
        self,
        oversample: float = 2.0,
        pad: int | None = None,
        oversample_side: float | None = None,
        support: Tensor | None = None,
        detector: Tensor | None = None,
        domain: str = "real",
        axes: int = 2,
    ) -> None:
        super().__init__(domain)
        if not 0 <= oversample < float("inf"):
            raise ValueError(f"oversample must be finite and not negative, got {oversample}")
        if oversample_side is not None and not 1 <= oversample_side < float("inf"):
            raise ValueError(f"oversample_side must be at least 1, got {oversample_side}")
        if pad is not None and oversample_side is not None:
            raise ValueError("give pad or oversample_side, not both")
        self.oversample, self.oversample_side = oversample, oversample_side
        self.pad = None if pad is None else require_count(pad, 0, "pad")
        self.axes = tuple(range(-axes, 0))
        self.domain_ndim = axes + 2
        self.register_buffer("support", _require_binary(support, axes + 2, "support"))
        self.register_buffer("detector", _require_binary(detector, axes + 2, "detector"))

    @property
    def observed(self) -> Tensor | None:
        return self.detector

    def propagate(self, o: Tensor) -> Tensor:
        inside = o if self.support is None else self.support.to(o.real.dtype) * o
        widths = [self.padding(side) for side in o.shape[2:]]
        padded = torch.nn.functional.pad(inside, [n for pair in reversed(widths) for n in pair])
        y = torch.fft.fftshift(torch.fft.fftn(padded, dim=self.axes, norm="ortho"), self.axes)
        return y if self.detector is None else self.detector.to(y.real.dtype) * y

    def propagate_back(self, y: Tensor) -> Tensor:
        seen = y if self.detector is None else self.detector.to(y.real.dtype) * y
        shifted = torch.fft.ifftshift(seen, self.axes)
        o = torch.fft.ifftn(shifted, dim=self.axes, norm="ortho")
        for axis, side in zip(self.axes, self._sides(tuple(y.shape[2:])), strict=True):
            o = o.narrow(axis, self.padding(side)[0], side)
        return o if self.support is None else self.support.to(o.real.dtype) * o

    def padding(self, side: int) -> tuple[int, int]:
        """Returns the zeros before and after a side of so many pixels."""
        if self.oversample_side is not None:
            extra = ceil(self.oversample_side * side) - side
            return extra // 2, extra - extra // 2
        width = int(self.oversample / 8 * side) if self.pad is None else self.pad
        return width, width

    def check_domain(self, x_shape: Shape) -> None:
        super().check_domain(x_shape)
        _check_fits(self.support, (x_shape[0], self.objects(x_shape[1]), *x_shape[2:]), "support")
        _check_fits(self.detector, self._padded(x_shape), "detector")

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return self._padded(x_shape)

    def domain_shape(self, y_shape: Shape) -> Shape:
        return (y_shape[0], self.image_channels(y_shape[1]), *self._sides(y_shape[2:]))

    def _padded(self, x_shape: Shape) -> Shape:
        sides = (sum(self.padding(side)) + side for side in x_shape[2:])
        return (x_shape[0], self.objects(x_shape[1]), *sides)

    def _sides(self, padded: Shape) -> Shape:
        """Returns the sides that padding makes so large; padded sides grow with them."""
        return tuple(
            next((n for n in range(1, m + 1) if sum(self.padding(n)) + n >= m), m) for m in padded
        )


class FourierMagnitude(Phaseless):
    r"""Measures the magnitudes of the Fourier transform of a zero-padded image; phases are lost.

    .. math:: y = |F P (1_S \odot u)|, \quad u = x \text{ or } (x + 1) / 2

    for every channel on its own, with the orthonormal FFT, zero frequency in the middle. x is
    (B, C, H, W) in [-1, 1]; y is (B, C, H + 2 p, W + 2 p), real, not negative, and ‖y‖ = ‖u‖ for
    amplitudes. A 180 degree turn of x, and for signed images -x, give the same y: see ``align``.

    Args:
        oversample: Pads p = int(oversample / 8 * side) pixels at each end of a side, so that 2.0
            means 1.5 times the side, as in DPS. Unaliased autocorrelations need oversample >= 4.
        range_in: "signed": u = x (DPS, InverseBench). "unit": u = (x + 1) / 2 (DAPS). They are two
            different problems.
        output: "amplitude", or "intensity", its square, which is smooth also at 0.
        pad: Pixels at each end, instead of ``oversample``. The DPS code pads 64 at any image size.
        oversample_side: Padded side over side, instead; at least 2 for honest diffractive imaging.
        support: 1 where the object may be, (1|B, 1|C, H, W); the rest of x is not seen.

    Attributes:
        linear_part: F P 1_S, with its adjoint; y is the magnitude of linear_part(u).

    Raises:
        ValueError: If an argument is out of range.

    Source: Chung et al. 2023 (DPS), code; Zhang et al. 2025 (DAPS), code.
    """

    def __init__(
        self,
        oversample: float = 2.0,
        range_in: str = "signed",
        output: str = "amplitude",
        pad: int | None = None,
        oversample_side: float | None = None,
        support: Tensor | None = None,
    ) -> None:
        linear = PaddedFourier(oversample, pad, oversample_side, support)
        super().__init__(linear, output, require_choice(range_in, RANGES, "range_in"))
        self.oversample, self.pad, self.oversample_side = oversample, pad, oversample_side

    def extra_repr(self) -> str:
        return (
            f"oversample={self.oversample}, range_in={self.range_in!r}, output={self.output!r}, "
            f"pad={self.pad}, oversample_side={self.oversample_side}"
        )


def align(
    estimate: Tensor,
    reference: Tensor,
    shifts: bool = False,
    joint_channels: bool = True,
    range_in: str = "signed",
    turns: bool = True,
    domain: str = "real",
) -> Tensor:
    r"""Flips, shifts and signs each estimate, as magnitudes allow, so that it meets the reference.

    Among the estimate and its conjugate 180 degree turn, and among circular shifts if asked,
    takes the one with the largest correlation :math:`|F^{-1}(F r\, \overline{F e})|`, and then
    the best phase: a sign for real images. Use it before metrics, and report the raw figure too.
    Fourier magnitudes hide all three; coded, Gaussian, near-field and ptychographic ones only the
    phase: then ask for ``turns=False``.

    Args:
        estimate: (B, C, H, W), real or complex.
        reference: Same shape.
        shifts: Whether circular shifts count as well; give the padded arrays then.
        joint_channels: One symmetry for all channels of an image; otherwise one per channel,
            which the measurement allows but natural images do not need.
        range_in: As in ``FourierMagnitude``; in "unit" the sign is known.
        turns: Whether conjugate 180 degree turns count.
        domain: "real" or "complex": the images as they are. "channels": two channels are real and
            imaginary part of one complex image, with one phase.

    Returns:
        Aligned estimates, (B, C, H, W).

    Raises:
        ValueError: If the shapes differ or an option is unknown.

    Source: Guizar-Sicairos et al. 2008 for registration by cross-correlation.
    """
    if estimate.ndim != 4 or estimate.shape != reference.shape:
        shapes = f"{tuple(estimate.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"align takes two (B, C, H, W) batches of the same shape, got {shapes}")
    if require_choice(domain, DOMAINS, "domain") == "channels":
        require_channels(tuple(estimate.shape), domain, "align")
        whole = (as_complex(estimate), as_complex(reference))
        return as_channels(align(*whole, shifts, joint_channels, range_in, turns))
    if require_choice(range_in, RANGES, "range_in") == "unit":
        unit = ((estimate + 1) / 2, (reference + 1) / 2)
        return 2 * align(*unit, shifts, joint_channels, turns=turns) - 1
    candidates = [estimate, estimate.flip(-2, -1).conj()] if turns else [estimate]
    turned = torch.stack(candidates, dim=2)  # (B, C, 2, H, W)
    peak, place = _best(_correlations(turned, reference, shifts, joint_channels))
    return _phase(peak, estimate)[..., None, None] * _moved(turned, place, shifts)


def _correlations(turned: Tensor, reference: Tensor, shifts: bool, joint: bool) -> Tensor:
    """Returns (B, C, 2, H, W), or (B, C, 2, 1, 1) without shifts."""
    reference = reference[:, :, None]
    if shifts:
        product = torch.fft.fft2(reference) * torch.fft.fft2(turned).conj()
        c = torch.fft.ifft2(product)
    else:
        c = (reference * turned.conj()).sum((-2, -1), keepdim=True)
    return c.sum(1, keepdim=True).expand_as(c) if joint else c


def _best(c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Returns the largest correlation and its (turn, row, column) indices, (B, C) each."""
    flat = c.flatten(2)
    index = flat.abs().argmax(-1, keepdim=True)
    h, w = c.shape[-2:]
    i = index[..., 0]
    return flat.gather(-1, index)[..., 0], (i // (h * w), i // w % h, i % w)


def _phase(peak: Tensor, like: Tensor) -> Tensor:
    if not like.is_complex():
        return torch.where(peak.real < 0, -1.0, 1.0).to(like.dtype)
    return torch.where(peak.abs() > 0, torch.sgn(peak), 1.0)


def _moved(turned: Tensor, place: tuple[Tensor, Tensor, Tensor], shifts: bool) -> Tensor:
    """Picks the turn of each channel and shifts it circularly."""
    (batch, channels, _, h, w), (turn, down, right) = turned.shape, place
    b = torch.arange(batch, device=turned.device).reshape(-1, 1, 1, 1)
    c = torch.arange(channels, device=turned.device).reshape(1, -1, 1, 1)
    rows = (torch.arange(h, device=turned.device) - down[..., None])[..., :, None] % h
    columns = (torch.arange(w, device=turned.device) - right[..., None])[..., None, :] % w
    return turned[b, c, turn[..., None, None], rows, columns]


def _require_binary(mask: Tensor | None, ndim: int, what: str) -> Tensor | None:
    if mask is None:
        return None
    if mask.ndim != ndim or not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"{what} must hold only 0 and 1 on {ndim} axes, one of them the batch axis, got "
            f"shape {tuple(mask.shape)} with values up to {float(mask.max()):.3g}"
        )
    return mask if mask.is_floating_point() else mask.to(torch.get_default_dtype())


def _check_fits(mask: Tensor | None, shape: Shape, what: str) -> None:
    if mask is not None and any(m not in (1, n) for m, n in zip(mask.shape, shape, strict=True)):
        raise ValueError(
            f"the {what} of shape {tuple(mask.shape)} does not fit {tuple(shape)}; each axis "
            "must have that length or 1"
        )
