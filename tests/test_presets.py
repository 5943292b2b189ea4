"""The presets: published settings as task files, against the numbers that the papers print."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from plugip.building import build, resolved
from plugip.cli.compose import compose_config
from plugip.operator import BlindOperator
from plugip.operators.bkse import BKSE, MissingWeightsError
from plugip.operators.inpaint import Inpaint
from plugip.operators.kernels import GaussianKernel
from plugip.operators.separable_blur import gaussian_taps
from plugip.rng import Rng

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("daps", "ddrm", "diffpir", "dmplug", "dps", "fmplug", "pnp_flow")
LAB = str(ROOT / "tests/lab/conf")

# The scale that a printed noise level is on: the range of the images that it is added to.
SIGNED, UNIT, UNIT_AMPLITUDES = 1.0, 2.0, 1.0


class Published(NamedTuple):
    """What is printed: noise level and its scale, image side; and the shape of y that follows."""

    level: float
    scale: float
    side: int
    measured: tuple[int, ...]


def square(channels: int, side: int) -> tuple[int, ...]:
    return (channels, side, side)


PIXELS = square(3, 256)
QUARTER = square(3, 64)
PADDED = square(3, 384)
PRESETS = {
    "dps/super_resolution": Published(0.05, SIGNED, 256, QUARTER),
    "dps/gaussian_deblur": Published(0.05, SIGNED, 256, PIXELS),
    "dps/motion_deblur": Published(0.05, SIGNED, 256, PIXELS),
    "dps/inpaint_random": Published(0.05, SIGNED, 256, PIXELS),
    "dps/inpaint_box": Published(0.05, SIGNED, 256, PIXELS),
    "dps/phase_retrieval": Published(0.05, SIGNED, 256, PADDED),
    "dps/nonlinear_deblur": Published(0.05, SIGNED, 256, PIXELS),
    "dps/super_resolution_poisson": Published(1.0, SIGNED, 256, QUARTER),
    "dps/gaussian_deblur_poisson": Published(1.0, SIGNED, 256, PIXELS),
    "dps/motion_deblur_poisson": Published(1.0, SIGNED, 256, PIXELS),
    "dmplug/super_resolution": Published(0.01, SIGNED, 256, QUARTER),
    "dmplug/inpaint_random": Published(0.01, SIGNED, 256, PIXELS),
    "dmplug/nonlinear_deblur": Published(0.01, SIGNED, 256, PIXELS),
    "dmplug/blind_gaussian_deblur": Published(0.01, SIGNED, 256, PIXELS),
    "dmplug/blind_motion_deblur": Published(0.01, SIGNED, 256, PIXELS),
    "dmplug/turbulence": Published(0.01, SIGNED, 256, PIXELS),
    "ddrm/super_resolution": Published(0.05, UNIT, 256, QUARTER),
    "ddrm/super_resolution_bicubic": Published(0.05, UNIT, 256, QUARTER),
    "ddrm/uniform_deblur": Published(0.05, UNIT, 256, PIXELS),
    "ddrm/gaussian_deblur": Published(0.05, UNIT, 256, PIXELS),
    "ddrm/anisotropic_deblur": Published(0.05, UNIT, 256, PIXELS),
    "ddrm/colorization": Published(0.05, UNIT, 256, square(1, 256)),
    "ddrm/compressed_sensing": Published(0.05, UNIT, 256, (3, 256 * 256 // 2)),
    "ddrm/denoise": Published(0.05, UNIT, 256, PIXELS),
    "daps/super_resolution": Published(0.05, SIGNED, 256, QUARTER),
    "daps/gaussian_deblur": Published(0.05, SIGNED, 256, PIXELS),
    "daps/motion_deblur": Published(0.05, SIGNED, 256, PIXELS),
    "daps/inpaint_random": Published(0.05, SIGNED, 256, PIXELS),
    "daps/inpaint_box": Published(0.05, SIGNED, 256, PIXELS),
    "daps/phase_retrieval": Published(0.05, UNIT_AMPLITUDES, 256, PADDED),
    "daps/nonlinear_deblur": Published(0.05, SIGNED, 256, PIXELS),
    "daps/hdr": Published(0.05, SIGNED, 256, PIXELS),
    "diffpir/super_resolution": Published(12.75 / 255, UNIT, 256, QUARTER),
    "diffpir/super_resolution_kernel": Published(12.75 / 255, UNIT, 256, QUARTER),
    "diffpir/gaussian_deblur": Published(12.75 / 255, UNIT, 256, PIXELS),
    "diffpir/motion_deblur": Published(12.75 / 255, UNIT, 256, PIXELS),
    "diffpir/inpaint_box": Published(0.001, UNIT, 256, PIXELS),
    "pnp_flow/denoise": Published(0.2, SIGNED, 128, square(3, 128)),
    "pnp_flow/denoise_laplace": Published(0.3 * math.sqrt(2), SIGNED, 128, square(3, 128)),
    "pnp_flow/inpaint_random": Published(0.01, SIGNED, 128, square(3, 128)),
    "pnp_flow/gaussian_deblur_faces": Published(0.05, SIGNED, 128, square(3, 128)),
    "pnp_flow/gaussian_deblur_cats": Published(0.05, SIGNED, 256, PIXELS),
    "pnp_flow/super_resolution_faces": Published(0.05, SIGNED, 128, QUARTER),
    "pnp_flow/super_resolution_cats": Published(0.05, SIGNED, 256, QUARTER),
    "pnp_flow/inpaint_box_faces": Published(0.05, SIGNED, 128, square(3, 128)),
    "pnp_flow/inpaint_box_cats": Published(0.05, SIGNED, 256, PIXELS),
    "fmplug/super_resolution": Published(0.03, SIGNED, 512, square(3, 128)),
    "fmplug/super_resolution_12": Published(0.01, SIGNED, 768, QUARTER),
    "fmplug/inpaint_random": Published(0.03, SIGNED, 512, square(3, 512)),
    "fmplug/gaussian_deblur": Published(0.03, SIGNED, 512, square(3, 512)),
    "fmplug/motion_deblur": Published(0.03, SIGNED, 512, square(3, 512)),
}
NEURAL = sorted(name for name in PRESETS if name.endswith("/nonlinear_deblur"))
NAMES = sorted(PRESETS)


@functools.cache
def composed(name, *words):
    return resolved(compose_config([f"task={name}", "prior=plain", *words], LAB))


def built(name, side=None):
    """The operator of a preset, its random parts drawn for one image."""
    operator = build(composed(name)["operator"])
    shape = (1, 3, *2 * (side or PRESETS[name].side,))
    rng = Rng(0, "operator", ["a"])
    if isinstance(operator, BlindOperator):
        return operator.draw(rng, shape)
    return operator.realise(rng, shape)


def gradient_image(side):
    """Three ramps: a product, one down, one across; (1, 3, side, side)."""
    line = torch.linspace(-0.9, 0.9, side)
    down, across = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([down * across, down, across])[None]


def test_each_preset_has_a_row_here_and_in_the_table_of_the_documentation():
    files = {
        f"{family}/{file.stem}"
        for family in FAMILIES
        for file in (ROOT / "conf/task" / family).glob("*.yaml")
    }
    assert files == set(PRESETS)
    page = (ROOT / "docs/presets.md").read_text("utf-8")
    assert [name for name in NAMES if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_the_printed_level_on_our_scale(name):
    noise = build(composed(name)["noise"])
    level = noise.rate if "poisson" in name else noise.std
    assert level == pytest.approx(PRESETS[name].level * PRESETS[name].scale, rel=1e-12)
    assert noise.scale == ("other" if "phase" in name else "signed")


@pytest.mark.parametrize("name", NAMES)
def test_composes_with_another_method_and_the_command_line_wins(name):
    config = composed(name, "method=dps_paper", "noise=gaussian", "noise.std=0.5")
    assert build(config["noise"]).std == 0.5 and config["operator"] == composed(name)["operator"]


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(NEURAL)))
def test_operator_takes_images_of_the_published_size(name):
    side, measured = PRESETS[name].side, PRESETS[name].measured
    operator = built(name)
    operator.check_domain((1, 3, side, side))
    assert tuple(operator.measurement_shape((1, 3, side, side))) == (1, *measured)
    with torch.no_grad():
        y = operator(gradient_image(side))
    assert y.shape == (1, *measured) and y.isfinite().all() and y.std() > 0.01


@pytest.mark.parametrize("name", NEURAL)
def test_neural_blur_asks_for_its_weights_and_takes_256_pixels(name, monkeypatch):
    monkeypatch.delenv("PLUGIP_WEIGHTS", raising=False)
    config = composed(name)["operator"]
    with pytest.raises(MissingWeightsError, match="GOPRO_wVAE"):
        build(config)
    latent = build(config["latent"])
    z = latent.draw(Rng(0, "operator", [str(i) for i in range(8)]), (8, 3, 256, 256))
    assert z.shape == (8, 512, 2, 2) and float(z.std()) == pytest.approx(1.2, abs=0.03)
    operator = BKSE.untrained(0, z)
    assert tuple(operator.measurement_shape((8, 3, 256, 256))) == (8, 3, 256, 256)


# the operators, told from each other by what they do


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dps/inpaint_random", int(0.92 * 256**2)),
        ("dmplug/inpaint_random", int(0.7 * 256**2)),
        ("daps/inpaint_random", int(0.7 * 256**2)),
        ("fmplug/inpaint_random", int(0.7 * 512**2)),
        ("dps/inpaint_box", 128**2),
        ("daps/inpaint_box", 128**2),
        ("diffpir/inpaint_box", 128**2),
        ("pnp_flow/inpaint_box_faces", 40**2),
        ("pnp_flow/inpaint_box_cats", 80**2),
    ],
)
def test_masks_drop_as_many_pixels_as_published(name, count):
    config = composed(name)["operator"] | {"noise_on": "observed"}
    side = PRESETS[name].side
    operator = build(config).realise(Rng(0, "operator", ["a"]), (1, 3, side, side))
    assert int((operator.mask == 0).sum()) == count


@pytest.mark.parametrize(("name", "margin"), [("dps/inpaint_box", 16), ("daps/inpaint_box", 32)])
def test_boxes_keep_the_published_distance_to_the_edge(name, margin):
    sampler = build(composed(name)["operator"]["mask"])
    holes = 1 - sampler.draw(Rng(0, "m", [str(i) for i in range(300)]), (300, 3, 256, 256))
    rows = holes.amax((0, 1, 3)).nonzero()
    assert int(rows.min()) == margin and int(rows.max()) == 255 - margin


@pytest.mark.parametrize(("name", "first"), [("faces", 44), ("cats", 88)])
def test_boxes_of_pnp_flow_lie_in_the_middle(name, first):
    operator = built(f"pnp_flow/inpaint_box_{name}")
    assert isinstance(operator, Inpaint)
    mask = operator.mask[0, 0]
    rows = (mask == 0).any(1).nonzero()
    assert int(rows.min()) == first and int(rows.max()) == len(mask) - 1 - first


@pytest.mark.parametrize("family", ["dps", "dmplug", "daps", "fmplug", "pnp_flow"])
def test_their_noise_falls_on_missing_pixels_too(family):
    assert composed(f"{family}/inpaint_random")["operator"]["noise_on"] == "all"


def test_ddrm_loses_the_last_tap_as_its_code_does():
    x = torch.ones(1, 3, 256, 256)
    middle = built("ddrm/uniform_deblur")(x)[0, 0, 128, 128]
    assert float(middle) == pytest.approx((8 / 9) ** 2, abs=5e-3)
    middle = built("ddrm/gaussian_deblur")(x)[0, 0, 128, 128]
    assert float(middle) == pytest.approx(0.802**2, abs=5e-3)


def test_boundaries_differ_between_papers():
    x = gradient_image(256)
    with torch.no_grad():
        dps, diffpir = built("dps/gaussian_deblur")(x), built("diffpir/gaussian_deblur")(x)
        daps = built("daps/gaussian_deblur")(x)
    assert torch.equal(dps, daps)
    assert (dps - diffpir).abs().max() > 0.1
    assert torch.allclose(dps[..., 64:-64, 64:-64], diffpir[..., 64:-64, 64:-64], atol=1e-5)


def test_diffpir_convolves_with_motion_kernels_and_dps_correlates():
    for name, flip in (("diffpir", True), ("dps", False), ("daps", False), ("fmplug", False)):
        config = composed(f"{name}/motion_deblur")["operator"]
        assert (config["flip"], config["size"], config["intensity"]) == (flip, 61, 0.5)


@pytest.mark.parametrize("task", ["super_resolution", "gaussian_deblur", "motion_deblur"])
def test_photon_noise_of_dps_is_cut_and_leaves_the_operator_as_it_is(task):
    config = composed(f"dps/{task}_poisson")
    assert config["operator"] == composed(f"dps/{task}")["operator"]
    noise = build(config["noise"])
    y = noise.sample(torch.full((1, 20_000), 0.9), Rng(0, "measure", ["a"]))
    assert noise.clip and float(y.max()) == 1
    grey = (y + 1) * 127.5  # whole photons, 242.25 expected at each
    assert torch.allclose(grey, grey.round(), atol=1e-3)
    assert float(grey.mean()) == pytest.approx(240.40, abs=0.36)  # less what is cut at 255


def test_phase_retrieval_of_daps_sees_the_image_on_the_unit_range():
    x = gradient_image(256)
    dps, daps = built("dps/phase_retrieval"), built("daps/phase_retrieval")
    assert torch.allclose(daps(x), dps((x + 1) / 2), atol=1e-5)
    for name in ("dps", "daps"):
        align = build(composed(f"{name}/phase_retrieval")["align"])
        assert torch.allclose(align(x.flip(-1, -2), x), x, atol=1e-5)


def test_blind_gaussian_kernel_is_the_one_that_dmplug_cuts_at_four_std():
    truth = build(composed("dmplug/blind_gaussian_deblur")["operator"]["truth"])
    assert truth == GaussianKernel(3.0, 25)
    taps = torch.from_numpy(gaussian_taps(3.0, 61))[18:43]
    assert torch.allclose(truth.build(), torch.outer(taps, taps), atol=1e-12)


def test_glob_over_tasks_leaves_presets_out():
    """``plugip -m 'task=glob(*)'`` asks Hydra for this list."""
    with initialize_config_module("plugip.conf", version_base="1.3"):
        found = GlobalHydra.instance().config_loader().get_group_options("task")
    assert sorted(found) == sorted(p.stem for p in (ROOT / "conf/task").glob("*.yaml"))
    assert "super_resolution" in found and not any("/" in name for name in found)
