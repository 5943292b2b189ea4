"""Mean, principal components and floor of a set of images that need not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from plugip.fitting.pictures import FitError
from plugip.priors.low_rank import LowRankGaussian
from plugip.priors.low_rank_bands import Bands
from plugip.rng import open_stream, stream_key

MOST_BANDS = 64
PASSES = 4  # over the images: one for the moments, three that sharpen the components
# The variance that rounding to 8 bits leaves in [-1, 1]: no floor can be lower.
ROUNDING = (2 / 255) ** 2 / 12


class Images(Protocol):
    """What a fit needs of the images; see ``Pictures``."""

    name: str
    names: list[str]
    shape: tuple[int, ...]
    skipped: dict[str, str]

    def batches(self, heading: str) -> Iterator[Tensor]:
        """Yields all images, (B, d) in [-1, 1]."""
        ...


@dataclass(frozen=True)
class Moments:
    """What the first pass finds.

    Attributes:
        count: Number of images.
        mean: Their mean, (d,), float64.
        power: Their variance, summed over each frequency band, (bands,), float64.
        sketch: Their covariance times random directions, (d, l), float64.
    """

    count: int
    mean: Tensor
    power: Tensor
    sketch: Tensor


def fit_gaussian(
    pictures: Images, rank: int = 200, bands: int = 16, rng_seed: int = 0
) -> LowRankGaussian:
    """Fits a low-rank Gaussian to images.

    The components are the first eigenvectors of the covariance, by randomised subspace iteration.
    The floor of each frequency band is the variance that they leave there, for each direction that
    they leave; with one white floor this is probabilistic PCA. The variance along each component,
    and that of all values together, are those of the images.

    Args:
        pictures: The images.
        rank: Number of components; fewer than there are images.
        bands: Frequency bands of the floor for each channel; 0 for one white floor.
        rng_seed: Fixes the random directions.

    Returns:
        The prior in float32, with its card.

    Raises:
        FitError: If an argument is out of range or there are too few images.

    Source: Halko, Martinsson and Tropp 2011 (subspace iteration); Tipping and Bishop 1999 (the
        floor is the mean of the variance that is left).
    """
    _require_settings(pictures, rank, bands)
    rings = Bands(pictures.shape, bands).float()
    moments = _first_pass(pictures, rings, _directions(pictures, rank, rng_seed))
    if moments.count <= rank:
        raise FitError(
            f"rank must be below the number of images, got {rank} for {moments.count} images of "
            f"{pictures.name} that can be read"
        )
    if float(moments.power.sum()) <= ROUNDING:
        raise FitError(f"the images of {pictures.name} are all alike; there is nothing to fit")
    variances, rows = _sharpen(pictures, moments, rank)
    prior = _assemble(moments, variances, rows.float(), rings, pictures.shape)
    prior.card = _card(pictures, moments, variances, prior, rng_seed)
    return prior


def _require_settings(pictures: Images, rank: int, bands: int) -> None:
    values = int(torch.Size(pictures.shape).numel())
    most = min(len(pictures.names) - 1, values)
    if not 1 <= rank <= most:
        raise FitError(
            f"rank must lie in [1, {most}], below the number of images and of pixel values, got "
            f"{rank}; {pictures.name} has {len(pictures.names)} images"
        )
    if not 0 <= bands <= MOST_BANDS:
        raise FitError(f"bands must lie in [0, {MOST_BANDS}], got {bands}")


def _directions(pictures: Images, rank: int, rng_seed: int) -> Tensor:
    """Returns random directions, (d, l), some more than components are asked for."""
    size = int(torch.Size(pictures.shape).numel())
    width = min(rank + max(20, rank // 4), size)
    generator = open_stream(stream_key(rng_seed, "directions", ""))
    return torch.randn(size, width, generator=generator)


def _first_pass(pictures: Images, bands: Bands, directions: Tensor) -> Moments:
    size = len(directions)
    count, total = 0, torch.zeros(size, dtype=torch.float64)
    power = torch.zeros(bands.bands, dtype=torch.float64)
    sketch = torch.zeros(directions.shape, dtype=torch.float64)
    for x in pictures.batches("reading"):
        count += len(x)
        total += x.sum(0, dtype=torch.float64)
        power += bands.power(x)
        sketch += x.T @ (x @ directions)
    if count == 0:
        name, reason = next(iter(pictures.skipped.items()))
        raise FitError(f"no image of {pictures.name} can be read; {name}: {reason}")
    mean = total / count
    centre = bands.power(mean[None].float())
    shift = torch.outer(mean, mean @ directions.double())
    return Moments(count, mean, power / count - centre, sketch / count - shift)


def _sharpen(pictures: Images, moments: Moments, rank: int) -> tuple[Tensor, Tensor]:
    """Returns the largest eigenvalues of the covariance, (r,), and eigenvectors, (r, d)."""
    sketch, mean = moments.sketch, moments.mean.float()
    basis = sketch
    for number in range(2, PASSES + 1):
        basis = torch.linalg.qr(sketch).Q
        narrow = basis.float()
        sketch = torch.zeros_like(basis)
        for x in pictures.batches(f"pass {number} of {PASSES}"):
            rest = x - mean
            sketch += rest.T @ (rest @ narrow)
        sketch /= moments.count
    small = basis.T @ sketch
    variances, turns = torch.linalg.eigh((small + small.T) / 2)
    chosen = turns.flip(1)[:, :rank]
    return variances.flip(0)[:rank].clamp_min(0), (basis @ chosen).T.contiguous()


def _assemble(
    moments: Moments, variances: Tensor, rows: Tensor, bands: Bands, shape: tuple[int, ...]
) -> LowRankGaussian:
    """Splits the variance into components and floor, band by band."""
    shares = torch.stack([bands.power(row[None]) for row in rows])  # (r, bands), sum to 1 each
    left = (moments.power - variances @ shares).clamp_min(0)
    free = bands.sums(torch.ones(rows.shape[1], dtype=torch.float64)) - shares.sum(0)
    average = left.sum() / free.sum()
    # A band without free directions, or without any coefficient, has no floor of its own.
    floor = torch.where(free > 0.5, left / free.clamp_min(0.5), average).clamp_min(ROUNDING)
    # The floor lies under the components as well; they add what is missing.
    added = (variances - shares @ floor).clamp_min(0)
    std = floor.sqrt().float()
    return LowRankGaussian(
        moments.mean.float().view(shape),
        rows.view(-1, *shape),
        added.float(),
        std[0] if bands.white else std.view(shape[0], -1),
    )


def _card(
    pictures: Images, moments: Moments, variances: Tensor, prior: LowRankGaussian, rng_seed: int
) -> dict[str, Any]:
    from plugip import __version__

    total = float(moments.power.sum())
    return {
        "about": "A Gaussian prior of images in [-1, 1], for plugip.priors.LowRankGaussian.load. "
        "Its mean and components are averages of the images it was fitted to.",
        "source": pictures.name,
        "count": moments.count,
        "skipped": len(pictures.skipped),
        "size": pictures.shape[1],
        "channels": pictures.shape[0],
        "rank": prior.rank,
        "bands": 0 if prior.std.ndim == 0 else prior.std.shape[1],
        "explained_variance": float(variances.sum()) / total,
        "variance_per_value": total / prior.mean.numel(),
        "passes": PASSES,
        "rng_seed": rng_seed,
        "plugip": __version__,
    }
