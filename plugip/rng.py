"""Random streams: one for each (run seed, purpose, image id), the same under any batching."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def stream_seed(rng_seed: int, purpose: str, image_id: str) -> int:
    """Returns the 63-bit seed of one stream; a stable hash, equal on every machine and Python."""
    text = f"{rng_seed}\x1f{purpose}\x1f{image_id}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


class Rng:
    """Draws random numbers so that each image has its own stream.

    Image i receives the same numbers alone, in a batch, in another order or on another device:
    they are drawn on the CPU by that image's own generator and then moved.

    Args:
        rng_seed: The integer of reproducibility.
        purpose: What the stream is for, such as "measure" or "solve"; streams never mix.
        ids: One id per image of the batch.

    Raises:
        ValueError: If ``ids`` is empty or holds an id twice.

    Example:
        >>> a = Rng(0, "solve", ["x", "y"]).normal((2,))
        >>> bool((a[1] == Rng(0, "solve", ["y"]).normal((2,))[0]).all())
        True
    """

    def __init__(self, rng_seed: int, purpose: str, ids: Sequence[str]) -> None:
        if len(ids) == 0 or len(set(ids)) != len(ids):
            raise ValueError(f"ids must be one distinct name per image, got {list(ids)}")
        self.rng_seed, self.purpose, self.ids = int(rng_seed), purpose, tuple(ids)
        self._streams = [self._open(i) for i in self.ids]

    def _open(self, image_id: str) -> torch.Generator:
        seed = stream_seed(self.rng_seed, self.purpose, image_id)
        return torch.Generator(device="cpu").manual_seed(seed)

    def __len__(self) -> int:
        return len(self.ids)

    def normal(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Draws standard normal numbers, (B, *shape), on the device and dtype of ``like``."""
        return self._gather([torch.randn(tuple(shape), generator=g) for g in self._streams], like)

    def uniform(self, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Draws numbers uniform in [0, 1), (B, *shape), on the device and dtype of ``like``."""
        return self._gather([torch.rand(tuple(shape), generator=g) for g in self._streams], like)

    def poisson(self, rate: Tensor) -> Tensor:
        """Draws photon counts of the given rates, one uniform number for each entry.

        Counts are quantiles of those numbers, so a rate that differs in its last bit, as between a
        GPU and a CPU, moves a rare count by one and leaves every other draw as it is.

        Args:
            rate: Expected counts, (B, ...), not negative; constants of the draw.

        Returns:
            Counts, of the shape, device and dtype of ``rate``.

        Raises:
            ValueError: If a rate is negative, infinite or NaN, or B is not the number of images.
        """
        if rate.shape[0] != len(self):
            raise ValueError(f"rates of {rate.shape[0]} images do not fit {len(self)} streams")
        known = rate.detach().to(device="cpu", dtype=torch.float64)
        if not bool(((known >= 0) & (known < float("inf"))).all()):
            raise ValueError("Poisson rates must be finite and not negative; clamp them at 0")
        shape = tuple(known.shape[1:])
        levels = [torch.rand(shape, generator=g, dtype=torch.float64) for g in self._streams]
        return poisson_quantile(torch.stack(levels), known).to(rate)

    def integers(self, low: int, high: int) -> list[int]:
        """Draws one integer in [low, high) for each image."""
        return [int(torch.randint(low, high, (), generator=g)) for g in self._streams]

    def permutation(self, n: int) -> Tensor:
        """Draws one permutation of 0..n-1 for each image, (B, n), int64, on the CPU."""
        return torch.stack([torch.randperm(n, generator=g) for g in self._streams])

    def child(self, purpose: str) -> Rng:
        """Returns fresh streams of the same images for another purpose."""
        return Rng(self.rng_seed, f"{self.purpose}/{purpose}", self.ids)

    def select(self, rows: Sequence[int]) -> Rng:
        """Returns the streams of some images, going on where they stand."""
        chosen = Rng(self.rng_seed, self.purpose, [self.ids[i] for i in rows])
        chosen._streams = [self._streams[i] for i in rows]
        return chosen

    def branch(self, starts: int) -> Rng:
        """Returns streams for several attempts at each image, side by side: row i * starts + s.

        Attempt 0 of an image is its own stream, going on where it stands; the others are fresh.
        """
        rows = [(i, s) for i in range(len(self)) for s in range(starts)]
        names = [self.ids[i] if s == 0 else f"{self.ids[i]}\x1fstart {s}" for i, s in rows]
        branched = Rng(self.rng_seed, self.purpose, names)
        for row, (i, s) in enumerate(rows):
            if s == 0:
                branched._streams[row] = self._streams[i]
        return branched

    @staticmethod
    def _gather(draws: list[Tensor], like: Tensor | None) -> Tensor:
        stacked = torch.stack(draws)
        return stacked if like is None else stacked.to(device=like.device, dtype=like.dtype)


def poisson_quantile(level: Tensor, rate: Tensor) -> Tensor:
    """Returns the least count k with P(N <= k) >= level for N ~ Poisson(rate), entry by entry.

    Args:
        level: Probabilities in [0, 1), float64.
        rate: Expected counts, float64, of the same shape.
    """
    # The ends of what float64 draws can reach; beyond them the walks would be long.
    u, lam = level.flatten().clamp(2**-54, 1 - 2**-53), rate.flatten()
    # Cornish-Fisher expansion: mostly right, or off by one; the walks below make it exact.
    z = torch.special.ndtri(u)
    k = (lam + lam.sqrt() * z + (z.square() - 1) / 6).floor().clamp_min(0)
    low = torch.arange(len(u))
    while len(low := low[_cdf(k[low], lam[low]) < u[low]]):
        k[low] += 1
    high = torch.arange(len(u))
    while len(high := high[(k[high] > 0) & (_cdf(k[high] - 1, lam[high]) >= u[high])]):
        k[high] -= 1
    return k.reshape(level.shape)


def _cdf(k: Tensor, rate: Tensor) -> Tensor:
    return torch.special.gammaincc(k.clamp_min(0) + 1, rate)
