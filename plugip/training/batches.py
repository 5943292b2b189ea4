"""What a step sees, as a function of the seed and the step alone: a resume needs no memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from plugip.rng import open_stream, stream_key
from plugip.training.times import Times, uniform


@dataclass(frozen=True)
class Draw:
    """The random numbers of one process's share of a batch.

    Attributes:
        rows: Which images, (B,), int64.
        flip: Which of them are mirrored, (B,), bool.
        level: From which the training times are made, (B,), float32 in [0, 1).
        eps: Noise, (B, *shape), float32.
    """

    rows: Tensor
    flip: Tensor
    level: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Batches:
    """Draws batches: all images in a random order, then all again in another one.

    Every process draws the numbers of the whole batch and takes its part, so that their number
    changes nothing.

    Args:
        rows: Rows of the training images, (N,), int64; N is at least ``size``.
        size: Images in a batch, of all processes together.
        shape: Shape of one state.
        rng_seed: With the step it fixes every number.
        times: How a batch's uniform numbers become levels.
        index: Number of this process.
        processes: How many there are; must divide ``size``.
    """

    rows: Tensor
    size: int
    shape: tuple[int, ...]
    rng_seed: int
    times: Times = uniform
    index: int = 0
    processes: int = 1

    def draw(self, step: int, device: torch.device) -> Draw:
        """Returns the numbers of a step, counted from 0; the noise is drawn on the device."""
        host, part = self._generator("batch", step, torch.device("cpu")), self._part()
        flip, level = (torch.rand(self.size, generator=host) for _ in range(2))
        there = self._generator("eps", step, device)
        eps = torch.randn((self.size, *self.shape), generator=there, device=device)
        return Draw(
            rows=self.rows[self._order(step)][part],
            flip=(flip < 0.5)[part].to(device),
            level=self.times(level)[part].to(device),
            eps=eps[part],
        )

    def _part(self) -> slice:
        share = self.size // self.processes
        return slice(self.index * share, (self.index + 1) * share)

    def _order(self, step: int) -> Tensor:
        """Returns positions among the images; a batch may end one round and begin the next."""
        count, start = len(self.rows), step * self.size
        first, last = start // count, (start + self.size - 1) // count
        rounds = torch.cat([self._round(n, count) for n in range(first, last + 1)])
        begin = start - first * count
        return rounds[begin : begin + self.size]

    def _round(self, number: int, count: int) -> Tensor:
        host = self._generator("round", number, torch.device("cpu"))
        return torch.randperm(count, generator=host)

    def _generator(self, purpose: str, number: int, device: torch.device) -> torch.Generator:
        return open_stream(stream_key(self.rng_seed, f"training {purpose}", str(number)), device)


def states(pixels: Tensor, patch: int, flip: Tensor | None = None) -> Tensor:
    """Turns pixels into the network's states.

    Args:
        pixels: (B, C, H, W), uint8.
        patch: Side of the pixel blocks that become channels.
        flip: Which images are mirrored, (B,), bool.

    Returns:
        h = pixel_unshuffle(x, patch) of x in [-1, 1], float32.
    """
    if flip is not None:
        pixels = torch.where(flip[:, None, None, None], pixels.flip(-1), pixels)
    return pixel_unshuffle(pixels.float() / 127.5 - 1, patch)
