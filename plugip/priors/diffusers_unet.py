"""Priors from diffusers: any ``UNet2DModel`` folder or hub id, behind E[x_0 | x_t]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path as File
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from plugip.path import SIGNED, UNIT, DiscretePath, Path, Prediction, ValueRange
from plugip.priors.declaration import PATHS, declare, reads_variance
from plugip.priors.probe import NetworkPrior
from plugip.priors.probe import probe as run_probe
from plugip.priors.runtime import Runtime
from plugip.priors.weights import find_folder, load_unet, require_pipeline


class DiffusersUNet(NetworkPrior):
    """Serves a diffusers ``UNet2DModel`` as a prior; the weights are frozen.

    The network's time input is the training index on a ``DiscretePath``, and ``time_scale`` * t on
    a continuous path. A second half of output channels is a learned variance, which
    ``with_variance`` gives.

    Args:
        net: The network; its config gives channels and size.
        path: Noise path that it was trained on.
        prediction: What its output means.
        value_range: Range of its clean images; None for latents without one.
        space_to_depth: Side s of the pixel blocks that the network sees as channels; its states
            are h = pixel_unshuffle(x, s), (s² C, H / s, W / s).
        time_scale: Factor from t to the time input; unused on a ``DiscretePath``.

    Attributes:
        shape: Shape of one state, (channels, height, width).

    Raises:
        ValueError: If the network is class-conditional, its config lacks the size, or its channels
            fit neither a prediction nor the blocks.
    """

    def __init__(
        self,
        net: nn.Module,
        path: Path,
        prediction: Prediction,
        value_range: ValueRange | None = SIGNED,
        space_to_depth: int = 1,
        time_scale: float = 1000.0,
    ) -> None:
        super().__init__()
        self.net, self.path, self.prediction = net, path, Prediction(prediction)
        self.value_range, self.space_to_depth = value_range, int(space_to_depth)
        self.time_scale, self.shape = float(time_scale), unet_shape(net, self.space_to_depth)
        self.learns_variance = learns_variance(net)
        self.freeze()

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        *,
        prediction: Prediction | str | None = None,
        path: Path | str | None = None,
        value_range: ValueRange | Sequence[float] | None = None,
        space_to_depth: int | None = None,
        time_scale: float | None = None,
        probe: bool = True,
        runtime: Runtime | None = None,
    ) -> DiffusersUNet:
        """Loads a diffusers folder, from the disk or else from the Hugging Face hub.

        What an argument leaves open is read from ``plugip_prior.json`` beside the weights, then
        from the scheduler's config; nothing is guessed. The weights are read as float32, whatever
        the file holds.

        Args:
            source: A folder with ``config.json`` and weights, a pipeline folder with ``unet/`` and
                ``scheduler/``, or a hub id such as ``google/ddpm-celebahq-256``.
            prediction: What the network's output means: epsilon, sample, v_prediction, velocity or
                score.
            path: A ``Path``, or its name: flow, vp, ddpm, cosine.
            value_range: Range of clean images; without a declaration (-1, 1), which diffusers'
                own unconditional pipelines assume.
            space_to_depth: Side of the pixel blocks in the network's channels; 1 by default.
            time_scale: Factor from t to the time input on a continuous path; 1000 by default.
            probe: Whether to check that these settings denoise a known picture.
            runtime: How the network is run; as it is by default.

        Returns:
            The prior, on the CPU.

        Raises:
            WeightsError: If a file is missing or not what its name says, or the hub cannot be
                reached.
            ValueError: If the settings are incomplete or contradict the network.
            ProbeError: If the network does not denoise under these settings.
        """
        folder = find_folder(str(source))
        _require_pixels(folder)
        given = {
            "prediction": prediction,
            "path": path,
            "value_range": value_range,
            "space_to_depth": space_to_depth,
            "time_scale": time_scale,
        }
        declared = declare(folder, {k: v for k, v in given.items() if v is not None})
        prior = cls(
            load_unet(folder),
            declared.path,
            declared.prediction,
            declared.value_range,
            declared.space_to_depth,
            declared.time_scale,
        )
        prior.learns_variance &= reads_variance(folder)
        if probe:
            run_probe(prior)
        return prior.equip(runtime)

    @property
    def network(self) -> nn.Module:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The network, under the name that it has in other priors."""
        return self.net

    def output(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns the network's own prediction, (B, *shape), without variance channels."""
        return self.answer(x_t, t)[:, : self.shape[0]]

    def answer(self, x_t: Tensor, t: Tensor) -> Tensor:
        weight: Any = next(self.net.parameters())
        out = self.net(x_t.to(weight.dtype), self.time_input(t), return_dict=False)[0]
        return out.to(x_t.dtype)

    def time_input(self, t: Tensor) -> Tensor:
        """Returns what the network's time embedding expects, same shape as ``t``."""
        if isinstance(self.path, DiscretePath):
            return self.path.index(t)
        return t * self.time_scale

    def decode(self, h: Tensor) -> Tensor:
        return super().decode(pixel_shuffle(h, self.space_to_depth))

    def encode(self, x: Tensor) -> Tensor:
        return pixel_unshuffle(super().encode(x), self.space_to_depth)

    @property
    def image_shape(self) -> tuple[int, ...]:
        s = self.space_to_depth
        return (self.shape[0] // s**2, self.shape[1] * s, self.shape[2] * s)

    def variants(self) -> Iterator[tuple[str, DiffusersUNet]]:
        own = (self.path, self.prediction)
        for bounds in (SIGNED, UNIT, ValueRange(0, 255)):
            if bounds != self.value_range:
                text = f"value_range=[{bounds.low:g}, {bounds.high:g}]"
                yield text, self._reread(*own, bounds, self.time_scale)
        for scale in (1000.0, 1.0):
            yield f"time_scale={scale:g}", self._reread(*own, self.value_range, scale)
        for name, make in PATHS.items():
            discrete = isinstance(make(), DiscretePath)
            for scale in (1000.0,) if discrete else (1000.0, 1.0):
                text = f"path={name}" if discrete else f"path={name}, time_scale={scale:g}"
                yield text, self._reread(make(), self.prediction, self.value_range, scale)

    def predicting(self, prediction: Prediction) -> DiffusersUNet:
        return self._reread(self.path, prediction, self.value_range, self.time_scale)

    def _reread(
        self, path: Path, prediction: Prediction, bounds: ValueRange | None, scale: float
    ) -> DiffusersUNet:
        return DiffusersUNet(self.net, path, prediction, bounds, self.space_to_depth, scale)


def _require_pixels(folder: File) -> None:
    require_pipeline(folder, "diffusers")
    inside = [name for name in ("vqvae", "vae") if (folder / name).is_dir()]
    if inside:
        raise ValueError(
            f"{folder} has an autoencoder in {inside[0]}/, so its network denoises latents, not "
            "images; take prior=ldm"
        )


def learns_variance(net: Any) -> bool:
    """Tells whether a ``UNet2DModel`` has a second half of outputs, a learned variance."""
    return net.config.out_channels == 2 * net.config.in_channels


def unet_shape(net: Any, blocks: int) -> tuple[int, ...]:
    """Returns the shape of an unconditional ``UNet2DModel``'s states, from its config."""
    config = net.config
    if config.class_embed_type is not None or config.num_class_embeds is not None:
        raise ValueError("the network is class-conditional; only unconditional ones are supported")
    if config.sample_size is None:
        raise ValueError("config.json lacks sample_size, so the size of the images is not known")
    channels, outputs = config.in_channels, config.out_channels
    if outputs not in (channels, 2 * channels):
        raise ValueError(
            f"a denoiser of {channels} channels has {channels} outputs, or {2 * channels} with "
            f"learned variance; this network has {outputs}"
        )
    if blocks < 1 or channels % blocks**2:
        raise ValueError(
            f"space_to_depth {blocks} does not divide {channels} channels into blocks"
        )
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return (channels, height, width)
