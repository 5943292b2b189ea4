"""Near-field holography: the intensity of a wave a short way behind an object."""

from __future__ import annotations

from functools import lru_cache
from math import pi

import torch
from torch import Tensor

from plugip.operator import Shape
from plugip.operators._complex import FieldOperator
from plugip.operators._options import require_positive
from plugip.operators.phase import Phaseless, split_object
from plugip.options import require_choice

PROPAGATORS = ("angular_spectrum", "fresnel")
EVANESCENT = ("decay", "drop", "keep")


class Propagation(FieldOperator):
    r"""Lets a wave travel a distance through free space, y = F⁻¹[H F o].

    Circular at the edges. H has modulus 1 where waves propagate, so energy is kept.

    Args:
        wavelength, distance, pixel: In one unit of length; see ``NearFieldHolography``.
        model: "angular_spectrum" or "fresnel".
        evanescent: As in ``NearFieldHolography``.
        domain: As in ``FieldOperator``.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        wavelength: float,
        distance: float,
        pixel: float = 1.0,
        model: str = "angular_spectrum",
        evanescent: str = "decay",
        domain: str = "complex",
    ) -> None:
        super().__init__(domain)
        require_positive(wavelength, "wavelength")
        require_positive(pixel, "pixel")
        if not abs(distance) < float("inf"):
            raise ValueError(f"distance must be finite, got {distance}")
        self.wavelength, self.distance, self.pixel = wavelength, distance, pixel
        self.model = require_choice(model, PROPAGATORS, "model")
        self.evanescent = require_choice(evanescent, EVANESCENT, "evanescent")

    def transfer(self, like: Tensor) -> Tensor:
        """Returns H for fields of the shape of ``like``, (H, W), zero frequency first."""
        recipe = (self.wavelength, self.distance, self.pixel, self.model, self.evanescent)
        return _transfer(*recipe, *like.shape[-2:], like.real.dtype, like.device)

    def propagate(self, o: Tensor) -> Tensor:
        return torch.fft.ifft2(self.transfer(o) * torch.fft.fft2(o))

    def propagate_back(self, y: Tensor) -> Tensor:
        return torch.fft.ifft2(self.transfer(y).conj() * torch.fft.fft2(y))

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return (x_shape[0], self.objects(x_shape[1]), *x_shape[2:])

    def domain_shape(self, y_shape: Shape) -> Shape:
        return (y_shape[0], self.image_channels(y_shape[1]), *y_shape[2:])


class NearFieldHolography(Phaseless):
    r"""Measures the intensity of a wave at a distance behind an object, an in-line hologram.

    .. math:: y = |F^{-1}[H F o]|^2, \quad H = e^{2 \pi i z \sqrt{1/\lambda^2 - f^2}} \text{ or }
        e^{-i \pi \lambda z f^2}

    x is (B, C, H, W); y is real, not negative, of the object's shape, circular at the edges. Its
    mean equals that of |o|². Only the global phase is lost.

    Args:
        wavelength: Wavelength λ. All three lengths have one unit; with pixel 1 it is the pixel.
        distance: Distance z, negative for backwards.
        pixel: Side of a pixel.
        object: What x stands for, as in ``CodedDiffraction``; "phase" is a transparent object.
        phase_scale: Radians at x = 1, for object "phase" only.
        model: "angular_spectrum", exact, or "fresnel", its paraxial approximation, which leaves
            out the constant phase exp(2 π i z / λ).
        evanescent: What "angular_spectrum" does with frequencies above 1 / λ: "decay" as physics
            does, "drop" to 0, "keep" at modulus 1.
        output: "intensity" or "amplitude".

    Attributes:
        linear_part: The ``Propagation`` inside, with its adjoint.

    Raises:
        ValueError, TypeError: If an argument is out of range; when called, if x does not fit.

    Source: Goodman 2005, sections 3.10 and 4.2.
    """

    def __init__(
        self,
        wavelength: float = 0.5,
        distance: float = 10.0,
        pixel: float = 1.0,
        object: str = "phase",
        phase_scale: float = 1.0,
        model: str = "angular_spectrum",
        evanescent: str = "decay",
        output: str = "intensity",
    ) -> None:
        domain, range_in = split_object(object)
        linear = Propagation(wavelength, distance, pixel, model, evanescent, domain)
        super().__init__(linear, output, range_in, phase_scale)


@lru_cache(maxsize=8)
def _transfer(
    wavelength: float,
    distance: float,
    pixel: float,
    model: str,
    evanescent: str,
    rows: int,
    columns: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    with torch.inference_mode(False):
        down, across = (
            torch.fft.fftfreq(n, d=pixel, dtype=torch.float64) for n in (rows, columns)
        )
        square = down[:, None].square() + across[None, :].square()
        if model == "fresnel":
            h = torch.polar(torch.ones_like(square), -pi * wavelength * distance * square)
        else:
            h = _angular_spectrum(1 / wavelength**2 - square, distance, evanescent)
        return h.to(device=device, dtype=dtype.to_complex())


def _angular_spectrum(axial: Tensor, distance: float, evanescent: str) -> Tensor:
    """Returns H from the squared axial frequency, negative where waves do not propagate."""
    phase = 2 * pi * distance * axial.clamp(min=0).sqrt()
    modulus = torch.ones_like(axial)
    if evanescent == "decay":
        modulus = torch.exp(-2 * pi * abs(distance) * (-axial).clamp(min=0).sqrt())
    if evanescent == "drop":
        modulus = (axial >= 0).double()
    return torch.polar(modulus, phase)
