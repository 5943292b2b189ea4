"""Objective and linearisation: values, gradients, Jacobian products."""

from contextlib import nullcontext

import pytest
import torch

from plugip.engine.linearize import JVPS, linearize, whitened_residual
from plugip.engine.misfit import LOSSES, Misfit, seed_misfit
from plugip.linalg import dot
from plugip.methods.random_projector import ProjectorMisfit
from plugip.noise import GaussianNoise, Hidden, LaplaceNoise, Noise, ShotNoise, UnknownNoise
from plugip.operator import Operator
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.testing.methods import toy_problem
from plugip.testing.report import random_images


def objective(loss: str = "likelihood", weight: float = 0.7) -> Misfit:
    return seed_misfit(toy_problem(), Generator(steps=2), weight, loss)


def seeds() -> torch.Tensor:
    return random_images((3, 3, 8, 8), "seeds")


def test_likelihood_loss_is_half_the_whitened_residual_plus_the_seed_prior():
    f, z = objective(), seeds()
    rho, _ = whitened_residual(f, z)
    expected = 0.5 * dot(rho, rho) + 0.35 * dot(z, z)
    torch.testing.assert_close(f(z), expected)


def test_mean_loss_is_the_mean_squared_error():
    f, z = objective("mean", 0.0), seeds()
    y_clean = f.problem.operator(f.image(z))
    torch.testing.assert_close(f(z), (y_clean - f.problem.y).square().flatten(1).mean(1))


def test_unknown_noise_gives_a_mean_loss_and_a_matching_residual():
    p = toy_problem()
    f = seed_misfit(Problem(p.y, p.operator, UnknownNoise(), p.prior), Generator(), 0.0)
    rho, _ = whitened_residual(f, seeds())
    torch.testing.assert_close(f(seeds()), 0.5 * dot(rho, rho))


class Ragged(Operator):
    """Sees the first columns of each image, each image another number of them."""

    def __init__(self) -> None:
        super().__init__()
        seen = torch.arange(8) < torch.tensor([1, 3, 6]).reshape(3, 1, 1, 1)
        self.register_buffer("mask", seen.expand(3, 1, 8, 8).double())

    @property
    def observed(self) -> torch.Tensor:
        return self.mask  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.observed


NOISES = [GaussianNoise(0.1), UnknownNoise(), Hidden(GaussianNoise(0.1))]


def masked(loss: str, noise: Noise, masks: bool = True) -> Misfit:
    p = toy_problem()
    operator = Ragged() if masks else p.operator
    y = p.y * operator.observed if isinstance(operator, Ragged) else p.y
    return seed_misfit(Problem(y, operator, noise, p.prior), Generator(2), 0.0, loss)


@pytest.mark.parametrize("masks", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("noise", NOISES, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_data_loss_is_half_the_square_of_rho(loss: str, noise: Noise, masks: bool):
    f, z = masked(loss, noise, masks), seeds()
    j = linearize(f, z)
    torch.testing.assert_close(f(z), 0.5 * dot(j.value, j.value))
    torch.testing.assert_close(j.vjp(j.value), f.evaluate(z).grad)


@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_other_noises_linearize_by_their_mean_or_sum(loss: str):
    f, z = masked(loss, LaplaceNoise(0.1)), seeds()
    j = linearize(f, z)
    torch.testing.assert_close(f(z), 0.5 * dot(j.value, j.value))
    with pytest.raises(TypeError, match="LaplaceNoise"):
        linearize(masked("likelihood", LaplaceNoise(0.1)), z)


def test_a_data_loss_that_is_no_sum_of_squares_is_not_linearized():
    f = masked("mean", UnknownNoise())
    with pytest.raises(TypeError, match="ProjectorMisfit"):
        linearize(ProjectorMisfit(f.problem, f.unknowns, "mean"), seeds())


@pytest.mark.parametrize("masks", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_one_unit_is_what_the_likelihood_with_the_residual_for_noise_would_be(
    loss: str, masks: bool
):
    # L = S / (2 r²) is m / 2 for the m entries observed, so the loss is m / 2 units.
    f = masked(loss, UnknownNoise(), masks)
    here, count = f.evaluate(seeds()), torch.as_tensor(f.problem.observed_count())
    assert here.unit is not None
    torch.testing.assert_close(here.loss / here.unit, count.double().expand(3) / 2)


def test_a_likelihood_of_known_level_has_no_other_unit():
    assert masked("likelihood", GaussianNoise(0.1)).evaluate(seeds()).unit is None


@pytest.mark.parametrize(
    ("loss", "noise", "averages"),
    [
        ("likelihood", GaussianNoise(0.1), False),
        ("likelihood", UnknownNoise(), True),
        ("mean", GaussianNoise(0.1), True),
        ("sum", UnknownNoise(), False),
    ],
)
def test_a_mean_is_told_from_a_sum(loss: str, noise: Noise, averages: bool):
    assert masked(loss, noise).averages is averages


def test_a_seed_prior_is_refused_where_the_misfit_has_no_scale():
    p = toy_problem()
    unknown = Problem(p.y, p.operator, UnknownNoise(), p.prior)
    with pytest.raises(ValueError, match="needs a known noise level"):
        seed_misfit(unknown, Generator())
    assert seed_misfit(unknown, Generator(), 1.0, "mean").unknowns.weighted == "seed_weight"


def test_gradient_equals_finite_differences():
    f, z = objective(), seeds()[:1, :, :2, :2].contiguous()
    f = seed_misfit(_tiny(), Generator(steps=2), 0.7)
    assert torch.autograd.gradcheck(lambda v: f(v), (z.requires_grad_(),))


def _tiny() -> Problem:
    from plugip.noise import GaussianNoise
    from plugip.operator import Operator
    from plugip.path import FlowPath
    from plugip.priors.gaussian import GaussianPrior

    class Bend(Operator):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.2 * x**3

    prior = GaussianPrior(torch.zeros(3, 2, 2), 0.5, FlowPath()).double()
    return Problem(torch.zeros(1, 3, 2, 2).double(), Bend(), GaussianNoise(0.1), prior)


def test_evaluate_agrees_with_the_call_and_is_detached():
    f, z = objective(), seeds()
    here = f.evaluate(z)
    torch.testing.assert_close(here.loss, f(z))
    assert not any(v.requires_grad for v in (here.loss, here.grad, here.x, here.residual))


@pytest.mark.parametrize("backend", sorted(JVPS))
def test_jvp_and_vjp_are_adjoint(backend: str):
    f, z = objective(), seeds()
    j = linearize(f, z, backend)
    v, w = random_images(tuple(z.shape), "v"), random_images((3, 3, 8, 8), "w")
    tolerance = 1e-3 if backend == "finite_difference" else 1e-10
    torch.testing.assert_close(dot(j.jvp(v), w), dot(v, j.vjp(w)), rtol=tolerance, atol=tolerance)


def test_products_can_be_repeated():
    j = linearize(objective(), seeds())
    v = random_images((3, 3, 8, 8), "v")
    torch.testing.assert_close(j.jvp(2 * v), 2 * j.jvp(v))


@pytest.mark.parametrize("backend", sorted(JVPS))
def test_products_are_counted(backend: str):
    f = objective()
    j, counter = linearize(f, seeds(), backend), f.problem.prior.counter
    j.jvp(seeds())
    vjps = counter.vjps
    j.vjp(torch.ones(3, 3, 8, 8).double())
    assert (counter.jvps, counter.vjps - vjps) == (2, 2)  # two reverse steps


def test_one_image_alone_has_its_mean_and_unit():
    p, x = toy_problem(), seeds()
    for loss in ("mean", "sum"):
        every = seed_misfit(p, Generator(steps=2), loss=loss).evaluate(x)
        first = Problem(p.y[:1], p.operator, p.noise, p.prior)
        alone = seed_misfit(first, Generator(steps=2), loss=loss).evaluate(x[:1])
        torch.testing.assert_close(alone.loss, every.loss[:1])
        assert alone.unit is not None and every.unit is not None
        torch.testing.assert_close(alone.unit, every.unit[:1])


def test_only_the_likelihood_asks_the_noise_for_one():
    p = toy_problem()
    for loss, refused in (("likelihood", True), ("mean", False), ("sum", False)):
        noise = ShotNoise(60, clip=True)
        f = seed_misfit(Problem(p.y, p.operator, noise, p.prior), Generator(), 0.0, loss)
        with pytest.raises(TypeError, match="has no likelihood") if refused else nullcontext():
            f.require_likelihood()


def test_the_seed_prior_has_weight_one_by_default():
    z, f = seeds(), seed_misfit(toy_problem(), Generator(steps=2))
    torch.testing.assert_close(f(z), objective(weight=0.0)(z) + 0.5 * dot(z, z))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="did you mean 'likelihood'"):
        objective("likelyhood")
    with pytest.raises(ValueError, match="seed_weight must not be negative"):
        objective(weight=-1.0)
    with pytest.raises(ValueError, match="linearize backend"):
        linearize(objective(), seeds(), "magic")
