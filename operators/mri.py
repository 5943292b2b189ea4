"""Magnetic resonance imaging: part of the Fourier transform of a complex image is acquired."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import pi
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from plugip.linalg import damping_like
from plugip.operator import LinearOperator, Shape, SpectralOperator
from plugip.operators._complex import (
    FieldOperator,
    as_channels,
    as_complex,
    complex_like,
    fft2c,
    ifft2c,
    not_drawn,
    parts_of,
    require_channels,
    require_complex_batch,
    require_drawer,
    require_reals,
    require_streams,
    with_buffers,
)
from plugip.operators._memo import Remembers
from plugip.operators._options import as_sides, require_count
from plugip.operators.masks import MaskSampler
from plugip.options import require_choice
from plugip.spectral import Spectrum

if TYPE_CHECKING:
    from plugip.rng import Rng


MRI_DOMAINS = ("channels", "complex")


class _Cartesian(LinearOperator):
    """What single- and multi-coil scans share: the mask on k-space, given or drawn."""

    per_image: tuple[str, ...] = ("mask",)
    mask: Tensor
    sampler: MaskSampler | None

    def _hold_mask(self, mask: Tensor | MaskSampler) -> None:
        given = isinstance(mask, Tensor)
        self.sampler = None if given else require_drawer(mask, "mask", "RandomLines(4)")
        # Without a mask yet, an empty one keeps the device.
        self.register_buffer("mask", _require_mask(mask) if given else torch.empty(0, 1, 0, 0))

    @property
    def observed(self) -> Tensor | None:
        return self._fixed()

    def realise(self, rng: Rng, x_shape: Shape) -> Self:
        if self.sampler is None:
            return self
        require_streams(rng, x_shape)
        self.check_domain(x_shape)
        mask = _require_mask(self.sampler.draw(rng.child("mask"), x_shape)).to(self.mask)
        chosen = with_buffers(self, {"mask": mask})
        chosen.sampler = None
        return chosen

    def _fixed(self) -> Tensor:
        if self.sampler is not None:
            raise not_drawn(type(self).__name__, "mask", self.sampler)
        return self.mask

    def _check_mask(self, x_shape: Shape) -> None:
        if self.sampler is not None:
            return
        batch, _, *sides = self.mask.shape
        fits = all(m in (1, n) for m, n in zip(sides, x_shape[-2:], strict=True))
        if batch not in (1, x_shape[0]) or not fits:
            raise ValueError(
                f"a mask of shape {tuple(self.mask.shape)} does not fit images of shape "
                f"{tuple(x_shape)}; it must be (1 or B, 1, 1 or H, 1 or W)"
            )

    def extra_repr(self) -> str:
        return str(self.sampler) if self.sampler else f"mask={tuple(self.mask.shape)}"


class SingleCoilMRI(Remembers, _Cartesian, SpectralOperator):
    r"""Acquires part of the Fourier transform of a complex image with one receiver coil.

    .. math:: y = m \odot F_c x

    with the orthonormal FFT, zero frequency in the middle. x is (B, 2, H, W), real and imaginary
    part in [-1, 1], or complex (B, 1, H, W); y is complex, (B, 1, H, W), 0 where not acquired.
    Singular values are 0 and 1, and the pseudo-inverse is the adjoint. Noise: complex Gaussian,
    its std counted per real component, on acquired points only.

    Args:
        mask: 1 acquired, 0 not, (1|B, 1, 1|H, 1|W); or a sampler such as ``RandomLines(4)``: then
            call ``realise(rng, x_shape)`` first, which draws one mask per image.
        domain: "channels": x has two real channels. "complex": x is complex.

    Raises:
        ValueError: If the mask has another shape or other values; when called, if x does not fit.
        TypeError: If the mask is neither; when called, if x is complex and should not be, or the
            other way round.
        RuntimeError: When used before ``realise``.

    Source: Zbontar et al. 2018 (fastMRI).
    """

    def __init__(self, mask: Tensor | MaskSampler, domain: str = "channels") -> None:
        super().__init__()
        self.domain = require_choice(domain, MRI_DOMAINS, "domain")
        self.complex_domain = domain == "complex"
        self._hold_mask(mask)

    # What the spectrum says, but faster: none is built, and at even sizes nothing is shifted. That
    # takes a third less time at 64 pixels.
    def forward(self, x: Tensor) -> Tensor:
        require_reals(x, self.domain, type(self).__name__)
        self.check_domain(tuple(x.shape))
        signs, seen = self._signs(x)
        if signs is None:
            return seen * fft2c(self._field(x))
        return seen * torch.fft.fft2(signs * self._field(x), norm="ortho")

    def adjoint(self, y: Tensor) -> Tensor:
        self.check_domain(self.domain_shape(tuple(y.shape)))
        signs, seen = self._signs(y)
        if signs is None:
            return self._image(ifft2c(seen * y))
        return self._image(signs * torch.fft.ifft2(seen * y, norm="ortho"))

    def normal(self, x: Tensor) -> Tensor:
        mask = self._corner_mask(x)  # the shifts there and back cancel
        return self._image(torch.fft.ifft2(mask * torch.fft.fft2(self._field(x))))

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        gain = self._corner_mask(b) + damping_like(lam, b)
        return self._image(torch.fft.ifft2(torch.fft.fft2(self._field(b)) / gain))

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)

    def _field(self, x: Tensor) -> Tensor:
        return as_complex(x) if self.domain == "channels" else x

    def _image(self, field: Tensor) -> Tensor:
        return as_channels(field) if self.domain == "channels" else field

    def _signs(self, like: Tensor) -> tuple[Tensor | None, Tensor]:
        """Returns signs, (H, W), that stand for a shift of the middle, and the mask with them.

        At even sizes the centred transform is the plain one between two chequered patterns of
        signs; at others there are none, and the mask is bare.
        """
        h, w = like.shape[-2:]

        def make() -> tuple[Tensor | None, Tensor]:
            mask = self._fixed().to(like.real)
            if h % 2 or w % 2:
                return None, mask
            rows, columns = (1 - 2 * (torch.arange(n) % 2) for n in (h, w))
            signs = torch.outer(rows, columns).to(mask)
            # The phase of the middle itself: exp(-2 pi i (N / 2)^2 / N) along each axis.
            return signs, (-1) ** ((h + w) // 2) * mask * signs

        return self._remember("signs", self._fixed(), _kind(like), make)

    def _corner_mask(self, x: Tensor) -> Tensor:
        """Returns the mask with zero frequency in the corner, (1 or B, 1, H, W)."""
        require_reals(x, self.domain, type(self).__name__)
        self.check_domain(tuple(x.shape))
        mask = self._fixed()

        def make() -> Tensor:
            return _corner_first(mask.expand(-1, -1, *x.shape[-2:]).to(x.real))

        return self._remember("corner", mask, _kind(x), make)

    def spectrum(self, x_shape: Shape) -> KSpaceSpectrum:
        mask = self._fixed()
        self.check_domain(x_shape)
        return KSpaceSpectrum(mask, self.domain)

    def check_domain(self, x_shape: Shape) -> None:
        _check_images(x_shape, self.domain, "SingleCoilMRI")
        self._check_mask(x_shape)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return (x_shape[0], 1, *x_shape[2:])

    def domain_shape(self, y_shape: Shape) -> Shape:
        return (y_shape[0], 2 if self.domain == "channels" else 1, *y_shape[2:])


class MultiCoilMRI(_Cartesian, FieldOperator):
    r"""Acquires part of k-space with several coils, each of which sees the image its own way.

    .. math:: y_c = m \odot F_c (S_c \odot x)

    with the centred orthonormal FFT. x is (B, 2, H, W), real and imaginary part in [-1, 1], or
    complex (B, 1, H, W); y is complex, (B, coils, H, W), 0 where not acquired. With sensitivities
    whose squares sum to 1, the operator norm is at most 1. ``solve_normal`` runs conjugate
    gradients. Noise: complex Gaussian, its std counted per real component.

    Args:
        maps: Sensitivities S, complex, (1|B, coils, H, W), used as they are. ``birdcage_maps``
            makes some; measured ones come from ESPIRiT.
        mask: 1 acquired, 0 not, (1|B, 1, 1|H, 1|W); or a sampler such as ``RandomLines(4)``: then
            call ``realise(rng, x_shape)`` first, which draws one mask per image.
        domain: "channels": x has two real channels. "complex": x is complex.

    Raises:
        ValueError: If maps or mask have another shape or other values; when called, if x does not
            fit them.
        TypeError: As ``SingleCoilMRI``.
        RuntimeError: When used before ``realise``.

    Source: Pruessmann et al. 1999 (SENSE); Zbontar et al. 2018 (fastMRI).
    """

    per_image: tuple[str, ...] = ("mask", "maps_parts")
    maps_parts: Tensor

    def __init__(self, maps: Tensor, mask: Tensor | MaskSampler, domain: str = "channels") -> None:
        super().__init__(require_choice(domain, MRI_DOMAINS, "domain"))
        require_complex_batch(maps, 4, "maps", "(1 or B, coils, H, W)")
        # Held with the middle in the corner, so that one image is shifted and not every coil's.
        self.register_buffer("maps_parts", parts_of(_corner_first(maps)))
        self._hold_mask(mask)

    def propagate(self, o: Tensor) -> Tensor:
        k = torch.fft.fft2(self._maps(o) * _corner_first(o), norm="ortho")
        return self._fixed().to(o.real.dtype) * _middle_first(k)

    def propagate_back(self, y: Tensor) -> Tensor:
        return self._combined(_corner_first(self._fixed().to(y.real.dtype) * y))

    def normal(self, x: Tensor) -> Tensor:
        # The shifts of k-space there and back cancel.
        o = self.object_of(x)
        k = torch.fft.fft2(self._maps(o) * _corner_first(o), norm="ortho")
        mask = self._fixed().to(o.real.dtype).expand(-1, -1, *k.shape[-2:])
        return self.image_of(self._combined(_corner_first(mask) * k))

    def _combined(self, k: Tensor) -> Tensor:
        coils = torch.fft.ifft2(k, norm="ortho")
        return _middle_first((self._maps(k).conj() * coils).sum(1, keepdim=True))

    def _maps(self, like: Tensor) -> Tensor:
        return complex_like(self.maps_parts, like)

    def check_domain(self, x_shape: Shape) -> None:
        _check_images(x_shape, self.domain, "MultiCoilMRI")
        batch, _, *sides = self.maps_parts.shape[:4]
        if batch not in (1, x_shape[0]) or tuple(sides) != tuple(x_shape[-2:]):
            raise ValueError(
                f"maps of shape {tuple(self.maps_parts.shape[:4])} do not fit images of shape "
                f"{tuple(x_shape)}; they must be (1 or B, coils, H, W)"
            )
        self._check_mask(x_shape)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return (x_shape[0], self.maps_parts.shape[1], *x_shape[2:])

    def domain_shape(self, y_shape: Shape) -> Shape:
        return (y_shape[0], self.image_channels(1), *y_shape[2:])


@dataclass(frozen=True)
class KSpaceSpectrum(Spectrum):
    """The factors of m F_c: V is the inverse Fourier transform, s the mask, U does nothing."""

    s: Tensor
    domain: str

    def Vt(self, x: Tensor) -> Tensor:
        return fft2c(as_complex(x) if self.domain == "channels" else x)

    def V(self, coefficients: Tensor) -> Tensor:
        x = ifft2c(coefficients)
        return as_channels(x) if self.domain == "channels" else x

    def Ut(self, y: Tensor) -> Tensor:
        return y

    def U(self, coefficients: Tensor) -> Tensor:
        return coefficients

    def to(self, like: Tensor) -> KSpaceSpectrum:
        return KSpaceSpectrum(self.s.to(like.real), self.domain)


def birdcage_maps(coils: int = 8, size: int | Iterable[int] = 64, radius: float = 1.5) -> Tensor:
    """Builds simple smooth coil sensitivities: coils on a ring, each strongest near itself.

    Each falls off as one over the distance from its coil, and its phase is the direction as
    seen from there. Their squares sum to 1 at each pixel.

    Args:
        coils: Number of coils.
        size: Side of the images in pixels, or (height, width).
        radius: Radius of the ring in half sides of the image, above sqrt(2), outside its corners.

    Returns:
        Maps, (1, coils, H, W), complex128.

    Raises:
        ValueError: If an argument is out of range.

    Source: after Roemer et al. 1990, far simplified.
    """
    require_count(coils, 1, "coils")
    if not 2**0.5 < radius < float("inf"):
        raise ValueError(f"radius must exceed sqrt(2), outside the image, got {radius}")
    rows, columns = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in as_sides(size, "size"))
    place = torch.complex(
        columns[None, :].expand(len(rows), -1), rows[:, None].expand(-1, len(columns))
    )
    turns = 2 * pi * torch.arange(coils, dtype=torch.float64) / coils
    gap = place - torch.polar(torch.full_like(turns, radius), turns)[:, None, None]
    maps = 1 / gap.conj()
    return (maps / maps.abs().square().sum(0).sqrt())[None]


def _kind(x: Tensor) -> tuple[Shape, torch.dtype, torch.device]:
    return x.shape[-2:], x.real.dtype, x.device


def _corner_first(field: Tensor) -> Tensor:
    return torch.fft.ifftshift(field, (-2, -1))


def _middle_first(field: Tensor) -> Tensor:
    return torch.fft.fftshift(field, (-2, -1))


def _check_images(x_shape: Shape, domain: str, owner: str) -> None:
    if len(x_shape) != 4:
        raise ValueError(f"{owner} takes (B, C, H, W) images, got shape {tuple(x_shape)}")
    require_channels(x_shape, domain, owner)
    if domain == "complex" and x_shape[1] != 1:
        raise ValueError(f"{owner} takes complex images (B, 1, H, W), got {tuple(x_shape)}")


def _require_mask(mask: Tensor) -> Tensor:
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(
            f"a k-space mask must have shape (1 or B, 1, 1 or H, 1 or W), got "
            f"{tuple(mask.shape)}; for one value per column use mask[None, None, None]"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("a mask holds only 1 (acquired) and 0 (not); use (mask > 0.5).float()")
    if not bool(mask.flatten(1).any(dim=1).all()):
        raise ValueError("the mask of an image acquires nothing; 1 means acquired, 0 not")
    return mask if mask.is_floating_point() else mask.to(torch.get_default_dtype())
