"""The hourglass: sides of any parity, scales that fit, and refusals."""

import pytest
import torch

from plugip.rng import Rng
from plugip.untrained import Skip


def made(network: Skip, shape: tuple[int, ...]) -> torch.Tensor:
    layers = network.build(shape)
    code = network.code(shape, Rng(0, "solve", ["a"]), torch.zeros(1))
    with torch.no_grad():
        return layers(code)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 17, 12), (3, 11, 23), (2, 5, 40)])
@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
def test_makes_images_of_any_side(shape: tuple[int, ...], upsampling: str):
    assert made(Skip(channels=4, upsampling=upsampling), shape).shape == (1, *shape)


@pytest.mark.parametrize(
    ("side", "scales"), [(256, 5), (128, 5), (127, 5), (64, 4), (32, 3), (8, 1), (4, 1)]
)
def test_takes_five_scales_or_as_many_as_leave_four_pixels(side: int, scales: int):
    with torch.device("meta"):
        layers = Skip(channels=2).build((3, side, side))
    halvings = [m for m in layers.modules() if getattr(m, "stride", None) == (2, 2)]
    assert len(halvings) == scales


def test_skip_connections_can_be_left_out():
    with torch.device("meta"):
        wide = Skip(scales=1, channels=4).build((1, 8, 8))
        bare = Skip(scales=1, channels=4, skip_channels=0).build((1, 8, 8))
    # 32 x 4 weights and 2 x 4 of the norm; 4 more channels in the joint norm and in "up".
    lost = 32 * 4 + 2 * 4 + 2 * 4 + 4 * 4 * 9
    count = [sum(p.numel() for p in layers.parameters()) for layers in (wide, bare)]
    assert count[0] - count[1] == lost


def test_the_code_is_uniform_up_to_its_scale():
    code = Skip(code_scale=0.1).code((3, 16, 16), Rng(0, "solve", ["a"]), torch.zeros(1))
    assert code.shape == (1, 32, 16, 16)
    assert 0 <= code.min() < 0.001 and 0.099 < code.max() < 0.1


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="4 scales leave a single pixel of an image of 16 x 16"):
        Skip(scales=4).build((3, 16, 16))
    with pytest.raises(ValueError, match="1 scales leave a single pixel of an image of 2 x 9"):
        Skip().build((3, 2, 9))
    with pytest.raises(ValueError, match="did you mean 'nearest'"):
        Skip(upsampling="neares")
    with pytest.raises(ValueError, match="at least 1"):
        Skip(channels=0)
    with pytest.raises(ValueError, match="code_scale must be positive, got 0"):
        Skip(code_scale=0)
