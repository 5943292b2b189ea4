"""The YAMLs of blind, neural and video operators build what they say."""

from pathlib import Path

import pytest
import torch
import yaml

from plugip.building import build
from plugip.operator import BlindOperator
from plugip.operators import (
    bkse,
    blind_blur,
    blind_camera,
    kernels,
    turbulence,
    video,
)
from plugip.operators.bkse import MissingWeightsError
from plugip.rng import Rng
from plugip.testing import check_operator

CONF = Path(__file__).resolve().parents[2] / "conf/operator"
HOMES = (bkse, blind_blur, blind_camera, kernels, turbulence, video)
SHAPE = (2, 3, 64, 64)


def located(node):
    """Names each class by the module that it lives in."""
    if not isinstance(node, dict):
        return node
    made = {key: located(value) for key, value in node.items()}
    if "_target_" in made:
        name = made["_target_"].rpartition(".")[2]
        home = next(h for h in HOMES if getattr(h, name, None) is not None)
        made["_target_"] = f"{home.__name__}.{name}"
    return made


def config(name):
    return located(yaml.safe_load((CONF / f"{name}.yaml").read_text("utf-8")))


@pytest.mark.parametrize(
    "name", ["blind_blur", "blind_turbulence", "blind_shift", "blind_exposure"]
)
def test_blind_operators_round_trip(name):
    rng, x = Rng(0, "operator", ["a", "b"]), torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(SHAPE)
    first, second = build(config(name)), build(config(name))
    assert isinstance(first, BlindOperator)
    y = first.draw(rng, SHAPE)(x)
    assert y.shape == SHAPE and bool(y.isfinite().all()) and not torch.equal(x, y)
    assert torch.equal(second.draw(Rng(0, "operator", ["a", "b"]), SHAPE)(x), y)
    guess = first.at(first.constrain(first.init_theta(rng, x)))
    assert guess(x).shape == y.shape == first.measurement_shape(SHAPE)
    assert first.unknown().truth is None
    first.check_domain(SHAPE)


def test_the_temporal_blur_builds():
    check_operator(build(config("temporal_blur")), (2, 3, 9, 4, 4)).require()


def test_the_neural_blur_asks_for_its_weights():
    assert config("bkse")["weights"] == "???"
    with pytest.raises(MissingWeightsError, match=r"as operator\.weights"):
        build(config("bkse") | {"weights": "nowhere.pth"})
