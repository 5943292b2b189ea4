"""JPEG compression: what is left of an image after its blocks' coefficients are rounded."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from plugip.operator import Operator, Shape
from plugip.operators.pointwise import straight_through
from plugip.options import require_choice

ROUNDINGS = ("ste", "soft", "hard")

# ITU-T T.81, tables K.1 and K.2, row by row.
LUMA = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 "
    "14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 "
    "49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
CHROMA = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 "
    "47 66 99 99 99 99 99 99" + 32 * " 99"
)
# ITU-T T.871 (JFIF): full-range BT.601.
TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)


class JPEG(Operator):
    r"""Compresses images as JPEG does, and decompresses them again.

    RGB to YCbCr with colours at half the resolution (4:2:0), DCT of 8 x 8 blocks, division by the
    quantisation tables for the quality, rounding, and all of it back. x and y are (B, 3, H, W) in
    [-1, 1], any size; y is clipped to [-1, 1] and not rounded to 8 bits. Nonlinear and not
    injective; y itself is a usual start for a solver.

    Args:
        quality: 1 (worst) to 100, or one per image, (B,). 10 to 90 in papers.
        rounding: "ste" rounds exactly and passes the gradient of the soft codec (for measuring
            and solving); "hard" rounds exactly, its gradient is 0; "soft" is kornia's
            differentiable codec, r + (u - r)^3, whose coefficients are not on the lattice.

    Raises:
        ValueError: If quality is not in [1, 100] or the rounding is unknown; when called, if the
            images have not three channels or there are not as many qualities as images.

    Source: ITU-T T.81; Reich et al. 2024 and Shin and Song 2017 for the soft codec.
    """

    per_image = ("quality",)
    quality: Tensor

    def __init__(self, quality: float | Tensor = 50, rounding: str = "ste") -> None:
        super().__init__()
        self.rounding = require_choice(rounding, ROUNDINGS, "rounding")
        values = torch.as_tensor(quality, dtype=torch.float32)
        self.register_buffer("quality", _require_quality(values))

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        u, quality = (x + 1) / 2, self.quality.to(x)
        if self.rounding == "soft":
            return 2 * _soft(u, quality) - 1
        hard = 2 * _hard(u, quality) - 1
        # Under no_grad the soft codec would be work for nothing.
        if self.rounding == "hard" or not torch.is_grad_enabled():
            return hard
        return straight_through(hard, 2 * _soft(u, quality) - 1)

    def check_domain(self, x_shape: Shape) -> None:
        if x_shape[1] != 3:
            raise ValueError(
                f"JPEG takes RGB images, (B, 3, H, W), got {tuple(x_shape)}; "
                "for grey images repeat the channel with x.expand(-1, 3, -1, -1)"
            )
        if self.quality.shape[0] not in (1, x_shape[0]):
            raise ValueError(
                f"there are {self.quality.shape[0]} qualities for a batch of {x_shape[0]} "
                "images; give one quality, or one per image"
            )

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return tuple(x_shape)

    def extra_repr(self) -> str:
        return f"quality={self.quality.tolist()}, rounding={self.rounding!r}"


def quantisation_tables(quality: Tensor) -> Tensor:
    """Scales the standard tables as libjpeg does.

    Args:
        quality: (B,), in [1, 100].

    Returns:
        Whole numbers from 1 to 255 for Y, Cb and Cr, (B, 3, 8, 8), in the dtype of ``quality``.
    """
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).floor()
    base = _tables().to(quality)
    return ((base * scale.reshape(-1, 1, 1, 1) + 50) / 100).floor().clamp(1, 255)


def _hard(u: Tensor, quality: Tensor) -> Tensor:
    """Compresses and decompresses images in [0, 1] with exact rounding."""
    h, w = u.shape[-2:]
    padded = torch.nn.functional.pad(u, (0, -w % 16, 0, -h % 16), mode="replicate")
    there, back = (matrix.to(u) for matrix in _colours())
    ycc = torch.einsum("dc,bchw->bdhw", there, 255 * padded)
    luma, chroma = ycc[:, :1] - 128, torch.nn.functional.avg_pool2d(ycc[:, 1:], 2)
    tables = quantisation_tables(quality)
    luma = _rounded(luma, tables[:, :1]) + 128
    chroma = torch.nn.functional.interpolate(
        _rounded(chroma, tables[:, 1:]), scale_factor=2.0, mode="bilinear", align_corners=False
    )
    rgb = torch.einsum("dc,bchw->bdhw", back, torch.cat([luma, chroma], 1)) / 255
    return rgb[..., :h, :w].clamp(0, 1)


def _rounded(plane: Tensor, table: Tensor) -> Tensor:
    """Rounds the block coefficients of (B, c, H, W) to multiples of the table's entries."""
    dct, (b, c, h, w) = _dct().to(plane), plane.shape
    blocks = plane.reshape(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    q = table[:, :, None, None]
    coefficients = torch.round(dct @ blocks @ dct.mT / q) * q
    # Decoders limit each plane to its 8-bit range before they mix the planes.
    back = (dct.mT @ coefficients @ dct).clamp(-128, 127)
    return back.transpose(3, 4).reshape(b, c, h, w)


def _soft(u: Tensor, quality: Tensor) -> Tensor:
    from kornia.enhance import jpeg_codec_differentiable

    return jpeg_codec_differentiable(u, quality)


@lru_cache(maxsize=1)
def _tables() -> Tensor:
    with torch.inference_mode(False):  # what inference mode makes cannot be used in training
        luma, chroma = (torch.tensor([float(n) for n in t.split()]) for t in (LUMA, CHROMA))
        return torch.stack([luma, chroma, chroma]).reshape(1, 3, 8, 8)


@lru_cache(maxsize=1)
def _colours() -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        there = torch.tensor(TO_YCC, dtype=torch.float64)
        return there, torch.linalg.inv(there)


@lru_cache(maxsize=1)
def _dct() -> Tensor:
    with torch.inference_mode(False):
        k, n = torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(8.0) + 0.5
        dct = torch.cos(math.pi / 8 * k * n) / 2
        dct[0] /= math.sqrt(2)
        return dct


def _require_quality(values: Tensor) -> Tensor:
    values = values.reshape(1) if values.ndim == 0 else values
    if values.ndim != 1 or not bool(((values >= 1) & (values <= 100)).all()):
        raise ValueError(
            f"quality must lie in [1, 100], one number or one per image, got {values.tolist()}"
        )
    return values
