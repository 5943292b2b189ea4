"""Blurs, known and unknown, at every boundary."""

from __future__ import annotations

import torch
from operator_cases import EDGES, FIVE, SIX, Table, Variant, multiples, weights
from torch import Tensor
from toys import normal

import plugip.operators as ops

LARGE = ((129, 128),)  # where sums and real FFTs replace small matrices
CIRCULAR = ("circular",)


def turns(*shape: int) -> Tensor:
    """Homographies near the identity, (*shape, 3, 3)."""
    scale = torch.tensor([[0.05, 0.05, 1.0], [0.05, 0.05, 1.0], [0.01, 0.01, 0.1]])
    return torch.eye(3).double() + scale * normal(*shape, 3, 3)


BLURS: Table = {
    "Blur": {
        "3x5": Variant(lambda h, w, b: ops.Blur(normal(3, 5), b), SIX),
        "4x2": Variant(lambda h, w, b: ops.Blur(weights(4, 2), b, True, (1, 0)), SIX),
        "per image": Variant(lambda h, w, b: ops.Blur(weights(2, 3, 3), b, True), SIX),
        "11x9": Variant(lambda h, w, b: ops.Blur(normal(11, 9), b), EDGES),
        "7x5": Variant(lambda h, w, b: ops.Blur(normal(7, 5), b), CIRCULAR),
        "large valid": Variant(
            lambda h, w, b: ops.Blur(normal(11, 9), b), ("valid",), ((13, 13), (12, 16))
        ),
        "disk": Variant(lambda h, w, b: ops.Blur(ops.DefocusKernel(1.5, alias_std=0.3), b), SIX),
        "turned": Variant(lambda h, w, b: ops.Blur(ops.GaussianKernel((1, 2), 5, 30), b), SIX),
        "box": Variant(lambda h, w, b: ops.Blur(ops.UniformKernel((3, 5)), b), SIX),
    },
    "CircularBlur": {
        "3x5": Variant(lambda h, w, b: ops.CircularBlur(normal(3, 5), b), CIRCULAR),
        "drawn": Variant(lambda h, w, b: ops.CircularBlur(ops.MotionKernel(7), b), CIRCULAR),
    },
    "MotionBlur": {
        "odd": Variant(lambda h, w, b: ops.MotionBlur(5, 0.5, b), SIX),
        "even": Variant(lambda h, w, b: ops.MotionBlur(6, 0.5, b, True, 2), SIX),
    },
    "DefocusBlur": {"": Variant(lambda h, w, b: ops.DefocusBlur(2.0, boundary=b), SIX)},
    "GaussianBlur": {
        "7 taps": Variant(lambda h, w, b: ops.GaussianBlur(1.0, 7, b), FIVE),
        "13 taps": Variant(lambda h, w, b: ops.GaussianBlur(3.0, 13, b), EDGES),
        "large": Variant(lambda h, w, b: ops.GaussianBlur(2.0, 9, b), FIVE, LARGE, 1),
    },
    "UniformBlur": {
        "": Variant(lambda h, w, b: ops.UniformBlur(5, b), FIVE),
        "ddrm": Variant(lambda h, w, b: ops.UniformBlur(5, b, "ddrm"), ("zero",)),
    },
    "AnisotropicGaussianBlur": {
        "": Variant(lambda h, w, b: ops.AnisotropicGaussianBlur((1.0, 4.0), 5, b), FIVE),
        "ddrm": Variant(lambda h, w, b: ops.AnisotropicGaussianBlur(2.0, 5, b, "ddrm"), ("zero",)),
    },
    "BlurDownsample": {
        "by 2": Variant(lambda h, w, b: ops.BlurDownsample(normal(3, 5), 2, b), SIX, multiples(4)),
        "by 3": Variant(
            lambda h, w, b: ops.BlurDownsample(ops.MotionKernel(5), 3, b, True, offset="centre"),
            FIVE,
            multiples(3),
        ),
        "bicubic": Variant(
            lambda h, w, b: ops.BlurDownsample(ops.BicubicKernel(2), 2, b, True, 4),
            FIVE,
            ((8, 8), (8, 12), (12, 10)),
        ),
    },
    "CircularBlurDownsample": {
        "by 2": Variant(
            lambda h, w, b: ops.CircularBlurDownsample(weights(2, 3, 3), 2, b),
            CIRCULAR,
            multiples(2),
        ),
    },
    "ProductConvolution": {
        "grid": Variant(
            lambda h, w, b: ops.ProductConvolution(weights(4, 3, 5), None, (2, 2), b), FIVE
        ),
        "maps": Variant(
            lambda h, w, b: ops.ProductConvolution(
                normal(2, 2, 4), normal(2, h, w, seed=1), None, b, True, (0, 2)
            ),
            FIVE,
        ),
    },
    "ConvolutionProduct": {
        "grid": Variant(
            lambda h, w, b: ops.ConvolutionProduct(
                [ops.DefocusKernel(r, 5) for r in (0.5, 1.5)], None, (1, 2), b
            ),
            FIVE,
        ),
        "maps": Variant(
            lambda h, w, b: ops.ConvolutionProduct(
                normal(2, 2, 4), normal(2, h, w, seed=1), None, b, True, (0, 2)
            ),
            FIVE,
        ),
    },
    "CameraResponseBlur": {
        "gaussian": Variant(lambda h, w, b: ops.CameraResponseBlur(1.0, 5, boundary=b), FIVE),
        "drawn": Variant(
            lambda h, w, b: ops.CameraResponseBlur(boundary=b, kernel=ops.MotionKernel(5)), FIVE
        ),
        "per image": Variant(
            lambda h, w, b: ops.CameraResponseBlur(boundary=b, kernel=weights(2, 3, 5)), FIVE
        ),
    },
    "SaturatedBlur": {
        "hard": Variant(lambda h, w, b: ops.SaturatedBlur(std=1.0, size=5, boundary=b), FIVE),
        "soft": Variant(
            lambda h, w, b: ops.SaturatedBlur(knee="soft", boundary=b, kernel=ops.MotionKernel(5)),
            FIVE,
        ),
    },
    "FrameAverageBlur": {
        "one path": Variant(lambda h, w, b: ops.FrameAverageBlur(normal(4, 2), boundary=b), FIVE),
        "per image": Variant(
            lambda h, w, b: ops.FrameAverageBlur(2 * normal(2, 3, 2), 1.0, b), FIVE
        ),
        "drawn": Variant(
            lambda h, w, b: ops.FrameAverageBlur(ops.PathShifts(4, 7), boundary=b), FIVE
        ),
    },
    "HomographyBlur": {
        "given": Variant(lambda h, w, b: ops.HomographyBlur(turns(3), boundary=b), FIVE),
        "per image": Variant(lambda h, w, b: ops.HomographyBlur(turns(2, 3), boundary=b), FIVE),
        "drawn": Variant(
            lambda h, w, b: ops.HomographyBlur(ops.CameraRotations(4, 5), boundary=b), FIVE
        ),
    },
    "ProjectiveBlur": {
        "per image": Variant(lambda h, w, b: ops.ProjectiveBlur(turns(2, 3), b), FIVE),
        "drawn": Variant(lambda h, w, b: ops.ProjectiveBlur(ops.CameraRotations(4, 5), b), FIVE),
    },
    "TemporalBlur": {
        "5 frames": Variant(lambda h, w, b: ops.TemporalBlur(5, b), FIVE, between=(6,)),
        "3 frames": Variant(lambda h, w, b: ops.TemporalBlur(3, b), FIVE, between=(5,)),
    },
    "BlindBlur": {
        "simplex": Variant(
            lambda h, w, b: ops.BlindBlur(5, boundary=b, truth=ops.GaussianKernel(1.0, 3)), FIVE
        ),
        "nonneg": Variant(
            lambda h, w, b: ops.BlindBlur((4, 2), "nonneg", b, (1, 0), per_channel=True), FIVE
        ),
    },
    "BlindTurbulence": {
        "": Variant(
            lambda h, w, b: ops.BlindTurbulence(
                5, boundary=b, tilt=ops.TiltSampler(20, 2), truth=ops.GaussianKernel(1.0, 3)
            ),
            FIVE,
        ),
    },
}
