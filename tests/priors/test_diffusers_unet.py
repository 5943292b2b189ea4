"""UNet priors against diffusers' own schedulers, their costs, and their loading."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plugip.path import UNIT, DiscretePath, FlowPath, Prediction, VPPath
from plugip.priors import DiffusersUNet
from plugip.reverse import clip_hard, clip_none, ddim_step, leading_grid, reverse
from plugip.testing import check_prior


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_ddim_step_equals_diffusers_through_a_network_with_variances(unet, kind, clip):
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    net = unet(out_channels=6)
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=clip)
    scheduler.set_timesteps(3)
    path = DiscretePath(scheduler.alphas_cumprod)
    prior = DiffusersUNet(net, path, Prediction(kind))
    times, x_t = leading_grid(path, 3), normal(2, 3, 8, 8)
    for i, index in enumerate(scheduler.timesteps):
        raw = net(x_t, index).sample[:, :3]
        settings = {"use_clipped_model_output": clip, "return_dict": False}
        want = scheduler.step(raw, int(index), x_t, **settings)[0]
        got = ddim_step(prior, x_t, times[i], times[i + 1], clip_hard if clip else clip_none)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6 * float(want.abs().max()))
        x_t = want


def test_time_input_is_the_training_index_or_the_scaled_time(unet):
    t = torch.tensor([667 / 1000, 334 / 1000, 1 / 1000], dtype=torch.float64)
    discrete = DiffusersUNet(unet(), DiscretePath.linear(), Prediction.EPS)
    assert discrete.time_input(t).tolist() == [666.0, 333.0, 0.0]
    flow = DiffusersUNet(unet(), FlowPath(), Prediction.VELOCITY, time_scale=100)
    torch.testing.assert_close(flow.time_input(t), 100 * t)


@pytest.mark.parametrize("path", [FlowPath(), VPPath(), DiscretePath.linear()])
def test_random_network_passes_the_checks(unet, path):
    check_prior(DiffusersUNet(unet(), path, Prediction.VELOCITY), denoises=False).require()


def test_space_to_depth_is_an_orthonormal_layout(unet):
    net = unet(in_channels=12, out_channels=12)
    prior = DiffusersUNet(net, FlowPath(), Prediction.VELOCITY, UNIT, space_to_depth=2)
    x = normal(2, 3, 16, 16)
    h = prior.encode(x)
    assert prior.shape == h.shape[1:] == (12, 8, 8)
    assert prior.image_shape == (3, 16, 16)
    torch.testing.assert_close(prior.decode(h), x)
    # Channel c, block row i and column j lie at 4 c + 2 i + j; [-1, 1] becomes [0, 1].
    torch.testing.assert_close(h[:, 7], (x[:, 1, 1::2, 1::2] + 1) / 2)


def test_one_seed_gradient_costs_k_forwards_and_k_backwards_to_the_input(unet):
    prior = DiffusersUNet(unet(), FlowPath(), Prediction.VELOCITY)
    times, z = torch.linspace(1, 0, 4).double(), normal(1, 3, 8, 8)
    with FlopCounterMode(display=False) as forward:
        reverse(prior, z, times)
    prior.counter.nfe = 0
    with FlopCounterMode(display=False) as both:
        leaf = z.clone().requires_grad_()
        reverse(prior, leaf, times).square().sum().backward()
    assert (prior.counter.nfe, prior.counter.vjps) == (3, 3)
    assert both.get_total_flops() <= 2.01 * forward.get_total_flops()
    assert all(not w.requires_grad and w.grad is None for w in prior.parameters())


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        ({"num_class_embeds": 10}, {}, "class-conditional"),
        ({"sample_size": None}, {}, "sample_size"),
        ({"out_channels": 4}, {}, "4"),
        ({}, {"space_to_depth": 2}, "space_to_depth 2"),
    ],
)
def test_unfit_networks_are_refused(unet, config, settings, words):
    with pytest.raises(ValueError, match=words):
        DiffusersUNet(unet(**config), FlowPath(), Prediction.VELOCITY, **settings)


def test_oblong_networks_are_served(unet):
    prior = DiffusersUNet(unet(sample_size=(8, 16)), FlowPath(), Prediction.VELOCITY)
    assert prior(normal(1, *prior.shape), torch.tensor(0.5)).shape == (1, 3, 8, 16)
