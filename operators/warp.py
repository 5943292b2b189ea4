"""Warps: pixels fetched from displaced places, and where such a fetch can be trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from plugip.operator import LinearOperator, Shape
from plugip.options import require_choice

OUTSIDE = {"zero": "zeros", "replicate": "border", "reflect": "reflection"}


class Warp(LinearOperator):
    r"""Moves the pixels of an image or of each video frame along a known optical flow.

    .. math:: y[i, j] = x[i + f_1[i, j],\ j + f_0[i, j]]

    with bilinear interpolation; linear in x, of the same shape and range. Flow 0 is the identity,
    a whole number a shift. The adjoint scatters (by the vector-Jacobian product; on a GPU its
    order of summation, and so the last digits, change between runs).

    Args:
        flow: Displacements in pixels, channel 0 along columns, channel 1 along rows:
            (1|B, 2, H, W) for images, (1|B, 2, T, H, W) for videos (B, C, T, H, W).
        outside: What stands beyond the edges: replicate (optical flow), zero (turbulence), or
            reflect about the edge pixel.
        valid: Mask of the pixels that count as observed, (1|B, 1, [T,] H, W), such as
            ``flow_validity`` gives; None: all.

    Raises:
        ValueError: If flow or mask has another shape; when called, if they do not fit x.

    Source: Jaderberg et al. 2015 for the sampling.
    """

    per_image = ("flow", "valid")
    flow: Tensor
    valid: Tensor | None

    def __init__(
        self, flow: Tensor, outside: str = "replicate", valid: Tensor | None = None
    ) -> None:
        super().__init__()
        self.outside = require_choice(outside, OUTSIDE, "outside")
        self.register_buffer("flow", _require_flow(flow))
        self.domain_ndim = flow.ndim
        wanted = (flow.shape[0], 1, *flow.shape[2:])
        if valid is not None and tuple(valid.shape) not in (wanted, (1, *wanted[1:])):
            raise ValueError(f"valid must have shape {wanted}, got {tuple(valid.shape)}")
        self.register_buffer("valid", valid)

    @property
    def observed(self) -> Tensor | None:
        return self.valid

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        return warp(x, self.flow, self.outside)

    def check_domain(self, x_shape: Shape) -> None:
        fits = tuple(self.flow.shape[2:]) == tuple(x_shape[2:])
        if not fits or self.flow.shape[0] not in (1, x_shape[0]):
            raise ValueError(
                f"a flow of shape {tuple(self.flow.shape)} does not fit x of shape "
                f"{tuple(x_shape)}; it must be (1 or B, 2, *x.shape[2:])"
            )

    def extra_repr(self) -> str:
        return f"flow={tuple(self.flow.shape)}, outside={self.outside!r}"


def warp(x: Tensor, flow: Tensor, outside: str) -> Tensor:
    """Samples x at displaced places, differentiably in both; arguments as in ``Warp``."""
    if x.ndim == 5:
        frames = x.transpose(1, 2).flatten(0, 1)
        flows = flow.expand(x.shape[0], *flow.shape[1:]).transpose(1, 2).flatten(0, 1)
        y = warp(frames, flows, outside)
        return y.unflatten(0, (x.shape[0], -1)).transpose(1, 2)
    grid = _grid(flow.to(x), x.shape[0])
    return torch.nn.functional.grid_sample(
        x, grid, mode="bilinear", padding_mode=OUTSIDE[outside], align_corners=True
    )


def flow_validity(flow: Tensor, backward: Tensor | None = None, threshold: float = 1.0) -> Tensor:
    """Tells where a flow can be trusted: the place is in the frame and the way back leads home.

    Args:
        flow: (B, 2, H, W) or (B, 2, T, H, W), in pixels.
        backward: Flow of the opposite direction, same shape; None: only the frame counts.
        threshold: Longest error of the way there and back, in pixels.

    Returns:
        1 where valid, else 0, (B, 1, [T,] H, W), in the type of ``flow``.

    Raises:
        ValueError: If a shape is wrong or the threshold is not positive.
    """
    _require_flow(flow)
    h, w = flow.shape[-2:]
    rows = torch.arange(h, device=flow.device)[:, None] + flow[:, 1:]
    columns = torch.arange(w, device=flow.device) + flow[:, :1]
    inside = (rows >= 0) & (rows <= h - 1) & (columns >= 0) & (columns <= w - 1)
    if backward is None:
        return inside.to(flow.dtype)
    if backward.shape != flow.shape or not threshold > 0:
        raise ValueError(
            f"backward must have the shape of flow and threshold be positive, got "
            f"{tuple(backward.shape)} for {tuple(flow.shape)}, and {threshold}"
        )
    gap = flow + warp(backward, flow, "replicate")
    return (inside & (gap.square().sum(1, keepdim=True) <= threshold**2)).to(flow.dtype)


def _grid(flow: Tensor, batch: int) -> Tensor:
    """Places in [-1, 1], the centres of the corner pixels, (B, H, W, 2), columns first."""
    h, w = flow.shape[-2:]
    columns = torch.arange(w, device=flow.device) + flow[:, 0]
    rows = torch.arange(h, device=flow.device)[:, None] + flow[:, 1]
    grid = torch.stack([_centred(columns, w), _centred(rows, h)], dim=-1)
    return grid.expand(batch, h, w, 2)


def _centred(place: Tensor, side: int) -> Tensor:
    return 2 * place / (side - 1) - 1 if side > 1 else place


def _require_flow(flow: Tensor) -> Tensor:
    if flow.ndim not in (4, 5) or flow.shape[1] != 2 or not flow.is_floating_point():
        raise ValueError(
            "a flow must be floating point of shape (1 or B, 2, H, W), or (1 or B, 2, T, H, W) "
            f"for videos, got {flow.dtype} of shape {tuple(flow.shape)}"
        )
    return flow
