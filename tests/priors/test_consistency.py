"""Consistency models: the Gaussian's own, diffusers' sampler, costs, configs."""

import inspect
import math

import pytest
import torch
from configs import prior_config
from nets import TinyNet, normal, per_image
from omegaconf import OmegaConf
from torch import nn

from plugip.building import build
from plugip.engine.adam import Adam
from plugip.loop import solve
from plugip.methods import DPS, DMPlug
from plugip.noise import GaussianNoise
from plugip.priors import ConsistencyPrior, ProbeError
from plugip.priors.edm import preconditioning
from plugip.problem import Problem
from plugip.testing import check_prior
from plugip.testing.methods import Attenuate

SHAPE, MEAN, STD = (3, 8, 8), 0.2 * normal(3, 8, 8, seed=5), 0.4


class GaussianConsistency(nn.Module):
    """The exact f of images mean + std n: the flow keeps the standardised state."""

    def __init__(self, raw=False, sigma_min=0.002):
        super().__init__()
        self.raw, self.sigma_min = raw, sigma_min

    def endpoint(self, x, sigma):
        spread = ((STD**2 + self.sigma_min**2) / (STD**2 + sigma**2)).sqrt()
        return MEAN + spread * (x - MEAN)

    def forward(self, x, time):
        if not self.raw:
            return self.endpoint(x, per_image(time))
        sigma = per_image((4 * time / 1000).exp())
        _, _, c_in, _ = preconditioning(sigma, 0.5)
        x, above = x / c_in, sigma - self.sigma_min
        # Song et al. 2023: f = c_skip x + c_out F with these coefficients.
        c_skip, c_out = 0.25 / (above**2 + 0.25), 0.5 * above / (0.25 + sigma**2).sqrt()
        return (self.endpoint(x, sigma) - c_skip * x) / c_out


def exact(raw=False, **settings):
    output = "raw" if raw else "denoised"
    return ConsistencyPrior(
        GaussianConsistency(raw), SHAPE, output=output, probe=False, **settings
    )


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- known answers


@pytest.mark.parametrize("raw", [False, True])
def test_one_step_leads_noise_to_the_gaussian_s_endpoint(raw):
    z = normal(2, *SHAPE)
    spread = math.sqrt((STD**2 + 0.002**2) / (STD**2 + 80**2))
    close(exact(raw).decode(z), MEAN + spread * (80 * z - MEAN))


def test_of_two_steps_the_second_adds_noise_and_removes_it():
    prior = exact(levels=[80.0, 1.0])
    assert (prior.shape, prior.image_shape) == ((2, *SHAPE), SHAPE)
    z = normal(2, *prior.shape)
    first = exact().decode(z[:, 0])
    noisy = first + math.sqrt(1 - 0.002**2) * z[:, 1]
    spread = math.sqrt((STD**2 + 0.002**2) / (STD**2 + 1))
    close(prior.decode(z), MEAN + spread * (noisy - MEAN))


@pytest.mark.parametrize("levels", [[80.0], [80.0, 1.0], [80.0, 3.0, 0.5]])
def test_seeds_become_images_of_the_right_mean_and_spread(levels):
    prior = exact(levels=levels)
    x = prior.decode(normal(4000, *prior.shape))
    close(x.mean(), MEAN.mean(), 0.01)
    close((x - MEAN).std(), torch.tensor(STD).double(), 0.01)


def test_at_the_least_level_nothing_changes():
    prior = ConsistencyPrior(TinyNet(3).double(), SHAPE, probe=False)
    x = normal(2, *SHAPE)
    close(prior.estimate(x, 0.002), x)


def test_clips_act_on_every_estimate():
    z = 5 * normal(2, 2, *SHAPE)
    hard = exact(levels=[80.0, 1.0], clip="hard")
    first = exact().decode(z[:, 0]).clamp(-1, 1)
    noisy = first + math.sqrt(1 - 0.002**2) * z[:, 1]
    spread = math.sqrt((STD**2 + 0.002**2) / (STD**2 + 1))
    close(hard.decode(z), (MEAN + spread * (noisy - MEAN)).clamp(-1, 1))


def test_ranges_are_decoded_to_the_signed_one():
    z = normal(2, *SHAPE)
    close(exact(value_range=[0, 1]).decode(z), 2 * exact().decode(z) - 1)


@pytest.mark.parametrize(("indices", "clip"), [([0], False), ([0], True), ([17, 0], True)])
def test_the_same_images_as_diffusers_sampler(unet, monkeypatch, indices, clip):
    from diffusers.schedulers import scheduling_consistency_models as theirs

    net = unet()
    scheduler = theirs.CMStochasticIterativeScheduler(clip_denoised=clip)
    if len(indices) > 1:
        scheduler.set_timesteps(timesteps=indices)  # its count runs downwards: 39 is sigma_max
    else:
        scheduler.set_timesteps(1)
    levels = [float(s) for s in scheduler.sigmas[: len(scheduler.timesteps)]]
    prior = ConsistencyPrior(net, SHAPE, levels, clip="hard" if clip else "none", probe=False)
    z = normal(2, *prior.shape).float()
    parts = list(z.unbind(1)) if len(levels) > 1 else [z]
    x = levels[0] * parts[0]
    for k, t in enumerate(scheduler.timesteps):
        fresh = parts[k + 1] if k + 1 < len(parts) else torch.zeros_like(x)
        monkeypatch.setattr(theirs, "randn_tensor", lambda *_, fresh=fresh, **__: fresh)
        output = net(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(output, t, x, return_dict=False)[0]
    torch.testing.assert_close(prior.decode(z), x, rtol=1e-4, atol=1e-4)


# --- rules


def problem(prior):
    y = Attenuate()(prior.decode(normal(2, *prior.shape, seed=3))).detach()
    prior.counter.nfe = 0
    return Problem(y, Attenuate().double(), GaussianNoise(0.05), prior)


@pytest.mark.parametrize("levels", [[80.0], [80.0, 3.5]])
def test_checks(levels):
    check_prior(exact(levels=levels)).require()
    net = TinyNet(3).double()
    check_prior(ConsistencyPrior(net, SHAPE, levels, probe=False)).require()


@pytest.mark.parametrize("levels", [[80.0], [80.0, 3.5]])
def test_a_seed_is_optimised_at_one_call_for_each_level(levels):
    p = problem(exact(levels=levels))
    solution = solve(p, DMPlug(iterations=6, solver=Adam(0.3)))
    assert solution.nfe == solution.vjps == [6 * len(levels)] * 2
    for trace in solution.trace:
        assert trace.loss[-1] < 0.7 * trace.loss[0]


def test_methods_that_need_the_mean_are_refused():
    with pytest.raises(TypeError, match=r"DPS needs .* ConsistencyPrior does not have"):
        solve(problem(exact()), DPS(steps=4))


# --- errors, loading, the config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"levels": []}, r"got \[\] and 0.002"),
        ({"levels": [3.0, 80.0]}, "must fall"),
        ({"levels": [80.0, 0.001]}, "above sigma_min"),
        ({"sigma_min": 0.0}, "sigma_min > 0"),
        ({"clip": "hrad"}, "did you mean 'hard'"),
    ],
)
def test_wrong_arguments_are_explained(settings, words):
    with pytest.raises(ValueError, match=words):
        exact(**settings)


def test_a_wrong_range_is_refused():
    with pytest.raises(ProbeError, match="does not fit the declared range"):
        ConsistencyPrior(GaussianConsistency(), SHAPE, output="denoised", value_range=[0, 255])


def test_the_config_lists_every_argument():
    wanted = set(inspect.signature(ConsistencyPrior.from_pretrained).parameters)
    assert set(prior_config("consistency")) - {"_target_"} == wanted


def test_the_config_loads_a_diffusers_folder(unet, tmp_path):
    net = unet()
    net.save_pretrained(tmp_path / "unet")
    given = {"source": str(tmp_path), "levels": [80.0, 3.52], "probe": False}
    prior = build(OmegaConf.merge(prior_config("consistency"), given))
    want = ConsistencyPrior(net, SHAPE, [80.0, 3.52], probe=False)
    z = normal(1, *want.shape).float()
    torch.testing.assert_close(prior.decode(z), want.decode(z))


def test_class_conditional_folders_are_refused(unet, tmp_path):
    unet(num_class_embeds=3).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="class-conditional"):
        ConsistencyPrior.from_pretrained(str(tmp_path))
