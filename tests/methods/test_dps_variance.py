"""DPS with a network's learned variance, against the published recipe written out."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from priors.adm_reference import TINY, RandomFile
from priors.nets import make_unet
from torch import Tensor
from toys import close, normal

from plugip.building import build
from plugip.cli.compose import compose_config
from plugip.loop import solve
from plugip.methods import DPS
from plugip.noise import GaussianNoise
from plugip.operators import BicubicDownsample
from plugip.path import DiscretePath, FlowPath, Prediction
from plugip.prior import Prior, as_flow
from plugip.priors import DiffusersUNet, GaussianPrior, load_adm
from plugip.problem import Problem
from plugip.reverse import ancestral_step
from plugip.rng import Rng

SHAPE = (3, TINY.image_size, TINY.image_size)
OPERATOR = BicubicDownsample(4)


@pytest.fixture(scope="module")
def adm(tmp_path_factory) -> DiffusersUNet:
    """A random ADM network with six outputs, through plugip's own loader."""
    file = tmp_path_factory.mktemp("adm") / "net.pt"
    torch.save(RandomFile(TINY).state, file)
    return load_adm(str(file), architecture=TINY, probe=False).double()


def recipe(net: Any, y: Tensor, steps: int, zeta: float, rng: Rng, learned: bool) -> Tensor:
    """p_sample of guided-diffusion on respaced betas, and the gradient step of DPS's code."""
    whole = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    used = [round((k + 1) * 1000 / steps) - 1 for k in range(steps)]
    bars = whole[used]
    last_bars = torch.cat([bars.new_ones(1), bars[:-1]])
    betas = 1 - bars / last_bars
    posterior = betas * (1 - last_bars) / (1 - bars)
    x = rng.normal(SHAPE, like=y)
    for k in reversed(range(steps)):
        x = x.detach().requires_grad_()
        index = torch.full((len(x),), float(used[k]), dtype=torch.float64)
        epsilon, values = net(x, index, return_dict=False)[0].chunk(2, dim=1)
        x0 = ((x - (1 - bars[k]).sqrt() * epsilon) / bars[k].sqrt()).clamp(-1, 1)
        mean = betas[k] * last_bars[k].sqrt() / (1 - bars[k]) * x0
        mean = mean + (1 - last_bars[k]) * (1 - betas[k]).sqrt() / (1 - bars[k]) * x
        distance = torch.linalg.norm(y - OPERATOR(x0))
        (grad,) = torch.autograd.grad(distance, x)
        noise = rng.normal(SHAPE, like=y)
        share = (values.detach() + 1) / 2 if learned else torch.zeros_like(x)
        log_variance = share * betas[k].log() + (1 - share) * posterior[k].log()
        fresh = (0.5 * log_variance).exp() * noise if k else torch.zeros_like(x)
        x = (mean + fresh - zeta * grad).detach()
    return x.clamp(-1, 1)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("steps", [4, 10])
def test_dps_is_the_published_recipe(adm: DiffusersUNet, learned: bool, steps: int):
    y = OPERATOR(0.3 * normal(1, *SHAPE))
    variance = "learned" if learned else "posterior"
    problem = Problem(y, OPERATOR, GaussianNoise(0.05), adm)
    answer = solve(problem, DPS(steps, 0.3, variance=variance), Rng(0, "solve", ["a"])).x_hat
    want = recipe(adm.net, y, steps, 0.3, Rng(0, "solve", ["a"]), learned)
    close(answer, want, 1e-5)
    other = recipe(adm.net, y, steps, 0.3, Rng(0, "solve", ["a"]), not learned)
    assert (answer - other).abs().max() > 1e-3


def test_the_paper_s_preset_uses_it_and_ours_does_not():
    for method, variance in (("dps_paper", "learned"), ("dps", "posterior")):
        config = compose_config([f"method={method}"], None)
        config.method.zeta = 0.3
        assert build(config.method).variance == variance


def test_it_costs_no_call_and_no_image_sees_another(adm: DiffusersUNet):
    y = OPERATOR(0.3 * normal(2, *SHAPE))
    ids = ["a", "b"]
    problem = Problem(y, OPERATOR, GaussianNoise(0.05), adm)
    method = DPS(3, variance="learned")
    both = solve(problem, method, Rng(0, "solve", ids), rows=2)
    assert (both.nfe, both.vjps) == ([3, 3], [3, 3])
    for i, image_id in enumerate(ids):
        alone = solve(problem.select([i]), method, Rng(0, "solve", [image_id]))
        close(both.x_hat[i : i + 1], alone.x_hat)


def test_the_two_ends_are_the_two_fixed_choices():
    path, x_t, x0, noise = (DiscretePath.linear(), *(normal(1, 3, 4, 4, seed=i) for i in range(3)))
    t, s = (torch.tensor(v, dtype=torch.float64) for v in (0.5, 0.3))
    mean = ancestral_step(path, x0, x_t, t, s, torch.zeros_like(noise))
    least, most = (ancestral_step(path, x0, x_t, t, s, noise, 1.0, torch.full_like(noise, w))
                   for w in (0.0, 1.0))  # fmt: skip
    close(least, ancestral_step(path, x0, x_t, t, s, noise))
    beta = 1 - path.alpha_bar(t) / path.alpha_bar(s)
    close(most, mean + beta.sqrt() * noise)
    end = torch.zeros_like(t)
    for w in (-0.1, 1.0, 1.3):  # a network may say a little more than 1
        close(ancestral_step(path, x0, x_t, t, end, noise, 1.0, torch.full_like(noise, w)), x0)


def test_priors_without_one_have_the_posterior_s(adm: DiffusersUNet):
    flow = GaussianPrior(torch.zeros(SHAPE), 0.5, FlowPath())
    three = DiffusersUNet(make_unet(), DiscretePath.linear(), Prediction.EPS)
    for prior in (flow, three, as_flow(adm)):
        x_t = normal(1, *prior.shape).float()
        mean, variance = prior.with_variance(x_t, torch.tensor(0.5))
        assert variance is None and torch.equal(mean, prior(x_t, torch.tensor(0.5)))
    y = OPERATOR(0.3 * normal(1, *SHAPE).float())
    problem = Problem(y, OPERATOR, GaussianNoise(0.05), flow)
    answers = [solve(problem, DPS(5, variance=v)).x_hat for v in ("learned", "posterior")]
    assert torch.equal(*answers)


@pytest.mark.parametrize(("kind", "offered"), [("learned_range", True), ("learned", False)])
def test_a_folder_s_scheduler_says_whether_it_can_be_read(tmp_path, kind: str, offered: bool):
    make_unet(out_channels=6).save_pretrained(tmp_path)
    config = {"_class_name": "DDPMScheduler", "variance_type": kind}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    prior: Prior = DiffusersUNet.from_pretrained(str(tmp_path), probe=False)
    _, variance = prior.with_variance(normal(1, 3, 8, 8).float(), torch.tensor(0.5))
    assert (variance is not None) == offered


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="variance"):
        DPS(variance="lerned")
    with pytest.raises(ValueError, match="eta=1"):
        DPS(variance="learned", eta=0.5)
