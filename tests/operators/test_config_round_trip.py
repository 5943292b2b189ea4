"""Every YAML of an operator: ``build`` makes of it what the constructor makes of its values."""

import importlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from plugip.building import build
from plugip.operator import BlindOperator, Operator
from plugip.operators import MissingWeightsError
from plugip.rng import Rng
from plugip.testing.bench import images

FILES = sorted((Path(__file__).resolve().parents[2] / "conf/operator").glob("*.yaml"))
NAMES = [file.stem for file in FILES]
SHAPES = {
    "temporal_blur": (2, 3, 8, 6, 5),
    "mri_single_coil": (2, 2, 64, 64),
    "mri_multi_coil": (2, 2, 64, 64),
    "gaussian_phase_retrieval": (2, 3, 16, 16),
    "ct": (2, 1, 24, 24),
}
BOUNDED = [file.stem for file in FILES if "boundary:" in file.read_text("utf-8")]


@pytest.fixture
def config(tmp_path):
    """Reads a YAML; what only a user can give is filled in."""
    np.save(tmp_path / "kernel.npy", np.arange(1.0, 16.0).reshape(3, 5))
    np.save(tmp_path / "mask.npy", np.arange(64 * 64).reshape(64, 64) % 3 > 0)
    given = {
        "kernel_blur": {"kernel": {"path": str(tmp_path / "kernel.npy")}},
        "inpaint_mask": {"mask": {"path": str(tmp_path / "mask.npy")}},
    }

    def read(name):
        plain = yaml.safe_load((FILES[0].parent / f"{name}.yaml").read_text("utf-8"))
        for key, value in given.get(name, {}).items():
            plain[key] |= value
        return plain

    return read


def constructed(node):
    """Calls the targets by hand, the inner ones first."""
    if isinstance(node, list):
        return [constructed(part) for part in node]
    if not isinstance(node, dict):
        return node
    values = {key: constructed(value) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return values
    module, _, name = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**values)


def measured(operator, shape):
    """What an operator measures after it has drawn its random part, or its truth."""
    rng = Rng(0, "operator", ["a", "b"])
    known = operator.realise(rng, shape)
    known = known.draw(rng, shape) if isinstance(known, BlindOperator) else known
    x = images(known, shape, "x").to(torch.complex64 if known.complex_domain else torch.float32)
    return known(x)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "bkse"])
def test_built_and_constructed_measure_the_same(config, name):
    cfg, shape = config(name), SHAPES.get(name, (2, 3, 64, 64))
    again = yaml.safe_load(yaml.safe_dump(cfg))
    built, by_hand, twice = build(cfg), constructed(cfg), build(again)
    assert isinstance(built, Operator) and type(built) is type(by_hand)
    assert repr(built) == repr(by_hand) == repr(twice)
    y = measured(built, shape)
    assert torch.equal(measured(by_hand, shape), y) and torch.equal(measured(twice, shape), y)
    assert cfg == again  # nothing was written into it


def listed_boundaries(name):
    """The boundaries that the comment of a config offers."""
    text = (FILES[0].parent / f"{name}.yaml").read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith("boundary:"))
    return set(re.findall("reflect|symmetric|replicate|circular|zero|valid", line))


@pytest.mark.parametrize("name", BOUNDED)
def test_every_boundary_that_a_config_lists_is_one(config, name):
    seen = {}
    for boundary in sorted(listed_boundaries(name)):
        # A valid blur leaves 15 pixels less, which the factor must divide.
        odd = (name, boundary) == ("blur_downsample", "valid")
        shape = (2, 3, 67, 63) if odd else SHAPES.get(name, (2, 3, 64, 64))
        cfg = config(name) | {"boundary": boundary}
        seen[boundary] = measured(build(cfg), shape)
        assert torch.equal(measured(constructed(cfg), shape), seen[boundary])
    assert set(seen) >= {"reflect", "symmetric", "replicate", "circular", "zero"}
    for one, other in itertools.combinations(seen.values(), 2):
        assert not torch.equal(one, other)


def test_the_neural_blur_asks_for_its_weights_either_way(config):
    cfg = config("bkse") | {"weights": "nowhere.pth"}
    for make in (build, constructed):
        with pytest.raises(MissingWeightsError, match=r"nowhere\.pth"):
            make(cfg)
