"""The reverse process: known answers, diffusers' steps, orders, gradients and costs."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.testing import assert_close

from plugip.building import build
from plugip.path import (
    SIGNED,
    DiscretePath,
    EDMPath,
    FlowPath,
    Prediction,
    VEPath,
    VPPath,
    to_x0,
)
from plugip.prior import BridgedPrior, Prior
from plugip.priors import GaussianMixturePrior, GaussianPrior
from plugip.reverse import (
    CLIPS,
    GRIDS,
    STEPS,
    Generator,
    ancestral_step,
    clip_hard,
    clip_none,
    clip_straight_through,
    ddim_step,
    heun_step,
    leading_grid,
    midpoint_step,
    poly7_grid,
    reverse,
    trailing_grid,
    uniform_grid,
)

SHAPE = (2, 3, 4)
PATHS = [FlowPath(), VPPath(), DiscretePath.linear()]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(path=None, std=0.5):
    return GaussianPrior(0.3 * normal(*SHAPE, seed=5), std, path or FlowPath())


def endpoint(prior, z):
    """Where the exact flow takes z: the standardised state is constant along it."""
    t = torch.tensor(1.0, dtype=torch.float64)
    alpha, sigma = prior.path.alpha(t), prior.path.sigma(t)
    std = prior.variances.sqrt()
    return prior.mean + std * (z - alpha * prior.mean) / (alpha**2 * std**2 + sigma**2).sqrt()


class RandomNet(Prior):
    """A small convolution with a time input, in float64: any network at all."""

    def __init__(self, path, prediction=Prediction.EPS):
        super().__init__()
        self.shape, self.path, self.value_range = SHAPE, path, SIGNED
        self.prediction, self.net = prediction, nn.Conv2d(2, 2, 3, padding=1).double()
        with torch.no_grad():
            for i, w in enumerate(self.net.parameters()):
                w.copy_(0.3 * normal(*w.shape, seed=i))
        self.freeze()

    def forward(self, x_t, t):
        alpha, sigma = self.path.coefficients(t, x_t)
        output = torch.tanh(self.net(x_t)) + 0.1 * sigma
        return to_x0(self.prediction, output, x_t, alpha, sigma)


# --- known answers


@pytest.mark.parametrize(
    ("step", "steps", "tolerance"),
    [(ddim_step, 2500, 1e-3), (heun_step, 200, 1e-4), (midpoint_step, 200, 1e-4)],
)
def test_a_fine_grid_maps_z_to_mean_plus_std_z(step, steps, tolerance):
    prior, z = gaussian(), normal(3, *SHAPE)
    assert_close(endpoint(prior, z), prior.mean + 0.5 * z)
    x0 = reverse(prior, z, uniform_grid(prior.path, steps), step)
    assert_close(x0, prior.mean + 0.5 * z, rtol=0, atol=tolerance)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("grid", ["uniform", "quadratic", "trailing"])
def test_every_path_and_grid_reaches_the_exact_endpoint(path, grid):
    prior, z = gaussian(path), normal(2, *SHAPE)
    x0 = reverse(prior, z, GRIDS[grid](path, 200), heun_step)
    assert_close(x0, endpoint(prior, z), rtol=0, atol=2e-2)


@pytest.mark.parametrize(("step", "order"), [(ddim_step, 1), (heun_step, 2), (midpoint_step, 2)])
@pytest.mark.parametrize("path", [FlowPath(), VPPath()])
def test_order_of_convergence(step, order, path):
    prior, z = mixture(path), normal(2, *SHAPE)

    def end(steps, rule):
        flow_times = torch.linspace(0.99, 0.2, steps + 1, dtype=torch.float64)
        return reverse(prior, z, path.time_of(flow_times), rule)

    exact = end(512, heun_step)
    coarse, fine = (float((end(steps, step) - exact).norm()) for steps in (32, 64))
    assert coarse / fine == pytest.approx(2**order, rel=0.25)


def test_one_ddim_step_on_the_flow_is_the_euler_step_of_its_velocity():
    prior, x_t = RandomNet(FlowPath(), Prediction.VELOCITY), normal(2, *SHAPE)
    t, s = torch.tensor(0.8).double(), torch.tensor(0.35).double()
    velocity = (x_t - prior(x_t, t)) / t
    assert_close(ddim_step(prior, x_t, t, s), x_t + (s - t) * velocity)


@pytest.mark.parametrize("step", [ddim_step, heun_step, midpoint_step])
def test_one_time_per_image(step):
    prior, x_t = RandomNet(VPPath()), normal(2, *SHAPE)
    t, s = torch.tensor([0.9, 0.5]).double(), torch.tensor([0.4, 0.1]).double()
    together = step(prior, x_t, t, s)
    alone = [step(prior, x_t[i : i + 1], t[i], s[i]) for i in range(2)]
    assert_close(together, torch.cat(alone))


def test_ancestral_step_is_the_ddpm_posterior_and_ddim_without_noise():
    path, x_t, x0 = DiscretePath.linear(), normal(1, *SHAPE), normal(1, *SHAPE, seed=1)
    t, s = torch.tensor(0.5).double(), torch.tensor(0.3).double()
    abar_t, abar_s = path.alpha_bar(t), path.alpha_bar(s)
    beta = 1 - abar_t / abar_s
    # Ho et al. 2020, eq. 7, for one step from t to s.
    mean = abar_s.sqrt() * beta / (1 - abar_t) * x0
    mean = mean + (1 - beta).sqrt() * (1 - abar_s) / (1 - abar_t) * x_t
    std = ((1 - abar_s) / (1 - abar_t) * beta).sqrt()
    noise = normal(1, *SHAPE, seed=2)
    assert_close(ancestral_step(path, x0, x_t, t, s, noise), mean + std * noise)

    class Fixed(RandomNet):
        def forward(self, x_t, t):
            return x0

    quiet = ancestral_step(path, x0, x_t, t, s, noise, eta=0.0)
    assert_close(quiet, ddim_step(Fixed(path), x_t, t, s))


# --- diffusers


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_ddim_step_equals_diffusers(kind, clip):
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=clip)
    scheduler.set_timesteps(3)
    assert scheduler.timesteps.tolist() == [666, 333, 0]
    path = DiscretePath(scheduler.alphas_cumprod)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    prior, times, x_t = RandomNet(path, Prediction(kind)), leading_grid(path, 3), normal(2, *SHAPE)
    for index, t, s in zip([666, 333, 0], times[:-1], times[1:], strict=True):
        output = torch.tanh(prior.net(x_t)) + 0.1 * path.sigma(t)
        settings = {"use_clipped_model_output": clip, "return_dict": False}
        want = scheduler.step(output, index, x_t, **settings)[0]
        got = ddim_step(prior, x_t, t, s, clip_hard if clip else clip_none)
        assert_close(got, want, rtol=1e-10, atol=1e-10)
        x_t = got


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 10, 16, 50, 333, 1000])
def test_grids_equal_diffusers(spacing, steps):
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    path = DiscretePath.linear()
    times = GRIDS[spacing](path, steps)
    assert path.index(times[:-1]).tolist() == scheduler.timesteps.tolist()
    assert float(times[-1]) == 0


def test_named_grids():
    path = DiscretePath.linear()
    assert path.index(leading_grid(path, 3)).tolist() == [666, 333, 0, -1]
    assert path.index(trailing_grid(path, 3)).tolist() == [999, 666, 332, -1]
    assert_close(uniform_grid(path, 4), torch.tensor([1, 0.75, 0.5, 0.25, 0]).double())
    assert_close(GRIDS["quadratic"](path, 2), torch.tensor([1, 0.25, 0]).double())


@pytest.mark.parametrize("path", [FlowPath(), VPPath(), VEPath(), EDMPath()])
def test_poly7_gives_edm_s_levels(path):
    times = poly7_grid(path, 18)
    levels = path.sigma(times[:-1]) / path.alpha(times[:-1])
    # Karras et al. 2022, eq. 5.
    i = torch.arange(18, dtype=torch.float64) / 17
    edm = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert_close(levels, edm, rtol=1e-6, atol=1e-9)
    assert len(times) == 19


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", GRIDS)
def test_grids_fall_from_noise_to_data(path, name):
    times = GRIDS[name](path, 5)
    assert times.shape == (6,)
    assert times.dtype is torch.float64
    assert bool((times.diff() < 0).all())
    assert float(times[-1]) == 0 < float(times[0]) <= 1


# --- clips and gradients


def test_clip_modes():
    x0 = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    want = {"none": (x0, [1, 1, 1]), "hard": (x0.clamp(-1, 1), [0, 1, 0])}
    want["straight_through"] = (x0.clamp(-1, 1), [1, 1, 1])
    assert set(want) == set(CLIPS)
    for name, (value, slope) in want.items():
        clipped = CLIPS[name](x0, SIGNED)
        assert_close(clipped, value)
        (grad,) = torch.autograd.grad(clipped.sum(), x0)
        assert grad.tolist() == slope
        assert CLIPS[name](x0, None).tolist() == x0.tolist()


def test_straight_through_has_the_clipped_value_and_a_full_gradient():
    prior, z = gaussian(std=3.0), normal(2, *SHAPE).requires_grad_()
    t, s = torch.tensor(0.5).double(), torch.tensor(0.0).double()
    hard = ddim_step(prior, z, t, s, clip_hard)
    through = ddim_step(prior, z, t, s, clip_straight_through)
    assert_close(through, hard)
    assert bool((hard.abs() == 1).any())
    (grad,) = torch.autograd.grad(through.sum(), z)
    (plain,) = torch.autograd.grad(ddim_step(prior, z, t, s).sum(), z)
    assert_close(grad, plain)


@pytest.mark.parametrize("step", list(STEPS))
@pytest.mark.parametrize("path", PATHS)
def test_reverse_is_differentiable_end_to_end(step, path):
    prior, z = RandomNet(path), normal(1, *SHAPE).requires_grad_()
    times = path.time_of(torch.tensor([0.8, 0.5, 0.2, 0.0], dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda z: reverse(prior, z, times, STEPS[step]), z)


@pytest.mark.parametrize("step", list(STEPS))
def test_checkpointing_changes_no_gradient(step):
    prior, z = RandomNet(VPPath()), normal(2, *SHAPE).requires_grad_()
    times, grads, values = uniform_grid(prior.path, 4), [], []
    for checkpoint in (False, True):
        x0 = reverse(prior, z, times, STEPS[step], clip_straight_through, checkpoint)
        values.append(x0.detach())
        grads.append(torch.autograd.grad(x0.square().sum(), z)[0])
    assert torch.equal(*values)
    assert torch.equal(*grads)


@pytest.mark.parametrize(("checkpoint", "nfe"), [(False, 3), (True, 6)])
def test_calls_are_counted(checkpoint, nfe):
    # With checkpointing every step is recomputed in the backward pass: 2 K forwards, K VJPs.
    prior, z = RandomNet(FlowPath()), normal(2, *SHAPE).requires_grad_()
    x0 = reverse(prior, z, uniform_grid(prior.path, 3), checkpoint=checkpoint)
    assert (prior.counter.nfe, prior.counter.vjps) == (3, 0)
    torch.autograd.grad(x0.sum(), z)
    assert (prior.counter.nfe, prior.counter.vjps) == (nfe, 3)


@pytest.mark.parametrize(("solver", "nfe"), [("ddim", 4), ("heun", 7), ("midpoint", 8)])
def test_steps_cost_what_they_say(solver, nfe):
    prior = RandomNet(FlowPath())
    Generator(steps=4, solver=solver)(prior, normal(1, *SHAPE))
    assert prior.counter.nfe == nfe


# --- the bridge


def mixture(path):
    means = 0.5 * normal(3, *SHAPE, seed=8)
    return GaussianMixturePrior(means, [0.1, 0.2, 0.3], [1.0, 2.0, 3.0], path)


@pytest.mark.parametrize("base", PATHS)
@pytest.mark.parametrize("served", PATHS)
@pytest.mark.parametrize("t", [torch.tensor(0.3), torch.tensor([0.2, 0.7])])
def test_a_bridged_prior_gives_the_same_answers(base, served, t):
    bridged, direct = BridgedPrior(mixture(base), served), mixture(served)
    x_t, t = normal(2, *SHAPE), t.double()
    assert_close(bridged(x_t, t), direct(x_t, t), rtol=1e-8, atol=1e-8)


def test_a_bridged_diffusion_takes_the_same_way_as_a_flow():
    vp = RandomNet(VPPath())
    flow_times = torch.tensor([0.95, 0.6, 0.3, 0.0], dtype=torch.float64)
    vp_times, x = vp.path.time_of(flow_times), normal(2, *SHAPE)
    scale = vp.path.alpha(vp_times[0]) + vp.path.sigma(vp_times[0])
    for step in STEPS.values():
        as_flow = reverse(BridgedPrior(vp, FlowPath()), x, flow_times, step)
        assert_close(as_flow, reverse(vp, scale * x, vp_times, step), rtol=1e-8, atol=1e-8)


def test_a_bridged_prior_reaches_the_gaussian_endpoint():
    prior, z = BridgedPrior(gaussian(VPPath()), FlowPath()), normal(2, *SHAPE)
    x0 = reverse(prior, z, uniform_grid(prior.path, 400), heun_step)
    assert_close(x0, gaussian().mean + 0.5 * z, rtol=0, atol=1e-2)


# --- the generator


def test_the_generator_decodes_what_the_reverse_process_makes():
    prior, z = gaussian(), normal(2, *SHAPE)
    images = Generator(steps=3, grid="quadratic", solver="heun", clip="hard")(prior, z)
    h = reverse(prior, z, GRIDS["quadratic"](prior.path, 3), heun_step, clip_hard)
    assert torch.equal(images, prior.decode(h))


def test_given_times_are_walked_as_they_stand():
    prior, z = gaussian(), normal(2, *SHAPE)
    given = Generator(steps=2, grid=[1.0, 0.25])
    assert given.times(prior.path).tolist() == [1.0, 0.25, 0.0]
    assert torch.equal(given(prior, z), Generator(steps=2, grid="quadratic")(prior, z))
    assert given == Generator(steps=2, grid=(1, 0.25)) != Generator(steps=2, grid=(1, 0.5))
    assert len({given, Generator(steps=2, grid=(1, 0.25))}) == 1
    with pytest.raises(FrozenInstanceError):
        given.grid = (1.0, 0.5)  # type: ignore[misc]


@pytest.mark.parametrize("grid", [[1, 0.6], OmegaConf.create([1, 0.6]), "quadratic"])
def test_given_times_come_from_configs(grid):
    target = {"_target_": "plugip.reverse.Generator", "steps": 2, "grid": grid}
    for cfg in (target, OmegaConf.create(target)):
        built = build(cfg)
        assert built == Generator(2, grid)
        assert built.grid == (grid if isinstance(grid, str) else (1.0, 0.6))


@pytest.mark.parametrize(
    "grid",
    [
        *([1, 0.5], [1, 0.5, 0.2, 0.1], [], 0.5, None),
        *([1, 0.2, 0.5], [1, 0.5, 0.5], [1, float("nan"), 0.2], [float("nan"), 0.5, 0.2]),
        *([1.01, 0.5, 0.2], [1, 0.5, 0.0], [1, 0.5, -0.2]),
    ],
)
def test_times_that_are_no_grid_are_refused(grid):
    with pytest.raises(ValueError, match=r"each of the 3 steps, decreasing within \(0, 1\]"):
        Generator(steps=3, grid=grid)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "at least 1, got 0"),
        ({"grid": "leadin"}, "did you mean 'leading'"),
        ({"solver": "euler"}, "choose from ddim, heun, midpoint"),
        ({"clip": "hrad"}, "did you mean 'hard'"),
    ],
)
def test_wrong_settings_are_explained(settings, words):
    with pytest.raises(ValueError, match=words):
        Generator(**settings)
