"""Blur by a turning camera: frames of one image, each seen through its homography, add up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from plugip.linalg import wide, widened
from plugip.operator import LinearOperator, Shape
from plugip.operators._options import require_positive, require_sampler
from plugip.operators._vectors import picked
from plugip.operators.frame_average import Margins, MovedFrames, PathShifts, ringed

if TYPE_CHECKING:
    from plugip.rng import Rng


@runtime_checkable
class HomographySampler(Protocol):
    """Draws paths of a turning camera, one for each image."""

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws homographies of (down, right, 1) in pixels, (B, T, 3, 3), float64."""
        ...


@dataclass(frozen=True)
class CameraRotations:
    r"""Draws how a hand-held camera turns during the exposure: tilt, pan and roll.

    .. math:: H_t = K R_t K^{-1}

    Tilt and pan move the middle of the image along a path of ``PathShifts``; roll grows evenly in
    time, by up to ``roll`` degrees to either side, which is our choice. The mean pose is upright.

    Args:
        frames: Frames per exposure, T.
        size: Extent of the path of the middle in pixels.
        intensity: 0 for straight paths, 1 for wild ones.
        roll: Largest turn about the viewing direction at the ends of the exposure, in degrees.
        focal: Focal length in longer sides of the image: 1 sees 53 degrees, 2 sees 28.

    Raises:
        ValueError: If an argument is out of range.

    Source: Whyte et al. 2012, blur by rotations of the camera.
    """

    frames: int = 9
    size: int = 15
    intensity: float = 0.5
    roll: float = 2.0
    focal: float = 1.0

    def __post_init__(self) -> None:
        PathShifts(self.frames, self.size, self.intensity)
        require_positive(self.focal, "focal")
        if not 0 <= self.roll <= 45:
            raise ValueError(f"roll must lie in [0, 45] degrees, got {self.roll!r}")

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws homographies of (down, right, 1) in pixels, (B, T, 3, 3), float64."""
        focal = self.focal * max(x_shape[-2:])
        path = PathShifts(self.frames, self.size, self.intensity).draw(rng, x_shape) / focal
        rate = math.radians(self.roll) * (2 * rng.uniform((1,)).double() - 1)
        roll = rate * torch.linspace(-1, 1, self.frames, dtype=torch.float64)
        return rotations(path[..., 0], path[..., 1], roll, focal)


def rotations(tilt: Tensor, pan: Tensor, roll: Tensor, focal: float) -> Tensor:
    """Returns the homographies of a camera that turns about its centre.

    Args:
        tilt: Angle in radians that moves the middle of the image down, any shape.
        pan: Angle in radians that moves it to the right, same shape.
        roll: Angle in radians that turns the image from down towards right, same shape.
        focal: Focal length in pixels.

    Returns:
        Homographies of (down, right, 1) in pixels from the middle, (..., 3, 3).

    Source: Whyte et al. 2012, K R K^-1; Rodrigues 1840 for R.
    """
    zero, axis = torch.zeros_like(tilt), torch.stack([-pan, tilt, roll], -1)
    rows = [[zero, -roll, tilt], [roll, zero, pan], [-tilt, -pan, zero]]
    cross = torch.stack([torch.stack(row, -1) for row in rows], -2)
    angle = axis.square().sum(-1).sqrt()[..., None, None]
    # Rodrigues: I cos + cross sin / angle + axis axis^T (1 - cos) / angle^2, at angle 0 as well.
    turn = angle.cos() * torch.eye(3).to(axis) + torch.sinc(angle / math.pi) * cross
    half = torch.sinc(angle / (2 * math.pi)).square() / 2
    turn = turn + half * axis[..., :, None] * axis[..., None, :]
    lens = turn.new_tensor([focal, focal, 1.0])
    return lens[:, None] * turn / lens


class HomographyBlur(MovedFrames):
    r"""Blurs an image by turning the camera during the exposure: frames add up in light.

    .. math:: y = 2\, g\Big(\frac1T \sum_t g^{-1}\big((W_t x + 1) / 2\big)\Big) - 1, \quad
        g(u) = u^{1/\gamma}

    W_t carries what is seen at the point p, in homogeneous pixels (down, right, 1) from the middle
    of the image, to H_t p, bilinearly between pixels: each corner has its own blur, where
    ``FrameAverageBlur`` has one for all. x and y are (B, C, H, W) in [-1, 1]; constants map to
    themselves but at a zero boundary (mid-grey outside). Made for small motions: where a frame
    shrinks the image, pixels are skipped. Gradients reach the homographies; on a GPU the last
    digits of a gradient change between runs.

    Args:
        homographies: H_t, (T, 3, 3), or one path per image, (B, T, 3, 3); or a sampler such as
            ``CameraRotations(9)``: then call ``realise(rng, x_shape)`` first. A shift by (d, r)
            is [[1, 0, d], [0, 1, r], [0, 0, 1]].
        gamma: Exponent of the response curve; 2.2 approximates cameras, 1 averages pixel values:
            then take ``ProjectiveBlur``, which is known to be linear.
        boundary: reflect, circular, zero, replicate or symmetric.
        epsilon: Light level, on [0, 1], below which the gradient of g no longer grows.

    Raises:
        TypeError: If homographies are neither tensor nor sampler.
        ValueError: If an argument is out of range, or a matrix has no inverse; when called, if a
            frame reaches too far beyond the image.
        RuntimeError: When used before ``realise``.

    Source: Tai, Tan and Brown 2011 for projective motion paths; Nah et al. 2017 (GoPro) for light.
    """

    per_image = ("homographies",)
    homographies: Tensor

    def __init__(
        self,
        homographies: Tensor | HomographySampler,
        gamma: float = 2.2,
        boundary: str = "reflect",
        epsilon: float = 1e-4,
    ) -> None:
        given = isinstance(homographies, Tensor)
        path = _require_homographies(homographies) if given else _drawn_by(homographies)
        super().__init__(path, gamma, boundary, epsilon)

    def reach(self, path: Tensor, h: int, w: int) -> Margins:
        return _margins(path.reshape(-1, 3, 3), h, w)

    def frames(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        margins = self.margins(h, w)
        grid = torch.cartesian_prod(*(_centred(n, x) for n in (h, w)))
        seen = _origins(_pulled_back(self.homographies.to(wide(x)), grid), (h, w))
        places = [place + margin[0] + 1 for place, margin in zip(seen, margins, strict=True)]
        return _fetched(ringed(x, margins, self.boundary), *places).unflatten(-1, (h, w))


class ProjectiveBlur(HomographyBlur, LinearOperator):
    r"""Averages frames of one image that are seen by a turning camera; linear.

    .. math:: y = \frac1T \sum_t W_t x

    with W_t as in ``HomographyBlur``, which this is for gamma = 1. The adjoint is exact, by the
    vector-Jacobian product.

    Args:
        homographies: As in ``HomographyBlur``.
        boundary: reflect, circular, zero, replicate or symmetric.

    Raises:
        TypeError, ValueError, RuntimeError: As in ``HomographyBlur``.

    Source: Tai, Tan and Brown 2011; Whyte et al. 2012.
    """

    def __init__(
        self, homographies: Tensor | HomographySampler, boundary: str = "reflect"
    ) -> None:
        super().__init__(homographies, 1.0, boundary)

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        return self.frames(x).mean(2)


def _centred(side: int, like: Tensor | None = None) -> Tensor:
    """Returns the places of pixels from the middle of a side, float64 where there is one."""
    there = torch.empty(0) if like is None else like
    return torch.arange(side, dtype=wide(there), device=there.device) - (side - 1) / 2


def _pulled_back(homographies: Tensor, points: Tensor) -> Tensor:
    """Returns what H sends to some points (down, right), (n, 2), homogeneous, (..., 3, n)."""
    first, second, third = homographies.unbind(-1)
    # The adjugate is the inverse up to a factor, which homogeneous points do not see; it is exact
    # for shifts by whole pixels.
    crossed = [(second, third), (third, first), (first, second)]
    inverse = torch.stack([torch.linalg.cross(a, b) for a, b in crossed], -2)
    return inverse[..., :2] @ points.T + inverse[..., 2:]


def _origins(seen: Tensor, sides: tuple[int, int]) -> list[Tensor]:
    """Reads homogeneous points from the middle, (..., 3, n), as rows and columns, (..., n)."""
    down, right, scale = seen.unbind(-2)
    return [p / scale + (n - 1) / 2 for p, n in zip((down, right), sides, strict=True)]


def _fetched(image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Reads (B, C, h, w) between pixels at inner places (1|B, T, n), to (B, C, T, n)."""
    top, left = row.floor(), column.floor()
    across = image.shape[-1]
    index, flat = (top * across + left).long(), image.flatten(2)
    down, right = ((p - q)[:, None].to(image) for p, q in ((row, top), (column, left)))

    def corner(step: int) -> Tensor:
        return picked(flat, (index + step).flatten(1)).unflatten(-1, index.shape[1:])

    upper = torch.lerp(corner(0), corner(1), right)
    lower = torch.lerp(corner(across), corner(across + 1), right)
    return torch.lerp(upper, lower, down)


def _margins(homographies: Tensor, h: int, w: int) -> Margins:
    """Returns how far frames of (h, w) pixels reach beyond the image; homographies (N, 3, 3)."""
    ends = [torch.tensor([-(n - 1) / 2, (n - 1) / 2], dtype=torch.float64) for n in (h, w)]
    seen = _pulled_back(homographies, torch.cartesian_prod(*ends))
    scale = seen[:, 2]
    if bool((scale.amin(1) * scale.amax(1) <= 0).any()):
        raise ValueError(
            f"a homography sends a part of images of {h} x {w} pixels to infinity; use "
            "homographies nearer to the identity"
        )
    # Where nothing is sent to infinity, the corners of the image reach furthest.
    rows, columns = _origins(seen, (h, w))
    return _beyond(rows, h), _beyond(columns, w)


def _beyond(place: Tensor, side: int) -> tuple[int, int]:
    low, high = float(place.min()), float(place.max())
    return max(0, math.ceil(-low)), max(0, math.ceil(high - (side - 1)))


def _drawn_by(homographies: object) -> HomographySampler:
    return require_sampler(homographies, HomographySampler, "homographies", "CameraRotations(9)")


def _require_homographies(matrices: Tensor) -> Tensor:
    paths = matrices[None] if matrices.ndim == 3 else matrices
    if paths.ndim != 4 or paths.shape[2:] != (3, 3) or paths.shape[1] == 0:
        raise ValueError(
            "homographies must be (T, 3, 3) or (B, T, 3, 3), of points (down, right, 1), got "
            f"shape {tuple(matrices.shape)}"
        )
    if not paths.is_floating_point() or not bool(paths.isfinite().all()):
        raise ValueError("homographies must be floating point and finite")
    if bool((torch.linalg.det(widened(paths)) == 0).any()):
        raise ValueError("a homography has no inverse: its determinant is 0")
    return paths
