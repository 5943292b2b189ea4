"""build: what may be built, and what is said about what may not."""

import functools
import os
import sys

import pytest
import torch
from omegaconf import OmegaConf

from plugip.building import BuildError, build
from plugip.methods import DMPlug
from plugip.noise import GaussianNoise, UnknownNoise


def node(target, **arguments):
    return {"_target_": target, **arguments}


GAUSSIAN = node("plugip.noise.GaussianNoise", std=0.1)


def test_builds_objects_lists_dicts_and_nothing():
    assert build(GAUSSIAN) == GaussianNoise(0.1)
    built = build({"a": [GAUSSIAN, 3], "b": node("plugip.noise.UnknownNoise"), "c": "text"})
    assert built == {"a": [GaussianNoise(0.1), 3], "b": UnknownNoise(), "c": "text"}
    assert build(None) is None


def test_builds_nested_targets_from_a_config_with_interpolations():
    cfg = OmegaConf.create(
        {
            "n": 7,
            "method": node(
                "plugip.methods.DMPlug",
                iterations="${n}",
                generator=node("plugip.reverse.Generator", steps=2),
            ),
        }
    )
    method = build(cfg.method)
    assert isinstance(method, DMPlug)
    assert (method.iterations, method.generator.steps) == (7, 2)


def test_builds_classmethods_and_torch_parts():
    assert torch.equal(build(node("torch.zeros", _args_=[[2]])), torch.zeros(2))
    assert isinstance(build(node("torch.nn.Tanh")), torch.nn.Tanh)
    assert build(node("torch.optim.SGD", _partial_=True, lr=0.1)).func is torch.optim.SGD


def test_partials_come_without_hydras_check_at_each_call():
    built = build(node("plugip.noise.GaussianNoise", _partial_=True))
    assert type(built) is functools.partial
    assert built(std=0.2) == GaussianNoise(0.2)


def test_relative_paths_stay_as_they_are():
    assert build(node("plugip.data.ImageFolder", path="my_photos/")).path == "my_photos/"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "torch.nn.utils.clip_grad_norm_",
        "collections._sys.exit",
        "plugip.data.torch.load",
        "plugip.data.np.save",
        "plugip.building.build",
        "plugip.building.importlib.import_module",
        "plugip.record.Record",
        "plugip.cli.main",
        "plugip",
        "mylab.Thing",
        "",
    ],
)
def test_refuses_what_is_not_trusted(target):
    with pytest.raises(BuildError, match="not trusted"):
        build({"deep": [node(target)]})


def test_refusal_names_place_target_and_remedy():
    with pytest.raises(BuildError) as caught:
        build({"operator": node("mylab.Thing")})
    said = str(caught.value)
    assert "operator" in said and "mylab.Thing" in said and "trusted=[mylab]" in said


def test_nothing_is_built_before_all_is_checked(tmp_path):
    folder = node("plugip.data.ImageFolder", path="x", size=-1)  # would raise its own ValueError
    with pytest.raises(BuildError, match="not trusted"):
        build({"first": folder, "second": node("os.getcwd")})


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package of one's own that also imports something dangerous."""
    code = "import os\nclass Thing:\n    def __init__(self, a): ...\n"
    (tmp_path / "myhouse.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield "myhouse"
    sys.modules.pop("myhouse", None)


def test_trusted_packages_are_built_and_nothing_behind_them(house):
    assert type(build(node("myhouse.Thing", a=1), trusted=[house])).__name__ == "Thing"
    with pytest.raises(BuildError, match="not trusted"):
        build(node("myhouse.os.getcwd"), trusted=[house])
    with pytest.raises(BuildError, match="not trusted"):
        build(node("myhouse.Thing", a=1), trusted=["myho"])


def test_an_untrusted_module_is_not_even_imported(house):
    with pytest.raises(BuildError, match="not trusted"):
        build(node("myhouse.Thing", a=1))
    assert "myhouse" not in sys.modules


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (node("plugip.noise.GausianNoise", std=1), "did you mean 'GaussianNoise'"),
        (node("plugip.nois.GaussianNoise", std=1), "plugip has no 'nois'"),
        (node("plugip.noise"), "is a module, not a class"),
        (node("plugip.noise.GaussianNoise", sdt=1), "it takes std, scale; did you mean 'std'"),
        (node("plugip.noise.GaussianNoise"), "GaussianNoise needs the argument 'std'"),
        (
            node("plugip.methods.DMPlug", generator=node("plugip.reverse.Generator", step=1)),
            "generator: Generator has no argument 'step'",
        ),
        (OmegaConf.create({"a": "???"}), "a has no default; give it: a=..."),
        (OmegaConf.create({"a": "${b}"}), "a cannot be resolved"),
    ],
)
def test_mistakes_are_one_sentence(config, said):
    with pytest.raises(BuildError) as caught:
        build(config)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trusted_package_that_is_missing_is_named():
    with pytest.raises(BuildError, match="no module 'nolab' in the working folder"):
        build(node("nolab.Thing"), trusted=["nolab"])


def test_constructors_speak_for_themselves():
    with pytest.raises(ValueError, match="noise std must be positive") as caught:
        build({"deep": {"noise": node("plugip.noise.GaussianNoise", std=-1)}})
    assert type(caught.value) is ValueError
    with pytest.raises(FileNotFoundError):
        build(node("plugip.operators.FileMask", path=os.devnull + "/none"))
