"""The ADM (guided-diffusion) UNet: its settings, and where its weights lie in a UNet2DModel."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

GROUPS = 32  # of every group norm
# The channel multipliers that the authors' scripts choose by image size.
MULTIPLIERS: dict[int, tuple[float, ...]] = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


@dataclass(frozen=True)
class Architecture:
    """Settings of an ADM network, under the names and with the defaults of its authors' scripts.

    Attributes:
        image_size: Side of the square images, in pixels.
        num_channels: Width that the multipliers scale.
        num_res_blocks: Residual blocks on each level of the way down; one more on the way up.
        attention_resolutions: Sides, in pixels, of the feature maps that have attention.
        channel_mult: Width of each level, as a multiple of ``num_channels``; empty for the
            authors' choice by image size.
        num_head_channels: Width of an attention head; None to divide by ``num_heads`` instead.
        num_heads: Attention heads, where ``num_head_channels`` is None.
        learn_sigma: Whether there are six outputs, the last three for the variance.
        num_classes: Classes of a conditional network, or None.
        use_scale_shift_norm: Whether time scales and shifts the second norm, or is added before.
        resblock_updown: Whether residual blocks change the resolution, or plain convolutions.
        use_new_attention_order: Whether rows of ``qkv`` lie by q, k, v first, or by head first.
        in_channels: Channels of the images.

    Raises:
        ValueError: If the settings contradict each other, or no UNet2DModel has this layout.

    Source: Dhariwal and Nichol 2021 (Diffusion Models Beat GANs), and the released model flags.
    """

    image_size: int
    num_channels: int
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    channel_mult: tuple[float, ...] = ()
    num_head_channels: int | None = None
    num_heads: int = 4
    learn_sigma: bool = False
    num_classes: int | None = None
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    in_channels: int = 3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # from a YAML file
                object.__setattr__(self, field.name, tuple(value))
        self._require_multipliers()
        self._require_sizes()

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels on each level, the finest first."""
        multipliers = self.channel_mult or MULTIPLIERS[self.image_size]
        return tuple(int(m * self.num_channels) for m in multipliers)

    @property
    def attends(self) -> tuple[bool, ...]:
        """Whether each level has attention; the middle block always has it."""
        factors = {self.image_size // side for side in self.attention_resolutions}
        return tuple(2**level in factors for level in range(len(self.widths)))

    @property
    def out_channels(self) -> int:
        """Outputs: epsilon, and as many again for a learned variance."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def embedding_width(self) -> int:
        """Width of the time and class embeddings."""
        return 4 * self.num_channels

    @property
    def attention_widths(self) -> tuple[int, ...]:
        """Channels of the levels with attention, and of the middle block."""
        chosen = [w for w, attends in zip(self.widths, self.attends, strict=True) if attends]
        return (*chosen, self.widths[-1])

    def heads(self, width: int) -> int:
        """Returns the number of attention heads at a width."""
        return width // self.num_head_channels if self.num_head_channels else self.num_heads

    @property
    def head_widths(self) -> set[int]:
        """The widths of its attention heads; a UNet2DModel's config can state one only."""
        return {width // self.heads(width) for width in self.attention_widths}

    def require_label(self, label: int | None) -> None:
        """Raises ValueError unless a class is given exactly where the network wants one."""
        if self.num_classes is None:
            if label is not None:
                raise ValueError(f"this network knows no classes, so give no label; got {label}")
        elif label is None or not 0 <= label < self.num_classes:
            raise ValueError(
                "this network is class-conditional: give label=..., the class of the images to "
                f"restore, a whole number from 0 to {self.num_classes - 1}; got {label}"
            )

    def _require_multipliers(self) -> None:
        if not self.channel_mult and self.image_size not in MULTIPLIERS:
            raise ValueError(
                f"there is no usual channel_mult for image_size {self.image_size}, only for "
                f"{', '.join(map(str, MULTIPLIERS))}; give channel_mult"
            )
        if self.widths[0] != self.num_channels:
            raise ValueError(
                f"the first multiplier must be 1, got {self.widths[0] / self.num_channels:g}: a "
                "UNet2DModel ties the time embedding to its first block, so that files such as "
                "the 512 pixel ImageNet ones cannot be represented"
            )

    def _require_sizes(self) -> None:
        uneven = [w for w in self.widths if w % GROUPS]
        if uneven:
            raise ValueError(f"every width must be a multiple of {GROUPS}, got {uneven[0]}")
        factor = 2 ** (len(self.widths) - 1)
        if self.image_size % factor:
            raise ValueError(
                f"image_size must be a multiple of {factor}, since the network halves it "
                f"{len(self.widths) - 1} times; got {self.image_size}"
            )
        for width in self.attention_widths:
            if width % (self.num_head_channels or self.num_heads):
                what = "num_head_channels" if self.num_head_channels else "num_heads"
                raise ValueError(f"{what} {getattr(self, what)} does not divide width {width}")


def unet_config(architecture: Architecture) -> dict[str, Any]:
    """Returns the arguments of the UNet2DModel that computes the same function.

    A class embedding is not among them: a chosen class is folded into the time embedding. Where
    heads differ in width, the number of heads must be set on each attention afterwards.
    """
    a, levels = architecture, list(architecture.attends)
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    if not a.resblock_updown:
        down, up = ("DownBlock2D", "UpBlock2D")
    resample = "resnet" if a.resblock_updown else "conv"
    return {
        "sample_size": a.image_size,
        "in_channels": a.in_channels,
        "out_channels": a.out_channels,
        "block_out_channels": a.widths,
        "layers_per_block": a.num_res_blocks,
        "down_block_types": tuple("AttnDownBlock2D" if x else down for x in levels),
        "up_block_types": tuple("AttnUpBlock2D" if x else up for x in levels[::-1]),
        "downsample_type": resample,
        "upsample_type": resample,
        "attention_head_dim": math.gcd(*a.head_widths),
        "attn_norm_num_groups": GROUPS,
        "norm_num_groups": GROUPS,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if a.use_scale_shift_norm else "default",
    }


# Layers inside a block, ADM's name to UNet2DModel's; qkv is one layer here and three there.
Parts = Mapping[str, tuple[str, ...]]
RESIDUAL: Parts = {
    "in_layers.0": ("norm1",),
    "in_layers.2": ("conv1",),
    "emb_layers.1": ("time_emb_proj",),
    "out_layers.0": ("norm2",),
    "out_layers.3": ("conv2",),
    "skip_connection": ("conv_shortcut",),  # only where the width changes
}
ATTENTION: Parts = {
    "norm": ("group_norm",),
    "qkv": ("to_q", "to_k", "to_v"),
    "proj_out": ("to_out.0",),
}
ENDS: Parts = {
    "time_embed.0": ("time_embedding.linear_1",),
    "time_embed.2": ("time_embedding.linear_2",),
    "input_blocks.0.0": ("conv_in",),
    "out.0": ("conv_norm_out",),
    "out.2": ("conv_out",),
}


def tensor_map(
    architecture: Architecture, unet_names: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Returns, for each tensor of the ADM file, the tensors of the UNet2DModel that it fills.

    Args:
        architecture: The network's settings.
        unet_names: Names in the UNet2DModel's state dict; what it lacks (a skip connection of
            equal widths) the file lacks, too.
    """
    layers = dict(ENDS)
    for old, new, parts in _blocks(architecture):
        layers |= {f"{old}.{k}": tuple(f"{new}.{name}" for name in v) for k, v in parts.items()}
    named = {
        f"{old}.{kind}": tuple(f"{name}.{kind}" for name in new)
        for old, new in layers.items()
        for kind in ("weight", "bias")
    }
    return {old: new for old, new in named.items() if new[0] in unet_names}


def _blocks(a: Architecture) -> Iterator[tuple[str, str, Parts]]:
    """Yields each block's name in the ADM file and in the UNet2DModel, and its layers."""
    yield from _down_blocks(a)
    yield "middle_block.0", "mid_block.resnets.0", RESIDUAL
    yield "middle_block.1", "mid_block.attentions.0", ATTENTION
    yield "middle_block.2", "mid_block.resnets.1", RESIDUAL
    yield from _up_blocks(a)


def _down_blocks(a: Architecture) -> Iterator[tuple[str, str, Parts]]:
    n = 0  # input block 0 is the first convolution
    for level, attends in enumerate(a.attends):
        for i in range(a.num_res_blocks):
            n += 1
            yield f"input_blocks.{n}.0", f"down_blocks.{level}.resnets.{i}", RESIDUAL
            if attends:
                yield f"input_blocks.{n}.1", f"down_blocks.{level}.attentions.{i}", ATTENTION
        if level < len(a.widths) - 1:
            n += 1
            parts = RESIDUAL if a.resblock_updown else {"op": ("conv",)}
            yield f"input_blocks.{n}.0", f"down_blocks.{level}.downsamplers.0", parts


def _up_blocks(a: Architecture) -> Iterator[tuple[str, str, Parts]]:
    levels = range(len(a.widths))
    # The deepest level comes first: it is up block 0.
    for n, (up, i) in enumerate(product(levels, range(a.num_res_blocks + 1))):
        level = levels[-1 - up]
        attends = a.attends[level]
        yield f"output_blocks.{n}.0", f"up_blocks.{up}.resnets.{i}", RESIDUAL
        if attends:
            yield f"output_blocks.{n}.1", f"up_blocks.{up}.attentions.{i}", ATTENTION
        if level and i == a.num_res_blocks:
            parts = RESIDUAL if a.resblock_updown else {"conv": ("conv",)}
            yield f"output_blocks.{n}.{1 + attends}", f"up_blocks.{up}.upsamplers.0", parts
