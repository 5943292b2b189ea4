"""A fitted prior as people see it: its mean, its first components, and samples."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.data import to_uint
from plugip.priors.low_rank import LowRankGaussian
from plugip.rng import Rng
from plugip.texts import for_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS, SAMPLES = 9, 36
_INK, _MUTED = "#1a1a1a", "#6b6b6b"


def draw(prior: LowRankGaussian, rng_seed: int = 0) -> bytes:
    """Draws mean, components (stretched, around grey) and 36 samples (clamped); returns a PNG.

    Under each component stands its share of the prior's variance.
    """
    from matplotlib.figure import Figure

    shown = min(COLUMNS - 1, prior.rank)
    rng = Rng(rng_seed, "sheet", [str(i) for i in range(SAMPLES)])
    pictures = [prior.mean, *map(_stretched, prior.components[:shown])]
    captions = ["mean", *_shares(prior, shown)]
    lines = 1 + SAMPLES // COLUMNS
    figure = Figure(figsize=(1.25 * COLUMNS, 1.4 * lines + 0.5), layout="constrained", dpi=120)
    axes = figure.subplots(lines, COLUMNS)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, picture, caption in zip(axes[0], pictures, captions, strict=False):
        _show(ax, picture)
        ax.set_title(caption, fontsize=8, color=_MUTED)
    for ax, picture in zip(axes[1:].flat, prior.sample(rng), strict=True):
        _show(ax, picture)
    source = for_figure(str(prior.card.get("source", "a Gaussian prior")))
    figure.suptitle(
        f"{source}: mean, first {shown} of {prior.rank} "
        f"components with their share of the variance, and {SAMPLES} samples",
        fontsize=10,
        color=_INK,
    )
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The source's name may hold letters that the font lacks; they become boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _shares(prior: LowRankGaussian, count: int) -> list[str]:
    powers = prior.variances * prior.components.flatten(1).square().sum(1)
    floor = prior.bands.spread(prior.std.view(-1).square()).expand(prior.mean.numel()).sum()
    return [f"{float(power / (powers.sum() + floor)):.1%}" for power in powers[:count]]


def _stretched(component: Tensor) -> Tensor:
    return component / component.abs().max().clamp_min(torch.finfo(component.dtype).tiny)


def _show(ax: Axes, picture: Tensor) -> None:
    pixels = to_uint(picture)
    ax.imshow(
        pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels, interpolation="nearest"
    )
