"""Phase retrieval: only the magnitudes of an image's Fourier transform are measured."""

from __future__ import annotations

import torch
from torch import Tensor

from plugip.operator import Operator, Shape
from plugip.operators._options import require_count
from plugip.options import require_choice

RANGES = ("signed", "unit")


class FourierMagnitude(Operator):
    r"""Measures the magnitudes of the Fourier transform of a zero-padded image; phases are lost.

    .. math:: y = |F P u|, \quad u = x \text{ or } (x + 1) / 2

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
    ) -> None:
        super().__init__()
        if not 0 <= oversample < float("inf"):
            raise ValueError(f"oversample must be finite and not negative, got {oversample}")
        self.range_in = require_choice(range_in, RANGES, "range_in")
        self.output = require_choice(output, ("amplitude", "intensity"), "output")
        self.oversample = oversample
        self.pad = None if pad is None else require_count(pad, 0, "pad")

    def forward(self, x: Tensor) -> Tensor:
        u = (x + 1) / 2 if self.range_in == "unit" else x
        top, left = self._padding(tuple(x.shape))
        padded = torch.nn.functional.pad(u, (left, left, top, top))
        spectrum = torch.fft.fftshift(torch.fft.fft2(padded, norm="ortho"), dim=(-2, -1))
        if self.output == "amplitude":
            return spectrum.abs()
        return spectrum.real.square() + spectrum.imag.square()

    def _padding(self, x_shape: Shape) -> tuple[int, int]:
        if self.pad is not None:
            return self.pad, self.pad
        top, left = (int(self.oversample / 8 * side) for side in x_shape[-2:])
        return top, left

    def extra_repr(self) -> str:
        return (
            f"oversample={self.oversample}, range_in={self.range_in!r}, "
            f"output={self.output!r}, pad={self.pad}"
        )


def align(
    estimate: Tensor,
    reference: Tensor,
    shifts: bool = False,
    joint_channels: bool = True,
    range_in: str = "signed",
) -> Tensor:
    r"""Flips, shifts and signs each estimate, as magnitudes allow, so that it meets the reference.

    Among the estimate and its conjugate 180 degree turn, and among circular shifts if asked,
    takes the one with the largest correlation :math:`|F^{-1}(F r\, \overline{F e})|`, and then
    the best phase: a sign for real images. Use it before metrics, and report the raw figure too.

    Args:
        estimate: (B, C, H, W), real or complex.
        reference: Same shape.
        shifts: Whether circular shifts count as well; give the padded arrays then.
        joint_channels: One symmetry for all channels of an image; otherwise one per channel,
            which the measurement allows but natural images do not need.
        range_in: As in ``FourierMagnitude``; in "unit" the sign is known.

    Returns:
        Aligned estimates, (B, C, H, W).

    Raises:
        ValueError: If the shapes differ or an option is unknown.

    Source: Guizar-Sicairos et al. 2008 for registration by cross-correlation.
    """
    if estimate.ndim != 4 or estimate.shape != reference.shape:
        shapes = f"{tuple(estimate.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"align takes two (B, C, H, W) batches of the same shape, got {shapes}")
    if require_choice(range_in, RANGES, "range_in") == "unit":
        unit = align((estimate + 1) / 2, (reference + 1) / 2, shifts, joint_channels)
        return 2 * unit - 1
    turned = torch.stack([estimate, estimate.flip(-2, -1).conj()], dim=2)  # (B, C, 2, H, W)
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
