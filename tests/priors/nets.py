"""Networks with known answers, and small random ones, in the calling conventions of the field."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Reproducible Gaussian numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def per_image(value: Tensor) -> Tensor:
    return value.reshape(-1, 1, 1, 1)


class GaussianVelocity(nn.Module):
    """The exact velocity of images mean + std n, in a flow's own time and direction."""

    mean: Tensor

    def __init__(self, mean: Tensor, std: float, data_at: float, noise_at: float) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.std, self.data_at, self.noise_at = std, data_at, noise_at

    def parts(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """E[x_0 | x] and E[eps | x] by the linear-Gaussian model."""
        noise = per_image((time - self.data_at) / (self.noise_at - self.data_at))
        rest = x - (1 - noise) * self.mean
        rest = rest / ((1 - noise) ** 2 * self.std**2 + noise**2)
        return self.mean + (1 - noise) * self.std**2 * rest, noise * rest

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        assert time.shape == x.shape[:1]
        x0, eps = self.parts(x, time)
        return eps - x0 if self.noise_at > self.data_at else x0 - eps


class TimeFirst(nn.Module):
    """A network that is called as (time, x)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, time: Tensor, x: Tensor) -> Tensor:
        return self.network(x, time)


class GaussianEDM(nn.Module):
    """The exact D(x; sigma) of images mean + std n, or the F that EDM makes of it."""

    mean: Tensor

    def __init__(
        self, mean: Tensor, std: float, sigma_data: float | None = None, noise_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.std, self.sigma_data, self.noise_scale = std, sigma_data, noise_scale

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        gain = self.std**2 / (self.std**2 + sigma**2)
        return self.mean + gain * (x - self.mean)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        assert time.shape == x.shape[:1]
        if self.sigma_data is None:
            return self.denoised(x, per_image(time))
        # F = (D - c_skip x) / c_out, of the scaled input: Karras et al. 2022, eq. 7.
        sigma = per_image((4 * time / self.noise_scale).exp())
        total = sigma**2 + self.sigma_data**2
        x = x * total.sqrt()
        c_skip, c_out = self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt()
        return (self.denoised(x, sigma) - c_skip * x) / c_out


class TinyNet(nn.Module):
    """Any small network (x, time) -> output, with weights and a time embedding."""

    def __init__(self, channels: int = 2, width: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        fix(self)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift = self.embed(0.01 * time[:, None])[:, :, None, None]
        return self.last(torch.tanh(self.first(x) + shift))


class TinyGAN(nn.Module):
    """A generator of the shape of a DCGAN: (B, depth, 1, 1) -> (B, 3, 8, 8)."""

    def __init__(self, depth: int = 6, sigmoid: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(depth, 8, 4),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
            nn.Sigmoid() if sigmoid else nn.Tanh(),
        )
        fix(self)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class Affine(nn.Module):
    """x = M z + c, reshaped to images: inversion has a closed form."""

    matrix: Tensor
    offset: Tensor

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("offset", offset)

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.matrix.T).view(-1, *self.offset.shape) + self.offset


def fix(network: nn.Module, scale: float = 0.5) -> None:
    """Sets reproducible weights without the global stream."""
    with torch.no_grad():
        for i, w in enumerate(network.parameters()):
            w.copy_(scale * normal(*w.shape, seed=i))


def make_unet(seed: int = 0, out_channels: int = 3, **changes: Any) -> Any:
    """A tiny random UNet2DModel; ``changes`` of its config."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    settings = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": out_channels,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DModel(**(settings | changes)).eval()
