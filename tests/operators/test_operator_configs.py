"""Every YAML lists every argument, builds, and its operator passes the public checks."""

import importlib
import inspect
from pathlib import Path

import pytest
import yaml

import plugip.operators
from plugip.building import build
from plugip.operator import BlindOperator, Operator
from plugip.rng import Rng
from plugip.testing import check_operator

FILES = sorted((Path(__file__).resolve().parents[2] / "conf/operator").glob("*.yaml"))
CONFIGS = {file.stem: yaml.safe_load(file.read_text("utf-8")) for file in FILES}
READY = [name for name in CONFIGS if "???" not in str(CONFIGS[name])]  # others need a user's file
# Rounding has no useful gradient: these take the gradient of something smoother, on purpose.
SURROGATES = {"quantize", "jpeg"}
SHAPES = {
    "temporal_blur": (2, 3, 8, 16, 16),
    "mri_single_coil": (2, 2, 64, 64),
    "mri_multi_coil": (2, 2, 64, 64),
    "gaussian_phase_retrieval": (2, 3, 16, 16),
    "ct": (2, 1, 24, 24),
    "dense_sensing": (2, 3, 16, 16),
}


def nodes(config):
    """All parts of a config that name a target."""
    yield config
    for value in config.values():
        if isinstance(value, dict) and "_target_" in value:
            yield from nodes(value)


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_list_every_argument(name):
    for node in nodes(CONFIGS[name]):
        module, _, target = node["_target_"].rpartition(".")
        signature = inspect.signature(getattr(importlib.import_module(module), target))
        assert set(signature.parameters) == set(node) - {"_target_"}


@pytest.mark.parametrize("name", READY)
def test_operators_of_all_configs_pass_the_checks(name):
    operator = build(CONFIGS[name])
    assert isinstance(operator, Operator)
    shape = SHAPES.get(name, (2, 3, 64, 64))
    if isinstance(operator, BlindOperator):  # unknown until a true theta is drawn
        operator = operator.draw(Rng(0, "operator", ["a", "b"]), shape)
    report = check_operator(operator, shape)
    failed = {check.name for check in report.checks if not check.ok}
    assert failed == ({"gradient"} if name in SURROGATES else set()), report.text()


def test_every_name_is_exported():
    for name in plugip.operators.__all__:
        assert getattr(plugip.operators, name).__module__.startswith("plugip.")
