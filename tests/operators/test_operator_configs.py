import importlib
import inspect
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

import plugip.operators
from plugip.operator import Operator

FILES = sorted((Path(__file__).resolve().parents[2] / "conf/operator").glob("*.yaml"))


def nodes(config):
    """All parts of a config that name a target."""
    yield config
    for value in config.values():
        if isinstance(value, dict) and "_target_" in value:
            yield from nodes(value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_configs_list_every_argument(file):
    config = yaml.safe_load(file.read_text("utf-8"))
    for node in nodes(config):
        module, _, name = node["_target_"].rpartition(".")
        signature = inspect.signature(getattr(importlib.import_module(module), name))
        assert set(signature.parameters) == set(node) - {"_target_"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_configs_build_operators(file):
    config = OmegaConf.load(file)
    if OmegaConf.missing_keys(config):
        pytest.skip("needs a file of the user")
    operator = instantiate(config)
    assert isinstance(operator, Operator)
    assert len(operator.measurement_shape((2, 3, 64, 64))) == 4


def test_every_name_is_exported():
    for name in plugip.operators.__all__:
        assert getattr(plugip.operators, name).__module__.startswith("plugip.operators.")
