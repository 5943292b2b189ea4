"""EDM networks: exact on every path, raw and preconditioned, probed, built from a config."""

import inspect
import math
import pickle

import pytest
import torch
from configs import prior_config
from nets import GaussianEDM, TinyNet, normal
from omegaconf import OmegaConf
from torch import nn

from plugip.building import build
from plugip.path import SIGNED, UNIT, DiscretePath, EDMPath, FlowPath, VEPath, VPPath
from plugip.priors import EDMPrior, GaussianPrior, ProbeError, WeightsError
from plugip.priors.edm import preconditioning
from plugip.reverse import ddim_step, heun_step, poly7_grid, reverse, uniform_grid
from plugip.testing import check_prior

SHAPE = (2, 3, 4)
MEAN = 0.3 * normal(*SHAPE, seed=5)
PATHS = [EDMPath(), VEPath(), FlowPath(), VPPath(), DiscretePath.linear()]
TIMES = [torch.tensor(0.5), torch.tensor([0.3, 0.6, 0.9])]


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def exact(std=0.4, **settings):
    return EDMPrior(GaussianEDM(MEAN, std), SHAPE, probe=False, **settings)


def raw(std=0.4, sigma_data=0.5, noise_scale=1.0, **settings):
    network = GaussianEDM(MEAN, std, sigma_data, noise_scale)
    names = {"output": "raw", "sigma_data": sigma_data, "noise_scale": noise_scale}
    return EDMPrior(network, SHAPE, probe=False, **names, **settings)


# --- known answers


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("path", PATHS)
def test_a_network_that_returns_d_gives_the_gaussian_s_answers(path, t):
    x_t, want = normal(3, *SHAPE), GaussianPrior(MEAN, 0.4, path)
    close(exact(path=path)(x_t, t.double()), want(x_t, t.double()))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("settings", [(0.5, 1.0), (1.0, 1.0), (0.5, 1000.0)])
def test_a_raw_network_gives_the_same_answers(path, settings):
    x_t, want = normal(3, *SHAPE), GaussianPrior(MEAN, 0.4, path)
    t = torch.tensor([0.3, 0.6, 0.9]).double()
    close(raw(0.4, *settings, path=path)(x_t, t), want(x_t, t))


@pytest.mark.parametrize("bounds", [UNIT, [-2, 2]])
def test_every_range_is_decoded_to_the_signed_one(bounds):
    prior = exact(value_range=bounds)
    assert prior.value_range is not None
    want = GaussianPrior(MEAN, 0.4, prior.path, prior.value_range)
    x_t, t = normal(3, *SHAPE), torch.tensor(0.6).double()
    close(prior.decode(prior(x_t, t)), want.decode(want(x_t, t)))


def test_preconditioning_has_edm_s_numbers():
    got = preconditioning(torch.tensor([0.5, 2.0]).double(), 0.5)
    # Karras et al. 2022, table 1: for sigma = sigma_data = 1/2, and for 2 (total 4.25).
    want = [
        [0.5, 0.25 / 4.25],
        [0.5 / math.sqrt(2), 1 / math.sqrt(4.25)],
        [math.sqrt(2), 1 / math.sqrt(4.25)],
        [math.log(0.5) / 4, math.log(2.0) / 4],
    ]
    for a, b in zip(got, want, strict=True):
        close(a, torch.tensor(b, dtype=torch.float64))


def test_a_raw_network_of_data_of_the_assumed_spread_has_nothing_to_say():
    network = GaussianEDM(torch.zeros(SHAPE).double(), 0.5, 0.5)
    answer = network(normal(3, *SHAPE), torch.tensor([-1.0, 0.0, 0.7]).double())
    close(answer, torch.zeros_like(answer))


def test_a_ddim_step_is_edm_s_euler_step():
    prior, x = exact(), normal(2, *SHAPE)
    t, s = torch.tensor(0.8).double(), torch.tensor(0.5).double()
    high, low = 80 * t**7, 80 * s**7
    d = (x - prior.denoise(x, high)) / high
    moved = ddim_step(prior, x / (1 + high**2).sqrt(), t, s)
    close(moved * (1 + low**2).sqrt(), x + (low - high) * d)


@pytest.mark.parametrize("grid", [uniform_grid, poly7_grid])
def test_unit_noise_is_carried_to_the_data(grid):
    # The flow keeps the standardised state: exact endpoint of N(0, I) at sigma = 80.
    prior, z = exact(), normal(4, *SHAPE)
    x0 = reverse(prior, z, grid(prior.path, 100), heun_step)
    start = z * math.sqrt(1 + 80**2) - MEAN
    close(x0, MEAN + 0.4 * start / math.sqrt(0.4**2 + 80**2), 5e-3)


def test_the_network_is_asked_for_levels_that_it_knows_only():
    asked = []

    class Spy(GaussianEDM):
        def forward(self, x, time):
            asked.append((x, time))
            return super().forward(x, time)

    prior = EDMPrior(Spy(MEAN, 0.4), SHAPE, sigma_min=0.1, path=FlowPath(), probe=False)
    x_t = normal(1, *SHAPE)
    prior(x_t, torch.tensor(1.0).double())
    prior(x_t, torch.tensor(0.01).double())
    (x, high), (clean, low) = asked
    assert (high.item(), low.item()) == pytest.approx((80.0, 0.1))
    close(x, 81 * x_t)  # (1 + 80) / (alpha + sigma)
    close(clean, x_t / 0.99)  # x_t / alpha, as it is


# --- rules


def test_checks():
    check_prior(exact()).require()
    check_prior(exact(path=VEPath())).require()
    check_prior(EDMPrior(TinyNet(), SHAPE, output="raw", probe=False), denoises=False).require()


class Faces(nn.Module):
    """faces64's network as D(x; sigma), or as the F of a preconditioning."""

    def __init__(self, faces, sigma_data=None):
        super().__init__()
        self.net, self.sigma_data = faces.net, sigma_data

    def denoised(self, x, sigma):
        level = (sigma / (1 + sigma)).flatten()
        x = x / (1 + sigma)
        return x - level[:, None, None, None] * self.net(x, 1000 * level, return_dict=False)[0]

    def forward(self, x, time):
        time = time[:, None, None, None]
        if self.sigma_data is None:
            return self.denoised(x, time)
        c_skip, c_out, c_in, _ = preconditioning((4 * time).exp(), self.sigma_data)
        return (self.denoised(x / c_in, (4 * time).exp()) - c_skip * x / c_in) / c_out


def test_a_trained_network_passes_in_both_forms(faces):
    for sigma_data, output in ((None, "denoised"), (0.5, "raw")):
        prior = EDMPrior(Faces(faces, sigma_data), faces.shape, output=output)
        x_t, t = normal(1, *faces.shape).float(), torch.tensor(0.5)
        level = 80 * t**7
        state = x_t * (1 + level**2).sqrt() / (1 + level)
        close(prior(x_t, t), faces.forward(state, level / (1 + level)), 1e-4)
        assert prior.counter.nfe == 1


@pytest.mark.parametrize(
    ("sigma_data", "wrong", "advice"),
    [
        (None, {"output": "raw"}, "output=denoised"),
        (None, {"value_range": [0, 1]}, r"value_range=\[-1, 1\]"),
        (0.5, {}, "output=raw, sigma_data=0.5, noise_scale=1"),
        (0.5, {"output": "raw", "noise_scale": 1000}, "output=raw, sigma_data=0.5, noise_scale=1"),
    ],
)
def test_wrong_declarations_are_refused_and_corrected(faces, sigma_data, wrong, advice):
    with pytest.raises(ProbeError, match=f"it passes with {advice}"):
        EDMPrior(Faces(faces, sigma_data), faces.shape, **wrong)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: exact(sigma_min=0.0), "0 < sigma_min < sigma_max"),
        (lambda: exact(sigma_max=0.001), "got 0.002, 0.001 and 0.5"),
        (lambda: exact(sigma_data=0.0), "sigma_data > 0"),
        (lambda: exact(output="denoise"), "did you mean 'denoised'"),
        (lambda: exact(value_range=[1, 1]), "two rising numbers"),
    ],
)
def test_wrong_arguments_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# --- the config, and files that carry code


class Persistent:
    """Stands for EDM's pickles, which bring the source of their classes along."""

    def __reduce__(self):
        return (print, ("the file's code ran",))


def config(source):
    loaded = {"network": {"_target_": "nets.TinyNet"}, "source": str(source)}
    given = {"network": loaded, "shape": list(SHAPE), "output": "raw", "probe": False}
    return OmegaConf.merge(prior_config("edm"), given)


def test_the_config_lists_every_argument():
    wanted = set(inspect.signature(EDMPrior).parameters)
    assert set(prior_config("edm")) - {"_target_"} == wanted


def test_the_config_builds_an_exported_network(tmp_path):
    trained = TinyNet()
    with torch.no_grad():
        trained.embed.bias.fill_(0.7)
    torch.save(trained.state_dict(), tmp_path / "ffhq64.pt")
    prior = build(config(tmp_path / "ffhq64.pt"), trusted=["nets"])
    assert (prior.path, prior.value_range) == (EDMPath(80.0), SIGNED)
    want = EDMPrior(trained, SHAPE, output="raw", probe=False)
    x_t, t = normal(2, *SHAPE).float(), torch.tensor([0.3, 1.0])
    assert torch.equal(prior(x_t, t), want(x_t, t))


def test_edm_s_pickles_are_refused_unread_with_the_way_out(tmp_path, capsys):
    file = tmp_path / "edm-ffhq-64x64-uncond-vp.pkl"
    file.write_bytes(pickle.dumps({"ema": Persistent()}))
    way_out = r"run code from the file.*torch\.save\(net\.state_dict\(\).*\['ema'\]"
    with pytest.raises(WeightsError, match=way_out):
        build(config(file), trusted=["nets"])
    assert capsys.readouterr().out == ""
