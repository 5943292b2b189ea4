"""A Gaussian of whole images with a low-rank covariance: exact, instant, fitted to a folder."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from plugip.linalg import wide
from plugip.path import SIGNED, FlowPath, Path
from plugip.priors.density import DensityPrior
from plugip.priors.low_rank_bands import Bands
from plugip.priors.low_rank_file import low_rank_bytes, read_low_rank
from plugip.rng import Rng


class LowRankGaussian(DensityPrior):
    r"""Images in [-1, 1] from one normal distribution: r directions, and a floor for the rest.

    .. math:: C = U \operatorname{diag}(s)\, U^T + F^T \operatorname{diag}(\tau^2) F, \quad
        E[x_0 | x_t] = m + \alpha C (\alpha^2 C + \sigma^2 I)^{-1} (x_t - \alpha m)

    With one number as the floor C is U diag(s) U^T + tau² I. What r directions leave out of
    photographs is not white, and with a white floor an answer can be worse than without any
    directions; so the floor may have a level for each band of the cosine transform F (``Bands``).
    One call takes O(d r + r³) operations for d pixel values, little beside a network.
    ``plugip-fit-gaussian`` fits it to a folder of images, and ``load`` reads the file.

    Args:
        mean: Mean m, (C, H, W).
        components: Directions U, (r, C, H, W), of any length and angle.
        variances: What each direction adds to the floor, s >= 0, (r,).
        std: Standard deviations tau > 0 of the floor: one number, or one for each of the J bands
            of each channel, (C, J).
        path: Noise path; the rectified flow by default.

    Attributes:
        card: What the prior was fitted to, by name; empty where it was not.

    Raises:
        ValueError: If the shapes do not fit, a variance is negative, the floor is not positive,
            or a value is not finite.

    Source: Tipping and Bishop 1999 (probabilistic PCA) for a white floor; the answers are those
        of factor analysis with known noise.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Tensor,
        components: Tensor,
        variances: Tensor,
        std: Tensor | float,
        path: Path | None = None,
    ) -> None:
        super().__init__()
        std = torch.as_tensor(std, dtype=mean.dtype, device=mean.device)
        _require_parts(mean, components, variances, std)
        self.shape, self.path = tuple(mean.shape), path or FlowPath()
        self.value_range = SIGNED
        self.card: dict[str, Any] = {}
        self.bands = Bands(self.shape, std.shape[1] if std.ndim else 0).to(mean)
        self.register_buffer("mean", mean)
        self.register_buffer("components", components.to(mean))
        self.register_buffer("variances", variances.to(mean))
        self.register_buffer("std", std)
        self._grams: dict[torch.device, Tensor] = {}
        self.freeze()

    @classmethod
    def load(cls, source: str | PathLike[str], path: Path | None = None) -> LowRankGaussian:
        """Reads a prior that ``plugip-fit-gaussian`` wrote.

        Args:
            source: The .safetensors file.
            path: Noise path; the rectified flow by default.

        Returns:
            The prior, in float32 on the CPU; its ``card`` says what it was fitted to.

        Raises:
            WeightsError: If the file is missing, damaged, or holds something else.
        """
        tensors, card = read_low_rank(source)
        prior = cls(**tensors, path=path)
        prior.card = card
        return prior

    def to_bytes(self) -> bytes:
        """Encodes tensors and card as the .safetensors file that ``load`` reads."""
        return low_rank_bytes(self.state_dict(), self.card)

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return len(self.variances)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.path.coefficients(t, x_t.flatten(1))
        mean = self.mean.to(x_t).flatten()
        rest = self.bands.analyse(x_t.flatten(1) - alpha * mean)
        weights, _, spread = self._explain(rest, alpha, sigma)
        coarse = self.bands.analyse(self._combine(weights))
        # The directions' answer, and the floor's share of what they leave, without cancellation.
        fine = (alpha * self._floor(rest) * rest + sigma**2 * coarse) / spread
        return (mean + self.bands.synthesise(fine)).view_as(x_t)

    def log_density(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.path.coefficients(t, x_t.flatten(1))
        rest = self.bands.analyse(x_t.flatten(1) - alpha * self.mean.to(x_t).flatten())
        weights, factor, spread = self._explain(rest, alpha, sigma)
        left, kind = rest - alpha * self.bands.analyse(self._combine(weights)), wide(x_t)
        squares = (left.square() / spread).sum(1, dtype=kind)
        squares = squares + weights.square().sum(1, dtype=kind)
        volume = spread.to(kind).log().expand_as(left).sum(1)
        volume = volume + 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return -(squares + volume + left.shape[1] * math.log(2 * math.pi)) / 2

    def sample(self, rng: Rng) -> Tensor:
        weights = rng.child("components").normal((self.rank,), like=self.mean)
        noise = rng.normal((self.mean.numel(),), like=self.mean)
        fine = self.bands.synthesise(self._floor(noise).sqrt() * noise)
        return (self.mean.flatten() + self._combine(weights) + fine).view(-1, *self.shape)

    def covariance_times(self, v: Tensor) -> Tensor:
        """Returns C v for each of some states, (B, *shape)."""
        flat = v.flatten(1)
        fine = self.bands.synthesise(self._floor(flat) * self.bands.analyse(flat))
        return (self._combine(self._project(flat)) + fine).view_as(v)

    def _explain(
        self, rest: Tensor, alpha: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what the directions make of x_t - alpha m, given as coefficients, (B, d).

        Returns:
            E[b | x_t] of the directions' standard normal weights b, (B, r); the Cholesky factor
            of b's precision, (1 or B, r, r), float64; the variances of x_t given b in each
            coefficient, (1 or B, 1 or d).
        """
        levels = (alpha * self.std.to(rest).view(1, -1)).square() + sigma**2
        spread, kind = self.bands.spread(levels), wide(rest)
        pulled = alpha * self._project(self.bands.synthesise(rest / spread))
        scales = (alpha**2 / levels).to(kind)
        precision = torch.einsum("bj,jrs->brs", scales, self._scaled_grams())
        precision = precision + torch.eye(self.rank, dtype=kind, device=rest.device)
        factor = torch.linalg.cholesky(precision)
        weights = torch.cholesky_solve(pulled.to(kind).unsqueeze(2), factor).squeeze(2)
        return weights.to(rest), factor, spread

    def _project(self, flat: Tensor) -> Tensor:
        """Returns inner products with the scaled directions, (B, d) -> (B, r)."""
        return (flat @ self.components.to(flat).flatten(1).T) * self.variances.to(flat).sqrt()

    def _combine(self, weights: Tensor) -> Tensor:
        """Returns sums of the scaled directions, (B, r) -> (B, d)."""
        scaled = weights * self.variances.to(weights).sqrt()
        return scaled @ self.components.to(weights).flatten(1)

    def _floor(self, like: Tensor) -> Tensor:
        """Returns the floor's variance of each coefficient, (1 or d,)."""
        return self.bands.spread(self.std.to(like).view(-1).square())

    def _scaled_grams(self) -> Tensor:
        """Returns the scaled directions' inner products in each band, (bands, r, r), float64."""
        device = self.components.device
        if device not in self._grams:
            # Products of float32 would not do: divided by a low floor their rounding is large.
            with torch.inference_mode(False):
                kind = wide(self.components)
                rows = self.components.to(kind).flatten(1)
                self._grams[device] = self.bands.grams(
                    rows * self.variances.to(kind).sqrt()[:, None]
                )
        return self._grams[device]


def _require_parts(mean: Tensor, components: Tensor, variances: Tensor, std: Tensor) -> None:
    rank = len(variances) if variances.ndim == 1 else -1
    if mean.ndim != 3 or tuple(components.shape) != (rank, *mean.shape):
        raise ValueError(
            "mean (C, H, W), components (r, C, H, W) and variances (r,) must agree, got "
            f"{tuple(mean.shape)}, {tuple(components.shape)} and {tuple(variances.shape)}"
        )
    if std.ndim not in (0, 2) or std.numel() == 0 or (std.ndim and len(std) != len(mean)):
        raise ValueError(
            "std, the floor, must be one number or (C, J), one for each band of the "
            f"{len(mean)} channels, got shape {tuple(std.shape)}"
        )
    if not all(bool(part.isfinite().all()) for part in (mean, components, variances, std)):
        raise ValueError("mean, components, variances and std must be finite numbers")
    if not bool((variances >= 0).all()):
        raise ValueError(f"variances must not be negative, got {float(variances.min()):.3g}")
    if not bool((std > 0).all()):
        raise ValueError(f"std, the floor, must be positive, got {float(std.min()):.3g}")
