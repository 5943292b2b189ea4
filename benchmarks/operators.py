"""Time of each operator beside deepinv's counterpart, and of closed forms beside iteration.

Run: ``python benchmarks/operators.py``, with ``--only blur`` for some of the operators. Both sides
run in one process, in turn, on one thread; processor time is counted, so that neighbours on the
machine matter little, and the median of the paired ratios is what counts. Where deepinv offers
two ways (in space or by Fourier), the faster one is taken. "gap" is the relative difference of the
two measurements of one image: 0 where both are the same map.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import deepinv
import torch
from torch import Tensor

from plugip.linalg import conjugate_gradient
from plugip.operator import LinearOperator, Operator, SpectralOperator
from plugip.operators.average_pool import AveragePool
from plugip.operators.blur import Blur
from plugip.operators.blur_downsample import BicubicKernel, BlurDownsample
from plugip.operators.camera_blur import CameraResponseBlur, SaturatedBlur
from plugip.operators.ct import ParallelBeamCT
from plugip.operators.decimate import Decimate
from plugip.operators.denoise import Denoise
from plugip.operators.dense_field import GaussianPhaseRetrieval, GaussianProjections
from plugip.operators.diffraction import CodedDiffraction, FarFieldCDI, OctanaryCodes
from plugip.operators.downsample import BicubicDownsample
from plugip.operators.frame_average import FrameAverageBlur, PathShifts
from plugip.operators.grayscale import Grayscale
from plugip.operators.hadamard import WalshHadamard
from plugip.operators.inpaint import Inpaint
from plugip.operators.jpeg import JPEG
from plugip.operators.kernels import DefocusKernel, MotionKernel
from plugip.operators.masks import RandomMask
from plugip.operators.matrix_sensing import BlockSensing, DenseSensing
from plugip.operators.mri import MultiCoilMRI, SingleCoilMRI, birdcage_maps
from plugip.operators.mri_masks import ExactLines
from plugip.operators.near_field import NearFieldHolography
from plugip.operators.phase import FourierMagnitude
from plugip.operators.pointwise import Clip, Quantize
from plugip.operators.ptychography import FourierPtychography, led_grid
from plugip.operators.sensing_samplers import GaussianMatrix, OrthonormalRows, RandomRows
from plugip.operators.separable_blur import (
    AnisotropicGaussianBlur,
    GaussianBlur,
    UniformBlur,
    gaussian_taps,
)
from plugip.operators.varying_blur import ConvolutionProduct, ProductConvolution
from plugip.operators.video import TemporalBlur
from plugip.rng import Rng

dp: Any = deepinv.physics  # its annotations do not hold
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One operator and how deepinv builds the same.

    Attributes:
        name: Label in the table.
        ours: Builds our operator for a side; random parts are drawn later.
        theirs: Builds deepinv's ways, given our operator with its random parts, and the side.
        channels: Channels of the images.
        largest: Largest side that fits into memory.
        frames: Frames of a video, 0 for images.
    """

    name: str
    ours: Callable[[int], Operator]
    theirs: Callable[[Any, int], list[Any]] | None = None
    channels: int = 3
    largest: int = 256
    frames: int = 0


def _window(taps: Tensor) -> Tensor:
    return torch.outer(taps, taps)[None, None].float()


def _taps(ours: Any) -> Tensor:
    kernel = ours.kernel
    return kernel if kernel.ndim == 4 else kernel.reshape(-1, 1, *kernel.shape[-2:])


def _blurs(kernel: Tensor, padding: str) -> list[Any]:
    return [dp.Blur(kernel.float(), padding, use_fft=fft) for fft in (False, True)]


def _varying(mask_first: bool) -> Callable[[Any, int], list[Any]]:
    def build(ours: Any, side: int) -> list[Any]:
        filters, weights = ours.kernels.float()[None, None], ours.weights.float()[None, None]
        way = {"padding": "reflect", "mask_first": mask_first}
        return [dp.SpaceVaryingBlur(filters, weights, use_fft=f, **way) for f in (False, True)]

    return build


def _ramps(side: int) -> Tensor:
    ramp = torch.linspace(0, 1, side).expand(side, side)
    return torch.stack([ramp, 1 - ramp])


GAUSS = torch.from_numpy(gaussian_taps(3.0, 61))
BOX = torch.full((9,), 1 / 9)
LENSES = [DefocusKernel(0.5, 9, 0.0), DefocusKernel(4.0, 9, 0.0)]

# A new operator is one line here.
CASES = [
    Case("Denoise", lambda n: Denoise(), lambda a, n: [dp.Denoising()]),
    Case(
        "BicubicDownsample x4",
        lambda n: BicubicDownsample(4),
        lambda a, n: [dp.DownsamplingMatlab(4)],
    ),
    Case(
        "AveragePool x4",
        lambda n: AveragePool(4),
        lambda a, n: [
            dp.Downsampling((3, n, n), torch.full((1, 1, 4, 4), 1 / 16), 4, padding="valid")
        ],
    ),
    Case(
        "BlurDownsample x4, bicubic, circular",
        lambda n: BlurDownsample(BicubicKernel(4), 4, flip=True, origin=8),
        lambda a, n: [dp.Downsampling((3, n, n), "bicubic", 4, padding="circular")],
    ),
    Case(
        "Decimate x4",
        lambda n: Decimate(4),
        lambda a, n: [dp.Downsampling((3, n, n), None, 4)],
    ),
    Case(
        "Inpaint 70 %",
        lambda n: Inpaint(RandomMask(0.7)),
        lambda a, n: [dp.Inpainting((3, n, n), a.mask)],
    ),
    Case("Grayscale", lambda n: Grayscale(), lambda a, n: [dp.Decolorize()]),
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
        lambda a, n: [dp.BlurFFT((3, n, n), _window(GAUSS)), *_blurs(_window(GAUSS), "circular")],
    ),
    Case(
        "GaussianBlur 61, reflect",
        lambda n: GaussianBlur(),
        lambda a, n: _blurs(_window(GAUSS), "reflect"),
    ),
    Case(
        "UniformBlur 9, zero",
        lambda n: UniformBlur(),
        lambda a, n: _blurs(_window(BOX), "constant"),
    ),
    Case("AnisotropicGaussianBlur 9, zero", lambda n: AnisotropicGaussianBlur()),
    Case(
        "Blur motion 31, reflect",
        lambda n: Blur(MotionKernel(31), "reflect", flip=True),
        lambda a, n: _blurs(_taps(a), "reflect"),
    ),
    Case(
        "Blur motion 31, circular",
        lambda n: Blur(MotionKernel(31), "circular", flip=True),
        lambda a, n: [
            dp.BlurFFT((3, n, n), _taps(a).float()),
            *_blurs(_taps(a), "circular"),
        ],
    ),
    Case(
        "Blur defocus 9, reflect",
        lambda n: Blur(LENSES[1], "reflect", flip=True),
        lambda a, n: _blurs(_taps(a), "reflect"),
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
        lambda a, n: [dp.MRI(a.mask.float().expand(-1, 2, n, n), (n, n))],
        channels=2,
    ),
    Case(
        "MultiCoilMRI x4, 8 coils",
        lambda n: MultiCoilMRI(birdcage_maps(8, n), ExactLines(4)),
        lambda a, n: [
            dp.MultiCoilMRI(
                a.mask.float().expand(-1, 2, n, n),
                birdcage_maps(8, n).to(torch.complex64),
                (n, n),
            )
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
    Case("CodedDiffraction, 4 masks", lambda n: CodedDiffraction(OctanaryCodes(4))),
    Case(
        "GaussianPhaseRetrieval x1",
        lambda n: GaussianPhaseRetrieval(GaussianProjections(1.0)),
        lambda a, n: [dp.RandomPhaseRetrieval(n * n, (1, n, n))],
        channels=1,
        largest=64,
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


def build(case: Case, side: int, batch: int) -> tuple[Operator, Tensor]:
    """Makes an operator with its random parts, and images for it."""
    frames = (case.frames,) if case.frames else ()
    x = torch.rand(batch, case.channels, *frames, side, side) * 2 - 1
    rng = Rng(0, "benchmark", [str(i) for i in range(batch)])
    return case.ours(side).realise(rng, tuple(x.shape)), x


def back(operator: Operator, x: Tensor, y: Tensor) -> Call:
    """Returns the adjoint of a linear operator, or the gradient's pull-back of another one."""
    if isinstance(operator, LinearOperator):
        return lambda: operator.adjoint(y)
    return lambda: torch.func.vjp(operator, x)[1](y)[0]


def back_theirs(physics: Any, x: Tensor, y: Tensor) -> Call:
    """Returns deepinv's adjoint, or the pull-back."""
    if isinstance(physics, dp.LinearPhysics):
        return lambda: physics.A_adjoint(y)
    return lambda: torch.func.vjp(physics.A, x)[1](y)[0]


def paired(ours: Call, ways: list[Call], seconds: float) -> tuple[float, float, float]:
    """Times two functions in turn; returns medians in ms and the median of the paired ratios."""
    first_looks = {call: _glance(call) for call in (ours, *ways)}
    theirs = min(ways, key=first_looks.__getitem__)
    mine, other = first_looks[ours], first_looks[theirs]
    # Calls of microseconds are timed by the hundred: the clock itself takes one.
    loops = max(1, int(1e-3 / max(mine, other)))
    times: list[tuple[float, float]] = []
    for i in range(_count(seconds, loops * (mine + other))):
        # The order alternates, so that a drift of the machine hits both sides.
        first, second = (ours, theirs) if i % 2 else (theirs, ours)
        pair = {first: _cpu(first, loops), second: _cpu(second, loops)}
        times.append((pair[ours], pair[theirs]))
    a, b = (1e3 * statistics.median(t[i] for t in times) for i in (0, 1))
    return a, b, statistics.median(t / u for t, u in times)


def alone(ours: Call, seconds: float) -> float:
    """Times one function; returns the median in ms."""
    look = _glance(ours)
    loops = max(1, int(1e-3 / look))
    return 1e3 * statistics.median(_cpu(ours, loops) for _ in range(_count(seconds, loops * look)))


def _count(seconds: float, each: float) -> int:
    return int(min(200, max(5, seconds / each)))


def _cpu(call: Call, loops: int = 1) -> float:
    began = time.process_time()
    for _ in range(loops):
        call()
    return (time.process_time() - began) / loops


def _glance(call: Call) -> float:
    call()  # fills caches, as the first step of any loop does
    return max(1e-6, statistics.median(_cpu(call) for _ in range(3)))


def gap(ours: Tensor, theirs: Tensor) -> float | None:
    """Returns the relative difference of two measurements; None if their shapes do not agree."""
    if ours.is_complex() and not theirs.is_complex():
        ours = torch.view_as_real(ours).movedim(-1, 1)  # deepinv holds the parts as channels
    if ours.numel() != theirs.numel():
        return None
    return float((ours.reshape(theirs.shape) - theirs).norm() / theirs.norm())


def row(case: Case, side: int, batch: int, seconds: float) -> str:
    """Times one operator, forward and adjoint, and writes a line of the table."""
    operator, x = build(case, side, batch)
    y = operator(x)
    start = f"| {case.name} | {side} | {batch} "
    if case.theirs is None:
        f, b = alone(lambda: operator(x), seconds), alone(back(operator, x, y), seconds)
        return f"{start}| {f:.2f} | - | - | {b:.2f} | - | - | |"
    ways = case.theirs(operator, side)
    z = x.to(torch.complex64) if isinstance(ways[0], dp.PhaseRetrieval) else x
    v = ways[0].A(z)
    f = paired(lambda: operator(x), [lambda p=p: p.A(z) for p in ways], seconds)
    b = paired(back(operator, x, y), [back_theirs(p, z, v) for p in ways], seconds)
    times = f"| {f[0]:.2f} | {f[1]:.2f} | {f[2]:.2f} | {b[0]:.2f} | {b[1]:.2f} | {b[2]:.2f} "
    apart = gap(y, v)
    return f"{start}{times}| {'other map' if apart is None or apart > 0.01 else f'{apart:.0e}'} |"


def closed_row(case: Case, side: int, seconds: float, lam: float) -> str | None:
    """Compares solve_normal and pinv with conjugate gradients; None without a closed form."""
    operator, x = build(case, side, 1)
    if not isinstance(operator, LinearOperator) or not _is_closed(operator):
        return None
    operator, x = operator.double(), x.double()
    y = operator(x)

    def iterate() -> Tensor:
        return conjugate_gradient(
            lambda v: operator.normal(v) + lam * v, x, tolerance=1e-9, max_iterations=5000
        )

    apart = gap(operator.solve_normal(x, lam), iterate())
    t = paired(lambda: operator.solve_normal(x, lam), [iterate], seconds)
    solved = f"| {case.name} | {side} | {apart:.0e} | {t[0]:.2f} | {t[1]:.2f} | {1 / t[2]:.0f} "
    return solved + _pinv_cells(operator, y, seconds)


def _pinv_cells(operator: LinearOperator, y: Tensor, seconds: float) -> str:
    if type(operator).pinv is LinearOperator.pinv:
        return "| none | - | - | - |"

    def iterate() -> Tensor:  # from zero, so the least-squares image of least norm
        b = operator.adjoint(y)
        return conjugate_gradient(operator.normal, b, tolerance=1e-9, max_iterations=5000)

    if isinstance(operator, SpectralOperator) and _cuts(operator, y):
        return "| small values cut on purpose | - | - | - |"
    apart = gap(operator.pinv(y), iterate())
    t = paired(lambda: operator.pinv(y), [iterate], seconds)
    return f"| {apart:.0e} | {t[0]:.2f} | {t[1]:.2f} | {1 / t[2]:.0f} |"


def _is_closed(operator: LinearOperator) -> bool:
    return type(operator).solve_normal is not LinearOperator.solve_normal


def _cuts(operator: SpectralOperator, y: Tensor) -> bool:
    s = operator.spectrum(operator.domain_shape(tuple(y.shape))).s
    top = s.max()
    # Values that are zero but for rounding are no loss.
    return bool(((s > 1e-10 * top) & (s <= operator.rcond * top)).any())


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each comparison")
    parser.add_argument("--lam", type=float, default=0.01, help="damping of solve_normal")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="part of the operator's name")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Complex modules are a new feature")
    cases = [c for c in CASES if args.only.lower() in c.name.lower()]
    print(f"torch {torch.__version__}, deepinv {deepinv.__version__}, {args.threads} thread(s)\n")
    print(
        "| operator | side | batch | forward ms | deepinv | ratio | adjoint or VJP ms "
        "| deepinv | ratio | gap |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for case in cases:
        for side in [s for s in args.sides if s <= case.largest]:
            for batch in args.batches:
                print(row(case, side, batch, args.seconds), flush=True)
    print(
        "\n| operator | side | solve_normal - CG | ms | CG ms | times faster | pinv - CG | ms "
        "| CG ms | times faster |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for case in cases:
        for side in [s for s in args.sides if s <= case.largest]:
            line = closed_row(case, side, args.seconds, args.lam)
            if line is not None:
                print(line, flush=True)


if __name__ == "__main__":
    main()
