"""The exact priors against dense algebra and Monte Carlo."""

import pytest
import torch

from plugip.path import DiscretePath, FlowPath, VPPath
from plugip.priors import GaussianMixturePrior, GaussianPrior
from plugip.priors.probe import probe
from plugip.testing import check_prior

SHAPE = (2, 2, 3)
SIZE = 12
PATHS = [FlowPath(), VPPath(), DiscretePath.linear()]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def covariance():
    root = normal(SIZE, SIZE, seed=1)
    return root @ root.T / SIZE


def dense(mean, c, path, x_t, t):
    """m + alpha C (alpha^2 C + sigma^2 I)^-1 (x_t - alpha m), image by image."""
    rows = []
    for x, time in zip(x_t, t.expand(len(x_t)), strict=True):
        a, s = path.alpha(time), path.sigma(time)
        gain = a * c @ torch.linalg.inv(a**2 * c + s**2 * torch.eye(SIZE, dtype=c.dtype))
        rows.append(mean + (gain @ (x - a * mean).flatten()).view(SHAPE))
    return torch.stack(rows)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [torch.tensor(0.3), torch.tensor([0.2, 0.5, 1.0])])
@pytest.mark.parametrize("kind", ["one std", "pixel stds", "covariance"])
def test_gaussian_agrees_with_dense_algebra(path, t, kind):
    mean, stds = normal(*SHAPE), normal(*SHAPE, seed=2).abs()
    c = {
        "one std": 0.09 * torch.eye(SIZE, dtype=torch.float64),
        "pixel stds": torch.diag(stds.flatten() ** 2),
        "covariance": covariance(),
    }[kind]
    if kind == "covariance":
        prior = GaussianPrior(mean, path=path, covariance=c)
    else:
        prior = GaussianPrior(mean, 0.3 if kind == "one std" else stds, path)
    x_t = normal(3, *SHAPE, seed=3)
    close(prior(x_t, t.double()), dense(mean, c, path, x_t, t.double()))


def test_gaussian_follows_the_dtype_of_its_input():
    prior = GaussianPrior(normal(*SHAPE), path=VPPath(), covariance=covariance())
    x_t, t = normal(3, *SHAPE), torch.tensor(0.5, dtype=torch.float64)
    for low in (prior(x_t.float(), t), prior.float()(x_t.float(), t.expand(3))):
        assert low.dtype is torch.float32
        close(low.double(), prior.double()(x_t, t), 1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("noisy", [[0.3, -0.2], [1.0, 0.4]])
def test_mixture_agrees_with_monte_carlo(path, noisy):
    means = torch.tensor([[0.5, -0.5], [-0.4, 0.1], [0.0, 0.8]]).double().view(3, 1, 1, 2)
    stds, weights = torch.tensor([0.1, 0.3, 0.2]), torch.tensor([1.0, 2.0, 5.0])
    prior = GaussianMixturePrior(means, stds, weights, path)
    n, generator = 400_000, torch.Generator().manual_seed(0)
    which = torch.multinomial(weights, n, replacement=True, generator=generator)
    x0 = means[which, 0, 0] + stds.double()[which, None] * normal(n, 2, seed=4)
    x_t, t = torch.tensor(noisy).double(), path.time_of(torch.tensor(0.4, dtype=torch.float64))
    shares = (-((x_t - path.alpha(t) * x0) ** 2).sum(1) / (2 * path.sigma(t) ** 2)).softmax(0)
    want = (shares[:, None] * x0).sum(0)
    error = ((x0 - want) ** 2 * shares[:, None] ** 2).sum(0).sqrt().max()
    got = prior(x_t.view(1, 1, 1, 2), t).flatten()
    assert float((got - want).abs().max()) < 5 * float(error) < 0.02


def test_mixture_of_one_is_the_gaussian():
    mean, x_t, t = normal(*SHAPE), normal(3, *SHAPE, seed=1), torch.tensor([0.1, 0.5, 1.0])
    mixture = GaussianMixturePrior(mean[None], [0.3])
    close(mixture(x_t, t), GaussianPrior(mean, 0.3)(x_t, t), 1e-6)


def test_mixture_is_finite_far_out_and_at_pure_noise():
    means = torch.stack([torch.full(SHAPE, v) for v in (-0.5, 0.5)])
    prior = GaussianMixturePrior(means, [0.0, 0.1], [1.0, 3.0])
    x_t = (100 * normal(3, *SHAPE).float()).requires_grad_()
    x0 = prior(x_t, torch.tensor(0.01))
    (grad,) = torch.autograd.grad(x0.sum(), x_t)
    assert bool(x0.isfinite().all() and grad.isfinite().all())
    # At t = 1 of the flow nothing is known: the prior's mean, 3/4 of 0.5 - 1/4 of 0.5.
    close(prior(x_t.detach(), torch.tensor(1.0)), torch.full((3, *SHAPE), 0.25), 1e-6)


def test_mixture_gradient_is_exact():
    prior = GaussianMixturePrior(normal(3, *SHAPE), [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]).double()
    x_t, t = normal(2, *SHAPE, seed=1).requires_grad_(), torch.tensor([0.3, 0.9]).double()
    assert torch.autograd.gradcheck(lambda x: prior(x, t), x_t)


@pytest.mark.parametrize(
    "prior",
    [
        GaussianPrior(torch.zeros(3, 8, 8), 0.3),
        GaussianPrior(0.1, 0.4, VPPath(), shape=[1, 6, 6]),
        GaussianMixturePrior(torch.zeros(2, 3, 8, 8), [0.3, 0.2], path=DiscretePath.linear()),
    ],
)
def test_exact_priors_pass_the_checks(prior):
    check_prior(prior).require()
    probe(prior)


def test_gaussian_probability_is_normalised_by_the_mixture_weights():
    means = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    prior = GaussianMixturePrior(means, [0.0, 0.0], [3.0, 1.0])
    # Two points with weights 3 : 1, seen from the middle: (-3 + 1) / 4.
    x0 = prior(torch.zeros(1, 1, 1, 1), torch.tensor(0.5))
    assert float(x0) == pytest.approx(-0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianPrior(torch.zeros(SHAPE)), "std or covariance"),
        (lambda: GaussianPrior(torch.zeros(SHAPE), 0.1, covariance=torch.eye(SIZE)), "one of"),
        (lambda: GaussianPrior(0.0, 0.1), "shape="),
        (lambda: GaussianPrior(torch.zeros(SHAPE), -0.1), "negative"),
        (lambda: GaussianPrior(torch.zeros(SHAPE), torch.ones(4, 1, 1, 1)), "does not fit"),
        (lambda: GaussianPrior(torch.zeros(SHAPE), covariance=torch.eye(3)), r"\(12, 12\)"),
        (lambda: GaussianPrior(torch.zeros(SHAPE), covariance=-torch.eye(SIZE)), "eigenvalue"),
        (lambda: GaussianMixturePrior(torch.zeros(SHAPE), [0.1]), "must agree"),
        (lambda: GaussianMixturePrior(torch.zeros(2, *SHAPE), [0.1]), "must agree"),
        (lambda: GaussianMixturePrior(torch.zeros(1, *SHAPE), [0.1], [0.0]), "positive"),
    ],
)
def test_wrong_arguments_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()
