"""The YAMLs of this family: built twice, drawn twice, they give the same measurement."""

from pathlib import Path

import pytest
import yaml

from plugip.building import build
from plugip.rng import Rng
from plugip.testing import check_operator

FOLDER = Path(__file__).resolve().parents[2] / "conf/operator"
NAMES = [
    "average_pool",
    "blur_downsample",
    "decimate",
    "grayscale",
    "walsh_hadamard",
    "dense_sensing",
    "block_sensing",
    "inpaint_bernoulli",
    "inpaint_extreme",
    "inpaint_brush",
    "inpaint_packed",
    "inpaint_random_box",
    "projective_blur",
]


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(tools, name):
    config = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    shape, ids = (2, 3, 32, 32), ["a", "b"]
    x = tools.normal(*shape)
    first, again = (build(config).realise(Rng(0, "operator", ids), shape) for _ in range(2))
    tools.close(first(x), again(x), 0)
    assert first.measurement_shape(shape) == tuple(first(x).shape)


def test_published_values_are_the_defaults_of_the_configs():
    config = {n: yaml.safe_load((FOLDER / f"{n}.yaml").read_text("utf-8")) for n in NAMES}
    assert config["average_pool"]["factor"] == 4  # DDRM, DDNM
    assert config["walsh_hadamard"]["rows"]["keep"] == 0.5  # DDRM, ratio 2
    assert config["block_sensing"]["block"] == 32  # DDNM
    assert build(config["grayscale"]).weights == (0.3333, 0.3334, 0.3333)  # DDRM, DDNM


@pytest.mark.parametrize("name", ["blur_downsample", "inpaint_brush"])
def test_built_from_yaml_they_obey_the_laws(name):
    config = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    check_operator(build(config), (2, 3, 32, 32)).require()
