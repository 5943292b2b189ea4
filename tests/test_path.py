"""Paths, their bridge, and the conversions between predictions."""

import pytest
import torch
from torch.testing import assert_close

from plugip.path import (
    SIGNED,
    UNIT,
    DiscretePath,
    EDMPath,
    FlowPath,
    Prediction,
    ShiftedFlowPath,
    ValueRange,
    VEPath,
    VPPath,
    from_x0,
    to_x0,
)

PATHS = [FlowPath(), VPPath(), VPPath(0.2, 12.0), DiscretePath.linear(), DiscretePath.linear(50)]
PATHS += [DiscretePath.cosine(), EDMPath(), EDMPath(20.0, 5.0), VEPath(), VEPath(50.0, 1.0)]
PATHS += [ShiftedFlowPath(3.0), ShiftedFlowPath(0.5)]
PRESERVING = [path for path in PATHS if type(path) not in (FlowPath, ShiftedFlowPath, VEPath)]
TIMES = torch.linspace(0.001, 1, 777, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS)
def test_time_of_inverts_flow_time(path):
    # A discrete path snaps to its table within 1e-3 of an index.
    tolerance = 1e-3 / path.train_steps if path.train_steps else 1e-9
    assert_close(path.time_of(path.flow_time(TIMES)), TIMES, rtol=0, atol=tolerance)


@pytest.mark.parametrize("path", PATHS)
def test_noise_grows_from_nothing(path):
    ends = path.flow_time(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert float(ends[0]) == 0
    assert float(ends[1]) > 0.4
    assert bool((path.flow_time(TIMES).diff() > 0).all())


@pytest.mark.parametrize("path", PRESERVING)
def test_variance_is_preserved(path):
    total = path.alpha(TIMES) ** 2 + path.sigma(TIMES) ** 2
    assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("path", PATHS)
def test_levels_beyond_the_path_give_its_noisiest_time(path):
    assert float(path.time_of(torch.tensor(1.0, dtype=torch.float64))) == 1
    assert float(path.time_of(torch.tensor(0.0, dtype=torch.float64))) == pytest.approx(0)


def test_vp_is_the_integral_of_beta():
    # alpha(t) = exp(-1/2 int_0^t beta), beta linear from 0.1 to 20: a fine midpoint sum.
    path, n = VPPath(), 100_000
    middles = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 0.7
    integral = (0.1 + 19.9 * middles).mean() * 0.7
    at = torch.tensor(0.7, dtype=torch.float64)
    assert_close(path.alpha(at), (-0.5 * integral).exp(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("path", [VEPath(), EDMPath()])
def test_equal_steps_are_edm_s_levels(path):
    # Karras et al. 2022, eq. 5 with sigma_min = 0: sigma_i = (sigma_max^(1/7) (1 - i / K))^7.
    i = torch.arange(5, dtype=torch.float64)
    t = 1 - i / 4
    want = (80 ** (1 / 7) * (1 - i / 4)) ** 7
    assert_close(path.sigma(t) / path.alpha(t), want)
    assert_close(path.level(t), want)


def test_an_exploding_path_keeps_the_image_and_its_twin_the_variance():
    t = torch.tensor(0.8, dtype=torch.float64)
    level = 80 * t**7
    assert float(VEPath().alpha(t)) == 1
    assert_close(VEPath().sigma(t), level)
    assert_close(EDMPath().alpha(t), 1 / (1 + level**2).sqrt())
    assert_close(EDMPath().flow_time(t), VEPath().flow_time(t))
    assert EDMPath() != VEPath()


@pytest.mark.parametrize("settings", [{"sigma_max": 0.0}, {"rho": 0.5}, {"rho": float("nan")}])
def test_exploding_paths_refuse_what_is_no_schedule(settings):
    with pytest.raises(ValueError, match="need sigma_max > 0 and rho >= 1"):
        VEPath(**settings)


def test_discrete_path_reads_its_table_at_exact_indices():
    path = DiscretePath.linear()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    table = (1 - betas).cumprod(0)
    indices = torch.arange(1000, dtype=torch.float64)
    t = (indices + 1) / 1000
    assert torch.equal(path.index(t), indices)
    assert torch.equal(path.index(t.float()), indices)
    assert torch.equal(path.alpha_bar(t), table)
    assert float(path.alpha_bar(torch.tensor(0.0))) == 1
    assert_close(path.alpha_bar(t[:1] + 0.0005), table[:2].mean()[None])
    assert path.train_steps == 1000


@pytest.mark.parametrize(
    "table",
    [[0.5], [0.5, 0.6], [0.5, 0.5], [1.0, 0.5], [0.5, 0.0], [[0.9, 0.5]], [0.9, float("nan")]],
)
def test_discrete_path_refuses_what_is_no_table(table):
    with pytest.raises(ValueError, match="decreasing 1-D table"):
        DiscretePath(torch.tensor(table))


@pytest.mark.parametrize("path", PATHS)
def test_coefficients_fit_one_time_and_one_time_per_image(path):
    like, t = torch.zeros(2, 3, 4, 4), torch.tensor([0.3, 0.8])
    alpha, sigma = path.coefficients(t, like)
    assert alpha.shape == sigma.shape == (2, 1, 1, 1)
    assert alpha.dtype is torch.float32
    for i in range(2):
        a, s = path.coefficients(t[i], like)
        assert a.ndim == s.ndim == 0
        assert_close(alpha[i].flatten()[0].double(), a.double(), rtol=1e-6, atol=1e-7)
        assert_close(sigma[i].flatten()[0].double(), s.double(), rtol=1e-6, atol=1e-7)


# --- predictions


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", list(Prediction))
@pytest.mark.parametrize("t", [torch.tensor(0.3), torch.tensor([0.2, 0.9])])
def test_predictions_convert_there_and_back(path, kind, t):
    x0, x_t = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    alpha, sigma = path.coefficients(t.double(), x_t)
    output = from_x0(kind, x0, x_t, alpha, sigma)
    assert_close(to_x0(kind, output, x_t, alpha, sigma), x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_predictions_mean_what_they_say(path):
    x0, eps, t = normal(2, 3), normal(2, 3, seed=1), torch.tensor(0.4, dtype=torch.float64)
    a, s = path.coefficients(t, x0)
    x_t = a * x0 + s * eps
    meanings = {
        Prediction.X0: x0,
        Prediction.EPS: eps,
        Prediction.V: a * eps - s * x0,
        Prediction.VELOCITY: eps - x0,
        Prediction.SCORE: -(x_t - a * x0) / s**2,  # grad log N(x_t; a x0, s^2)
    }
    assert set(meanings) == set(Prediction)
    for kind, output in meanings.items():
        assert_close(to_x0(kind, output, x_t, a, s), x0, rtol=1e-9, atol=1e-9)
        assert_close(from_x0(kind, x0, x_t, a, s), output, rtol=1e-9, atol=1e-9)


def test_velocity_is_the_flow_s_derivative():
    x0, eps = normal(3), normal(3, seed=1)
    t = torch.tensor(0.4, dtype=torch.float64)
    path = FlowPath()
    dx = torch.func.jvp(
        lambda u: path.alpha(u) * x0 + path.sigma(u) * eps, (t,), (torch.ones_like(t),)
    )[1]
    x_t = path.alpha(t) * x0 + path.sigma(t) * eps
    assert_close(from_x0(Prediction.VELOCITY, x0, x_t, path.alpha(t), path.sigma(t)), dx)


@pytest.mark.parametrize("kind", [Prediction.X0, Prediction.V, Prediction.VELOCITY])
def test_pure_noise_has_an_answer(kind):
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    x0, eps = normal(3), normal(3, seed=1)
    output = from_x0(kind, x0, eps, zero, one)
    assert_close(to_x0(kind, output, eps, zero, one), x0)


# --- ranges


@pytest.mark.parametrize("bounds", [SIGNED, UNIT, ValueRange(0, 255), ValueRange(-3, 1)])
def test_ranges_map_onto_the_signed_one_and_back(bounds):
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    ends = torch.tensor([bounds.low, (bounds.low + bounds.high) / 2, bounds.high])
    assert_close(bounds.from_signed(x), ends.double())
    assert_close(bounds.to_signed(bounds.from_signed(x)), x)


def test_a_shifted_flow_has_the_flow_s_states_at_shifted_times():
    path, t = ShiftedFlowPath(3.0), torch.tensor([0, 1 / 3, 0.5, 2 / 3, 1], dtype=torch.float64)
    assert path.sigma(t).tolist() == pytest.approx([0, 0.6, 0.75, 6 / 7, 1])
    assert path.alpha(t).tolist() == pytest.approx([1, 0.4, 0.25, 1 / 7, 0])
    assert_close(ShiftedFlowPath(1.0).sigma(t), FlowPath().sigma(t))
    with pytest.raises(ValueError, match="shift must be positive, got -1"):
        ShiftedFlowPath(-1)
