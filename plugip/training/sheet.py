"""Pictures of samples: a sheet from fixed seeds, at several numbers of reverse steps."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from plugip.data import to_uint
from plugip.prior import Prior
from plugip.reverse import Clip, ddim_step, reverse, uniform_grid
from plugip.rng import Rng

COLUMNS = 9
GAP, HEADING = 2, 20  # pixels
AT_ONCE = 16  # samples computed together


@torch.no_grad()
def draw_samples(prior: Prior, seeds: Tensor, steps: int, clip: Clip) -> Tensor:
    """Runs the reverse process from seeds.

    Args:
        prior: The prior.
        seeds: Gaussian noise, (B, *prior.shape).
        steps: Number of equal steps from t = 1 to 0.
        clip: How estimates of the clean state are clipped.

    Returns:
        Images, (B, C, H, W), in about [-1, 1], on the CPU.
    """
    times = uniform_grid(prior.path, steps)
    done = [
        prior.decode(reverse(prior, part, times, ddim_step, clip)).cpu()
        for part in seeds.split(AT_ONCE)
    ]
    return torch.cat(done)


def sheet(prior: Prior, count: int, steps: Sequence[int], clip: Clip, rng_seed: int) -> Any:
    """Draws the same seeds at several numbers of steps, one part under the other.

    Args:
        prior: The prior.
        count: Samples in each part.
        steps: Numbers of reverse steps.
        clip: As in ``draw_samples``.
        rng_seed: Fixes the seeds.

    Returns:
        Pixels, (H, W, 3), uint8.
    """
    like = next(prior.parameters())
    seeds = Rng(rng_seed, "sheet", [str(i) for i in range(count)]).normal(prior.shape, like)
    parts = [
        _part(f"{k} step{'s' if k != 1 else ''}", draw_samples(prior, seeds, k, clip))
        for k in steps
    ]
    return np.concatenate(parts)


def png(pixels: Any) -> bytes:
    """Encodes pixels, (H, W, 3) uint8, as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _part(heading: str, x: Tensor) -> Any:
    """Lays images, (B, C, H, W), out in rows under a heading."""
    zoom = max(1, 96 // x.shape[-1])
    tile = x.shape[-1] * zoom + GAP
    columns = min(COLUMNS, len(x))
    size = (columns * tile + GAP, HEADING + math.ceil(len(x) / columns) * tile + GAP)
    canvas = Image.new("RGB", size, "white")
    ImageDraw.Draw(canvas).text((GAP + 2, 3), heading, "black", ImageFont.load_default(12))
    for i, image in enumerate(x):
        pixels = to_uint(image)
        shown = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        shown = shown.resize((tile - GAP, tile - GAP), Image.Resampling.NEAREST)
        row, column = divmod(i, columns)
        canvas.paste(shown, (GAP + column * tile, HEADING + row * tile))
    return np.array(canvas)
