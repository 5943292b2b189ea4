"""The bridge to deepinv: its physics are our operators, our methods are its reconstructors."""
# ruff: noqa: E402

import copy
import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import close, normal

deepinv = pytest.importorskip("deepinv", reason="the bridge needs plugip[deepinv]")

from plugip.bridges.deepinv import (
    FromDeepinv,
    FromDeepinvLinear,
    PlugipModel,
    as_deepinv_model,
    from_deepinv,
)
from plugip.linalg import dot
from plugip.loop import solve
from plugip.methods import DPS, DMPlug
from plugip.noise import GaussianNoise, UnknownNoise
from plugip.operator import LinearOperator
from plugip.operators import BicubicDownsample
from plugip.priors import GaussianPrior
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.testing import check_operator

dp: Any = deepinv.physics  # its annotations do not hold

NO_PHYSICS: Any = torch.square
ODD_NOISE: Any = SimpleNamespace(std=None)
LOUD = dp.GaussianNoise(sigma=100.0)  # nobody can overlook it


def kernel(rows=1):
    taps = torch.rand(rows, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    return taps / taps.sum((-2, -1), keepdim=True)


def masks(rows=3):
    drawn = torch.rand(rows, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return (drawn < 0.5).float()


LINEAR = {
    "blur": lambda: dp.Blur(kernel(), padding="reflect", noise_model=LOUD),
    "blur valid": lambda: dp.Blur(kernel(), padding="valid", noise_model=LOUD),
    "blur per image": lambda: dp.Blur(kernel(3), padding="circular", noise_model=LOUD),
    "blur fft": lambda: dp.BlurFFT((3, 16, 16), kernel(), noise_model=LOUD),
    "downsampling": lambda: dp.Downsampling((3, 16, 16), "bicubic", 2, noise_model=LOUD),
    "inpainting": lambda: dp.Inpainting((3, 16, 16), 0.5, noise_model=LOUD),
    "inpainting per image": lambda: dp.Inpainting((3, 16, 16), masks(), noise_model=LOUD),
    "reduced blur": lambda: dp.compose(
        dp.Blur(kernel(3), padding="circular"), dp.Downsampling((3, 16, 16), "bilinear", 2)
    ),
    "decolorize": lambda: dp.Decolorize(noise_model=LOUD),
    "denoising": lambda: dp.Denoising(noise_model=LOUD),
    "single pixel": lambda: dp.SinglePixelCamera(100, (3, 16, 16), noise_model=LOUD),
    "tomography": lambda: dp.Tomography(6, 16, normalize=True, noise_model=LOUD),
}
NONLINEAR = {
    "square": lambda: dp.Physics(A=torch.square, noise_model=LOUD),
    # deepinv measures the inner field with its noise: it must be silent too.
    "phase retrieval": lambda: dp.PhaseRetrieval(LINEAR["blur"](), noise_model=LOUD),
}
PHYSICS = LINEAR | NONLINEAR
NEEDS_DOUBLE_ADJOINT = {
    "one image, one answer",
    "keeps dtype",
    "moves with .to(device)",
    "linear",
    "adjoint (dot product)",
    "solve_normal",
}


def shape(name):
    return (3, 1, 16, 16) if name == "tomography" else (3, 3, 16, 16)


def images(name="blur"):
    return torch.rand(shape(name), generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.mark.parametrize("name", PHYSICS)
def test_unit_operator_measures_the_unit_image(name):
    physics, x = PHYSICS[name](), images(name)
    A = from_deepinv(physics)
    assert type(A) is FromDeepinv and not isinstance(A, LinearOperator)
    want = physics.A((x + 1) / 2) if name != "phase retrieval" else physics.B.A((x + 1) / 2) ** 2
    close(A(x), want, 1e-6)
    check_operator(A, shape(name)).require()


@pytest.mark.parametrize("name", LINEAR)
def test_signed_operator_is_linear_with_its_adjoint(name):
    physics, x = LINEAR[name](), images(name)
    A = from_deepinv(physics, "signed")
    assert type(A) is FromDeepinvLinear
    close(A(x), physics.A(x), 1e-6)
    w = normal(*A(x).shape, dtype=torch.float32)
    close(A.adjoint(w), physics.A_adjoint(w), 1e-6)
    close(dot(A(x), w), dot(x, A.adjoint(w)), 1e-3)
    assert A.domain_shape(w.shape) == shape(name)
    report = check_operator(A, shape(name))
    if name == "tomography":  # deepinv's backprojection is made in float32, whatever it is given
        report.checks = [c for c in report.checks if c.name not in NEEDS_DOUBLE_ADJOINT]
    report.require()


@pytest.mark.parametrize("name", NONLINEAR)
def test_signed_nonlinear_operator(name):
    A = from_deepinv(NONLINEAR[name](), "signed")
    assert type(A) is FromDeepinv
    check_operator(A, shape(name)).require()


@pytest.mark.parametrize("name", LINEAR)
def test_unit_measurements_become_signed_ones(name):
    physics, x = LINEAR[name](), images(name)
    A = FromDeepinvLinear(physics)
    close(A.from_unit(physics.A((x + 1) / 2)), A(x), 1e-5)


def test_a_bridged_operator_composes():
    A = from_deepinv(LINEAR["blur"](), "signed") @ BicubicDownsample(2)
    assert isinstance(A, LinearOperator)
    check_operator(A, (2, 3, 32, 32)).require()


class Vandal(dp.LinearPhysics):
    """Physics that writes into its input, keeps a note, and draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.rng = torch.Generator().manual_seed(0)
        self.gain = torch.nn.Parameter(torch.tensor(2.0))
        self.calls = 0

    def A(self, x, **kwargs):
        self.calls += 1
        return x.mul_(self.gain)

    def A_adjoint(self, y, **kwargs):  # noqa: N802
        return y.mul_(self.gain)


@pytest.mark.parametrize("image_range", ["unit", "signed"])
def test_neither_images_nor_physics_are_edited(image_range):
    physics, x = Vandal(), images()
    before, y = x.clone(), normal(2, 3, 4, 4)
    kept = y.clone()
    A = from_deepinv(physics, image_range)
    A(x)
    if isinstance(A, FromDeepinvLinear):
        A.adjoint(y)
    assert torch.equal(x, before) and torch.equal(y, kept)
    assert physics.calls == 0 and physics.rng is not None and physics.gain.requires_grad
    assert not any(p.requires_grad for p in A.parameters())
    copy.deepcopy(A)
    assert A.physics.rng is None  # not every torch can copy a generator


def test_later_changes_of_the_physics_do_not_reach_the_operator():
    physics, x = LINEAR["inpainting"](), images()
    A = from_deepinv(physics)
    y = A(x)
    physics.mask.mul_(0)
    physics.update(mask=torch.zeros(1, 3, 16, 16))
    assert torch.equal(A(x), y)


def test_parameters_with_a_graph_are_taken_as_values():
    taps = kernel().requires_grad_() * 1
    A = from_deepinv(dp.Blur(taps, padding="circular"))
    assert not A(images()).requires_grad


def test_each_image_keeps_its_own_parameters():
    A, x = from_deepinv(LINEAR["inpainting per image"]()), images()
    chosen = A.select([2, 0])
    assert torch.equal(chosen(x[[2, 0]]), A(x)[[2, 0]])
    assert A.physics.mask.shape[0] == 3 and chosen.physics.mask.shape[0] == 2
    with pytest.raises(ValueError, match="gives 3 measurements for a batch of 1"):
        A(x[:1])


# Methods as reconstructors: the answers of solve(), in [0, 1].

METHODS = {"dps": DPS(steps=12, zeta=0.3), "dmplug": DMPlug(iterations=6)}


def prior():
    return GaussianPrior(torch.full((3, 16, 16), 0.2), 0.3)


def measured(name):
    physics, x = PHYSICS[name](), images()
    clean = from_deepinv(physics)(0.5 * x)
    return physics, clean + 0.02 * normal(*clean.shape, dtype=torch.float32)


@pytest.mark.parametrize("name", ["blur", "downsampling", "inpainting per image", "square"])
@pytest.mark.parametrize("method", METHODS)
def test_model_gives_the_answer_of_solve(name, method):
    (physics, y), method = measured(name), METHODS[method]
    before = y.clone()
    x_hat = as_deepinv_model(method, prior(), GaussianNoise(0.02), rng_seed=3)(y, physics)
    problem = Problem(y, from_deepinv(physics), GaussianNoise(0.02), prior())
    close(x_hat, (solve(problem, method, 3).x_hat + 1) / 2, 0)
    assert torch.equal(y, before) and x_hat.shape == (3, 3, 16, 16)
    assert 0 <= float(x_hat.min()) and float(x_hat.max()) <= 1


def test_model_finds_the_posterior_mean_in_both_ranges():
    # The generator is affine here, R(z) = a + c z, so the prior that DMPlug knows is N(a, c²).
    generate, std = Generator(3), 0.05
    at = [generate(prior(), torch.full((1, 3, 16, 16), z)).mean() for z in (0.0, 1.0)]
    a, c = at[0], at[1] - at[0]
    y = (0.4 * images() + 1) / 2  # y = (x + 1) / 2 + std n
    want = (a + c**2 / (c**2 + (2 * std) ** 2) * (2 * y - 1 - a) + 1) / 2
    for image_range in ("unit", "signed"):
        noise, method = GaussianNoise(std), DMPlug(30, generate)
        model = as_deepinv_model(method, prior(), noise, image_range=image_range)
        close(model(y, dp.Denoising()), want, 1e-3)


def test_a_method_that_writes_into_y_cannot_reach_the_callers():
    class Scribbler(DPS):
        def finish(self, problem, state):
            problem.y.zero_()
            return super().finish(problem, state)

    physics, y = measured("blur")
    alone, kept = y[:1].clone(), y[:1].clone()
    as_deepinv_model(Scribbler(steps=1), prior(), GaussianNoise(0.02))(alone, physics)
    assert torch.equal(alone, kept)


def test_signed_model_gives_methods_a_linear_operator():
    seen = []

    class Spy(DPS):
        def init(self, problem, rng):
            seen.append(problem)
            return super().init(problem, rng)

    physics, y = measured("blur")
    as_deepinv_model(Spy(steps=1), prior(), GaussianNoise(0.02), image_range="signed")(y, physics)
    assert isinstance(seen[0].operator, LinearOperator) and seen[0].noise.std == 0.04


def test_ids_choose_the_random_streams():
    physics, y = measured("blur")
    model = as_deepinv_model(METHODS["dps"], prior(), GaussianNoise(0.02))
    together, alone = model(y, physics, ids=["a", "b", "c"]), model(y[2:], physics, ids=["c"])
    close(together[2:], alone, 1e-6)
    assert not torch.allclose(model(y[2:], physics), alone)


def test_deepinv_can_test_a_model():
    physics = dp.Inpainting((3, 16, 16), 0.5, noise_model=dp.GaussianNoise(0.02))
    pictures: Any = [{"x": picture} for picture in (images() + 1) / 2]
    model = as_deepinv_model(METHODS["dps"], prior(), GaussianNoise(0.02))
    assert isinstance(model, PlugipModel)
    results = deepinv.test(
        model,
        torch.utils.data.DataLoader(pictures, batch_size=3),
        physics,
        metrics=deepinv.loss.metric.PSNR(),
        online_measurements=True,
        verbose=False,
        show_progress_bar=False,
        device="cpu",
        non_blocking_transfers=False,
    )
    assert results["PSNR"] > 5


# What users will get wrong.


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: from_deepinv(LINEAR["blur"](), "bytes"), ValueError, "image_range"),
        (lambda: from_deepinv(NO_PHYSICS), TypeError, "must be a deepinv Physics"),
        (lambda: from_deepinv(dp.stack(dp.Denoising(), dp.Denoising())), TypeError, "stack"),
        (lambda: FromDeepinvLinear(NONLINEAR["square"]()), TypeError, "use FromDeepinv"),
        (lambda: FromDeepinv(LINEAR["blur"]())(images()[0]), ValueError, "batch axis"),
        (
            lambda: as_deepinv_model(METHODS["dps"], prior(), UnknownNoise(), image_range="x"),
            ValueError,
            "image_range",
        ),
        (
            lambda: as_deepinv_model(
                METHODS["dps"], prior(), GaussianNoise(1.0), image_range="signed"
            )(images(), NONLINEAR["square"]()),
            TypeError,
            "needs linear physics",
        ),
        (
            lambda: as_deepinv_model(METHODS["dps"], prior(), ODD_NOISE, image_range="signed")(
                images(), LINEAR["blur"]()
            ),
            TypeError,
            "SimpleNamespace does not allow",
        ),
    ],
)
def test_error_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_noise_of_unknown_level_needs_no_rescaling():
    physics, y = measured("blur")
    model = as_deepinv_model(DPS(steps=2), prior(), UnknownNoise(), image_range="signed")
    assert model(y, physics).shape == (3, 3, 16, 16)


def test_without_deepinv_the_error_says_what_to_install(monkeypatch):
    for name in [n for n in sys.modules if n.startswith(("deepinv", "plugip.bridges"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(ImportError, match=r"pip install plugip\[deepinv\]"):
        importlib.import_module("plugip.bridges.deepinv")


def test_operator_of_a_batch_streams():
    # A bridged operator draws nothing, so realising it changes nothing.
    A = from_deepinv(LINEAR["blur"]())
    assert A.realise(Rng(0, "operator", ["a", "b", "c"]), (3, 3, 16, 16)) is A
