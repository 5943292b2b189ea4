"""The low-rank Gaussian: dense algebra, the exact posterior, the whole pipeline, its file."""

import copy
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import save
from scipy.fft import dctn
from toys import ExactPrior, Fourier

from plugip.building import BuildError, build, resolved
from plugip.cli.compose import compose_config
from plugip.engine.lbfgs import LBFGS
from plugip.loop import solve
from plugip.methods import DMPlug
from plugip.noise import GaussianNoise, UnknownNoise
from plugip.operators import (
    AveragePool,
    BicubicDownsample,
    Denoise,
    FourierMagnitude,
    Inpaint,
    RandomMask,
)
from plugip.path import UNIT, DiscretePath, FlowPath, VPPath
from plugip.priors import (
    GaussianPosterior,
    GaussianPrior,
    LowRankGaussian,
    MixturePrior,
    WeightsError,
)
from plugip.priors.low_rank_bands import Bands
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng

SHAPE = (3, 4, 4)
SIZE = 48
PATHS = [FlowPath(), VPPath(), DiscretePath.linear()]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def streams(count):
    return Rng(0, "test", [str(i) for i in range(count)])


def make(path=None, rank=5, std=0.2, shape=SHAPE, bands=0):
    """A prior of random directions; with bands the floor falls from ``std`` on, by channel."""
    rows, variances = normal(rank, *shape, seed=1) / 3, torch.linspace(2.0, 0.3, rank).double()
    floor = torch.tensor(std).double()
    if bands:
        steps = torch.arange(shape[0])[:, None] + 2 * torch.arange(bands)
        floor = floor * 0.8 ** steps.double()
    return LowRankGaussian(0.3 * normal(*shape, seed=2), rows, variances, floor, path)


def covariance(prior):
    """C from scipy's cosine transform and the rule of the rings, (d, d)."""
    size, (channels, height, width) = prior.mean.numel(), prior.shape
    rows, floor = prior.components.flatten(1), torch.eye(size).double() * prior.std.mean() ** 2
    if prior.std.ndim:
        images = np.eye(size).reshape(size, *prior.shape)
        coefficients = np.asarray(dctn(images, axes=(1, 2, 3), norm="ortho"))
        f, variances = (
            torch.from_numpy(coefficients).flatten(1).T,
            torch.zeros(prior.shape).double(),
        )
        for c, i, j in np.ndindex(channels, height, width):
            count, radius2 = prior.std.shape[1], Fraction(i, height) ** 2 + Fraction(j, width) ** 2
            ring = max(k for k in range(count) if radius2 >= 2 * Fraction(k, count) ** 2)
            variances[c, i, j] = prior.std[c, ring] ** 2
        floor = f.T @ torch.diag(variances.flatten()) @ f
    return rows.T @ torch.diag(prior.variances) @ rows + floor


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("rank", "bands"), [(0, 0), (5, 0), (60, 0), (0, 4), (5, 1), (5, 4)])
def test_agrees_with_the_dense_gaussian(path, rank: int, bands: int):
    prior = make(path, rank, bands=bands)
    dense = GaussianPrior(prior.mean, path=path, covariance=covariance(prior))
    x_t, t = normal(3, *SHAPE, seed=3), torch.tensor([0.02, 0.5, 1.0]).double()
    close(prior(x_t, t), dense(x_t, t))
    close(prior.log_density(x_t, t), dense.log_density(x_t, t), 1e-8)
    close(prior(x_t, t[1]), dense(x_t, t[1]))
    close(prior.covariance_times(x_t).flatten(1), x_t.flatten(1) @ covariance(prior))


def test_bands_are_rings_of_an_orthonormal_transform():
    bands = Bands((3, 6, 8), 5)
    x = normal(2, 144)
    close(bands.synthesise(bands.analyse(x)), x)
    assert int(bands.sums(torch.ones(144)).sum()) == 144
    close(bands.power(x).sum(), x.square().sum())
    grey = torch.ones(1, 3, 6, 8).double()
    assert (bands.power(grey.flatten(1)) > 1e-20).nonzero().tolist() == [[0]]
    # Red against blue, alternating from column to column: the second channel, a high ring.
    stripes = torch.tensor([1.0, 0.0, -1.0]).double()[:, None, None] * (-1.0) ** torch.arange(8)
    power = bands.power((stripes.expand(3, 6, 8)).reshape(1, -1)).view(3, 5)
    assert float(power[1].sum()) == pytest.approx(float(power.sum()))
    assert int(power[1].argmax()) == 3
    close(bands.grams(x).sum(0), x @ x.T)


def test_work_grows_with_size_times_rank():
    """3 x 256 x 256 at rank 20: a dense covariance would take 155 GB."""
    shape, rank = (3, 256, 256), 20
    rows = torch.linalg.qr(normal(math.prod(shape), rank).float())[0].T.contiguous()
    prior = LowRankGaussian(torch.zeros(shape), rows.view(rank, *shape), torch.ones(rank), 0.1)
    x0 = prior(torch.ones(2, *shape), torch.tensor(0.5))
    # The direction of ones is outside of the span but for what random rows have of it.
    flat = torch.ones(1, rows.shape[1])
    inside = (flat @ rows.T) @ rows
    gains = [0.5 * v / (0.25 * v + 0.25) for v in (1.01, 0.01)]
    close(x0[0].view(1, -1), gains[0] * inside + gains[1] * (flat - inside), 1e-4)


@pytest.mark.parametrize("t", [1e-5, 1e-2, 0.5, 1.0])
@pytest.mark.parametrize(("std", "bands"), [(0.2, 0), (0.2, 4), (0.002, 0)])
def test_float32_agrees_with_float64(t: float, std: float, bands: int):
    prior, time = make(std=std, bands=bands), torch.tensor(t).double()
    x_t = (1 - t) * prior.sample(streams(4)) + t * normal(4, *SHAPE, seed=8)
    fine = prior(x_t, time), prior.log_density(x_t, time)
    low = prior.float()
    close(low(x_t.float(), time).double(), fine[0], 1e-5)
    close(low.log_density(x_t.float(), time), fine[1], 1e-4)


# --- the exact posterior

OPERATORS = {
    "identity": Denoise,
    "decimated": lambda: AveragePool(2),
    "bicubic": lambda: BicubicDownsample(2),
    "one mask per image": lambda: Inpaint(RandomMask(0.6)),
}


def measured(prior, operator, batch=3, std=0.1):
    a = operator.double().realise(streams(batch), (batch, *prior.shape))
    x = prior.sample(streams(batch))
    return Problem(a(x) + std * normal(*a(x).shape, seed=4), a, GaussianNoise(std), prior)


def matrix(operator, shape):
    size = math.prod(shape)
    return operator(torch.eye(size).double().view(size, *shape)).flatten(1).T


def dense_posterior(problem, i):
    """Mean and covariance of image i by the textbook's gain."""
    prior, c = problem.prior, covariance(problem.prior)
    a = matrix(problem.operator.select([i]), prior.shape)
    inner = a @ c @ a.T + problem.noise.std**2 * torch.eye(len(a)).double()
    gain = c @ a.T @ torch.linalg.inv(inner)
    rest = problem.y[i].flatten() - a @ prior.mean.flatten()
    return prior.mean + (gain @ rest).view(prior.shape), c - gain @ a @ c


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize(("rank", "bands"), [(0, 0), (5, 0), (5, 4)])
def test_posterior_mean_is_the_textbooks(kind: str, rank: int, bands: int):
    problem = measured(make(rank=rank, bands=bands), OPERATORS[kind]())
    want = torch.stack([dense_posterior(problem, i)[0] for i in range(3)])
    close(GaussianPosterior(problem).mean(), want, 1e-6)


def test_complex_measurements_count_both_parts():
    prior, std = make(shape=(1, 4, 4)), 0.1
    y = torch.fft.fft2(prior.sample(streams(1)), norm="ortho")
    problem = Problem(y, Fourier(), GaussianNoise(std), prior)
    # A unitary map with noise std in both parts: the real part of A* y is the image plus noise.
    c, rest = covariance(prior), (Fourier().adjoint(y) - prior.mean).flatten()
    want = c @ torch.linalg.solve(c + std**2 * torch.eye(16).double(), rest)
    close(GaussianPosterior(problem).mean().flatten(), prior.mean.flatten() + want, 1e-6)


def test_float32_problems_are_solved_in_float64():
    exact = measured(make(bands=4), AveragePool(2), std=0.001)
    want = GaussianPosterior(exact).mean()
    prior, operator = copy.deepcopy(exact.prior).float(), copy.deepcopy(exact.operator).float()
    x = GaussianPosterior(Problem(exact.y.float(), operator, exact.noise, prior)).mean()
    assert x.dtype is torch.float32 and prior.mean.dtype is torch.float32
    close(x.double(), want, 1e-4)


def test_the_units_of_the_priors_range_are_heeded():
    unit = GaussianPrior(0.5, 0.2, value_range=UNIT, shape=SHAPE)
    signed = GaussianPrior(0.0, 0.4, shape=SHAPE)
    y = 0.5 * normal(2, 3, 2, 2).float()
    parts = y, AveragePool(2), GaussianNoise(0.1)
    got = [GaussianPosterior(Problem(*parts, prior)).mean() for prior in (unit, signed)]
    close(got[0], got[1], 1e-6)


def test_posterior_samples_have_the_textbooks_mean_and_covariance():
    count, prior = 3000, make(shape=(1, 2, 3), rank=2)
    one = measured(prior, Inpaint(RandomMask(0.5)), batch=1)
    y = one.y.expand(count, -1, -1, -1)
    x = GaussianPosterior(Problem(y, one.operator, one.noise, prior)).sample(streams(count))
    mean, c = dense_posterior(one, 0)
    scale = c.diagonal().sqrt()
    assert float(((x.mean(0) - mean).flatten() / scale).abs().max()) < 4.5 / math.sqrt(count)
    gap = (x.flatten(1).T.cov() - c) / torch.outer(scale, scale)
    assert float(gap.abs().max()) < 4.5 * math.sqrt(2 / count)


def test_directions_without_variance_change_nothing():
    prior, operator = make(), AveragePool(2)
    padded = LowRankGaussian(
        prior.mean,
        torch.cat([prior.components, normal(1, *SHAPE, seed=9)]),
        torch.cat([prior.variances, torch.zeros(1).double()]),
        prior.std,
    )
    problem = measured(prior, operator)
    other = Problem(problem.y, problem.operator, problem.noise, padded)
    close(GaussianPosterior(other).mean(), GaussianPosterior(problem).mean())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prior": ExactPrior(torch.zeros(SHAPE))}, "needs a LowRankGaussian or GaussianPrior"),
        ({"operator": FourierMagnitude()}, "needs a LinearOperator as the operator"),
        ({"noise": UnknownNoise()}, "needs a GaussianNoise as the noise, got UnknownNoise"),
    ],
)
def test_other_problems_have_no_exact_posterior(changes, words):
    parts = {"operator": Denoise(), "noise": GaussianNoise(0.1), "prior": make().float()} | changes
    y = torch.zeros(parts["operator"].measurement_shape((2, *SHAPE)))
    with pytest.raises(TypeError, match=words):
        GaussianPosterior(Problem(y, **parts))


# --- the whole pipeline


def moments(prior, generator):
    """Mean and covariance of R(z) for Gaussian z; R is affine here."""
    mean: torch.Tensor = generator(prior, torch.zeros(1, *prior.shape).double())
    seeds = torch.eye(SIZE).double().view(SIZE, *prior.shape)
    slope = generator(prior, seeds) - mean
    return mean[0], slope.flatten(1).T @ slope.flatten(1)


def test_the_reverse_process_maps_noise_to_the_prior():
    prior, gaps = make(bands=4), []
    c = covariance(prior)
    for steps in (50, 100):
        mean, spread = moments(prior, Generator(steps, solver="heun"))
        close(mean, prior.mean)
        gap = torch.linalg.matrix_norm(spread - c, 2) / torch.linalg.matrix_norm(c, 2)
        gaps.append(float(gap))
    assert gaps[0] < 2e-3
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)  # Heun's rule is of second order


def test_dmplug_finds_the_posteriors_mean():
    prior = make(bands=4)
    problem, generator = measured(prior, AveragePool(2), batch=1), Generator(20, solver="midpoint")
    solution = solve(problem, DMPlug(40, generator, LBFGS(tolerance=1e-7)))
    exact = GaussianPosterior(problem).mean()
    assert float((prior.mean - exact).abs().max()) > 0.4
    assert solution.z is not None
    close(generator(prior, solution.z), exact, 1e-3)


# --- the file


def fitted(tmp_path):
    prior = make(bands=4).float()
    prior.card = {"count": 7, "source": "faces"}
    file = tmp_path / "a.safetensors"
    file.write_bytes(prior.to_bytes())
    return prior, file


def test_a_file_gives_back_the_prior_and_its_card(tmp_path):
    _, file = fitted(tmp_path)
    again = LowRankGaussian.load(file, VPPath())
    x_t, t = normal(2, *SHAPE).float(), torch.tensor(0.5)
    assert torch.equal(again(x_t, t), make(VPPath(), bands=4).float()(x_t, t))
    assert again.card == {"count": 7, "source": "faces"}
    assert again.to_bytes() == file.read_bytes()
    assert again.rank == 5


def test_the_card_can_be_read_without_plugip(tmp_path):
    _, file = fitted(tmp_path)
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["card"])["count"] == 7


def test_the_config_builds_it(tmp_path):
    _, file = fitted(tmp_path)
    words = ["prior=fitted_gaussian", f"prior.source={file}"]
    prior = build(resolved(compose_config(words, None).prior))
    assert isinstance(prior, LowRankGaussian) and prior.shape == SHAPE
    with pytest.raises(BuildError, match=r"prior\.source has no default"):
        build({"prior": compose_config(words[:1], None)}["prior"])


def test_the_config_of_a_mixture_builds_it(tmp_path):
    _, file = fitted(tmp_path)
    part = f"{{_target_: plugip.priors.LowRankGaussian.load, source: {file}}}"
    words = ["prior=mixture", f"prior.priors=[{part}, {part}]", "prior.weights=[3, 1]"]
    prior = build(resolved(compose_config(words, None).prior))
    assert isinstance(prior, MixturePrior) and len(prior.components) == 2
    x_t, t = normal(2, *SHAPE).float(), torch.tensor(0.5)
    close(prior(x_t, t), prior.components[0](x_t, t), 1e-6)


def test_other_files_are_refused(tmp_path):
    _, file = fitted(tmp_path)
    other = tmp_path / "other.safetensors"
    other.write_bytes(save({"weight": torch.zeros(2)}, {"card": "no JSON"}))
    with pytest.raises(WeightsError, match="holds weight, not the parts"):
        LowRankGaussian.load(other)
    other.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="no whole safetensors file"):
        LowRankGaussian.load(other)
    with pytest.raises(WeightsError, match="is a folder"):
        LowRankGaussian.load(tmp_path)
    with pytest.raises(WeightsError, match="does not exist"):
        LowRankGaussian.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": torch.zeros(4, 4)}, "must agree"),
        ({"components": torch.zeros(2, 3, 4, 5)}, r"must agree.*\(2, 3, 4, 5\)"),
        ({"variances": torch.ones(3)}, "must agree"),
        ({"variances": torch.tensor([1.0, -0.5])}, "not be negative, got -0.5"),
        ({"variances": torch.tensor([1.0, float("nan")])}, "finite"),
        ({"std": 0.0}, "must be positive, got 0"),
        ({"std": torch.ones(2)}, r"\(C, J\).*got shape \(2,\)"),
        ({"std": torch.ones(2, 4)}, r"of the 3 channels, got shape \(2, 4\)"),
    ],
)
def test_wrong_parts_are_explained(changes, words):
    rows = torch.eye(2, SIZE).view(2, *SHAPE)
    parts = {
        "mean": torch.zeros(SHAPE),
        "components": rows,
        "variances": torch.ones(2),
        "std": 0.1,
    }
    LowRankGaussian(**parts)
    with pytest.raises(ValueError, match=words):
        LowRankGaussian(**(parts | changes))


@pytest.mark.gpu
def test_a_gpu_gives_the_answers_of_the_cpu():
    prior, x_t, t = make(bands=4).float(), normal(3, *SHAPE).float(), torch.tensor(0.4).double()
    want = prior(x_t, t), prior.log_density(x_t, t)
    problem = measured(make(bands=4), Inpaint(RandomMask(0.5)))
    mean = GaussianPosterior(problem).mean()
    there = copy.deepcopy(prior).cuda()
    close(there(x_t.cuda(), t).cpu(), want[0], 1e-4)
    close(there(x_t.cuda(), t.expand(3).cuda()).cpu(), want[0], 1e-4)
    close(there.log_density(x_t.cuda(), t).cpu(), want[1], 1e-3)
    moved = make(bands=4).cuda()
    operator = copy.deepcopy(problem.operator).cuda()
    on_gpu = Problem(problem.y.cuda(), operator, problem.noise, moved)
    close(GaussianPosterior(on_gpu).mean().cpu(), mean, 1e-5)
    close(moved.sample(streams(2)).cpu(), make(bands=4).sample(streams(2)), 1e-9)
