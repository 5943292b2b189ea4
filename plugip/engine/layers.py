"""A generator as a chain of layers, for methods that search for what stands between them.

A reverse process has its K steps for layers. A network z -> x has those that its prior names in
``stages()``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from plugip.prior import Prior
from plugip.reverse import CLIPS, STEPS, Generator

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layers:
    """R = decode o g_(K-1) o ... o g_0, every part differentiable and image by image.

    Args:
        maps: g_0 to g_(K-1). The first takes seeds, each further one the code before it, (B, ...).
        decode: Makes images (B, C, H, W) in [-1, 1] of what the last one returns.
    """

    maps: tuple[Map, ...]
    decode: Map

    def __len__(self) -> int:
        return len(self.maps)

    def image(self, code: Tensor, layer: int = 0) -> Tensor:
        """Returns the images that the layers from ``layer`` on make of a code."""
        for g in self.maps[layer:]:
            code = g(code)
        return self.decode(code)

    def roll(self, seed: Tensor, deviations: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Returns the seed and the K codes after it, h_(i+1) = g_i(h_i) + nu_i; K network calls.

        Args:
            seed: h_0, (B, ...).
            deviations: nu_0 to nu_(K-1), each shaped like the output of its layer.
        """
        codes = [seed]
        for g, nu in zip(self.maps, deviations, strict=True):
            codes.append(g(codes[-1]) + nu)
        return tuple(codes)


def split(prior: Prior, generator: Generator) -> Layers:
    """Returns the layers of R.

    Args:
        prior: The prior.
        generator: Its reverse process; not looked at where the prior maps seeds to images itself.

    Raises:
        TypeError: If the prior is such a map and does not say where it may be split.
    """
    if prior.denoises:
        times = generator.times(prior.path)
        maps = tuple(_reverse_step(prior, generator, t, s) for t, s in pairwise(times))
        return Layers(maps, prior.decode)
    stages = getattr(prior, "stages", None)
    if stages is None:
        raise TypeError(
            f"{type(prior).__name__} cannot be split into layers: it has no stages(); take a "
            "method that treats the network as one (method=dmplug)"
        )
    return Layers(tuple(stages()), _unchanged)


def _reverse_step(prior: Prior, generator: Generator, t: Tensor, s: Tensor) -> Map:
    step, clip = STEPS[generator.solver], CLIPS[generator.clip]

    def move(h: Tensor) -> Tensor:
        return step(prior, h, t, s, clip)

    # The output has the type of ``move``'s; torch declares none.
    return partial(recompute, move, use_reentrant=False) if generator.checkpoint else move  # type: ignore[return-value]


def _unchanged(x: Tensor) -> Tensor:
    return x
