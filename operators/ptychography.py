"""Ptychography: many small diffraction or microscope pictures that overlap, without phases."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from plugip.operator import Shape
from plugip.operators._complex import (
    FieldOperator,
    as_pairs,
    complex_like,
    parts_of,
    require_complex_batch,
    with_buffers,
)
from plugip.operators._options import as_sides, require_count, require_odd, require_positive
from plugip.operators.phase import Phaseless, split_object

Pairs = Iterable[Iterable[int]]


class _Windows(FieldOperator):
    """What both kinds share: windows of the object or its spectrum, times an aperture."""

    per_image = ("aperture_parts",)
    aperture_parts: Tensor

    what = "aperture"

    def __init__(
        self, aperture: Tensor, places: Pairs, size: int | Iterable[int], domain: str
    ) -> None:
        super().__init__(domain)
        layout = "(h, w), or (1 or B, h, w)"
        each = aperture[None] if aperture.ndim == 2 else aperture
        require_complex_batch(each, 3, f"{self.what} values", layout)
        self.places = as_pairs(places, f"the places of the {self.what}")
        self.size = as_sides(size, "size")
        self.register_buffer("aperture_parts", parts_of(each))
        self._require_room()

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the windows in pixels."""
        return self.aperture_parts.shape[1], self.aperture_parts.shape[2]

    def corners(self) -> list[tuple[int, int]]:
        """Returns the top left corners of the windows."""
        return list(self.places)

    def cut(self, field: Tensor) -> Tensor:
        """Cuts windows out, (B, C, H, W) -> (B, C, L, h, w), and multiplies by the aperture."""
        h, w = self.window
        if field.shape[:2].numel() == 1:
            index = _pixels(tuple(self.corners()), (h, w), self.size[1], field.device)
            return self._aperture(field) * field.flatten(-2)[..., index]
        # Slices copy faster for several planes, but their gradients fill an array for each: so
        # rows first, that these be as large as a band, not as the field. Measured on a CPU: for
        # 225 windows in one plane of 256 pixels the gradient takes 7 ms, by index 3 ms.
        bands = {r: field[..., r : r + h, :] for r, _ in self.corners()}
        cuts = [bands[r][..., c : c + w] for r, c in self.corners()]
        return self._aperture(field) * torch.stack(cuts, dim=2)

    def paste(self, windows: Tensor) -> Tensor:
        """The adjoint of ``cut``."""
        h, w = self.window
        weighted = self._aperture(windows).conj() * windows
        field = weighted.new_zeros(*windows.shape[:2], *self.size)
        for k, (r, c) in enumerate(self.corners()):
            field[..., r : r + h, c : c + w].add_(weighted[:, :, k])
        return field

    def check_domain(self, x_shape: Shape) -> None:
        super().check_domain(x_shape)
        if tuple(x_shape[-2:]) != self.size:
            raise ValueError(
                f"{type(self).__name__} was built for images of {self.size} pixels, got "
                f"{tuple(x_shape[-2:])}; give size={tuple(x_shape[-2:])}"
            )
        rows = self.aperture_parts.shape[0]
        if rows not in (1, x_shape[0]):
            raise ValueError(
                f"there are {rows} {self.what}s for a batch of {x_shape[0]} images; give one, or "
                "one per image"
            )

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        count = self.objects(x_shape[1]) * len(self.places)
        return (x_shape[0], count, *self.window)

    def domain_shape(self, y_shape: Shape) -> Shape:
        return (y_shape[0], self.image_channels(y_shape[1] // len(self.places)), *self.size)

    def _aperture(self, like: Tensor) -> Tensor:
        return complex_like(self.aperture_parts, like)[:, None, None]

    def _require_room(self) -> None:
        window = self.window
        for corner, place in zip(self.corners(), self.places, strict=True):
            spans = zip(corner, window, self.size, strict=True)
            if any(start < 0 or start + length > side for start, length, side in spans):
                raise ValueError(
                    f"the window of {window} pixels at {place} leaves the array of {self.size}; "
                    f"use a larger size, a smaller {self.what} or places nearer the middle"
                )


@lru_cache(maxsize=32)
def _pixels(
    corners: tuple[tuple[int, int], ...], window: tuple[int, int], width: int, device: torch.device
) -> Tensor:
    """Where the pixels of each window lie in a field that is written as one line, (L, h, w)."""
    with torch.inference_mode(False):  # what inference mode makes cannot be used in training
        down, across = (torch.arange(n, device=device) for n in window)
        starts = torch.tensor([r * width + c for r, c in corners], device=device)
        return starts[:, None, None] + width * down[:, None] + across


class PupilWindows(_Windows):
    r"""The linear part of Fourier ptychography, y_l = F⁻¹(P ⊙ crop_l(F o)).

    Args:
        aperture: Pupil P, (h, w), or one per image, (B, h, w), complex or real.
        places: (row, column) shifts of the window from the middle of the spectrum, in pixels.
        size: Side of the images in pixels, or (H, W).
        domain: As in ``FieldOperator``.

    Raises:
        ValueError: If an argument is out of range or a window leaves the spectrum.
    """

    what = "pupil"

    def corners(self) -> list[tuple[int, int]]:
        h, w = self.window
        top, left = self.size[0] // 2 - h // 2, self.size[1] // 2 - w // 2
        return [(top + down, left + right) for down, right in self.places]

    def propagate(self, o: Tensor) -> Tensor:
        axes = (-2, -1)
        windows = self.cut(torch.fft.fftshift(torch.fft.fft2(o, norm="ortho"), axes))
        return torch.fft.ifft2(torch.fft.ifftshift(windows, axes), norm="ortho").flatten(1, 2)

    def propagate_back(self, y: Tensor) -> Tensor:
        axes = (-2, -1)
        windows = torch.fft.fftshift(torch.fft.fft2(y, norm="ortho"), axes)
        spectrum = self.paste(windows.unflatten(1, (-1, len(self.places))))
        return torch.fft.ifft2(torch.fft.ifftshift(spectrum, axes), norm="ortho")


class ProbeWindows(_Windows):
    r"""The linear part of ptychography, y_l = F_c(p ⊙ crop_l(o)).

    Args:
        aperture: Illumination p, (h, w), or one per image, (B, h, w), complex or real.
        places: (row, column) of the window's top left corner, in pixels.
        size: Side of the images in pixels, or (H, W).
        domain: As in ``FieldOperator``.

    Raises:
        ValueError: If an argument is out of range or a window leaves the image.
    """

    what = "probe"

    def propagate(self, o: Tensor) -> Tensor:
        far = torch.fft.fft2(self.cut(o), norm="ortho").flatten(1, 2)
        return torch.fft.fftshift(far, (-2, -1))

    def propagate_back(self, y: Tensor) -> Tensor:
        near = torch.fft.ifft2(torch.fft.ifftshift(y, (-2, -1)), norm="ortho")
        return self.paste(near.unflatten(1, (-1, len(self.places))))


class FourierPtychography(Phaseless):
    r"""Measures low-resolution pictures of an object, each lit by another lamp from an angle.

    .. math:: y_l = |F^{-1}(P \odot \mathrm{crop}_l(F o))|^2

    with orthonormal FFTs. x is (B, C, H, W); y is (B, C L, m, m), real, not negative, with the
    pictures of one channel next to each other. Neighbouring windows must overlap by 60 % or so
    for a unique answer; then only the global phase is lost: ``align(..., turns=False)``.

    Args:
        shifts: (row, column) shift of the spectrum for each lamp, in frequency pixels, such as
            ``led_grid(5, 4)``.
        pupil: Radius in frequency pixels of the clear disk, edge included; or the pupil itself,
            (m, m) or one per image, (B, m, m), complex with its aberrations.
        side: Side m of the pictures in pixels, where pupil is a radius.
        size: Side of the images in pixels, or (H, W).
        object: What x stands for: "real": o = x. "unit": o = (x + 1) / 2. "phase":
            o = exp(i phase_scale x). "channels": o = x_0 + i x_1. "complex": o = x, complex.
        output: "intensity" or "amplitude".
        phase_scale: Radians at x = 1, for "phase" only.

    Attributes:
        linear_part: The ``PupilWindows`` inside, with its adjoint.

    Raises:
        ValueError, TypeError: If an argument is out of range or a window leaves the spectrum; when
            called, if x does not fit.

    Source: Zheng, Horstmeyer and Yang 2013.
    """

    def __init__(
        self,
        shifts: Pairs,
        pupil: float | Tensor = 12.0,
        side: int = 32,
        size: int | Iterable[int] = 64,
        object: str = "unit",
        output: str = "intensity",
        phase_scale: float = 1.0,
    ) -> None:
        domain, range_in = split_object(object)
        disk = pupil if isinstance(pupil, Tensor) else disk_pupil(side, pupil)
        super().__init__(PupilWindows(disk, shifts, size, domain), output, range_in, phase_scale)

    def through(self, pupil: Tensor) -> Self:
        """Returns the same instrument with another pupil of its size; gradients reach it.

        Args:
            pupil: (1|B, m, m), complex.
        """
        parts = {"aperture_parts": parts_of(pupil)}
        return self._with(with_buffers(self.linear_part, parts))


class Ptychography(Phaseless):
    r"""Measures far-field intensities of an object at each place of a small illumination.

    .. math:: y_l = |F_c(p \odot \mathrm{crop}_l(o))|^2

    with the orthonormal FFT, zero frequency in the middle. x is (B, C, H, W); y is
    (B, C L, h, w), real, not negative. With a known probe only the global phase is lost.

    Args:
        probe: Illumination p, (h, w), or one per image, (B, h, w), complex or real.
        positions: (row, column) of its top left corner, in pixels, such as
            ``scan_grid(64, 24, 8)``.
        size: Side of the images in pixels, or (H, W).
        object: What x stands for, as in ``FourierPtychography``.
        output: "intensity" or "amplitude".
        phase_scale: Radians at x = 1, for object "phase" only.

    Attributes:
        linear_part: The ``ProbeWindows`` inside, with its adjoint.

    Raises:
        ValueError, TypeError: If an argument is out of range or a window leaves the image; when
            called, if x does not fit.

    Source: Rodenburg and Faulkner 2004.
    """

    def __init__(
        self,
        probe: Tensor,
        positions: Pairs,
        size: int | Iterable[int] = 64,
        object: str = "unit",
        output: str = "intensity",
        phase_scale: float = 1.0,
    ) -> None:
        domain, range_in = split_object(object)
        linear = ProbeWindows(probe, positions, size, domain)
        super().__init__(linear, output, range_in, phase_scale)


def disk_pupil(side: int, radius: float) -> Tensor:
    """Builds a clear disk about the middle pixel, edge included, (side, side), float64, 0 or 1.

    Raises:
        ValueError: If side or radius is not positive.
    """
    offsets = torch.arange(require_count(side, 1, "side"), dtype=torch.float64) - side // 2
    square = offsets[:, None].square() + offsets[None, :].square()
    return (square <= require_positive(radius, "radius") ** 2).double()


def led_grid(count: int = 5, step: int = 4) -> list[tuple[int, int]]:
    """Lists the spectrum shifts of a square grid of lamps, from its middle outwards.

    Args:
        count: Lamps per side, odd, so that one stands in the middle.
        step: Shift from lamp to lamp in frequency pixels.

    Raises:
        ValueError: If count is not odd and positive, or step not positive.
    """
    reach, step = require_odd(count, "count") // 2, require_count(step, 1, "step")
    lamps = [(r, c) for r in range(-reach, reach + 1) for c in range(-reach, reach + 1)]
    return [(step * r, step * c) for r, c in sorted(lamps, key=lambda p: p[0] ** 2 + p[1] ** 2)]


def scan_grid(size: int, probe: int, step: int) -> list[tuple[int, int]]:
    """Lists the top left corners of a probe that scans a square image row by row.

    The last row and column end at the edge of the image, so that all of it is seen.

    Args:
        size: Side of the image in pixels.
        probe: Side of the probe in pixels, at most ``size``.
        step: Pixels from place to place, below ``probe`` for an overlap.

    Raises:
        ValueError: If a number is not positive, or the probe exceeds the image.
    """
    require_count(probe, 1, "probe")
    require_count(step, 1, "step")
    if probe > size:
        raise ValueError(f"a probe of {probe} pixels exceeds the image of {size} pixels")
    line = sorted({*range(0, size - probe + 1, step), size - probe})
    return [(row, column) for row in line for column in line]
