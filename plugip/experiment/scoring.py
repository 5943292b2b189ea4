"""Scores against the truth, a baseline made from y alone, and y as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from plugip.experiment.observers import Align
from plugip.metrics import MetricUnavailableError, NamedMetric, to_unit


@dataclass(frozen=True)
class Judge:
    """Scores estimates against the truth with every metric that can run here.

    Args:
        metrics: The metrics.
        align: Resolves symmetries of the answer before scoring, if the operator has any.
    """

    metrics: Sequence[NamedMetric]
    align: Align | None = None
    missing: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        reasons = {m.name: m.unavailable() for m in self.metrics}
        object.__setattr__(self, "missing", {n: reason for n, reason in reasons.items() if reason})

    @property
    def conventions(self) -> dict[str, str]:
        """Which definition each metric follows, or why it is not available."""
        return {m.name: self.missing.get(m.name, m.convention) for m in self.metrics}

    def aligned(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Returns the estimate as it is scored."""
        return x_hat if self.align is None else self.align(x_hat, x)

    def scores(self, x_hat: Tensor, x: Tensor) -> tuple[dict[str, float | None], dict[str, str]]:
        """Scores one image, (1, C, H, W) in [-1, 1], alone, so that no neighbour can matter.

        Returns:
            Numbers by metric, None where there is none, and the reasons for that.
        """
        unit, truth = to_unit(self.aligned(x_hat, x)), to_unit(x)
        values: dict[str, float | None] = {}
        notes = dict(self.missing)
        for metric in self.metrics:
            values[metric.name] = None
            if metric.name in notes:
                continue
            try:
                value = float(metric(unit, truth)[0])
            except (ValueError, MetricUnavailableError) as error:
                notes[metric.name] = str(error)
                continue
            if math.isfinite(value):
                values[metric.name] = value
            else:
                notes[metric.name] = f"{value}: no finite number"
        return values, notes


def naive(y: Tensor, image_shape: tuple[int, ...]) -> Tensor | None:
    """Makes an image of y without any prior: y itself, or y enlarged by bicubic interpolation.

    Args:
        y: Measurements, (B, *Y).
        image_shape: Shape of the images, (C, H, W).

    Returns:
        Images, (B, C, H, W), in [-1, 1]; None where y is no picture of them.
    """
    if not looks_like_image(y[0], image_shape):
        return None
    if tuple(y.shape[1:]) == tuple(image_shape):
        return y.clamp(-1, 1)
    enlarged = F.interpolate(y, tuple(image_shape[-2:]), mode="bicubic", align_corners=False)
    return enlarged.clamp(-1, 1)


def looks_like_image(y: Tensor, image_shape: tuple[int, ...]) -> bool:
    """Tells whether one measurement is a picture: same channels, not larger, about in [-1, 1]."""
    if y.is_complex() or y.ndim != 3 or y.shape[0] != image_shape[0]:
        return False
    if float(y.min()) >= 0 and float(y.max()) > 1.2:  # intensities, not grey values
        return False
    smaller = all(a <= b for a, b in zip(y.shape, image_shape, strict=True))
    # The median is blind to noise and outliers, and a spectrum's is far outside or one-sided.
    return smaller and float(y.abs().median()) <= 1.5


def picture_of(y: Tensor, image_shape: tuple[int, ...]) -> tuple[Tensor, str]:
    """Returns one measurement as a picture, (C, h, w) in [-1, 1], and how it was made.

    Pictures stay as they are ("" is the note); anything else is shown by log(1 + |y|).
    """
    if looks_like_image(y, image_shape):
        return y, ""
    size = y.abs().double().log1p()
    flat = size if size.ndim == 3 else size.reshape(1, -1, size.shape[-1])
    flat = flat.mean(dim=0, keepdim=True) if flat.shape[0] not in (1, 3) else flat
    if flat.shape[1] == 1:  # a list of numbers becomes a strip
        flat = flat.expand(-1, max(flat.shape[2] // 8, 1), -1)
    low, high = flat.min(), flat.max()
    return 2 * (flat - low) / (high - low).clamp_min(1e-12) - 1, "log scale"
