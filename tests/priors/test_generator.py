"""Maps from seeds to images: inversion in closed form, costs, refusals, TorchScript, configs."""

import inspect
from typing import Any

import pytest
import torch
from configs import prior_config
from nets import Affine, TinyGAN, normal
from omegaconf import OmegaConf
from torch import Tensor, nn

from plugip.building import build
from plugip.engine.adam import Adam
from plugip.engine.lbfgs import LBFGS
from plugip.engine.linearize import linearize
from plugip.engine.misfit import seed_misfit
from plugip.loop import solve
from plugip.methods import DPS, DMPlug
from plugip.noise import GaussianNoise
from plugip.operator import LinearOperator
from plugip.path import FlowPath
from plugip.prior import as_flow, as_vp
from plugip.priors import GeneratorPrior, ProbeError, WeightsError, load_weights
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.stopping import Budget, Stopped
from plugip.testing import check_prior

IMAGE = (3, 4, 4)


class Half(LinearOperator):
    """Observes every other column at half its contrast."""

    def forward(self, x):
        return 0.5 * x[..., ::2]

    def domain_shape(self, y_shape):
        return (*y_shape[:-1], 2 * y_shape[-1])


MATRIX, OFFSET = 0.3 * normal(48, 5, seed=1), 0.1 * normal(*IMAGE, seed=2)


def affine():
    return GeneratorPrior(Affine(MATRIX, OFFSET), [5], probe=False)


def problem(prior, batch=2, std=0.05):
    y = Half()(prior.decode(normal(batch, *prior.shape, seed=3)).detach())
    prior.counter.nfe = 0
    return Problem(y + std * normal(*y.shape, seed=4), Half(), GaussianNoise(std), prior)


# --- known answers


def test_inversion_of_an_affine_generator_is_its_map_estimate():
    prior, std = affine(), 0.05
    p = problem(prior, std=std)
    rows = Half()(MATRIX.T.view(5, *IMAGE)).flatten(1)  # (latent, numel y)
    rest = (p.y - Half()(OFFSET[None])).flatten(1)
    gram = rows @ rows.T / std**2 + torch.eye(5, dtype=torch.float64)
    z = torch.linalg.solve(gram, rows @ rest.T / std**2).T
    solution = solve(p, DMPlug(iterations=60, solver=LBFGS(tolerance=1e-10)))
    torch.testing.assert_close(solution.z, z, rtol=1e-6, atol=1e-6)
    x = prior.decode(z).clamp(-1, 1)
    torch.testing.assert_close(solution.x_hat, x, rtol=1e-6, atol=1e-6)


def test_an_evaluation_costs_one_forward_and_one_backward():
    p = problem(affine())
    solution = solve(p, DMPlug(iterations=7, solver=Adam(), generator=Generator(steps=5)))
    assert solution.nfe == solution.vjps == [7, 7]


def test_linearised_products_are_those_of_the_generator():
    p = problem(affine())
    objective = seed_misfit(p, Generator())
    z, v = normal(2, 5, seed=6), normal(2, 5, seed=7)
    parts = linearize(objective, z)
    pushed = Half()((v @ MATRIX.T).view(2, *IMAGE)) / 0.05
    torch.testing.assert_close(parts.jvp(v), pushed)
    assert p.prior.counter.jvps == 1


@pytest.mark.parametrize(
    ("sigmoid", "bounds"), [(False, [-1, 1]), (True, [0, 1]), (False, [-2.0, 2.0])]
)
def test_images_are_mapped_from_the_declared_range(sigmoid, bounds):
    network = TinyGAN(sigmoid=sigmoid)
    prior = GeneratorPrior(network, [6, 1, 1], bounds, probe=False)
    z = normal(2, 6, 1, 1).float()
    low, high = bounds
    torch.testing.assert_close(prior.decode(z), 2 * (network(z) - low) / (high - low) - 1)
    assert (prior.shape, prior.image_shape) == ((6, 1, 1), (3, 8, 8))
    assert prior.counter.nfe == 1


# --- rules


def test_checks():
    check_prior(affine()).require()
    check_prior(GeneratorPrior(TinyGAN(), [6, 1, 1])).require()


class Noisy(nn.Module):
    """Adds noise of its own, as StyleGAN does."""

    def forward(self, z):
        return z.view(-1, 3, 4, 4).tanh() + 0.1 * torch.randn(len(z), 3, 4, 4)


def test_checks_find_a_generator_with_randomness_of_its_own():
    report = check_prior(GeneratorPrior(Noisy(), [48], probe=False))
    failed = {check.name for check in report.checks if not check.ok}
    assert {"deterministic", "no hidden randomness"} <= failed


class Untracked(GeneratorPrior):
    """Calls its network behind the counter's back, and claims a mean that it has not."""

    def decode(self, h):
        return self.network(h)

    def forward(self, x_t, t):
        return x_t


def test_checks_find_uncounted_calls_and_invented_means():
    report = check_prior(Untracked(TinyGAN(), [6, 1, 1]))
    assert {c.name for c in report.checks if not c.ok} == {
        "calls are counted",
        "refuses to denoise",
    }


# --- what it cannot do


@pytest.mark.parametrize("method", [DPS(steps=4), Stopped(DPS(steps=4), Budget(2))])
def test_methods_that_need_the_mean_are_refused_before_any_call(method):
    p = problem(affine())
    words = r"DPS needs E\[x_0 \| x_t\], which GeneratorPrior does not have.*method=dmplug"
    with pytest.raises(TypeError, match=words):
        solve(p, method)
    assert p.prior.counter.nfe == 0


def test_methods_that_optimise_a_seed_are_served_inside_a_stopping_rule():
    solution = solve(problem(affine()), Stopped(DMPlug(iterations=3), Budget(2)))
    assert solution.x_hat.shape == (2, *IMAGE)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda p: p(torch.zeros(1, 5), torch.tensor(0.5)), "this call needs"),
        (lambda p: p.path, "a noise path needs"),
        (lambda p: p.encode(torch.zeros(1, *IMAGE)), "has no encoder; find the seed"),
        (as_flow, "a bridge to another noise path needs"),
        (lambda p: as_vp(p, FlowPath()), "a bridge to another noise path needs"),
    ],
)
def test_other_questions_are_refused(ask, words):
    with pytest.raises(TypeError, match=words):
        ask(affine())


# --- the probe


class Pixels(nn.Module):
    """z itself as the picture, after a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z.view(-1, 3, 8, 8))


@pytest.mark.parametrize(
    ("function", "bounds", "words"),
    [
        (torch.sigmoid, [-1, 1], r"from 0.\d+ to 0.\d+, which .*passes with value_range=\[0, 1\]"),
        (torch.tanh, [0, 1], r"declared range \[0, 1\]; it passes with value_range=\[-1, 1\]"),
        (lambda z: 255 * torch.sigmoid(z), [-1, 1], r"passes with value_range=\[0, 255\]"),
        (lambda z: 0.01 * z, [-1, 1], r"does not fit the declared range \[-1, 1\]$"),
        (lambda z: z.abs() * torch.nan, [-1, 1], "not finite"),
        (lambda z: 0 * z + torch.linspace(-1, 1, 8), [-1, 1], "the same image from every seed"),
    ],
)
def test_wrong_ranges_and_dead_networks_are_refused(function, bounds, words):
    with pytest.raises(ProbeError, match=words):
        GeneratorPrior(Pixels(function), [192], bounds)


@pytest.mark.parametrize(
    ("function", "bounds"),
    [(torch.sigmoid, [0, 1]), (torch.tanh, [-1, 1]), (lambda z: 255 * torch.sigmoid(z), [0, 255])],
)
def test_right_ranges_pass_and_the_look_is_not_counted(function, bounds):
    assert GeneratorPrior(Pixels(function), [192], bounds).counter.nfe == 0


# --- errors


class Both(nn.Module):
    def forward(self, z):
        return z, z


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: GeneratorPrior(TinyGAN(), [7, 1, 1]), ValueError, r"seeds of shape \(7, 1, 1\)"),
        (
            lambda: GeneratorPrior(nn.Linear(4, 4), [4]),
            ValueError,
            r"makes \(1, 4\) from one seed",
        ),
        (lambda: GeneratorPrior(Both(), [6, 1, 1]), TypeError, "Both returns a tuple; wrap it"),
        (lambda: GeneratorPrior(TinyGAN(), [6, 1, 1], [1, 0]), ValueError, "two rising numbers"),
    ],
)
def test_wrong_arguments_are_explained(make, error, words):
    with pytest.raises(error, match=words):
        make()


# --- TorchScript


@pytest.fixture
def scripted(tmp_path):
    """A TorchScript file of a small GAN, and the GAN."""
    network = TinyGAN().eval()
    with pytest.warns(FutureWarning, match="deprecated"):
        program: Any = torch.jit.trace(network, torch.zeros(1, 6, 1, 1))
        program.save(tmp_path / "gan.pt")
    return tmp_path / "gan.pt", network


def test_a_torchscript_file_is_run_where_it_is_asked_for(scripted):
    file, network = scripted
    prior = GeneratorPrior.from_torchscript(str(file), [6, 1, 1])
    z = normal(2, 6, 1, 1).float().requires_grad_()
    torch.testing.assert_close(prior.decode(z), network(z))
    (grad,) = torch.autograd.grad(prior.decode(z).square().sum(), z)
    assert float(grad.abs().sum()) > 0
    assert not any(w.requires_grad for w in prior.parameters())


def test_a_torchscript_file_is_run_nowhere_else(scripted):
    with pytest.raises(WeightsError, match=r"is a TorchScript program.*from_torchscript"):
        load_weights(TinyGAN(), scripted[0])


def test_files_that_are_no_torchscript(tmp_path):
    torch.save(TinyGAN().state_dict(), tmp_path / "gan.pt")
    with pytest.raises(WeightsError, match="is not a TorchScript file"):
        GeneratorPrior.from_torchscript(str(tmp_path / "gan.pt"), [6, 1, 1])
    with pytest.raises(WeightsError, match="there is no TorchScript file /"):
        GeneratorPrior.from_torchscript(str(tmp_path / "none.pt"), [6, 1, 1])


# --- configs


@pytest.mark.parametrize(
    ("name", "target"),
    [("generator", GeneratorPrior), ("torchscript", GeneratorPrior.from_torchscript)],
)
def test_configs_list_every_argument(name, target):
    conf = prior_config(name)
    assert set(conf) - {"_target_"} == set(inspect.signature(target).parameters)


def test_the_config_builds_a_user_s_generator_with_its_weights(tmp_path):
    torch.save({"g_ema": TinyGAN(6, True).state_dict()}, tmp_path / "gan.pt")
    network = {"_target_": "nets.TinyGAN", "sigmoid": True}
    source = {"network": network, "source": str(tmp_path / "gan.pt"), "key": "g_ema"}
    given = {"network": source, "shape": [6, 1, 1], "value_range": [0, 1]}
    prior = build(OmegaConf.merge(prior_config("generator"), given), ["nets"])
    z = normal(2, 6, 1, 1).float()
    torch.testing.assert_close(prior.decode(z), 2 * TinyGAN(6, True).eval()(z) - 1)


def test_the_config_runs_a_torchscript_file(scripted):
    given = {"source": str(scripted[0]), "shape": [6, 1, 1]}
    prior = build(OmegaConf.merge(prior_config("torchscript"), given))
    assert prior.image_shape == (3, 8, 8)


# --- stages


class Staged(nn.Module):
    """A generator that names its stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([TinyGAN().layers[:3], TinyGAN().layers[3:]])

    def forward(self, z: Tensor) -> Tensor:
        return self.stages[1](self.stages[0](z))


@pytest.mark.parametrize("network", [TinyGAN().layers, Staged()])
def test_stages_compose_to_the_whole_and_cost_one_call(network):
    prior = GeneratorPrior(network, [6, 1, 1], [-0.5, 0.5], probe=False)
    h = z = normal(2, 6, 1, 1, seed=8).float().requires_grad_()
    stages = prior.stages()
    assert len(stages) == len(getattr(network, "stages", network))
    for stage in stages:
        h = stage(h)
    h.sum().backward()
    assert (prior.counter.nfe, prior.counter.vjps) == (1, 1)
    torch.testing.assert_close(h, prior.decode(z))


def test_a_network_that_cannot_be_split_is_refused():
    with pytest.raises(TypeError, match=r"TinyGAN cannot be split into layers: it is no nn\.Seq"):
        GeneratorPrior(TinyGAN(), [6, 1, 1], probe=False).stages()
