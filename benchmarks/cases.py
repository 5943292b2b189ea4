"""The operators of the benchmark, and how deepinv builds the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import deepinv
import torch
from torch import Tensor

from plugip.composition import stack
from plugip.operator import Operator
from plugip.operators.average_pool import AveragePool
from plugip.operators.blur import Blur
from plugip.operators.blur_downsample import BicubicKernel, BlurDownsample
from plugip.operators.camera_blur import CameraResponseBlur, SaturatedBlur
from plugip.operators.ct import ParallelBeamCT
from plugip.operators.decimate import Decimate
from plugip.operators.denoise import Denoise
from plugip.operators.dense_field import GaussianPhaseRetrieval, GaussianProjections
from plugip.operators.diffraction import (
    CodedDiffraction,
    CodedFourier,
    FarFieldCDI,
    OctanaryCodes,
)
from plugip.operators.downsample import BicubicDownsample
from plugip.operators.frame_average import FrameAverageBlur, PathShifts
from plugip.operators.grayscale import Grayscale
from plugip.operators.hadamard import WalshHadamard
from plugip.operators.inpaint import Inpaint
from plugip.operators.jpeg import JPEG
from plugip.operators.kernels import DefocusKernel, GaussianKernel, MotionKernel
from plugip.operators.masks import RandomMask
from plugip.operators.matrix_sensing import BlockSensing, DenseSensing
from plugip.operators.mri import MultiCoilMRI, SingleCoilMRI, birdcage_maps
from plugip.operators.mri_masks import ExactLines
from plugip.operators.near_field import NearFieldHolography
from plugip.operators.phase import FourierMagnitude
from plugip.operators.pointwise import Clip, Quantize
from plugip.operators.ptychography import (
    FourierPtychography,
    ProbeWindows,
    Ptychography,
    disk_pupil,
    led_grid,
    scan_grid,
)
from plugip.operators.sensing_samplers import GaussianMatrix, OrthonormalRows, RandomRows
from plugip.operators.separable_blur import (
    AnisotropicGaussianBlur,
    GaussianBlur,
    UniformBlur,
    gaussian_taps,
)
from plugip.operators.varying_blur import ConvolutionProduct, ProductConvolution
from plugip.operators.video import TemporalBlur

dp: Any = deepinv.physics  # its annotations do not hold


@dataclass(frozen=True)
class Case:
    """One operator and how deepinv builds the same.

    Attributes:
        name: Label in the table.
        ours: Builds our operator for a side; random parts are drawn later.
        theirs: Builds deepinv's ways, given our operator with its random parts, and the side;
            None: deepinv has no counterpart.
        channels: Channels of the images.
        largest: Largest side that fits into memory and time; larger ones become this one.
        frames: Frames of a video, 0 for images.
        is_complex: Whether the images are complex.
    """

    name: str
    ours: Callable[[int], Operator]
    theirs: Callable[[Any, int], list[Any]] | None = None
    channels: int = 3
    largest: int = 256
    frames: int = 0
    is_complex: bool = False

    def fitting(self, sides: list[int]) -> list[int]:
        """Returns the sides that can be measured."""
        return sorted({min(side, self.largest) for side in sides})


GAUSS = torch.from_numpy(gaussian_taps(3.0, 61))
BOX = torch.full((9,), 1 / 9)
LENSES = [DefocusKernel(0.5, 9, 0.0), DefocusKernel(4.0, 9, 0.0)]
MEAN = torch.full((1, 1, 4, 4), 1 / 16)


def _window(down: Tensor, across: Tensor) -> Tensor:
    return torch.outer(down, across)[None, None].float()


def _taps(ours: Any) -> Tensor:
    """Our kernels as deepinv wants them, (1 or B, 1, kh, kw)."""
    return ours.kernel.reshape(-1, 1, *ours.kernel.shape[-2:]).float()


def _line(std: float) -> Tensor:
    line = torch.exp(-((torch.arange(9) - 4.0) ** 2) / (2 * std**2))
    return line / line.sum()


def _blurs(kernel: Tensor, padding: str) -> list[Any]:
    return [dp.Blur(kernel, padding, use_fft=fft) for fft in (False, True)]


def _varying(mask_first: bool) -> Callable[[Any, int], list[Any]]:
    def build(ours: Any, side: int) -> list[Any]:
        filters, weights = ours.kernels.float()[None, None], ours.weights.float()[None, None]
        way = {"padding": "reflect", "mask_first": mask_first}
        return [dp.SpaceVaryingBlur(filters, weights, use_fft=f, **way) for f in (False, True)]

    return build


def _ramps(side: int) -> Tensor:
    ramp = torch.linspace(0, 1, side).expand(side, side)
    return torch.stack([ramp, 1 - ramp])


def _bayer(side: int) -> Tensor:
    mask = torch.zeros(1, 3, side, side)
    mask[:, 0, 1::2, 1::2] = mask[:, 2, ::2, ::2] = 1
    mask[:, 1, ::2, 1::2] = mask[:, 1, 1::2, ::2] = 1
    return mask


def _scan(side: int) -> tuple[Tensor, Tensor]:
    """Our probe, and the places of the scan as deepinv counts them, from the middle."""
    places = torch.tensor(scan_grid(side, 32, 16)) - (side - 32) // 2
    return disk_pupil(32, 15)[None].to(torch.complex64), places


def _phases(side: int) -> Tensor:
    return torch.polar(torch.ones(1, 1, side, side), 6.28 * torch.rand(1, 1, side, side))


def _diagonal(coded: Any, n: int) -> Any:
    """A structured random map of one layer, with our mask."""
    there, back = (partial(f, norm="ortho") for f in (torch.fft.fft2, torch.fft.ifft2))
    mask = torch.view_as_complex(coded.codes_parts)[0]
    return dp.StructuredRandom((1, n, n), (1, n, n), 1, there, back, [mask])


def _both(n: int) -> Operator:
    return stack(Inpaint(RandomMask(0.7)), AveragePool(4), image_shape=(3, n, n))


def _masks(mask: Tensor, n: int) -> Tensor:
    return mask.float().expand(-1, 2, n, n)


def _pool(n: int) -> Any:
    return dp.Downsampling((3, n, n), MEAN, 4, padding="valid")


# A new operator is one entry here.
CASES = [
    Case("Denoise", lambda n: Denoise(), lambda a, n: [dp.Denoising()]),
    Case(
        "BicubicDownsample x4",
        lambda n: BicubicDownsample(4),
        lambda a, n: [dp.DownsamplingMatlab(4)],
    ),
    Case("AveragePool x4", lambda n: AveragePool(4), lambda a, n: [_pool(n)]),
    Case(
        "BlurDownsample x4, bicubic, circular",
        lambda n: BlurDownsample(BicubicKernel(4), 4, flip=True, origin=8),
        lambda a, n: [dp.Downsampling((3, n, n), "bicubic", 4, padding="circular")],
    ),
    Case(
        "BlurDownsample x4, Gaussian 9, reflect",
        lambda n: BlurDownsample(GaussianKernel(2.0, 9), 4, "reflect"),
        lambda a, n: [dp.Downsampling((3, n, n), _taps(a.inner), 4, padding="reflect")],
    ),
    Case("Decimate x4", lambda n: Decimate(4), lambda a, n: [dp.Downsampling((3, n, n), None, 4)]),
    Case(
        "Inpaint 70 %",
        lambda n: Inpaint(RandomMask(0.7)),
        lambda a, n: [dp.Inpainting((3, n, n), a.mask)],
    ),
    Case(
        "Inpaint, Bayer pattern",
        lambda n: Inpaint(_bayer(n)),
        lambda a, n: [dp.Demosaicing((3, n, n))],
    ),
    Case("Grayscale", lambda n: Grayscale(), lambda a, n: [dp.Decolorize()]),
    Case(
        "stack(Inpaint 70 %, AveragePool x4)",
        _both,
        lambda a, n: [dp.stack(dp.Inpainting((3, n, n), a.parts[0].mask), _pool(n))],
    ),
    Case(
        "AveragePool x4 @ Blur defocus 9, circular",
        lambda n: AveragePool(4) @ Blur(LENSES[1], "circular", flip=True),
        lambda a, n: [dp.compose(dp.BlurFFT((3, n, n), _taps(a.inner)), _pool(n))],
    ),
    Case(
        "WalshHadamard 50 %",
        lambda n: WalshHadamard(RandomRows(0.5, shared=True)),
        lambda a, n: [dp.SinglePixelCamera(n * n // 2, (3, n, n))],
    ),
    Case(
        "DenseSensing 25 %",
        lambda n: DenseSensing(GaussianMatrix(0.25, shared=True)),
        lambda a, n: [dp.CompressedSensing(n * n // 4, (3, n, n), channelwise=True)],
        largest=64,
    ),
    Case("BlockSensing 25 %", lambda n: BlockSensing(OrthonormalRows(0.25, shared=True))),
    Case(
        "GaussianBlur 61, circular",
        lambda n: GaussianBlur(boundary="circular"),
        lambda a, n: [
            dp.BlurFFT((3, n, n), _window(GAUSS, GAUSS)),
            *_blurs(_window(GAUSS, GAUSS), "circular"),
        ],
    ),
    Case(
        "GaussianBlur 61, reflect",
        lambda n: GaussianBlur(),
        lambda a, n: _blurs(_window(GAUSS, GAUSS), "reflect"),
    ),
    Case(
        "UniformBlur 9, zero",
        lambda n: UniformBlur(),
        lambda a, n: _blurs(_window(BOX, BOX), "constant"),
    ),
    Case(
        "AnisotropicGaussianBlur 9, zero",
        lambda n: AnisotropicGaussianBlur(),
        lambda a, n: _blurs(_window(_line(1.0), _line(20.0)), "constant"),
    ),
    Case(
        "Blur motion 31, reflect",
        lambda n: Blur(MotionKernel(31), "reflect", flip=True),
        lambda a, n: _blurs(_taps(a), "reflect"),
    ),
    Case(
        "Blur motion 31, circular",
        lambda n: Blur(MotionKernel(31), "circular", flip=True),
        lambda a, n: [dp.BlurFFT((3, n, n), _taps(a)), *_blurs(_taps(a), "circular")],
    ),
    Case(
        "Blur motion 31, valid",
        lambda n: Blur(MotionKernel(31), "valid", flip=True),
        lambda a, n: _blurs(_taps(a), "valid"),
    ),
    Case(
        "Blur motion 33, zero (as BlindBlur.at)",
        lambda n: Blur(MotionKernel(33), "zero", flip=True),
        lambda a, n: _blurs(_taps(a), "constant"),
    ),
    Case(
        "Blur defocus 9, reflect",
        lambda n: Blur(LENSES[1], "reflect", flip=True),
        lambda a, n: _blurs(_taps(a), "reflect"),
    ),
    Case(
        "Blur Gaussian 5, replicate",
        lambda n: Blur(GaussianKernel(1.0, 5), "replicate", flip=True),
        lambda a, n: _blurs(_taps(a), "replicate"),
    ),
    Case(
        "ProductConvolution, 2 kernels",
        lambda n: ProductConvolution(LENSES, _ramps(n), flip=True),
        _varying(mask_first=True),
    ),
    Case(
        "ConvolutionProduct, 2 kernels",
        lambda n: ConvolutionProduct(LENSES, _ramps(n), flip=True),
        _varying(mask_first=False),
    ),
    Case(
        "SingleCoilMRI x4",
        lambda n: SingleCoilMRI(ExactLines(4)),
        lambda a, n: [dp.MRI(_masks(a.mask, n), (n, n))],
        channels=2,
    ),
    Case(
        "MultiCoilMRI x4, 8 coils",
        lambda n: MultiCoilMRI(birdcage_maps(8, n), ExactLines(4)),
        lambda a, n: [
            dp.MultiCoilMRI(_masks(a.mask, n), birdcage_maps(8, n).to(torch.complex64), (n, n))
        ],
        channels=2,
    ),
    Case(
        "ParallelBeamCT, 60 angles",
        lambda n: ParallelBeamCT(60),
        lambda a, n: [
            dp.Tomography(60, n, normalize=False, parallel_computation=p) for p in (True, False)
        ],
        channels=1,
    ),
    Case("FourierMagnitude", lambda n: FourierMagnitude()),
    Case("CodedDiffraction, 4 octanary masks", lambda n: CodedDiffraction(OctanaryCodes(4))),
    Case(
        "CodedDiffraction, 1 phase mask",
        lambda n: CodedDiffraction(_phases(n), object="complex"),
        lambda a, n: [dp.PhaseRetrieval(_diagonal(a.linear_part, n))],
        channels=1,
        is_complex=True,
    ),
    Case(
        "CodedFourier, 1 phase mask",
        lambda n: CodedFourier(_phases(n), domain="complex"),
        lambda a, n: [_diagonal(a, n)],
        channels=1,
        is_complex=True,
    ),
    Case(
        "GaussianPhaseRetrieval x1",
        lambda n: GaussianPhaseRetrieval(GaussianProjections(1.0)),
        lambda a, n: [dp.RandomPhaseRetrieval(n * n, (1, n, n))],
        channels=1,
        largest=32,
    ),
    Case(
        "Ptychography, probe 32",
        lambda n: Ptychography(disk_pupil(32, 15), scan_grid(n, 32, 16), n, object="complex"),
        lambda a, n: [dp.Ptychography((1, n, n), *_scan(n))],
        channels=1,
        is_complex=True,
    ),
    Case(
        "ProbeWindows, probe 32",
        lambda n: ProbeWindows(disk_pupil(32, 15), scan_grid(n, 32, 16), n, "complex"),
        lambda a, n: [dp.PtychographyLinearOperator((1, n, n), *_scan(n))],
        channels=1,
        is_complex=True,
    ),
    Case("FarFieldCDI", lambda n: FarFieldCDI(object="unit"), channels=1),
    Case(
        "NearFieldHolography",
        lambda n: NearFieldHolography(0.5, 10.0, 1.0, object="phase"),
        channels=1,
    ),
    Case(
        "FourierPtychography, 25 lamps",
        lambda n: FourierPtychography(led_grid(5, 4), 12.0, 32, n),
        channels=1,
    ),
    Case("CameraResponseBlur", lambda n: CameraResponseBlur()),
    Case("SaturatedBlur", lambda n: SaturatedBlur()),
    Case("FrameAverageBlur", lambda n: FrameAverageBlur(PathShifts())),
    Case("Clip", lambda n: Clip()),
    Case("Quantize", lambda n: Quantize()),
    Case("JPEG 10", lambda n: JPEG(10)),
    Case("TemporalBlur 7, 8 frames", lambda n: TemporalBlur(), frames=8),
]
