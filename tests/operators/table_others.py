"""Sampling, sensing, pointwise, camera and composed operators."""

from __future__ import annotations

import torch
from operator_cases import Table, Variant, binary, multiples, weights
from torch import nn
from toys import normal

import plugip.operators as ops
from plugip.operators.bkse_network import BKSENetwork

OUTSIDE = ("replicate", "zero", "reflect")
POWERS = ((8, 8), (4, 16), (16, 2))  # n is a power of two: no odd sizes but 1
VIDEO = (4,)


class Colours(nn.Module):
    """A decoder from latents of four channels to images of three."""

    matrix: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", normal(3, 4, 1, 1, dtype=torch.float32))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.nn.functional.conv2d(h, self.matrix))


def narrow_bkse(clamp: bool) -> ops.BKSE:
    """A network with 1/16 of the width, whose blur stays inside [-1, 1]."""
    made = ops.BKSE.untrained(0, None, BKSENetwork(4, 8, 1, 1), clamp)
    with torch.no_grad():
        for weight in made.network.recon_trunk[-1].parameters():
            weight.mul_(0.02)
    return made


def inpaint(mask: ops.MaskSampler | torch.Tensor) -> Variant:
    return Variant(lambda h, w, b: ops.Inpaint(mask))


SAMPLING: Table = {
    "AveragePool": {
        "by 2": Variant(lambda h, w, b: ops.AveragePool(2), sizes=multiples(2)),
        "by 3": Variant(lambda h, w, b: ops.AveragePool(3), sizes=multiples(3)),
    },
    "BicubicDownsample": {
        "by 2": Variant(lambda h, w, b: ops.BicubicDownsample(2), sizes=multiples(2)),
        "by 3": Variant(lambda h, w, b: ops.BicubicDownsample(3), sizes=multiples(3)),
        "any size": Variant(lambda h, w, b: ops.BicubicDownsample(4, (h, w))),
    },
    "Decimate": {
        "by 2": Variant(lambda h, w, b: ops.Decimate(2), sizes=multiples(2)),
        "by 3": Variant(lambda h, w, b: ops.Decimate(3, "centre"), sizes=multiples(3)),
    },
    "Grayscale": {
        "rec601": Variant(lambda h, w, b: ops.Grayscale()),
        "ddrm": Variant(lambda h, w, b: ops.Grayscale("ddrm")),
        "four": Variant(lambda h, w, b: ops.Grayscale((0.4, 0.3, 0.2, 0.1)), channels=4),
    },
    "Inpaint": {
        "random": inpaint(ops.RandomMask(0.7)),
        "Bernoulli": inpaint(ops.BernoulliMask(0.5)),
        "box": inpaint(ops.BoxMask(3, 1)),
        "extreme": inpaint(ops.ExtremeMask(3, 1)),
        "random box": inpaint(ops.RandomBoxMask((2, 4), 1)),
        "brush": inpaint(ops.BrushMask((0.1, 0.6), width=(0.1, 0.2))),
        "given": Variant(lambda h, w, b: ops.Inpaint(binary(1, 3, h, w), "all")),
        "per image": Variant(lambda h, w, b: ops.Inpaint(binary(2, 1, h, w))),
    },
    "PackedInpaint": {
        "random": Variant(lambda h, w, b: ops.PackedInpaint(ops.RandomMask(0.6))),
        "given": Variant(lambda h, w, b: ops.PackedInpaint(binary(1, 3, h, w))),
    },
    "WalshHadamard": {
        "shared": Variant(lambda h, w, b: ops.WalshHadamard(ops.RandomRows(0.5)), sizes=POWERS),
        "per image": Variant(
            lambda h, w, b: ops.WalshHadamard(ops.RandomRows(0.3, False), ops.RandomSigns(False)),
            sizes=POWERS,
        ),
        "given": Variant(
            lambda h, w, b: ops.WalshHadamard(torch.tensor([3, 0, 7]), image_size=(h, w)),
            sizes=POWERS,
        ),
    },
    "DenseSensing": {
        "shared": Variant(lambda h, w, b: ops.DenseSensing(ops.GaussianMatrix(0.25))),
        "per image": Variant(lambda h, w, b: ops.DenseSensing(ops.GaussianMatrix(0.2, False))),
        "given": Variant(lambda h, w, b: ops.DenseSensing(normal(9, h * w), (h, w))),
    },
    "BlockSensing": {
        "shared": Variant(
            lambda h, w, b: ops.BlockSensing(ops.OrthonormalRows(0.5), 2), sizes=multiples(2)
        ),
        "per image": Variant(
            lambda h, w, b: ops.BlockSensing(ops.OrthonormalRows(0.4, False), 3),
            sizes=multiples(3),
        ),
    },
    "ParallelBeamCT": {
        "sparse": Variant(lambda h, w, b: ops.ParallelBeamCT(5, (h, w), True)),
        "angles": Variant(lambda h, w, b: ops.ParallelBeamCT((0.0, 17.0, 93.5), (h, w))),
    },
}

POINTWISE: Table = {
    "Denoise": {"": Variant(lambda h, w, b: ops.Denoise())},
    "Clip": {
        "exact": Variant(lambda h, w, b: ops.Clip()),
        "straight": Variant(lambda h, w, b: ops.Clip(1.5, "straight"), surrogate=True),
    },
    "Quantize": {
        "exact": Variant(lambda h, w, b: ops.Quantize(3, "exact")),
        "straight": Variant(lambda h, w, b: ops.Quantize(), surrogate=True),
    },
    "JPEG": {
        "ste": Variant(lambda h, w, b: ops.JPEG(50), surrogate=True),
        "soft": Variant(lambda h, w, b: ops.JPEG(30, "soft")),
        "hard": Variant(lambda h, w, b: ops.JPEG(torch.tensor([20.0, 80.0]), "hard")),
    },
    "Exposure": {
        "one": Variant(lambda h, w, b: ops.Exposure(torch.full((1, 1, 1, 1), 1.3))),
        "per channel": Variant(lambda h, w, b: ops.Exposure(normal(2, 3, 1, 1).exp())),
    },
    "BlindExposure": {
        "one": Variant(lambda h, w, b: ops.BlindExposure()),
        "per channel": Variant(lambda h, w, b: ops.BlindExposure((0.8, 1.2), True)),
    },
    "FrameAverage": {
        "camera": Variant(lambda h, w, b: ops.FrameAverage(), between=VIDEO),
        "linear": Variant(lambda h, w, b: ops.FrameAverage(1.0), between=VIDEO),
    },
    "Shift": {
        "one": Variant(lambda h, w, b: ops.Shift(torch.tensor([[1.3, -2.0]]), b), OUTSIDE),
        "per image": Variant(lambda h, w, b: ops.Shift(2 * normal(2, 2), b), OUTSIDE),
    },
    "BlindShift": {"": Variant(lambda h, w, b: ops.BlindShift(3.0, b), OUTSIDE)},
    "Warp": {
        "one": Variant(lambda h, w, b: ops.Warp(normal(1, 2, h, w), b), OUTSIDE),
        "valid": Variant(
            lambda h, w, b: ops.Warp(normal(2, 2, h, w), b, binary(2, 1, h, w)), OUTSIDE
        ),
        "video": Variant(
            lambda h, w, b: ops.Warp(normal(2, 2, 4, h, w), b), OUTSIDE, between=VIDEO
        ),
    },
    "BKSE": {
        "": Variant(lambda h, w, b: narrow_bkse(True), sizes=((128, 128),)),
    },
}

COMPOSED: Table = {
    "Decoder": {"": Variant(lambda h, w, b: ops.Decoder(Colours()), channels=4)},
    "LatentOperator": {
        "": Variant(
            lambda h, w, b: ops.LatentOperator(Colours(), ops.Inpaint(ops.RandomMask(0.5))),
            channels=4,
        )
    },
    "stack": {
        "linear": Variant(
            lambda h, w, b: ops.stack(
                ops.Inpaint(ops.RandomMask(0.5)), ops.GaussianBlur(1.0, 5), image_shape=(3, h, w)
            )
        ),
        "nonlinear": Variant(lambda h, w, b: ops.stack(ops.Clip(), ops.Denoise())),
    },
    "per_channel": {
        "spectral": Variant(lambda h, w, b: ops.per_channel(ops.Inpaint(ops.RandomMask(0.5)))),
        "linear": Variant(lambda h, w, b: ops.per_channel(ops.Blur(weights(3, 3)))),
        "nonlinear": Variant(lambda h, w, b: ops.per_channel(ops.CameraResponseBlur(1.0, 3))),
    },
    "on_frames": {
        "spectral": Variant(
            lambda h, w, b: ops.on_frames(ops.Inpaint(ops.RandomMask(0.5))), between=VIDEO
        ),
        "linear": Variant(lambda h, w, b: ops.on_frames(ops.MotionBlur(5)), between=VIDEO),
        "blind": Variant(lambda h, w, b: ops.on_frames(ops.BlindBlur(3)), between=VIDEO),
    },
}

OTHERS: Table = SAMPLING | POINTWISE | COMPOSED
