"""DMPlug's presets against its published recipe, written out on a small ADM network.

The recipe is one function in plain torch that knows nothing of plugip: three DDIM steps at 666,
333 and 0 with clamped estimates and re-derived eps, the mean squared error over all entries of y,
and one ``torch.optim.Adam`` with a group for each unknown. Blur is a correlation with zero "same"
padding, for even kernels one pixel more behind than before, as torch pads; origin (7, 7) for 16.

Source: Wang et al. 2024 (DMPlug), code.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor
from toys import normal

from plugip.building import build, resolved
from plugip.cli.compose import compose_config
from plugip.noise import GaussianNoise
from plugip.operator import Operator
from plugip.operators import BicubicDownsample, BlindBlur, BlindTurbulence, Inpaint
from plugip.path import SIGNED, DiscretePath, Prediction
from plugip.priors import DiffusersUNet
from plugip.priors.adm_layout import Architecture, unet_config
from plugip.problem import Problem
from plugip.rng import Rng

LAB = str(Path(__file__).resolve().parents[1] / "lab/conf")
SIDE, ORIGIN, COUNT = 16, (7, 7), 20
TINY = Architecture(
    image_size=SIDE,
    num_channels=32,
    num_res_blocks=1,
    attention_resolutions=(),  # one in the middle
    channel_mult=(1, 1, 1),
    num_head_channels=16,
    learn_sigma=True,
    resblock_updown=True,
)
TURBULENCE = [0.01, 1e-7, 0.1]  # published rates of seed, tilt and kernel
Model = Callable[[Tensor, list[Tensor]], Tensor]


@functools.cache
def network() -> UNet2DModel:
    """A random ADM-type network with six output channels, three of them a learned variance."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DModel(**unet_config(TINY)).double().eval().requires_grad_(False)


def recipe(
    y: Tensor, unknowns: list[Tensor], rates: list[float], measure: Model
) -> list[list[Tensor]]:
    """Returns the first iterates of the published optimisation, from z and what else is unknown.

    Args:
        y: Measurement, (1, ...).
        unknowns: z, (1, 3, 16, 16), and other free tensors.
        rates: Adam's learning rate of each.
        measure: Maps image and other unknowns to y.
    """
    bars = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    free = [u.detach().clone().requires_grad_() for u in unknowns]
    groups = [{"params": [u], "lr": lr} for u, lr in zip(free, rates, strict=True)]
    optimiser, seen = torch.optim.Adam(groups), []
    for _ in range(COUNT):
        seen.append([u.detach().clone() for u in free])
        x = free[0]
        for t, after in ((666, 333), (333, 0), (0, -333)):
            bar, next_bar = bars[t], bars[after] if after >= 0 else torch.ones(())
            eps = network()(x, torch.tensor([float(t)])).sample[:, :3]
            x0 = ((x - (1 - bar).sqrt() * eps) / bar.sqrt()).clamp(-1, 1)
            eps = (x - bar.sqrt() * x0) / (1 - bar).sqrt()
            x = next_bar.sqrt() * x0 + (1 - next_bar).sqrt() * eps
        optimiser.zero_grad()
        (measure(x.clamp(-1, 1), free[1:]) - y).square().mean().backward()
        optimiser.step()
    return seen


def preset(name: str, *words: str):
    """The method of a YAML preset."""
    config = resolved(compose_config([f"method={name}", "prior=plain", *words], LAB))
    return build(config["method"])


def iterates(name: str, operator: Operator, y: Tensor) -> list[list[Tensor]]:
    """The first iterates of a preset: z and the free parameters of a blind operator."""
    prior = DiffusersUNet(network(), DiscretePath.linear(), Prediction.EPS, SIGNED)
    problem, method, seen = Problem(y, operator, GaussianNoise(0.01), prior), preset(name), []
    state = method.init(problem, Rng(0, "solve", ["a"]))
    for _ in range(COUNT):
        state, _ = method.step(problem, state)
        layout = getattr(state.unknowns, "layout", None)
        seen.append([state.v] if layout is None else list(layout.split(state.v).values()))
    return seen


def picture() -> Tensor:
    line = torch.linspace(-0.8, 0.8, SIDE, dtype=torch.float64)
    down, across = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([down * across, torch.sin(3 * down), across])[None]


def compare(ours: list[list[Tensor]], theirs: list[list[Tensor]]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for mine, reference in zip(a, b, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)


def softmax_blur(x: Tensor, logits: Tensor) -> Tensor:
    """Channel by channel with the softmax of (1, 1, 16, 16) logits, size kept, zeros around."""
    kernel = logits.flatten().softmax(0).reshape(1, 1, SIDE, SIDE)
    padded = F.pad(x, (7, 8, 7, 8))  # torch's padding="same"
    return torch.cat([F.conv2d(padded[:, i : i + 1], kernel) for i in range(3)], dim=1)


def tilted(x: Tensor, tilt: Tensor) -> Tensor:
    """Bilinear fetches at displaced places, tilt (1, 2, 16, 16) in pixels, columns first."""
    line = torch.arange(SIDE, dtype=x.dtype)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    place = torch.stack([columns, rows])[None] + tilt
    grid = (2 * place / (SIDE - 1) - 1).permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, "bilinear", "zeros", align_corners=True)


def test_super_resolution():
    operator = BicubicDownsample(4).double()
    y = operator(picture()) + 0.01 * normal(1, 3, 4, 4)
    ours = iterates("dmplug_paper", operator, y)
    compare(ours, recipe(y, ours[0], [0.01], lambda x, _: operator(x)))
    assert (ours[-1][0] - ours[0][0]).abs().max() > 0.1  # it moved


def test_inpainting_with_the_missing_pixels_in_the_mean():
    mask = (
        torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) > 0.7
    ).double()
    y = mask * picture() + 0.01 * normal(1, 3, SIDE, SIDE)  # noise on missing pixels as well
    ours = iterates("dmplug_paper", Inpaint(mask, noise_on="all"), y)
    compare(ours, recipe(y, ours[0], [0.01], lambda x, _: mask * x))


def test_blind_deblurring():
    operator = BlindBlur(SIDE, origin=ORIGIN)
    y = softmax_blur(picture(), 3 * normal(SIDE**2)) + 0.01 * normal(1, 3, SIDE, SIDE)
    ours = iterates("dmplug_paper_blind", operator, y)
    compare(ours, recipe(y, ours[0], [0.01, 0.1], lambda x, free: softmax_blur(x, free[0])))
    assert (ours[-1][1] - ours[0][1]).abs().max() > 1.0  # logits take steps ten times as long


def test_turbulence_with_the_published_rate_of_the_tilt():
    operator, tilt = BlindTurbulence(SIDE, origin=ORIGIN), normal(1, 2, SIDE, SIDE, seed=3)

    def measure(x: Tensor, free: list[Tensor]) -> Tensor:
        return softmax_blur(tilted(x, free[0]), free[1])  # warp first, blur second

    y = measure(picture(), [tilt, 3 * normal(SIDE**2)]) + 0.01 * normal(1, 3, SIDE, SIDE)
    ours = iterates("dmplug_paper_turbulence", operator, y)
    compare(ours, recipe(y, ours[0], TURBULENCE, measure))
    moved = (ours[-1][1] - ours[0][1]).abs()
    assert 0 < float(moved.max()) <= COUNT * 1e-7  # the tilt is frozen in effect


@pytest.mark.parametrize("name", ["dmplug_paper_blind", "dmplug_paper_turbulence"])
def test_presets_of_blind_tasks_differ_from_the_plain_one_in_length_and_rates_only(name: str):
    plain, blind = vars(preset("dmplug_paper")), vars(preset(name))
    assert {k for k in plain if plain[k] != blind[k]} == {"iterations", "theta_steps"}
    assert (plain["iterations"], blind["iterations"]) == (5000, 10000)


def test_the_recipe_tells_the_order_of_tilt_and_blur(monkeypatch):
    # Guards the comparison itself: with the blur first, the recipe leaves these iterates.
    monkeypatch.setattr("test_dmplug_parity.COUNT", 4)
    operator, kernel = BlindTurbulence(SIDE, origin=ORIGIN), 3 * normal(SIDE**2)
    y = softmax_blur(tilted(picture(), 2 * normal(1, 2, SIDE, SIDE, seed=3)), kernel)
    ours = iterates("dmplug_paper_turbulence", operator, y)
    wrong = recipe(y, ours[0], TURBULENCE, lambda x, f: tilted(softmax_blur(x, f[1]), f[0]))
    with pytest.raises(AssertionError):
        compare(ours, wrong)
