"""Flow matching networks: exact in every convention, probed, counted, built from a config."""

import inspect

import pytest
import torch
from configs import prior_config
from nets import GaussianVelocity, TimeFirst, TinyNet, normal
from omegaconf import OmegaConf
from torch import nn

from plugip.building import BuildError, build
from plugip.path import SIGNED, UNIT, FlowPath, Prediction, ValueRange
from plugip.priors import GaussianPrior, ProbeError, VelocityPrior
from plugip.reverse import ddim_step
from plugip.testing import check_prior

SHAPE = (2, 3, 4)
MEAN = 0.3 * normal(*SHAPE, seed=5)
CONVENTIONS = [(1.0, 0.0), (0.0, 1.0), (999.0, 0.0), (0.0, 1000.0), (-1.0, 3.0)]
TIMES = [torch.tensor(0.3), torch.tensor([0.2, 0.6, 1.0]), torch.tensor(1.0)]


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def exact(data_at=1.0, noise_at=0.0, **settings):
    network = GaussianVelocity(MEAN, 0.4, data_at, noise_at)
    return VelocityPrior(network, SHAPE, data_at, noise_at, probe=False, **settings)


# --- known answers


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize(("data_at", "noise_at"), CONVENTIONS)
def test_an_exact_velocity_gives_the_gaussian_s_answers(data_at, noise_at, t):
    prior = exact(data_at, noise_at)
    x_t, t = normal(3, *SHAPE), t.double()
    want = GaussianPrior(MEAN, 0.4, FlowPath())
    close(prior(x_t, t), want(x_t, t))


@pytest.mark.parametrize("bounds", [UNIT, ValueRange(0, 255), [-2, 2]])
def test_every_range_is_decoded_to_the_signed_one(bounds):
    prior = exact(value_range=bounds)
    assert prior.value_range is not None
    want = GaussianPrior(MEAN, 0.4, FlowPath(), prior.value_range)
    x_t, t = normal(3, *SHAPE), torch.tensor(0.3).double()
    close(prior.decode(prior(x_t, t)), want.decode(want(x_t, t)))
    low, high = prior.value_range.low, prior.value_range.high
    ends = torch.tensor([-1.0, 0.0, 1.0])
    assert prior.encode(ends).tolist() == [low, (low + high) / 2, high]


def test_networks_that_take_the_time_first():
    plain = exact()
    turned = VelocityPrior(
        TimeFirst(plain.network), SHAPE, value_range=SIGNED, time_first=True, probe=False
    )
    x_t, t = normal(3, *SHAPE), torch.tensor([0.2, 0.6, 1.0]).double()
    close(turned(x_t, t), plain(x_t, t))


@pytest.mark.parametrize(("data_at", "noise_at"), CONVENTIONS)
def test_a_ddim_step_is_the_euler_step_of_the_network_s_own_velocity(data_at, noise_at):
    prior, x_t = exact(data_at, noise_at), normal(2, *SHAPE)
    t, s = torch.tensor(0.8).double(), torch.tensor(0.35).double()
    tau_t, tau_s = (data_at + v * (noise_at - data_at) for v in (t, s))
    # The network's displacement belongs to a unit of path: its time runs over |noise - data|.
    step = (tau_s - tau_t) / abs(noise_at - data_at)
    close(ddim_step(prior, x_t, t, s), x_t + step * prior.network(x_t, tau_t.expand(2)))


def test_networks_that_predict_the_image_or_the_noise():
    network = GaussianVelocity(MEAN, 0.4, 1, 0)
    x_t, t = normal(3, *SHAPE), torch.tensor(0.7).double()
    x0, eps = network.parts(x_t, 1 - t.expand(3))

    class Fixed(nn.Module):
        def __init__(self, output):
            super().__init__()
            self.output = output

        def forward(self, x, time):
            return self.output

    for kind, output in (("sample", x0), (Prediction.EPS, eps)):
        prior = VelocityPrior(Fixed(output), SHAPE, prediction=kind, probe=False)
        close(prior(x_t, t), x0)


# --- rules


def test_checks():
    check_prior(exact()).require()
    check_prior(VelocityPrior(TinyNet(), SHAPE, 999, 0, probe=False), denoises=False).require()


def test_computes_in_the_type_of_the_weights_and_answers_in_that_of_the_state():
    prior = VelocityPrior(TinyNet().double(), SHAPE, probe=False)
    x_t, t = normal(2, *SHAPE).float(), torch.tensor(0.5, dtype=torch.float64)
    assert prior(x_t, t).dtype is torch.float32
    close(prior(x_t, t).double(), prior(x_t.double(), t), 1e-6)
    assert all(not w.requires_grad for w in prior.parameters())


# --- the probe


class Faces(nn.Module):
    """faces64's network with the time of the OT-CFM lineage."""

    def __init__(self, faces):
        super().__init__()
        self.net = faces.net

    def forward(self, x, time):
        return -self.net(x, 1000 * (1 - time), return_dict=False)[0]


def test_a_trained_flow_passes_and_equals_its_other_reading(faces):
    prior = VelocityPrior(Faces(faces), faces.shape)
    x_t, t = normal(1, *faces.shape).float(), torch.tensor(0.6)
    close(prior(x_t, t), faces.forward(x_t, t), 1e-5)  # uncounted: the fixture is shared
    assert prior.counter.nfe == 1


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"data_at": 0, "noise_at": 1}, "data_at=1, noise_at=0"),
        ({"value_range": [0, 1]}, r"value_range=\[-1, 1\]"),
        ({"prediction": "epsilon"}, "prediction=velocity"),
    ],
)
def test_wrong_declarations_are_refused_and_corrected(faces, wrong, advice):
    with pytest.raises(ProbeError, match=f"it passes with {advice}"):
        VelocityPrior(Faces(faces), faces.shape, **wrong)


def test_diffusers_networks_are_called_as_they_are_and_their_time_is_scaled(faces):
    prior = VelocityPrior(faces.net, faces.shape, data_at=0, noise_at=1000)
    x_t, t = normal(1, *faces.shape).float(), torch.tensor(0.6)
    close(prior(x_t, t), faces.forward(x_t, t), 1e-5)  # uncounted: the fixture is shared
    with pytest.raises(ProbeError, match="it passes with data_at=0, noise_at=1000"):
        VelocityPrior(faces.net, faces.shape, data_at=0, noise_at=1)


def test_an_untrained_network_is_refused():
    with pytest.raises(ProbeError, match="not the weights of a trained denoiser"):
        VelocityPrior(TinyNet(3), (3, 16, 16))


# --- errors


class Doubled(TinyNet):
    def forward(self, x, time):
        return torch.cat([super().forward(x, time)] * 2, 1)


class Pair(nn.Module):
    def forward(self, x, time):
        return x, time


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: exact(0.5, 0.5), ValueError, "must differ, both are 0.5"),
        (lambda: exact(prediction="velocty"), ValueError, "did you mean 'velocity'"),
        (lambda: exact(value_range=[1, -1]), ValueError, "two rising numbers"),
        (lambda: VelocityPrior(TinyNet(), (2, 3)), ValueError, "channels, height, width"),
        (lambda: VelocityPrior(TinyNet(), (2, 0, 3)), ValueError, "all positive"),
        (lambda: VelocityPrior(Doubled(), SHAPE), ValueError, r"\(3, 4, 3, 4\); wrap it"),
        (lambda: VelocityPrior(Pair(), SHAPE), TypeError, "Pair returns a tuple; wrap it"),
    ],
)
def test_wrong_arguments_are_explained(make, error, words):
    with pytest.raises(error, match=words):
        make()


# --- the config


def config(**changes):
    return OmegaConf.merge(prior_config("velocity"), OmegaConf.create(changes))


def test_the_config_lists_every_argument():
    wanted = set(inspect.signature(VelocityPrior).parameters)
    assert set(prior_config("velocity")) - {"_target_"} == wanted


def test_the_config_builds_a_user_s_network_with_its_weights(tmp_path):
    trained = TinyNet(width=5)
    with torch.no_grad():
        trained.embed.bias.fill_(0.7)
    torch.save({"ema_model": trained.state_dict(), "step": 3}, tmp_path / "step.pt")
    network = {"_target_": "nets.TinyNet", "width": 5}
    source = {"network": network, "source": str(tmp_path / "step.pt"), "key": "ema_model"}
    given = config(network=source, shape=list(SHAPE), data_at=0, noise_at=1000, probe=False)
    with pytest.raises(BuildError, match=r"trusted=\[nets\]"):
        build(given)
    prior = build(given, trusted=["nets"])
    x_t, t = normal(2, *SHAPE).float(), torch.tensor([0.3, 1.0])
    want = VelocityPrior(trained, SHAPE, 0, 1000, probe=False)
    assert torch.equal(prior(x_t, t), want(x_t, t))


def test_the_config_asks_for_what_has_no_default():
    with pytest.raises(BuildError, match=r"network\.network has no default"):
        build(config())
