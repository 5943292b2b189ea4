"""The network of the blur-kernel space (BKSE), with the tensor names of its published weights."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn


class BKSENetwork(nn.Module):
    r"""Blurs images in [0, 1] as told by a latent: B(u, z) = u + R(G(E(u), z)).

    E finds features on a grid four times smaller, the adapter G, a U-Net, bends them with z at
    its bottom, and the trunk R makes the residual of them. No normalisation layers, so images do
    not meet in a batch.

    Args:
        features: Width of the features; 64 in the published weights.
        latent: Channels of the latent; 512 in the published weights. The U-Net has
            features * (1, 1, 2, 4, 8) and ``latent`` channels.
        encoder_blocks: Residual blocks of E; 10 published.
        trunk_blocks: Residual blocks of R; 20 published.

    Source: Tran et al. 2021 (Explore Image Deblurring via Blur Kernel Space).
    """

    def __init__(
        self,
        features: int = 64,
        latent: int = 512,
        encoder_blocks: int = 10,
        trunk_blocks: int = 20,
    ) -> None:
        super().__init__()
        self.latent = latent
        self.feature_extractor = _feature_extractor(features, encoder_blocks)
        self.adapter = Adapter(features, latent)
        self.recon_trunk = _trunk(features, trunk_blocks)

    def forward(self, u: Tensor, z: Tensor) -> Tensor:
        """Blurs.

        Args:
            u: Images, (B, 3, H, W), in [0, 1]; H and W multiples of 128.
            z: Latents, (B, latent, H / 128, W / 128).

        Returns:
            Blurred images, (B, 3, H, W), not clamped.
        """
        return u + self.recon_trunk(self.adapter(self.feature_extractor(u), z))


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


class Adapter(nn.Module):
    """The U-Net that bends features (B, features, h, w) with a latent (B, latent, h/32, w/32)."""

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        widths = [features * m for m in (1, 1, 2, 4, 8)] + [latent]
        self.model = Level(widths, 0)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.model(x, z)


class Level(nn.Module):
    """One level of the U-Net: down, the level below (or the latent), up, beside a skip.

    ``down`` and ``up`` are sequences, so that their convolutions have the published names
    ``down.0`` at the top and ``down.1``, ``up.1`` elsewhere.
    """

    def __init__(self, widths: list[int], depth: int) -> None:
        super().__init__()
        outer, inner = widths[depth], widths[depth + 1]
        conv = nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=False)
        self.top = depth == 0
        self.down = nn.Sequential(conv) if self.top else nn.Sequential(nn.LeakyReLU(0.2), conv)
        self.submodule = Level(widths, depth + 1) if depth + 2 < len(widths) else None
        back = nn.ConvTranspose2d(2 * inner, outer, 4, stride=2, padding=1, bias=self.top)
        last = [nn.Tanh()] if self.top else []
        self.up = nn.Sequential(nn.ReLU(), back, *last)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        low = self.down(x)
        below = torch.cat([low, z], 1) if self.submodule is None else self.submodule(low, z)
        y = self.up(below)
        return y if self.top else torch.cat([y, x], 1)


class KernelExtractor(nn.Module):
    """Estimates the latent of a blur from features of a sharp and of a blurred image.

    ``BKSE`` does not need it; it is part of the published weights (91.6 of 115 million numbers).

    Args:
        features: Width of the features; 64 published.
        latent: Channels of the latent; 512 published.
    """

    def __init__(self, features: int = 64, latent: int = 512) -> None:
        super().__init__()
        widths = [features * m for m in (1, 2, 4, 8, 16)] + [2 * latent]
        convs: list[nn.Conv2d] = [nn.Conv2d(2 * features, features, 7, bias=False)]
        for i, o in pairwise(widths):
            convs.append(nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False))
        layers: OrderedDict[str, nn.Module] = OrderedDict(pad=nn.ReflectionPad2d(3))
        for i, conv in enumerate(convs):
            layers[str(3 * i + 1)], layers[f"relu{i}"] = conv, nn.ReLU()
        for i in range(4):
            layers[str(19 + i)] = ReflectedBlock(2 * latent)
        self.model = nn.Sequential(layers)

    def forward(self, sharp: Tensor, blurred: Tensor) -> tuple[Tensor, Tensor]:
        """Returns two halves, the first the mean, (B, latent, h/32, w/32), of features."""
        mean, spread = self.model(torch.cat([sharp, blurred], 1)).chunk(2, dim=1)
        return mean, spread


class ReflectedBlock(nn.Module):
    """A residual block with reflecting edges; its convolutions are conv_block.1 and .5."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(pad1=nn.ReflectionPad2d(1))
        layers["1"], layers["relu"] = nn.Conv2d(width, width, 3, bias=False), nn.ReLU()
        layers["pad2"], layers["5"] = (
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=False),
        )
        self.conv_block = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def _feature_extractor(features: int, blocks: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=1), nn.LeakyReLU(0.1)]
    for _ in range(2):
        layers += [nn.Conv2d(features, features, 3, stride=2, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, *(ResidualBlock(features) for _ in range(blocks)))


def _trunk(features: int, blocks: int) -> nn.Sequential:
    layers: list[nn.Module] = [ResidualBlock(features) for _ in range(blocks)]
    for _ in range(2):
        conv = nn.Conv2d(features, 4 * features, 3, padding=1)
        layers += [conv, nn.PixelShuffle(2), nn.LeakyReLU(0.1)]
    layers += [nn.Conv2d(features, features, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Conv2d(features, 3, 3, padding=1))
