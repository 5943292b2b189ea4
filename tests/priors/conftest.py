"""A tiny random UNet, and the embedded prior, loaded once."""

import pytest
import torch


def make_unet(seed=0, out_channels=3, **changes):
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


@pytest.fixture
def unet():
    """A factory: unet(seed, out_channels, **config)."""
    return make_unet


@pytest.fixture(scope="session")
def faces():
    """The embedded prior, probed on the way."""
    from plugip.priors import faces64

    return faces64()
