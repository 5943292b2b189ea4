"""Random streams: one for each (run seed, purpose, image id), the same under any batching.

A stream is named by a 256-bit key, a hash of seed, purpose and id. The key fills the whole state
of the Mersenne twister of torch, whose ``manual_seed`` would keep 32 bits of it.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORDS = slice(3, 627)  # of the twister in torch's generator state, read as 64-bit numbers
TWISTER = 624  # words of 32 bits


def stream_key(rng_seed: int, purpose: str, image_id: str) -> bytes:
    """Returns the 256-bit key of one stream: a stable hash, equal on every machine and Python."""
    # Words are told apart by a separator that none of them holds.
    words = (str(rng_seed), purpose, image_id)
    safe = (word.replace("\x1e", "\x1e\x1e").replace("\x1f", "\x1e_") for word in words)
    # File names that are not UTF-8 hold surrogates; they are ids like any other.
    return hashlib.sha256("\x1f".join(safe).encode("utf-8", "surrogatepass")).digest()


def stream_seed(rng_seed: int, purpose: str, image_id: str) -> int:
    """Returns the first 64 bits of a stream's key, for generators that are seeded by a number."""
    return _number(stream_key(rng_seed, purpose, image_id))


def open_stream(key: bytes, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns the generator of a key.

    Args:
        key: 32 bytes, as ``stream_key`` returns them.
        device: Where it draws. The numbers of a CPU are the same on every machine; generators of
            other devices draw others, and are seeded by the first 64 bits.

    Raises:
        RuntimeError: If this torch keeps its CPU generator's state in an unknown layout.
    """
    if torch.device(device).type != "cpu":
        return torch.Generator(device=device).manual_seed(_number(key))
    _require_layout()
    return _twister(_expand(key))


def seed_torch(key: bytes) -> None:
    """Moves torch's global streams of all devices to the beginning of a key's stream."""
    torch.manual_seed(_number(key))
    torch.set_rng_state(open_stream(key).get_state())


def _number(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


def _expand(key: bytes) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Returns the state of the Mersenne twister that belongs to a key."""
    words = np.frombuffer(hashlib.shake_256(key).digest(4 * TWISTER), "<u4").astype(np.uint32)
    words[0] |= 1 << 31  # the only state that the twister never leaves is all zeros
    return words


def _twister(words: np.ndarray[Any, np.dtype[np.uint32]]) -> torch.Generator:
    """Returns a torch generator about to draw from a state of the twister."""
    made = torch.Generator(device="cpu").manual_seed(0)
    state = made.get_state()
    state.numpy().view(np.uint64)[WORDS] = words
    return made.set_state(state)


@functools.cache
def _require_layout() -> None:
    # More numbers than words, so that the twister turns over.
    words, count = _expand(bytes(32)), 2 * TWISTER
    reference: Any = np.random.MT19937(0)
    reference.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": TWISTER}}
    due = torch.from_numpy(reference.random_raw(count).astype(np.int64) % 2**24)
    try:
        drawn = torch.empty(count, dtype=torch.int64).random_(0, 2**24, generator=_twister(words))
    except (ValueError, RuntimeError, IndexError):  # the state has another size
        drawn = due + 1
    if not torch.equal(drawn, due):
        raise RuntimeError(
            f"torch {torch.__version__} keeps the state of its CPU generator in a layout that "
            "plugip does not know, so its numbers would not be reproducible; install torch 2.11"
        )


def _derived(key: bytes, what: str, name: str) -> bytes:
    """Returns a key that follows from another one, and from which that one does not follow."""
    return hashlib.sha256(key + f"{what}\x1f{name}".encode("utf-8", "surrogatepass")).digest()


class Rng:
    """Draws random numbers so that each image has its own stream.

    Image i receives the same numbers alone, in a batch, in another order or on another device:
    they are drawn on the CPU by that image's own generator and then moved.

    Streams know neither the seed nor the ids that they were opened with, and what they hold leads
    to no other purpose: a method that receives the "solve" streams cannot draw the noise of
    "measure" again.

    Args:
        rng_seed: The integer of reproducibility.
        purpose: What the stream is for, such as "measure" or "solve"; streams never mix.
        ids: One id per image of the batch.

    Raises:
        ValueError: If ``ids`` is empty or holds an id twice.
        TypeError: If ``rng_seed`` is no integer, or ``ids`` no list of texts.

    Example:
        >>> a = Rng(0, "solve", ["x", "y"]).normal((2,))
        >>> bool((a[1] == Rng(0, "solve", ["y"]).normal((2,))[0]).all())
        True
    """

    def __init__(self, rng_seed: int, purpose: str, ids: Sequence[str]) -> None:
        seed, names = require_seed(rng_seed), _require_ids(ids)
        self._open(
            [_derived(stream_key(seed, purpose, name), "image", "") for name in names],
            _derived(stream_key(seed, purpose, ""), "all images", ""),
        )

    def _open(self, keys: list[bytes], shared: bytes) -> None:
        # Further streams follow from a root, but not the one that is open: its key is dropped.
        self._roots = [_derived(key, "root", "") for key in keys]
        self._streams = [open_stream(_derived(key, "draw", "")) for key in keys]
        self._shared = shared

    @classmethod
    def _of(cls, keys: list[bytes], shared: bytes) -> Rng:
        made = cls.__new__(cls)
        made._open(keys, shared)
        return made

    def __len__(self) -> int:
        return len(self._streams)

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
        keys = [_derived(root, "child", purpose) for root in self._roots]
        return Rng._of(keys, _derived(self._shared, "child", purpose))

    def shared(self) -> Rng:
        """Returns one fresh stream that is the same for all images and in every batch of a run."""
        return Rng._of([_derived(self._shared, "shared", "")], self._shared)

    def select(self, rows: Sequence[int]) -> Rng:
        """Returns the streams of some images, going on where they stand."""
        chosen = copy.copy(self)
        chosen._roots = [self._roots[i] for i in rows]
        chosen._streams = [self._streams[i] for i in rows]
        return chosen

    def branch(self, starts: int) -> Rng:
        """Returns streams for several attempts at each image, side by side: row i * starts + s.

        Attempt 0 of an image is its own stream, going on where it stands; the others are fresh.
        """
        rows = [(i, s) for i in range(len(self)) for s in range(starts)]
        keys = [_derived(self._roots[i], "start", str(s)) for i, s in rows]
        branched = Rng._of(keys, self._shared)
        for row, (i, s) in enumerate(rows):
            if s == 0:
                branched._roots[row], branched._streams[row] = self._roots[i], self._streams[i]
        return branched

    @staticmethod
    def _gather(draws: list[Tensor], like: Tensor | None) -> Tensor:
        stacked = torch.stack(draws)
        return stacked if like is None else stacked.to(device=like.device, dtype=like.dtype)


def require_seed(rng_seed: object, what: str = "rng_seed") -> int:
    """Returns the integer of reproducibility.

    Raises:
        TypeError: If it is none.
    """
    try:
        if isinstance(rng_seed, bool):
            raise TypeError
        return operator.index(rng_seed)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{what} must be an integer such as 0, got {rng_seed!r} of type "
            f"{type(rng_seed).__name__}"
        ) from None


def _require_ids(ids: Sequence[str]) -> Sequence[str]:
    if not isinstance(ids, Sequence) or not all(isinstance(name, str) for name in ids):
        raise TypeError(f"ids must be a list of one text per image, such as ['a'], got {ids!r}")
    if len(ids) == 0 or len(set(ids)) != len(ids):
        raise ValueError(f"ids must be one distinct name per image, got {list(ids)}")
    return ids


MOST_COUNTS = 1e15


def poisson_quantile(level: Tensor, rate: Tensor) -> Tensor:
    """Returns the least count k with P(N <= k) >= level for N ~ Poisson(rate), entry by entry.

    Args:
        level: Probabilities in [0, 1), float64.
        rate: Expected counts, float64, of the same shape.

    Raises:
        ValueError: If a rate is above 1e15, where counts are no whole numbers any more.
    """
    if float(rate.max()) > MOST_COUNTS:
        raise ValueError(f"rates must be at most {MOST_COUNTS:g}, got {float(rate.max()):g}")
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
