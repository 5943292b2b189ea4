"""Priors: frozen networks behind one question, what is E[x_0 | x_t]?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plugip.path import FlowPath, Path, ValueRange, VPPath

# Below this flow time a flow's velocity, (x_t - x_0) / t, is lost in rounding.
EARLIEST = 1e-3


class Bill:
    """Calls that the images of a batch pay for, by the number that stands for each image."""

    def __init__(self) -> None:
        self.nfe: Tally[int] = Tally()
        self.vjps: Tally[int] = Tally()


class Counter:
    """Counts what passes a prior's door: forward calls (NFE), backward (VJP) and tangent (JVP).

    Each call is also put on the bills of the images that it is made for. Which images these are,
    one for each row of a batch, is said by whoever makes the batch: ``solve`` (``billed_to``),
    whoever evaluates some rows only (``only``), or each of them several times (``times``).

    Tangent products are counted by ``plugip.engine.linearize``, whatever they are made of.

    Attributes:
        nfe, vjps, jvps: Calls so far, each counted once, whatever the batch.
    """

    def __init__(self) -> None:
        self.jvps = 0
        self._nfe, self._vjps = 0, 0
        self._bill, self._payers = Bill(), tuple[int, ...]()

    @property
    def nfe(self) -> int:
        return self._nfe

    @nfe.setter
    def nfe(self, calls: int) -> None:
        self._book(self._bill.nfe, calls - self._nfe)
        self._nfe = calls

    @property
    def vjps(self) -> int:
        return self._vjps

    @vjps.setter
    def vjps(self, calls: int) -> None:
        self._book(self._bill.vjps, calls - self._vjps)
        self._vjps = calls

    def count_vjp(self, grad: Tensor) -> None:
        """Counts one backward pass; a tensor hook, so it returns nothing."""
        self.vjps += 1

    @contextmanager
    def billed_to(self, bill: Bill, images: Sequence[int]) -> Iterator[None]:
        """Puts what is called inside on the bill of ``images``, the rows of the batch in order."""
        before = self._bill, self._payers
        self._bill, self._payers = bill, tuple(images)
        try:
            yield
        finally:
            self._bill, self._payers = before

    @contextmanager
    def only(self, rows: Sequence[int]) -> Iterator[None]:
        """Bills what is called inside to some rows of the batch alone."""
        payers = [self._payers[i] for i in rows] if self._payers else []
        with self.billed_to(self._bill, payers):
            yield

    @contextmanager
    def times(self, rows: int) -> Iterator[None]:
        """Counts what is called inside ``rows`` times: each image has so many rows there."""
        nfe, vjps, jvps = self._nfe, self._vjps, self.jvps
        try:
            with self.billed_to(self._bill, [i for i in self._payers for _ in range(rows)]):
                yield
        finally:
            self._nfe += (rows - 1) * (self._nfe - nfe)
            self._vjps += (rows - 1) * (self._vjps - vjps)
            self.jvps += (rows - 1) * (self.jvps - jvps)

    def _book(self, tally: Tally[int], calls: int) -> None:
        for image in self._payers:
            tally[image] += calls


class Prior(nn.Module, ABC):
    """Answers E[x_0 | x_t] along a noise path; weights are frozen, gradients reach x_t.

    Subclasses write ``forward`` and set ``shape``, ``path`` and ``value_range``; latent priors
    also write ``decode`` and ``encode``. States carry the name h where they differ from images.

    Attributes:
        denoises: Whether there is an E[x_0 | x_t]. A prior without one is a map from seeds to
            images, ``decode``, such as a GAN: its states are seeds, and it has no path.
        shape: Shape of one state, without the batch axis.
        path: The noise path that the network was trained on.
        value_range: Range of clean states, or None for latents without one.
        counter: Forward and backward calls so far.
        nfe_per_call: What one call costs for one image; 2 with classifier-free guidance, where the
            network sees each state twice.
    """

    denoises: bool = True
    nfe_per_call: int = 1
    shape: tuple[int, ...]
    path: Path
    value_range: ValueRange | None

    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns E[x_0 | x_t], differentiable in x_t.

        Args:
            x_t: Noisy states, (B, *shape).
            t: Time in (0, 1], () for the whole batch or (B,).

        Returns:
            Denoised states, (B, *shape).
        """

    def __call__(self, x_t: Tensor, t: Tensor, *args: Any) -> Tensor:
        return self._booked(super().__call__(x_t, t, *args))

    def with_variance(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns E[x_0 | x_t] and the network's own variance of a reverse step, for one call.

        The variance is given by the place w of its logarithm between those of the two fixed
        choices, the posterior's given x_0 (w = 0) and the forward step's (w = 1).

        Args:
            x_t: Noisy states, (B, *shape).
            t: Time in (0, 1], () or (B,).

        Returns:
            The denoised states, and w, both (B, *shape); None for w if no variance was learned.

        Source: Nichol and Dhariwal 2021 (improved DDPM), eq. 15.
        """
        return self(x_t, t), None

    def _booked(self, x0: Tensor) -> Tensor:
        """Counts one call, and the backward passes through what it made."""
        self.counter.nfe += self.nfe_per_call
        if x0.requires_grad:
            for _ in range(self.nfe_per_call):
                x0.register_hook(self.counter.count_vjp)
        return x0

    def decode(self, h: Tensor) -> Tensor:
        """Maps clean states to images in [-1, 1], (B, *shape) -> (B, C, H, W)."""
        return h if self.value_range is None else self.value_range.to_signed(h)

    def encode(self, x: Tensor) -> Tensor:
        """Maps images in [-1, 1] to clean states, the inverse of ``decode`` where there is one."""
        return x if self.value_range is None else self.value_range.from_signed(x)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one decoded image, (C, H, W)."""
        return self.shape

    @property
    def least_level(self) -> float:
        """Least noise level sigma / alpha that the network was trained on; 0 if none is known."""
        return self.path.least_level

    def freeze(self) -> Prior:
        """Puts the network into eval mode and switches weight gradients off; returns self."""
        return self.eval().requires_grad_(False)


def lacks_denoiser(prior: Prior, asker: str) -> TypeError:
    """Returns the error that says who asked a map from seeds to images for E[x_0 | x_t]."""
    return TypeError(
        f"{asker} needs E[x_0 | x_t], which {type(prior).__name__} does not have, since it maps "
        "seeds straight to images; take a method that optimises a seed (method=dmplug), or a "
        "diffusion or flow prior"
    )


class BridgedPrior(Prior):
    """Serves a prior along another noise path, so that a diffusion acts as a flow and the reverse.

    Both paths are mapped onto the rectified flow, where equal flow times f mean equal noise levels
    sigma / alpha = f / (1 - f); for a VP model of level sigma, f = sigma / (1 + sigma). The answer
    E[x_0 | x_t] is the same, since the two states differ by a known factor only. Where the asked
    level exceeds what the network knows, its noisiest level is used.

    Args:
        base: The prior to serve.
        path: The path to serve it along.

    Raises:
        TypeError: If the prior has no E[x_0 | x_t].

    Source: Lipman et al. 2024 (Flow Matching Guide), on equivalent Gaussian paths.
    """

    def __init__(self, base: Prior, path: Path) -> None:
        super().__init__()
        if not base.denoises:
            raise lacks_denoiser(base, "a bridge to another noise path")
        self.base, self.path = base, path
        self.shape, self.value_range = base.shape, base.value_range
        self.nfe_per_call = base.nfe_per_call
        self.freeze()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        own = self.base.path.time_of(self.path.flow_time(t))
        a, s = self.path.coefficients(t, x_t)
        base_a, base_s = self.base.path.coefficients(own, x_t)
        return self.base(x_t * (base_a + base_s) / (a + s), own)

    def decode(self, h: Tensor) -> Tensor:
        return self.base.decode(h)

    def encode(self, x: Tensor) -> Tensor:
        return self.base.encode(x)

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.base.image_shape

    @property
    def least_level(self) -> float:
        return self.base.least_level


def earliest(prior: Prior) -> float:
    """Returns the least flow time at which a prior still tells noise from the image."""
    return max(EARLIEST, prior.least_level / (1 + prior.least_level))


def as_flow(base: Prior) -> Prior:
    """Serves any denoising prior as a flow: x_t = (1 - t) x_0 + t eps, velocity (x_t - x_0) / t.

    One DDIM step of the result is the Euler step of that velocity, so flow methods run with
    diffusion models as well.

    Args:
        base: A diffusion prior of any path; one that is a flow already is returned as it is.

    Raises:
        TypeError: If the prior has no E[x_0 | x_t].
    """
    return _along(base, FlowPath())


def as_vp(base: Prior, path: Path | None = None) -> Prior:
    """Serves any denoising prior as a variance-preserving diffusion, alpha^2 + sigma^2 = 1.

    Args:
        base: A flow, or a diffusion prior of another path.
        path: The path to serve it along; the continuous ``VPPath`` by default. A
            ``DiscretePath`` gives methods their table of alpha-bar.

    Raises:
        TypeError: If the prior has no E[x_0 | x_t].
    """
    return _along(base, path or VPPath())


def _along(base: Prior, path: Path) -> Prior:
    base = base.base if isinstance(base, BridgedPrior) else base
    if base.denoises and base.path == path:
        return base
    return BridgedPrior(base, path)


def probe_signal(image_shape: tuple[int, ...]) -> Tensor:
    """Returns a known smooth picture in [-1, 1], (1, C, H, W): soft blobs on a gradient."""
    c, h, w = image_shape
    rows = torch.linspace(-1, 1, h)[:, None]
    columns = torch.linspace(-1, 1, w)[None, :]
    blob = torch.exp(-3 * (rows**2 + columns**2))
    phase = torch.arange(c)[:, None, None] * 0.3
    return (0.9 * blob - 0.4 + 0.3 * torch.sin(1.5 * rows + columns + phase)).clamp(-1, 1)[None]
