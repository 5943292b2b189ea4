"""The hourglass network with skip connections of the deep image prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plugip.options import choose
from plugip.rng import Rng
from plugip.untrained.network import ChannelNorm, Network, Shape, uniform_code

MOST_SCALES, LEAST_SIDE = 5, 4
UPSAMPLING = {"bilinear": "smooth", "nearest": "blocky, for inpainting of large holes"}


@dataclass(frozen=True)
class Skip(Network):
    """A convolutional hourglass with skip connections; it fits structure before noise.

    Each scale halves the sides (a convolution of stride 2), goes deeper, returns by upsampling,
    and puts a few channels of its own input beside what comes back. Reflection padding, leaky
    ReLU, per-image normalisation. Any side that leaves at least 2 pixels at the coarsest scale,
    odd ones included.

    Args:
        scales: Halvings; published 5. None takes 5, or fewer where less than 4 pixels would be
            left: 4 at 64 x 64, where 5 would normalise over 2 x 2 pixels.
        channels: Channels of every scale, published 128.
        skip_channels: Channels of the skip connections, published 4; SelfDeblur 16; 0 for none.
        code_channels: Channels of the fixed input, published 32; SelfDeblur 8.
        code_scale: The input is uniform in [0, code_scale), published 0.1.
        upsampling: bilinear or nearest.
        leak: Slope of the leaky ReLU below 0.

    Raises:
        ValueError: If an argument is out of range, or there are too many scales for an image.

    Source: Ulyanov et al. 2018 (Deep Image Prior), and its code.
    """

    scales: int | None = None
    channels: int = 128
    skip_channels: int = 4
    code_channels: int = 32
    code_scale: float = 0.1
    upsampling: str = "bilinear"
    leak: float = 0.2

    def __post_init__(self) -> None:
        least = min(self.channels, self.code_channels, 1 if self.scales is None else self.scales)
        if least < 1 or self.skip_channels < 0:
            raise ValueError(
                "scales, channels and code_channels must be at least 1 and skip_channels at least "
                f"0, got {self.scales}, {self.channels}, {self.code_channels} and "
                f"{self.skip_channels}"
            )
        if self.code_scale <= 0:
            raise ValueError(f"code_scale must be positive, got {self.code_scale}")
        choose(UPSAMPLING, self.upsampling, "upsampling")

    def build(self, shape: Shape) -> nn.Module:
        body: nn.Module = nn.Identity()
        for scale in reversed(range(self._scales(shape))):
            inputs = self.channels if scale else self.code_channels
            body = _Scale(inputs, self.channels, self.skip_channels, body, self)
        return nn.Sequential(body, nn.Conv2d(self.channels, shape[0], 1))

    def code(self, shape: Shape, rng: Rng, like: Tensor) -> Tensor:
        return uniform_code((self.code_channels, *shape[1:]), self.code_scale, rng, like)

    def _scales(self, shape: Shape) -> int:
        side, scales = min(shape[1:]), self.scales
        if scales is None:
            fitting = [n for n in range(1, MOST_SCALES + 1) if _coarsest(side, n) >= LEAST_SIDE]
            scales = max(fitting, default=1)
        if _coarsest(side, scales) < 2:
            raise ValueError(
                f"{scales} scales leave a single pixel of an image of {shape[1]} x {shape[2]}; "
                "use fewer, scales=null, or larger images"
            )
        return scales


def _coarsest(side: int, scales: int) -> int:
    return -(-side // 2**scales)


class _Scale(nn.Module):
    """One scale: down, deeper, up again, beside a skip connection."""

    def __init__(
        self, inputs: int, channels: int, skipped: int, deeper: nn.Module, form: Skip
    ) -> None:
        super().__init__()
        leak, both = form.leak, channels + skipped
        self.beside = _block(inputs, skipped, 1, 1, leak) if skipped else None
        self.down = nn.Sequential(
            _block(inputs, channels, 3, 2, leak), _block(channels, channels, 3, 1, leak)
        )
        self.deeper = deeper
        self.norm = ChannelNorm(both)
        self.up = nn.Sequential(
            _block(both, channels, 3, 1, leak), _block(channels, channels, 1, 1, leak)
        )
        self.upsampling = form.upsampling

    def forward(self, x: Tensor) -> Tensor:
        corners = False if self.upsampling == "bilinear" else None
        low = self.deeper(self.down(x))
        # The side of the input rather than twice that of ``low``, for odd sides.
        high = nn.functional.interpolate(
            low, size=x.shape[-2:], mode=self.upsampling, align_corners=corners
        )
        both = high if self.beside is None else torch.cat([self.beside(x), high], dim=-3)
        return self.up(self.norm(both))


def _block(inputs: int, outputs: int, taps: int, stride: int, leak: float) -> nn.Module:
    # No bias: the norm that follows would take it away again.
    convolution = nn.Conv2d(
        inputs, outputs, taps, stride, taps // 2, bias=False, padding_mode="reflect"
    )
    return nn.Sequential(convolution, ChannelNorm(outputs), nn.LeakyReLU(leak))
