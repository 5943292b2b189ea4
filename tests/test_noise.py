"""Noise: goldens, moments of the samples, values of the likelihood, observed entries, presets."""

import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from toys import ExactPrior, Identity, close, normal

from plugip import build, measure
from plugip.diagnostics import diagnose
from plugip.engine.linearize import whitened_residual
from plugip.engine.misfit import seed_misfit
from plugip.noise import (
    IMAGENET_C,
    CompoundNoise,
    GaussianNoise,
    Hidden,
    ImpulseNoise,
    LaplaceNoise,
    Noise,
    PoissonNoise,
    ShotNoise,
    SpeckleNoise,
    UnknownNoise,
    convert_level,
    count_observed,
    imagenet_c,
    sum_of_squares,
)
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng

N = 200_000
HERE = Path(__file__).resolve().parent
GOLDEN = json.loads((HERE / "golden" / "noise.json").read_text("utf-8"))["cases"]
TEXT: Any = "0.1"
PRESETS = sorted((HERE.parent / "conf" / "noise").glob("*.yaml"))


def rng(*ids: str) -> Rng:
    return Rng(0, "measure", ids or ("a",))


def test_gaussian_moments_lie_within_four_standard_errors():
    n = GaussianNoise(0.3).sample(torch.full((1, N), 2.0, dtype=torch.float64), rng()) - 2
    assert abs(float(n.mean())) < 4 * 0.3 / math.sqrt(N)
    assert abs(float(n.square().mean()) - 0.09) < 4 * 0.09 * math.sqrt(2 / N)
    assert abs(float(n.pow(3).mean())) < 4 * 0.027 * math.sqrt(15 / N)
    assert abs(float(n.pow(4).mean()) / 0.0081 - 3) < 4 * math.sqrt(96 / N)


def test_both_parts_of_complex_measurements_are_noisy():
    n = GaussianNoise(0.3).sample(torch.zeros(1, N, dtype=torch.complex128), rng())
    for part in (n.real, n.imag):
        assert abs(float(part.square().mean()) - 0.09) < 4 * 0.09 * math.sqrt(2 / N)
    assert abs(float((n.real * n.imag).mean())) < 4 * 0.09 / math.sqrt(N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_noise_of_one_image_is_the_same_in_any_batch(dtype: torch.dtype):
    clean = torch.zeros(3, 2, 4, 4, dtype=dtype)
    together = GaussianNoise(0.1).sample(clean, rng("a", "b", "c"))
    alone = GaussianNoise(0.1).sample(clean[:1], rng("c"))
    assert together.dtype == dtype and torch.equal(together[2:], alone)
    assert not torch.equal(together[:1], together[1:2])


def test_noise_is_added_to_the_measurement():
    clean = normal(1, 3, 4, 4)
    noise = GaussianNoise(0.2)
    close(noise.sample(clean, rng()) - clean, noise.sample(0 * clean, rng()), 1e-15)


def test_gaussian_nll_by_hand():
    # (1 + 4 + 9) / (2 * 0.25) = 28 and 4 / 0.5 = 8
    clean = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 2.0]])
    assert GaussianNoise(0.5).nll(clean, torch.zeros(2, 3)).tolist() == [28, 8]


def test_gaussian_nll_is_the_log_density_up_to_a_constant():
    a, b, y = normal(2, 5), normal(2, 5, seed=1), normal(2, 5, seed=2)
    noise, density = GaussianNoise(0.7), torch.distributions.Normal
    want = (density(b, 0.7).log_prob(y) - density(a, 0.7).log_prob(y)).sum(1)
    close(noise.nll(a, y) - noise.nll(b, y), want)


def test_nll_counts_observed_entries_only():
    clean, y = torch.ones(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).expand(2, 1, 2, 2).clone()
    mask[1] = 1
    assert GaussianNoise(1.0).nll(clean, y, mask).tolist() == [1.5, 6.0]  # 3 and 12 entries
    assert UnknownNoise().nll(2 * clean, y, mask).tolist() == [4.0, 4.0]


def test_unknown_noise_scores_by_the_mean_square():
    clean = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    assert UnknownNoise().nll(clean, torch.zeros(1, 4)).tolist() == [3.5]


def test_sum_of_squares_of_complex_residuals_is_real():
    assert sum_of_squares(torch.tensor([[3 + 4j, 1j]]), None).tolist() == [26]
    assert sum_of_squares(torch.tensor([[3 + 4j, 1j]]), torch.tensor([[1, 0]])).tolist() == [25]


def test_the_likelihood_of_an_exact_complex_fit_has_a_gradient():
    clean = torch.zeros(1, 2, dtype=torch.complex128, requires_grad=True)
    GaussianNoise(1.0).nll(clean, torch.zeros_like(clean)).sum().backward()
    assert clean.grad is not None and not clean.grad.any()


def test_observed_entries_are_counted_per_image():
    y, mask = torch.zeros(2, 3, 2, 2), torch.ones(2, 1, 2, 2)
    mask[0, 0, 0] = 0
    assert count_observed(y, None) == 12
    assert count_observed(y, mask).tolist() == [6, 12]  # type: ignore[union-attr]
    assert count_observed(y, mask[:1]).tolist() == [6, 6]  # type: ignore[union-attr]
    assert count_observed(y, mask.bool()).tolist() == [6, 12]  # type: ignore[union-attr]


def test_a_complex_entry_counts_twice():
    y = torch.zeros(1, 2, 2, dtype=torch.complex64)
    assert count_observed(y, None) == 8
    assert count_observed(y, torch.tensor([[1.0, 0.0]])).tolist() == [4]  # type: ignore[union-attr]


def test_unknown_noise_cannot_be_drawn():
    with pytest.raises(TypeError, match="give noise=gaussian, or a measurement"):
        UnknownNoise().sample(torch.zeros(1, 3), rng())


def test_unknown_noise_has_no_level():
    assert UnknownNoise().std is None
    with pytest.raises(TypeError, match="argument"):
        UnknownNoise(0.1)  # type: ignore[call-arg]


@pytest.mark.parametrize("noise", [GaussianNoise(0.1), UnknownNoise()])
def test_both_fulfil_the_protocol(noise: Noise):
    assert isinstance(noise, Noise)


# Goldens


def test_poisson_moments_are_golden():
    case = GOLDEN["poisson_moments"]
    h, w = torch.arange(4)[:, None], torch.arange(4)
    u = ((37 * h + 17 * w + 7 * h * w) % 101).double() / 100
    gain, n = 255 * case["rate"], 20_000
    y = PoissonNoise(case["rate"], scale="unit").sample(u.expand(1, n, 4, 4), rng())[0].flatten(1)
    mean, variance = torch.tensor(case["mean"]).double(), torch.tensor(case["variance"]).double()
    assert bool(((y.mean(0) - mean).abs() <= 4 * (variance / n).sqrt()).all())
    spread = variance * ((2 + 1 / (gain * mean).clamp_min(1e-9)) / n).sqrt()
    assert bool(((y.var(0) - variance).abs() <= 4 * spread).all())


def test_level_scales_are_golden():
    for unit, signed in GOLDEN["sigma_scale"]["pairs_0_1_to_m1_1"]:
        assert convert_level(unit, "unit", "signed") == pytest.approx(signed, rel=1e-15)
        assert convert_level(signed, "signed", "unit") == pytest.approx(unit, rel=1e-15)
    assert convert_level(0.3, "unit", "unit") == 0.3


def test_imagenet_c_levels_are_golden():
    names = {"gaussian": "gaussian_sigma01", "shot": "shot_lambda"}
    names |= {"impulse": "impulse_density", "speckle": "speckle_sigma"}
    for kind, name in names.items():
        golden = GOLDEN["imagenet_c_levels"][name]
        assert [IMAGENET_C[kind][severity] for severity in range(1, 6)] == golden


# Hidden


def test_a_hidden_model_draws_as_itself_and_scores_as_unknown():
    noise, clean = ShotNoise(12), normal(2, 3, 4, 4).clamp(-1, 1)
    y = Hidden(noise).sample(clean, rng("a", "b"))
    assert torch.equal(y, noise.sample(clean, rng("a", "b")))
    assert Hidden(noise).std is None and isinstance(Hidden(noise), UnknownNoise)
    assert torch.equal(Hidden(noise).nll(clean, y), UnknownNoise().nll(clean, y))
    assert repr(noise) in repr(Hidden(noise))


def test_methods_treat_hidden_noise_as_unknown():
    x, prior = normal(2, 1, 4, 4).clamp(-1, 1), ExactPrior(torch.zeros(1, 4, 4).double())
    noise = Hidden(GaussianNoise(0.3))
    y = measure(Identity(), x, noise)
    assert torch.equal(y, measure(Identity(), x, GaussianNoise(0.3)))
    problem = Problem(y, Identity(), noise, prior)
    assert diagnose(problem, x, None)[0].chi_square is None
    objective = seed_misfit(problem, Generator(steps=1), seed_weight=0.0)
    rho, image = whitened_residual(objective, x)
    close(rho.square().flatten(1).sum(1) / 2, problem.nll(image), 1e-6)


@pytest.mark.parametrize("noise", [UnknownNoise(), "shot", GaussianNoise, LaplaceNoise, None])
def test_only_models_that_can_be_drawn_are_hidden(noise: Any):
    with pytest.raises(TypeError, match="Hidden needs noise models to draw from, such as"):
        Hidden(noise)
    with pytest.raises(TypeError, match="CompoundNoise needs noise models to draw from"):
        CompoundNoise([GaussianNoise(0.1), noise])


# Compounds and ImageNet-C


def test_parts_act_in_order_and_share_the_stream():
    clean = torch.zeros(1, 3, 8, 8)
    parts = [GaussianNoise(0.1), ImpulseNoise(0.3)]
    stream = rng()
    want = parts[1].sample(parts[0].sample(clean, stream), stream)
    assert torch.equal(CompoundNoise(parts).sample(clean, rng()), want)
    assert float((CompoundNoise(parts[::-1]).sample(clean, rng()).abs() == 1).double().sum()) == 0
    assert float((want.abs() == 1).double().mean()) > 0.2


def test_imagenet_c_is_clamped_to_the_range():
    clean = torch.full((1, 3, 16, 16), 0.9)
    for kind in IMAGENET_C:
        y = imagenet_c(kind, 5).sample(clean, rng())
        assert float(y.max()) == 1 and not torch.equal(y, clean)


@pytest.mark.parametrize("severity", range(5))
def test_imagenet_c_has_the_golden_levels(severity: int):
    golden = {name: levels[severity] for name, levels in GOLDEN["imagenet_c_levels"].items()}
    at = severity + 1
    (gaussian,) = imagenet_c("gaussian", at).parts  # type: ignore[attr-defined]
    assert gaussian.std == pytest.approx(2 * golden["gaussian_sigma01"], rel=1e-15)
    (gaussian,) = imagenet_c("gaussian", at, "unit").parts  # type: ignore[attr-defined]
    assert gaussian == GaussianNoise(golden["gaussian_sigma01"], "unit")
    assert imagenet_c("shot", at) == ShotNoise(golden["shot_lambda"], clip=True)
    assert imagenet_c("impulse", at) == ImpulseNoise(golden["impulse_density"])
    assert imagenet_c("speckle", at) == SpeckleNoise(golden["speckle_sigma"], clip=True)


def test_imagenet_c_states_its_levels():
    assert imagenet_c("shot", 2) == ShotNoise(25, clip=True)
    assert imagenet_c("speckle", 3, "unit") == SpeckleNoise(0.35, "unit", clip=True)
    assert imagenet_c("impulse", 5) == ImpulseNoise(0.27)
    assert imagenet_c("gaussian", 1) == CompoundNoise([GaussianNoise(0.16)], clip=True)
    with pytest.raises(TypeError):
        IMAGENET_C["shot"][1] = 2  # type: ignore[index]


# Presets


def preset(file: Path, scale: str = "signed") -> Any:
    hints = {"hints": {"noise": {"std": 0.01, "scale": scale}}}
    return OmegaConf.to_container(
        OmegaConf.merge(hints, {"noise": OmegaConf.load(file)}), resolve=True
    )["noise"]  # type: ignore[index, call-overload]


def arguments_missing(node: Any) -> list[str]:
    """Constructor arguments that a preset, or a part of it, does not list."""
    if isinstance(node, list):
        return [name for item in node for name in arguments_missing(item)]
    if not isinstance(node, dict):
        return []
    module, _, name = node["_target_"].rpartition(".")
    taken = inspect.signature(getattr(__import__(module, fromlist=[name]), name)).parameters
    missing = [f"{name}.{key}" for key in taken if key not in node]
    return missing + [m for value in node.values() for m in arguments_missing(value)]


@pytest.mark.parametrize("file", PRESETS, ids=lambda f: f.stem)
def test_presets_list_every_argument_and_work(file: Path):
    assert arguments_missing(preset(file)) == []
    noise = build(preset(file))
    assert isinstance(noise, Noise)
    clean = normal(2, 3, 8, 8).clamp(-1, 1)
    y = clean if type(noise) is UnknownNoise else noise.sample(clean, rng("a", "b"))
    assert y.isfinite().all() and build(preset(file)) == noise
    if not getattr(noise, "clip", False):
        assert noise.nll(clean, y).isfinite().all()


@pytest.mark.parametrize("file", PRESETS, ids=lambda f: f.stem)
def test_presets_take_the_scale_of_the_task(file: Path):
    if any(kind in file.stem for kind in ("impulse", "imagenet_c", "compound", "clipped")):
        with pytest.raises(ValueError, match="scale='other'"):
            build(preset(file, "other"))
        return
    noise, clean = build(preset(file, "other")), 30 * torch.ones(1, 1, 8, 8)
    assert "[" not in repr(noise)
    assert type(noise) is UnknownNoise or noise.sample(clean, rng()).isfinite().all()


@pytest.mark.parametrize(("word", "severity"), [("low", 1), ("high", 3)])
def test_robustness_presets_have_the_levels_of_imagenet_c_and_hide_them(word: str, severity: int):
    folder = PRESETS[0].parent
    made = {k: build(preset(folder / f"{k}_{word}.yaml")) for k in IMAGENET_C}
    level = {k: IMAGENET_C[k][severity] for k in IMAGENET_C}
    assert all(noise.std is None and isinstance(noise, UnknownNoise) for noise in made.values())
    assert made == {
        "gaussian": Hidden(GaussianNoise(2 * level["gaussian"])),
        "shot": Hidden(ShotNoise(level["shot"])),
        "impulse": Hidden(ImpulseNoise(level["impulse"])),
        "speckle": Hidden(SpeckleNoise(level["speckle"])),
    }
