"""The probe: faces64 as declared passes, every wrong declaration is refused and corrected."""

import pytest
import torch
from configs import prior_config
from PIL import Image
from torch import nn

from plugip.building import build
from plugip.data import ImageError, demo_image
from plugip.path import (
    SIGNED,
    UNIT,
    DiscretePath,
    FlowPath,
    Prediction,
    ValueRange,
    VPPath,
    from_x0,
)
from plugip.prior import Prior, probe_signal
from plugip.priors import (
    DiffusersUNet,
    GaussianPrior,
    NetworkPrior,
    ProbeError,
    VelocityPrior,
    faces64,
)
from plugip.priors.probe import probe, probe_as_asked

BYTES = ValueRange(0, 255)


def declared(
    net,
    prediction=Prediction.VELOCITY,
    path=None,
    value_range=SIGNED,
    time_scale=1000.0,
):
    return DiffusersUNet(net, path or FlowPath(), prediction, value_range, 2, time_scale)


class Converted(nn.Module):
    """faces64 as a network of another path, prediction and range, by exact algebra."""

    def __init__(self, base, path, prediction, value_range):
        super().__init__()
        self.base, self.path, self.prediction, self.bounds = base, path, prediction, value_range
        self.config = base.net.config

    def forward(self, x, time, return_dict):
        discrete = isinstance(self.path, DiscretePath)
        t = (time + 1) / 1000 if discrete else time / 1000
        alpha, sigma = self.path.coefficients(t, x)
        half, middle = (
            (self.bounds.high - self.bounds.low) / 2,
            (self.bounds.high + self.bounds.low) / 2,
        )
        level = sigma / half
        flow_time = (level / (alpha + level)).reshape(-1).expand(len(x))
        h = self.base((x - alpha * middle) / half / (alpha + level), flow_time)
        return (from_x0(self.prediction, half * h + middle, x, alpha, sigma),)


def test_the_right_declaration_passes_and_is_not_counted(faces):
    probe(faces)
    assert faces.counter.nfe == faces.counter.vjps == 0


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ({"prediction": Prediction.EPS}, "prediction=velocity"),
        ({"prediction": Prediction.X0}, "prediction=velocity"),
        ({"prediction": Prediction.V}, "prediction=velocity"),
        ({"prediction": Prediction.SCORE}, "prediction=velocity"),
        ({"path": VPPath()}, "path=flow"),
        ({"path": DiscretePath.linear()}, "path=flow"),
        ({"time_scale": 1.0}, "time_scale=1000"),
        ({"value_range": UNIT}, r"value_range=\[-1, 1\]"),
        ({"value_range": BYTES}, r"value_range=\[-1, 1\]"),
        ({"value_range": ValueRange(-2, 2)}, r"value_range=\[-1, 1\]"),
        ({"value_range": ValueRange(-1, 0)}, r"value_range=\[-1, 1\]"),
        ({"value_range": ValueRange(-0.5, 0.5)}, r"value_range=\[-1, 1\]"),
        ({"time_scale": 500.0}, "time_scale=1000"),
        (
            {"prediction": Prediction.EPS, "path": DiscretePath.linear()},
            "prediction=velocity, path=flow",
        ),
    ],
)
def test_wrong_declarations_are_refused_and_corrected(faces, wrong, advice):
    with pytest.raises(ProbeError, match=f"it passes with {advice}"):
        probe(declared(faces.net, **wrong))


@pytest.mark.parametrize(
    "truth",
    [
        (FlowPath(), Prediction.VELOCITY, UNIT),
        (FlowPath(), Prediction.VELOCITY, BYTES),
        (DiscretePath.linear(), Prediction.EPS, SIGNED),
        (DiscretePath.linear(), Prediction.EPS, UNIT),
    ],
)
def test_networks_of_other_kinds(faces, truth):
    path, prediction, bounds = truth
    net = Converted(faces, path, prediction, bounds)
    probe(declared(net, prediction, path, bounds))
    wrong = SIGNED if bounds is not SIGNED else UNIT
    advice = rf"value_range=\[{bounds.low:g}, {bounds.high:g}\]"
    with pytest.raises(ProbeError, match=f"it passes with {advice}"):
        probe(declared(net, prediction, path, wrong))


@pytest.mark.parametrize("path", [FlowPath(), DiscretePath.linear()])
def test_on_wide_ranges_predictions_are_told_apart_where_the_noise_is_small(faces, path):
    # With much noise v_prediction and velocity coincide there: t is nearly 1.
    pair = (Prediction.VELOCITY, Prediction.V)
    for truth, wrong in (pair, pair[::-1]):
        net = Converted(faces, path, truth, BYTES)
        probe(declared(net, truth, path, BYTES))
        with pytest.raises(ProbeError, match=f"it passes with prediction={truth}"):
            probe(declared(net, wrong, path, BYTES))


class PowerLaw(NetworkPrior):
    """The best denoiser of coloured images whose spectrum falls as 1 / f^p: a Wiener filter."""

    prediction = Prediction.X0

    def __init__(self, side, power, std=0.5):
        super().__init__()
        self.shape, self.path, self.value_range = (3, side, side), FlowPath(), SIGNED
        f = torch.fft.fftfreq(side, dtype=torch.float64)
        spectrum = (f[:, None] ** 2 + f**2 + (0.5 / side) ** 2) ** (-power / 2)
        self.spectrum = spectrum / spectrum.mean() * std**2
        shares, axes = torch.linalg.eigh(0.8 + 0.2 * torch.eye(3, dtype=torch.float64))
        self.shares, self.axes = shares[:, None, None], axes

    def output(self, x_t, t):
        alpha, sigma = self.path.coefficients(t, x_t.double())
        y = torch.einsum("bchw,ck->bkhw", x_t.double(), self.axes)
        power = self.shares * self.spectrum
        y = torch.fft.fft2(y) * (alpha * power / (alpha**2 * power + sigma**2))
        y = torch.fft.ifft2(y).real
        return torch.einsum("bkhw,ck->bchw", y, self.axes).to(x_t.dtype)

    def variants(self):
        return iter(())

    def predicting(self, prediction):
        return self


@pytest.mark.parametrize("side", [28, 64, 128])
@pytest.mark.parametrize("power", [1.5, 2, 3])
def test_exact_denoisers_of_natural_spectra_pass(side, power):
    probe(PowerLaw(side, power))


def test_the_same_denoiser_with_half_its_noise_left_is_refused():
    class Lazy(PowerLaw):
        def output(self, x_t, t):
            return (super().output(x_t, t) + x_t / self.path.coefficients(t, x_t)[0]) / 2

    with pytest.raises(ProbeError, match="of the noise in a known picture"):
        probe(Lazy(64, 2))


def test_a_diffusion_network_is_not_a_flow(faces):
    net = Converted(faces, DiscretePath.linear(), Prediction.EPS, SIGNED)
    with pytest.raises(ProbeError, match="it passes with path=ddpm"):
        probe(declared(net, Prediction.EPS, FlowPath()))


@pytest.mark.parametrize("prediction", list(Prediction))
def test_untrained_networks_are_refused(unet, prediction):
    prior = DiffusersUNet(unet(seed=1), FlowPath(), prediction)
    with pytest.raises(ProbeError, match="not the weights of a trained denoiser"):
        probe(prior)


def test_a_picture_of_the_user_is_taken(faces):
    probe(faces, picture=probe_signal(faces.image_shape).flip(3))


def test_twice_the_time_denoises_a_little_but_its_half_denoises_better(faces):
    with pytest.raises(ProbeError, match="time_scale=1000 denoises a known picture much better"):
        probe(declared(faces.net, time_scale=2000.0))


class InsideOut(nn.Module):
    """faces64 as a flow from noise at time 0 to data at time 1."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x, time):
        t = (1 - time).clamp(0.001, 1).reshape(-1, 1, 1, 1)
        return (self.base(x, t.flatten()) - x) / t


def test_a_velocity_network_s_rivals(faces):
    net, shape = InsideOut(faces), faces.shape
    probe(VelocityPrior(net, shape, probe=False))
    with pytest.raises(ProbeError, match=r"data_at=1, noise_at=0"):
        VelocityPrior(net, shape, data_at=0.5)


class Strokes(PowerLaw):
    """The exact denoiser of pictures like none in nature: random patterns, a few at a time."""

    def __init__(self, side=28, patterns=4):
        super().__init__(side, 2)
        self.shape = (1, side, side)
        numbers = torch.randn(side**2, patterns, generator=torch.Generator().manual_seed(4))
        self.basis = torch.linalg.qr(numbers.double()).Q
        self.power = 0.45**2 * side**2 / patterns

    def output(self, x_t, t):
        alpha, sigma = self.path.coefficients(t, x_t.double())
        inside = x_t.double().flatten(1) @ self.basis @ self.basis.T
        gain = alpha * self.power / (alpha**2 * self.power + sigma**2)
        return (gain * inside.view_as(x_t)).to(x_t.dtype)

    def picture(self):
        weights = torch.ones(1, self.basis.shape[1]).double() * self.power**0.5
        return (weights @ self.basis.T).view(1, *self.shape).float()


def test_a_good_network_of_other_data_passes_by_its_own_pictures(tmp_path):
    prior = Strokes()
    probe(prior)
    probe(prior, prior.picture().clamp(-1, 1))
    with pytest.raises(ProbeError):  # a picture that is given is the one that counts
        probe(prior, probe_signal(prior.image_shape))


def test_a_picture_s_file_stands_in_the_prior_s_config(tmp_path, faces):
    pixels = ((Strokes().picture()[0, 0].clamp(-1, 1) + 1) * 127.5).byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "stroke.png")
    probe_as_asked(Strokes(), str(tmp_path / "stroke.png"))
    with pytest.raises(ProbeError, match="of the noise in a known picture"):
        faces64(probe=str(tmp_path / "stroke.png"))
    config = prior_config("faces64")
    config.probe = str(demo_image())
    assert build(config).shape == faces.shape
    with pytest.raises(ImageError):
        probe_as_asked(Strokes(), str(tmp_path / "none.png"))


class Broken(Prior):
    """An exact prior whose answer is spoilt."""

    def __init__(self, spoil):
        super().__init__()
        self.base, self.spoil = GaussianPrior(torch.zeros(3, 8, 8), 0.3), spoil
        self.shape, self.path, self.value_range = (3, 8, 8), FlowPath(), SIGNED

    def forward(self, x_t, t):
        return self.spoil(self.base(x_t, t))


@pytest.mark.parametrize("spoil", [lambda x: x * torch.nan, lambda x: x + 5])
def test_priors_that_do_worse_than_nothing_are_refused(spoil):
    probe(Broken(lambda x: x))
    with pytest.raises(ProbeError, match="of the noise in a known picture"):
        probe(Broken(spoil))
