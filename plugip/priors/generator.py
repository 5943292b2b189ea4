"""Maps from seeds to images: any module x = G(z), such as a GAN or the decoder of a VAE."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path as File

import torch
from torch import Tensor, nn

from plugip.path import SIGNED, Path, ValueRange
from plugip.prior import lacks_denoiser
from plugip.priors.declaration import as_range
from plugip.priors.network import only_tensor
from plugip.priors.probe import RANGES, ProbeError, range_misfit
from plugip.priors.runtime import Equipped, Runtime
from plugip.priors.tensors import WeightsError, shortened

Range = ValueRange | Sequence[float]


class SeedPrior(Equipped):
    """A prior that makes images from seeds z ~ N(0, I), and has no E[x_0 | x_t].

    Methods that optimise a seed use it as they use a reverse process; its seed takes the place of
    the noise. Others get a TypeError that names them, before any call. Subclasses write
    ``decode``, pass the result of every network call through ``counted``, and set ``shape`` (of a
    seed), ``_image_shape`` and ``output_range``.

    Attributes:
        output_range: Range of the values that the network makes, which stand for [-1, 1].
    """

    denoises = False
    value_range = None
    output_range: ValueRange
    _image_shape: tuple[int, ...]

    @property
    def path(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        """There is none; asking is a TypeError."""
        raise lacks_denoiser(self, "a noise path")

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        raise lacks_denoiser(self, "this call")

    def encode(self, x: Tensor) -> Tensor:
        raise TypeError(
            f"{type(self).__name__} has no encoder; find the seed of an image with a method that "
            "optimises it (operator=denoise method=dmplug)"
        )

    def counted(self, output: Tensor) -> Tensor:
        """Counts one network call, and the backward passes through what it made."""
        self.counter.nfe += 1
        if output.requires_grad:
            output.register_hook(self.counter.count_vjp)
        return output

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """Returns maps whose composition is ``decode``, for methods that search between layers.

        Raises:
            TypeError: If it is not known where the map may be split.
        """
        raise TypeError(
            f"{type(self).__name__} cannot be split into layers; take a method that treats it as "
            "one (method=csgm)"
        )

    @torch.no_grad()
    def uncounted(self, z: Tensor) -> Tensor:
        """Returns the images of seeds, moved to the network's device and type, off the books."""
        nfe, like = self.counter.nfe, next(iter([*self.parameters(), *self.buffers()]), z)
        x = self.decode(z.to(like))
        self.counter.nfe = nfe
        return x

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self._image_shape

    def measure_image(self) -> tuple[int, ...]:
        """Returns the shape of an image, (C, H, W), from one uncounted call with z = 0.

        Raises:
            ValueError: If the network cannot take such a seed or makes something else.
        """
        try:
            x = self.uncounted(torch.zeros(1, *self.shape))
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"the network cannot take seeds of shape {self.shape} ({shortened(error)}); check "
                "shape=..., without the batch axis"
            ) from error
        if x.ndim != 4 or x.shape[0] != 1:
            raise ValueError(
                f"the network makes {tuple(x.shape)} from one seed; images (1, C, H, W) are needed"
            )
        return tuple(x.shape[1:])


class GeneratorPrior(SeedPrior):
    """Serves any module x = G(z) as a map from seeds to images; the weights are frozen.

    DMPlug with such a prior is the inversion of a generator: find z such that A(G(z)) fits y, with
    ``seed_weight`` times ||z||^2 / 2 for the normal distribution of z. One evaluation costs one
    NFE and one VJP. Start at noise (``start=GaussianStart``) where z = 0 is a poor or singular
    point, as it is for networks that normalise z.

    Which public networks fit: the generators of GANs with one input, such as DCGANs, ProGAN, and
    StyleGAN behind a wrapper that fixes noise and truncation; the decoders of VAEs with a normal
    seed; one-step flow maps and distilled models behind a wrapper z -> x. Wrap what takes further
    inputs, or what calls another method than ``forward``, in a module of your own.

    Args:
        network: The trained network z -> x, (B, *shape) -> (B, C, H, W), one tensor.
            ``load_weights`` fills one from a file.
        shape: Shape of one seed, such as [512] or [100, 1, 1].
        value_range: Range of the network's images: [-1, 1] for a tanh, [0, 1] for a sigmoid.
        probe: Whether to check that its images fill that range.
        runtime: How the network is run; as it is by default.

    Attributes:
        image_shape: Found by one call with z = 0.

    Raises:
        ValueError: If the network cannot take such a seed, makes no images, or cannot be run so.
        ProbeError: If the images do not fit the range, or do not depend on the seed.

    Source: Bora et al. 2017 (compressed sensing using generative models).
    """

    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        value_range: Range = SIGNED,
        probe: bool = True,
        runtime: Runtime | None = None,
    ) -> None:
        super().__init__()
        self.network, self.shape = network, tuple(int(n) for n in shape)
        self.output_range = as_range(value_range)
        self.freeze()
        self._image_shape = self.measure_image()
        if probe:
            probe_images(self)
        self.equip(runtime)

    @classmethod
    def from_torchscript(
        cls, source: str, shape: Sequence[int], value_range: Range = SIGNED, probe: bool = True
    ) -> GeneratorPrior:
        """Loads a TorchScript file and serves it; the file is a program, and it is run.

        PyTorch's own security policy: treat a TorchScript file as code, and run it only if you
        trust who made it. So plugip never opens one on its own: not from the hub, not by guessing
        from a file's content, only here, from a local path that you give. PyTorch calls the format
        deprecated; prefer ``load_weights`` where the network's class is at hand.

        Args:
            source: A local file that ``torch.jit.save`` wrote.
            shape: Shape of one seed.
            value_range: Range of the network's images.
            probe: Whether to check that its images fill that range.

        Raises:
            WeightsError: If there is no such file, or it is not TorchScript.
            ProbeError: If the images do not fit the range, or do not depend on the seed.
        """
        return cls(_run_torchscript(File(source).expanduser()), shape, value_range, probe)

    def decode(self, h: Tensor) -> Tensor:
        """Maps seeds (B, *shape) to images in [-1, 1], (B, C, H, W); one NFE."""
        return self._finished(self._run(self.network, h))

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """Returns the network's own ``stages``, or the parts of an ``nn.Sequential``.

        A network that is built otherwise says how it is split by an attribute ``stages``, a list
        of modules that are called one after the other, one tensor to one tensor. Only the last
        stage counts, as one NFE, so that a pass through any number of them costs at most one.

        Raises:
            TypeError: If the network has no ``stages`` and is no ``nn.Sequential``.
        """
        parts = getattr(self.network, "stages", None)
        if parts is None and isinstance(self.network, nn.Sequential):
            parts = self.network
        if not isinstance(parts, Iterable):
            raise TypeError(
                f"the network {type(self.network).__name__} cannot be split into layers: it is no "
                "nn.Sequential and has no attribute stages, a list of modules; give it one, or "
                "take a method that treats it as one (method=csgm)"
            )
        maps = [partial(self._run, part) for part in parts]
        return [*maps[:-1], lambda h: self._finished(maps[-1](h))]

    def _run(self, part: nn.Module, h: Tensor) -> Tensor:
        return self.runtime.run(lambda v: only_tensor(part, part(v)), h)

    def _finished(self, made: Tensor) -> Tensor:
        return self.output_range.to_signed(self.counted(made))


def _run_torchscript(file: File) -> nn.Module:
    if not file.is_file():
        raise WeightsError(f"there is no TorchScript file {file.absolute()}; check the path")
    try:
        with warnings.catch_warnings():  # that the format is deprecated: our docs say so
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(str(file), map_location="cpu")
    except RuntimeError as error:
        raise WeightsError(f"{file} is not a TorchScript file ({shortened(error)})") from error


def probe_images(prior: SeedPrior, seeds: int = 4) -> None:
    """Checks that a map from seeds to images makes different images that fill its range.

    Args:
        prior: The prior; its counter is left as it was.
        seeds: How many normal seeds to look at, from a fixed stream.

    Raises:
        ProbeError: If values are not finite, 15 % of them lie outside of the range by a fifth of
            its half-width, all lie in its upper half or in a sliver, or all images are the same.
            Another usual range that fits is named.
    """
    z = torch.randn(seeds, *prior.shape, generator=torch.Generator().manual_seed(0))
    fault = _fault(prior, prior.uncounted(z))
    if fault:
        raise ProbeError(f"the {type(prior).__name__} fails its probe: {fault}")


def _fault(prior: SeedPrior, x: Tensor) -> str | None:
    if not bool(torch.isfinite(x).all()):
        return "it makes values that are not finite"
    if float((x - x[:1]).abs().max()) < 1e-4:
        return "it makes the same image from every seed"
    misfit, raw = range_misfit(x, prior.output_range), prior.output_range.from_signed(x)
    fitting = [r for r in RANGES if not range_misfit(r.to_signed(raw), r)]
    if misfit and fitting:
        misfit += f"; it passes with value_range=[{fitting[0].low:g}, {fitting[0].high:g}]"
    return misfit
