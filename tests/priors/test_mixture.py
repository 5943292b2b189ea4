"""Mixtures against Monte Carlo, Tweedie's formula and dense algebra; and what is refused."""

import math

import pytest
import torch

from plugip.path import DiscretePath, FlowPath, ValueRange, VPPath
from plugip.prior import Prior
from plugip.priors import GaussianMixturePrior, GaussianPrior, LowRankGaussian, MixturePrior
from plugip.priors.density import DensityPrior
from plugip.priors.probe import probe
from plugip.rng import Rng
from plugip.testing import check_prior

SHAPE = (2, 2, 3)
SIZE = 12
PATHS = [FlowPath(), VPPath(), DiscretePath.linear()]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def streams(count, seed=0):
    return Rng(seed, "test", [str(i) for i in range(count)])


def covariance(seed=1):
    root = normal(SIZE, SIZE, seed=seed)
    return root @ root.T / SIZE


def low_rank(path=None, rank=3, seed=2):
    return LowRankGaussian(
        0.3 * normal(*SHAPE, seed=seed),
        normal(rank, *SHAPE, seed=seed + 1),
        torch.linspace(1.0, 0.2, rank).double(),
        torch.tensor(0.2).double(),
        path,
    )


def coloured(path=None):
    """A floor of three bands for each channel."""
    rows, stds = normal(3, *SHAPE, seed=4), 0.1 + normal(2, 3, seed=5).abs()
    return LowRankGaussian(normal(*SHAPE), rows, torch.tensor([0.2, 0.0, 2.0]), stds, path)


def diagonal(path=None, components=3):
    means, stds = normal(components, *SHAPE), 0.1 + normal(components, *SHAPE, seed=5).abs()
    return GaussianMixturePrior(means, stds, torch.arange(1.0, components + 1), path)


def mixed(path=None):
    """Every kind of component: low-rank, dense, and a mixture itself."""
    dense = GaussianPrior(-0.2 * normal(*SHAPE, seed=7), path=path, covariance=covariance())
    return MixturePrior([low_rank(path), dense, diagonal(path)], [0.5, 0.2, 0.3])


KINDS = {
    "gaussian": lambda path: GaussianPrior(normal(*SHAPE), 0.3, path),
    "pixels": lambda path: GaussianPrior(normal(*SHAPE), 0.1 + normal(*SHAPE).abs(), path),
    "dense": lambda path: GaussianPrior(normal(*SHAPE), path=path, covariance=covariance()),
    "low rank": low_rank,
    "coloured floor": coloured,
    "round": lambda path: GaussianMixturePrior(normal(3, *SHAPE), [0.1, 0.5, 0.3], path=path),
    "diagonal": diagonal,
    "mixed": mixed,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_posterior_mean_is_tweedies(kind: str, path):
    """E[x_0 | x_t] = (x_t + sigma² grad log p_t) / alpha, from the density's own gradient."""
    prior: DensityPrior = KINDS[kind](path).double()
    x_t, t = normal(4, *SHAPE, seed=3).requires_grad_(), torch.tensor([0.05, 0.3, 0.6, 0.9])
    t = t.double()
    (score,) = torch.autograd.grad(prior.log_density(x_t, t).sum(), x_t)
    alpha, sigma = path.coefficients(t, x_t)
    close(prior(x_t, t), (x_t + sigma**2 * score) / alpha, 1e-9)


@pytest.mark.parametrize("kind", ["dense", "low rank"])
@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_log_density_is_the_dense_one(kind: str, t: float):
    prior = KINDS[kind](FlowPath())
    c = covariance()
    if kind == "low rank":
        rows = normal(3, SIZE, seed=3)
        c = rows.T @ torch.diag(torch.linspace(1.0, 0.2, 3).double()) @ rows
        c = c + 0.2**2 * torch.eye(SIZE).double()
    spread = (1 - t) ** 2 * c + t**2 * torch.eye(SIZE).double()
    normal_t = torch.distributions.MultivariateNormal((1 - t) * prior.mean.flatten(), spread)
    x_t, time = normal(3, *SHAPE, seed=4), torch.tensor(t).double()
    # float32 of the floor's 0.2 and of the weights' linspace
    close(prior.log_density(x_t, time), normal_t.log_prob(x_t.flatten(1)), 1e-6)


def test_densities_integrate_to_one():
    means = torch.tensor([-0.6, 0.1, 0.7]).double().view(3, 1, 1, 1)
    prior = GaussianMixturePrior(means, [0.05, 0.3, 0.1], [1.0, 2.0, 4.0])
    line = torch.linspace(-9, 9, 20_001).double()
    for t in (0.0, 0.3, 1.0):
        p = prior.log_density(line.view(-1, 1, 1, 1), torch.tensor(t).double()).exp()
        assert float(torch.trapezoid(p, line)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_mean_and_power_of_the_density(kind: str):
    prior = KINDS[kind](FlowPath())
    # At t = 1 of the flow nothing is known, so E[x_0 | x_1] is the prior's mean.
    mean = prior(torch.zeros(1, *SHAPE).double(), torch.tensor(1.0).double())[0]
    count = 4000
    x = prior.sample(streams(count))
    error = x.std(0) / math.sqrt(count)
    assert float(((x.mean(0) - mean) / error).abs().max()) < 4.5
    # E[(x - c)^T score(x)] = -d for any centre c: the samples' density is the stated one.
    x = x.requires_grad_()
    (score,) = torch.autograd.grad(prior.log_density(x, torch.tensor(0.0).double()).sum(), x)
    products = (x.detach() * score).flatten(1).sum(1)
    assert float(products.mean() + SIZE) < 4.5 * float(products.std()) / math.sqrt(count)
    assert float(products.mean() + SIZE) > -4.5 * float(products.std()) / math.sqrt(count)


@pytest.mark.parametrize("path", PATHS)
def test_low_rank_mixture_agrees_with_monte_carlo(path):
    """Self-normalised importance sampling from the prior, five of its standard errors."""
    shape, count = (1, 1, 3), 200_000
    means, rows = 0.4 * normal(2, 3), normal(2, 1, 3, seed=3)
    rows = rows / rows.norm(dim=2, keepdim=True)
    parts = [
        LowRankGaussian(m.view(shape), u.view(1, *shape), torch.ones(1), 0.2, path)
        for m, u in zip(means, rows, strict=True)
    ]
    prior = MixturePrior(parts, [1.0, 2.0])
    which = torch.rand(count, generator=torch.Generator().manual_seed(1)) > 1 / 3
    coarse = normal(count, 1, seed=2) * rows[:, 0][which.long()]
    x0 = means[which.long()] + coarse + 0.2 * normal(count, 3, seed=5)
    x_t = torch.tensor([0.3, -0.4, 0.2]).double()
    t = path.time_of(torch.tensor(0.4, dtype=torch.float64))
    nats = -((x_t - path.alpha(t) * x0) ** 2).sum(1) / (2 * path.sigma(t) ** 2)
    shares = nats.softmax(0)
    want = (shares[:, None] * x0).sum(0)
    error = ((x0 - want) ** 2 * shares[:, None] ** 2).sum(0).sqrt()
    got = prior(x_t.view(1, *shape), t).flatten()
    assert float(((got - want) / error).abs().max()) < 5
    assert float(error.max()) < 0.01
    # The mean weight is the density itself, up to the constant of the noise.
    density = nats.exp().mean() / (2 * math.pi * path.sigma(t) ** 2) ** 1.5
    spread = nats.exp().std() / count**0.5 / (2 * math.pi * path.sigma(t) ** 2) ** 1.5
    assert abs(float(prior.log_density(x_t.view(1, *shape), t).exp() - density)) < 5 * spread


def test_mixture_of_round_priors_is_the_vectorised_one():
    means, stds, weights = normal(3, *SHAPE), [0.1, 0.5, 0.3], [0.2, 0.5, 0.3]
    parts = [GaussianPrior(m, s) for m, s in zip(means, stds, strict=True)]
    x_t, t = normal(4, *SHAPE, seed=1), torch.tensor([0.1, 0.4, 0.7, 1.0]).double()
    loop, vector = MixturePrior(parts, weights), GaussianMixturePrior(means, stds, weights)
    close(loop(x_t, t), vector(x_t, t), 1e-6)
    close(loop.log_density(x_t, t), vector.log_density(x_t, t), 1e-6)


@pytest.mark.parametrize("kind", ["round", "diagonal", "mixed", "low rank", "coloured floor"])
@pytest.mark.parametrize("t", [1e-4, 0.01, 0.5, 0.999, 1.0])
def test_float32_agrees_with_float64_at_both_ends(kind: str, t: float):
    prior = KINDS[kind](FlowPath())
    x_t, time = prior.sample(streams(5)), torch.tensor(t).double()
    x_t = (1 - t) * x_t + t * normal(5, *SHAPE, seed=9)
    fine, coarse = prior(x_t, time), prior.float()(x_t.float(), time)
    assert coarse.dtype is torch.float32
    close(coarse.double(), fine, 2e-4)


def test_points_stay_finite_next_to_the_data():
    """Components without variance at t = 1e-6: a far point's squares are about 1e13."""
    means = torch.stack([torch.full(SHAPE, v) for v in (-0.5, 0.1, 0.7)])
    prior = GaussianMixturePrior(means, [0.0, 0.0, 0.0], [1.0, 1.0, 1e-6])
    x_t = (means + 1e-7).requires_grad_()
    x0 = prior(x_t, torch.tensor(1e-6))
    (grad,) = torch.autograd.grad(x0.sum(), x_t)
    close(x0.detach(), means, 1e-6)
    assert bool(grad.isfinite().all()) and bool(
        prior.log_density(x_t, torch.tensor(1e-6)).isfinite().all()
    )


def test_many_pixels_do_not_drown_the_shares():
    """Two components whose log densities differ by one nat of 12288: the share is a sigmoid."""
    shape, gap = (3, 64, 64), 0.3
    size = math.prod(shape)
    means = torch.zeros(2, *shape)
    means[1] += gap / math.sqrt(size)
    prior = GaussianMixturePrior(means, [1.0, 1.0])
    x_t = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    want = prior.double()(x_t.double(), torch.tensor(0.5))
    got = prior.float()(x_t, torch.tensor(0.5))
    close(got.double(), want, 1e-6)


@pytest.mark.parametrize("make", [mixed, diagonal, low_rank])
@pytest.mark.parametrize("path", PATHS)
def test_exact_priors_pass_the_checks(make, path):
    prior = make(path)
    check_prior(prior, denoises=False).require()  # its mean is no picture
    assert prior.counter.nfe == 0


def test_a_call_of_a_mixture_is_one_call():
    prior = mixed()
    probe(prior)
    prior(torch.zeros(2, *SHAPE), torch.tensor(0.5))
    assert prior.counter.nfe == 1
    assert [part.counter.nfe for part in prior.components] == [0, 0, 0]


def test_samples_do_not_depend_on_the_batch():
    prior, rng = mixed(), streams(5)
    all_at_once = prior.sample(rng)
    for i in range(5):
        alone = prior.sample(Rng(0, "test", [str(i)]))
        close(alone[0], all_at_once[i], 1e-12)
    assert float(all_at_once.std(0).min()) > 0


class NoDensity(Prior):
    """A network, as far as a mixture can see."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.path, self.value_range = SHAPE, FlowPath(), ValueRange()

    def forward(self, x_t, t):
        return x_t


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: MixturePrior([low_rank(), NoDensity()]), TypeError, "NoDensity, has no log dens"),
        (lambda: MixturePrior([]), ValueError, "at least one"),
        (lambda: MixturePrior([low_rank()], [1.0, 2.0]), ValueError, "each of 1 priors"),
        (lambda: MixturePrior([low_rank()], [-1.0]), ValueError, "positive"),
        (lambda: MixturePrior([low_rank()], [float("nan")]), ValueError, "positive"),
        (
            lambda: MixturePrior([low_rank(), low_rank(VPPath())]),
            ValueError,
            "another noise path",
        ),
        (
            lambda: MixturePrior([low_rank(), GaussianPrior(0.0, 0.1, shape=[3, 8, 8])]),
            ValueError,
            r"\(3, 8, 8\)",
        ),
        (
            lambda: MixturePrior(
                [
                    GaussianPrior(0.0, 0.1, shape=[1, 2, 2]),
                    GaussianPrior(0.0, 0.1, shape=[1, 2, 2], value_range=ValueRange(0, 1)),
                ]
            ),
            ValueError,
            "low=-1",
        ),
        (
            lambda: GaussianMixturePrior(torch.zeros(2, *SHAPE), torch.zeros(2, 1, 1, 1)),
            ValueError,
            r"stds \(K,\) or",
        ),
        (
            lambda: GaussianMixturePrior(torch.zeros(2, *SHAPE), [0.1, -0.1]),
            ValueError,
            "not be negative, got -0.1",
        ),
    ],
)
def test_wrong_arguments_are_explained(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


def test_equal_tables_are_one_path():
    parts = [low_rank(DiscretePath.linear()), low_rank(DiscretePath.linear(), seed=9)]
    assert MixturePrior(parts).path is parts[0].path


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_answers_of_the_cpu(kind: str):
    prior, x_t = KINDS[kind](VPPath()).float(), normal(3, *SHAPE).float()
    for t in (torch.tensor(0.4).double(), torch.tensor([0.1, 0.4, 1.0])):
        want = prior.cpu()(x_t, t), prior.log_density(x_t, t)
        there = t if t.ndim == 0 else t.cuda()
        close(prior.cuda()(x_t.cuda(), there).cpu(), want[0], 1e-4)
        close(prior.log_density(x_t.cuda(), there).cpu(), want[1], 1e-3)
    close(prior.sample(streams(4)).cpu(), prior.cpu().sample(streams(4)), 1e-5)
