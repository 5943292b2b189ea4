"""Where the pixels of a measurement lie on the image, asked of the operator itself.

A reducing operator may keep the upper left pixel of each block, its middle, or the middle of an
image whose side is no multiple of the factor. The places follow from its derivative J: pixel j of
y, made of pixels i with weights J_ji, lies at their centre of gravity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.operator import BlindOperator, Composition, LinearOperator, Operator, Shape
from plugip.rng import Rng, open_stream, stream_key

LEAST_STRIDE = 0.5  # below it the rows of y do not follow those of x: no picture
LEAST_GAIN = 0.05  # of the sum of weights to the sum of their sizes: edges have no place


@dataclass(frozen=True)
class Places:
    """Pixel (j, k) of y lies at first + stride * (j, k) on the image, in pixels.

    Attributes:
        first: (1 or B, 2), down and right, float64, on the CPU.
        stride: The same, positive.
    """

    first: Tensor
    stride: Tensor


def centred(y_shape: Sequence[int], x_shape: Sequence[int]) -> Places:
    """Returns the places of pixels that cover the image exactly, as an area sensor's do."""
    stride = torch.tensor([[x_shape[-2] / y_shape[-2], x_shape[-1] / y_shape[-1]]]).double()
    return Places((stride - 1) / 2, stride)


def find_places(operator: Operator, y: Tensor, image_shape: tuple[int, ...]) -> Places | None:
    """Finds where the pixels of y lie, by a few passes through the operator's derivative.

    Args:
        operator: The operator, one for all images or one for each.
        y: Measurements, (B, C, ..., h, w), real.
        image_shape: Shape of the images, (C, ..., H, W).

    Returns:
        The places; those of an exact cover where the operator has no derivative; None where the
        rows and columns of y do not follow those of the image, as in a sinogram or a spectrum.
    """
    shapes = tuple(y.shape), (y.shape[0], *image_shape)
    return _places(_known(operator, y.new_zeros(shapes[1])), y, *shapes)


def _places(operator: Operator, like: Tensor, y_shape: Shape, x_shape: Shape) -> Places | None:
    linear = isinstance(operator, LinearOperator)
    if isinstance(operator, Composition) and not linear:
        # Part by part: through the rounding of JPEG a derivative tells little of what is before.
        between = operator.inner.measurement_shape(x_shape)
        if len(between) == len(x_shape):
            inner = _places(operator.inner, like, between, x_shape)
            outer = _places(operator.outer, like, y_shape, between)
            if inner is not None and outer is not None:
                return Places(
                    inner.first + inner.stride * outer.first, inner.stride * outer.stride
                )
    found = _measured(operator, like, y_shape, x_shape)
    if found is None or linear or y_shape[-2:] != x_shape[-2:]:
        return found
    return centred(y_shape, x_shape)


@torch.enable_grad()
def _measured(operator: Operator, like: Tensor, y_shape: Shape, x_shape: Shape) -> Places | None:
    # Near mid-grey clipping and tone curves have slopes; in a flat image a spectrum has none.
    stream = open_stream(stream_key(0, "places", ""))
    x = (0.1 * torch.randn(x_shape[1:], generator=stream)).to(like).expand(x_shape).clone()
    y = operator(x.requires_grad_())
    if not _has_slopes(y, x) or tuple(y.shape) != y_shape:
        return centred(y_shape, x_shape)
    lines = [_line(y, x, axis) for axis in (-2, -1)]
    if any(line is None for line in lines):
        return None
    first, stride = (torch.stack(part, dim=1) for part in zip(*lines, strict=True))  # type: ignore[arg-type]
    return Places(first, stride)


def _known(operator: Operator, x: Tensor) -> Operator:
    if not isinstance(operator, BlindOperator):
        return operator
    rng = Rng(0, "places", [str(i) for i in range(len(x))])
    return operator.at(operator.constrain(operator.init_theta(rng, x)))


def _has_slopes(y: Tensor, x: Tensor) -> bool:
    """Tells whether there is a derivative; rounding without one has zeros."""
    if not y.requires_grad:
        return False
    (pulled,) = torch.autograd.grad(y.sum(), x, retain_graph=True, allow_unused=True)
    return pulled is not None and bool(pulled.any())


def _line(y: Tensor, x: Tensor, axis: int) -> tuple[Tensor, Tensor] | None:
    """Returns first place and stride along one axis, (B,) each; None where there are none."""
    m, n = y.shape[axis], x.shape[axis]
    if m == 1:
        stride = torch.full((y.shape[0],), float(n), dtype=torch.float64)
        return (stride - 1) / 2, stride
    away = (torch.arange(m, dtype=torch.float64) - (m - 1) / 2).abs()
    # Near the middle no edge of the image disturbs; a mask may hide the middle.
    for reach in (max(0.5, m / 8), m):
        found = _fit(y, x, axis, away <= reach)
        if found is not None:
            return found
    return None


def _fit(y: Tensor, x: Tensor, axis: int, rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Fits a line to the places of some rows of y, by least squares with their gains as weights.

    With g_j the gain of row j and p_j its place, J^T u holds both: <J^T u, 1> = sum_j u_j g_j and
    <J^T u, i> = sum_j u_j g_j p_j. So u_j = 1, j, j² give the normal equations.
    """
    m, n = y.shape[axis], x.shape[axis]
    j = torch.arange(m, dtype=torch.float64) - (m - 1) / 2
    i = torch.arange(n, dtype=torch.float64)
    pulled = [_pull(y, x, axis, rows * j**k) for k in range(3)]
    m0, m1, m2 = (line.sum(1) for line in pulled)
    p0, p1 = (line @ i for line in pulled[:2])
    spread = m0 * m2 - m1 * m1
    middle, stride = (m2 * p0 - m1 * p1) / spread, (m0 * p1 - m1 * p0) / spread
    steady = m0.abs() > LEAST_GAIN * pulled[0].abs().sum(1)
    apart = spread > LEAST_GAIN * (m0 * j[rows].std(correction=0)).square()
    if not bool((steady & apart & (stride >= LEAST_STRIDE)).all()):
        return None
    return middle - stride * (m - 1) / 2, stride


def _pull(y: Tensor, x: Tensor, axis: int, weights: Tensor) -> Tensor:
    """Returns J^T u summed over all but the axis, (B, n), for u that depends on the axis only."""
    shape = [1] * y.ndim
    shape[axis] = -1
    u = weights.to(y.dtype).to(y.device).reshape(shape).expand_as(y)
    (pulled,) = torch.autograd.grad(y, x, u, retain_graph=True)
    line = pulled.movedim(axis, -1).flatten(1, -2).cpu().double()
    return line.sum(1)
