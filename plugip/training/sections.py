"""The sections of a training's options, each checked when it is made; no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from plugip.options import require_choice
from plugip.training.checks import (
    TrainingError,
    require_flag,
    require_list,
    require_number,
    require_text,
    require_whole,
)

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Data:
    """Which images, and how they are brought to one size.

    Args:
        path: A folder (searched recursively, hidden names skipped) or a zip file.
        size: Side of the square that every image is cropped (centred) and resized to, in pixels.
        channels: 3, or 1 for grey.
        flip: Whether half of the images, drawn anew at each step, are mirrored left to right.
        holdout: Share of the images that is kept away from training, for measuring.
        limit: Number of images to keep, in sorted order; None keeps all.
        cache: A folder for the decoded pixels, shared by all processes and the next start; None
            keeps them in memory, in each process.
        workers: Threads that decode; None takes one for each processor, eight at most.
    """

    path: str
    size: int = 64
    channels: int = 3
    flip: bool = True
    holdout: float = 0.02
    limit: int | None = None
    cache: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise TrainingError(
                f"data.path must name a folder or a zip file of images, got {self.path!r}"
            )
        require_whole("data.size", self.size, 8, 4096)
        if self.channels not in (1, 3):
            raise TrainingError(
                f"data.channels must be 1 (grey) or 3 (RGB), got {self.channels!r}"
            )
        require_flag("data.flip", self.flip)
        require_number("data.holdout", self.holdout, 0, 0.5)
        require_whole("data.limit", self.limit, 1, none=True)
        require_text("data.cache", self.cache, none=True)
        require_whole("data.workers", self.workers, 1, none=True)


@dataclass(frozen=True)
class Network:
    """The architecture, a diffusers ``UNet2DModel``; names as in its config.json.

    Args:
        patch: Side of the pixel blocks that the network sees as channels, 1 or 2.
        block_out_channels: Channels of each level; each level but the last halves the size.
        layers_per_block: Residual blocks on each level.
        attention: Whether each level has self-attention.
        attention_head_dim: Channels of one attention head.
        norm_num_groups: Groups of the group normalisation.
        dropout: Share of activations that is dropped in training.
    """

    patch: int = 2
    block_out_channels: Sequence[int] = (64, 96, 128)
    layers_per_block: int = 1
    attention: Sequence[bool] = (False, False, True)
    attention_head_dim: int = 32
    norm_num_groups: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.patch not in (1, 2):
            raise TrainingError(f"network.patch must be 1 or 2, got {self.patch!r}")
        require_whole("network.layers_per_block", self.layers_per_block, 1)
        require_whole("network.attention_head_dim", self.attention_head_dim, 1)
        require_whole("network.norm_num_groups", self.norm_num_groups, 1)
        require_number("network.dropout", self.dropout, 0, 0.9)
        levels = require_list("network.block_out_channels", self.block_out_channels)
        for level, attends in enumerate(
            require_list("network.attention", self.attention, len(levels))
        ):
            require_flag("network.attention", attends)
            require_whole("network.block_out_channels", levels[level], 1)
            self._require_divisor("norm_num_groups", levels[level])
            # The middle block attends on the channels of the last level.
            if attends or level == len(levels) - 1:
                self._require_divisor("attention_head_dim", levels[level])

    def _require_divisor(self, name: str, channels: int) -> None:
        if channels % getattr(self, name):
            raise TrainingError(
                f"network.{name} {getattr(self, name)} does not divide the {channels} channels of "
                "network.block_out_channels"
            )

    def require_fitting(self, size: int) -> None:
        """Refuses images whose side, in pixel blocks, cannot be halved on every level.

        Raises:
            TrainingError: With the sizes that would do.
        """
        unit = self.patch * 2 ** (len(self.block_out_channels) - 1)
        if size % unit:
            raise TrainingError(
                f"data.size must be a multiple of {unit} for a network of "
                f"{len(self.block_out_channels)} levels and patch {self.patch}, got {size}"
            )


@dataclass(frozen=True)
class Optimiser:
    """AdamW and the course of its learning rate.

    Args:
        lr: Learning rate after the warm-up.
        warmup: Steps over which it rises from zero; None takes a tenth of all, at most 500.
        schedule: cosine, which falls to zero at the last step, or constant.
        betas: Decays of the two moments.
        weight_decay: Decoupled weight decay.
        clip: Largest norm of the gradient.
    """

    lr: float = 4e-4
    warmup: int | None = None
    schedule: str = "cosine"
    betas: Sequence[float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        require_number("optimiser.lr", self.lr, 0, 1, above=True)
        require_whole("optimiser.warmup", self.warmup, 0, none=True)
        require_choice(self.schedule, SCHEDULES, "optimiser.schedule")
        for beta in require_list("optimiser.betas", self.betas, 2):
            require_number("optimiser.betas", beta, 0, 0.99999)
        require_number("optimiser.weight_decay", self.weight_decay, 0, 1)
        require_number("optimiser.clip", self.clip, 0, above=True)


@dataclass(frozen=True)
class Log:
    """What is written down while it trains.

    Args:
        every: Steps between two rows of train.csv.
        tensorboard: Whether the same scalars go to TensorBoard, if it is installed.
    """

    every: int = 50
    tensorboard: bool = True

    def __post_init__(self) -> None:
        require_whole("log.every", self.every, 1)
        require_flag("log.tensorboard", self.tensorboard)


@dataclass(frozen=True)
class Evaluation:
    """The loss of the averaged weights on held-out images, with the same noise each time.

    Args:
        every: Steps between two measurements.
        images: Held-out images that are measured, at most.
    """

    every: int = 1000
    images: int = 512

    def __post_init__(self) -> None:
        require_whole("eval.every", self.every, 1)
        require_whole("eval.images", self.images, 1)


@dataclass(frozen=True)
class Sheet:
    """The pictures of samples that are drawn while it trains, and at the end.

    Args:
        every: Steps between two sheets; None draws one at the end only.
        images: Samples on a sheet, from the same seeds each time.
        steps: Numbers of reverse steps; each is a part of the sheet.
    """

    every: int | None = 2000
    images: int = 18
    steps: Sequence[int] = (50, 5, 3)

    def __post_init__(self) -> None:
        require_whole("sheet.every", self.every, 1, none=True)
        require_whole("sheet.images", self.images, 1, 256)
        for steps in require_list("sheet.steps", self.steps):
            require_whole("sheet.steps", steps, 1, 1000)


@dataclass(frozen=True)
class Checkpoint:
    """Files from which a training goes on.

    Args:
        every: Steps between two of them.
        keep: How many are kept, the newest.
    """

    every: int = 1000
    keep: int = 1

    def __post_init__(self) -> None:
        require_whole("checkpoint.every", self.every, 1)
        require_whole("checkpoint.keep", self.keep, 1)


@dataclass(frozen=True)
class Card:
    """What only you know about the model; goes word for word into its README.md.

    Args:
        title: Name of the model.
        data: What the images are, where they come from, what was changed.
        licence: Under which licence the model may be used.
        attribution: Whom to name.
        intended_use: What it is for, and what it is not for.
        limits: What it cannot do.
    """

    title: str = ""
    data: str = ""
    licence: str = ""
    attribution: str = ""
    intended_use: str = ""
    limits: str = ""

    def __post_init__(self) -> None:
        for item in fields(self):
            require_text(f"card.{item.name}", getattr(self, item.name))

    def missing(self) -> list[str]:
        """Returns the names of the texts that are empty."""
        return [item.name for item in fields(self) if not getattr(self, item.name).strip()]


@dataclass(frozen=True)
class Output:
    """Where the model goes.

    Args:
        folder: Everything is written there; empty: a name made from the settings, below runs/.
        half: Whether the weights are written in float16, half the size.
    """

    folder: str = ""
    half: bool = True

    def __post_init__(self) -> None:
        require_text("output.folder", self.folder)
        require_flag("output.half", self.half)
