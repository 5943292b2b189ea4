"""What a config may name: all names of the package are tried; those that count are parts."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import plugip
from plugip.arguments import misfit
from plugip.building import BuildError, build
from plugip.parts import CONSTRUCTORS, MAKERS, is_part, may_name

WRITES = re.compile(
    r"write_|\.mkdir|\.unlink|rmtree|os\.replace|os\.remove|save_file|\.save\(|save_pretrained"
    r"|subprocess|os\.system|(?<!\.)\bexec\(|(?<!\.)\beval\(|pickle|open\([^)]*[\"'][wax]b?[\"']"
)
# An optional extra.
MISSING = () if importlib.util.find_spec("deepinv") else ("plugip.bridges.deepinv",)


def modules():
    for found in pkgutil.walk_packages(plugip.__path__, "plugip."):
        if found.name not in MISSING and not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def buildable():
    """Every (name, object) that build takes without trust, by all names that lead there."""
    for module in modules():
        for name, found in vars(module).items():
            target = f"{module.__name__}.{name}"
            if not callable(found) or not may_name(target):
                continue
            if is_part(target, found, module):
                yield target, found
            if inspect.isclass(found):
                for inner in dir(found):
                    made = getattr(found, inner, None)
                    deeper = f"{target}.{inner}"
                    if callable(made) and may_name(deeper) and is_part(deeper, made, found):
                        yield deeper, made


PARTS = dict(buildable())


def test_all_that_can_be_built_is_a_part():
    assert len(PARTS) > 200
    for target, found in PARTS.items():
        where = f"{found.__module__}.{found.__qualname__}"
        assert where.startswith("plugip.") and not target.split(".")[-1].startswith("_"), target
        if inspect.isclass(found):
            assert not issubclass(found, BaseException) and not inspect.isabstract(found), target
        elif inspect.ismethod(found):
            assert inspect.isclass(found.__self__) and found.__name__ in CONSTRUCTORS, target
        else:
            assert where.removeprefix("plugip.") in MAKERS, target


def written_code(found):
    """What runs when a part is built, as far as somebody has written it down."""
    names = ("__new__", "__init__", "__post_init__")
    code = [vars(found).get(n) for n in names] if inspect.isclass(found) else [found]
    for function in map(inspect.unwrap, filter(inspect.isroutine, code)):
        if Path(inspect.getfile(function)).is_file():  # a dataclass's own has no file
            yield inspect.getsource(function)


def test_no_part_writes_a_file_or_starts_a_program_when_it_is_built():
    codes = {target: "".join(written_code(found)) for target, found in PARTS.items()}
    assert [target for target, code in codes.items() if WRITES.search(code)] == []
    assert sum(map(bool, codes.values())) > 100


def test_every_constructor_leads_to_a_part():
    made = {
        target.rpartition(".")[2] for target, found in PARTS.items() if inspect.ismethod(found)
    }
    assert made == set(CONSTRUCTORS)
    assert build({"_target_": "plugip.path.DiscretePath.linear", "steps": 10}).train_steps == 10


def test_every_maker_is_there():
    for name in MAKERS:
        module, _, function = f"plugip.{name}".rpartition(".")
        if module not in MISSING:
            assert callable(getattr(importlib.import_module(module), function)), name


@pytest.mark.parametrize(
    "target",
    [
        "plugip.loop.solve",
        "plugip.problem.measure",
        "plugip.solve",
        "plugip.priors.text.save_texts",
        "plugip.priors.low_rank.LowRankGaussian.to_bytes",
        "plugip.priors.low_rank.LowRankGaussian.__init__",
        "plugip.priors.low_rank_file.low_rank_bytes",
        "plugip.priors.text.Path",
        "plugip.data.os.system",
        "plugip.data.torch.zeros",
        "plugip.record.files.write_atomic",
        "plugip.data.ImageError",
        "plugip.prior.Prior",
        "plugip.methods.dps.DPSState",
        "plugip.operators._memo.Memo",
        "plugip.noise.GaussianNoise.sample",
        "torch.nn.Module.register_forward_hook",
        "torch.nn.init.zeros_",
        "torch.optim.Adam.step",
        "torch.save",
        "torch.jit.load",
        "torch.hub.load_state_dict_from_url",
        "torch.nn.modules.module.torch.load",
        "torch.os.system",
    ],
)
def test_what_is_no_part_is_not_built(target):
    with pytest.raises(BuildError, match=r"not trusted|does not exist"):
        build({"_target_": target})


def test_omegaconf_inside_plain_containers_is_checked_as_well():
    from omegaconf import OmegaConf

    node = OmegaConf.create({"_target_": "os.getcwd"})
    noise = {"_target_": "plugip.noise.GaussianNoise", "std": 0.1}
    for hidden in ({"x": node}, [node], (node,), [({"x": node},)], {**noise, "_args_": [node]}):
        with pytest.raises(BuildError, match="not trusted"):
            build(hidden)
    for target in (["os.getcwd"], None, 3, node):
        with pytest.raises(BuildError):
            build([{"_target_": target}])
    assert build((OmegaConf.create(noise),))[0].std == 0.1
    kept = build({**noise, "_partial_": True, "_recursive_": False})
    assert kept().std == 0.1


def test_strings_that_look_like_interpolations_stay_strings():
    assert build({"x": "${oc.env:HOME}"}) == {"x": "${oc.env:HOME}"}


@pytest.mark.parametrize(
    ("value", "wanted", "ok"),
    [
        (3, int, True), (3.0, int, False), (True, int, False), ("3", int, False),
        (3, float, True), (float("nan"), float, False), (float("inf"), float, False),
        (True, float, False), ("maybe", bool, False), (1, bool, False), (False, bool, True),
        (2024, str, False), (False, str, False), ("2024", str, True), (None, str, False),
        (None, int | None, True), (1.5, int | None, False), (3, str | list[str], False),
        ([3], list[str], False), (["a"], str | list[str], True), ("ab", list[str], False),
        ([1, 2], tuple[int, int], True), ([1], tuple[int, int], False),
        ([1, 2.5], tuple[int, ...], False), (object(), object, True),
    ],
)  # fmt: skip
def test_values_are_held_against_annotations(value, wanted, ok):
    assert (misfit(value, wanted) is None) == ok


def test_a_parameters_own_default_always_suits():
    assert misfit(float("inf"), float, float("inf")) is None
    assert misfit(None, float, None) is None


@pytest.mark.parametrize(
    ("target", "arguments", "key"),
    [
        ("plugip.methods.DMPlug", {"iterations": 1.5}, "iterations"),
        ("plugip.methods.DMPlug", {"iterations": float("nan")}, "iterations"),
        ("plugip.methods.DMPlug", {"iterations": "abc"}, "iterations"),
        ("plugip.methods.DMPlug", {"iterations": None}, "iterations"),
        ("plugip.methods.DMPlug", {"seed_weight": float("nan")}, "seed_weight"),
        ("plugip.methods.DMPlug", {"generator": 3}, "generator"),
        ("plugip.methods.DMPlug", {"generator": "abc"}, "generator"),
        (
            "plugip.methods.DMPlug",
            {"generator": {"_target_": "plugip.noise.UnknownNoise"}},
            "generator",
        ),
        ("plugip.engine.lbfgs.LBFGS", {"tolerance": float("nan")}, "tolerance"),
        ("plugip.data.ImageFolder", {"path": 2024}, "path"),
        ("plugip.data.ImageFolder", {"path": ["a", 2024]}, "path"),
        ("plugip.noise.GaussianNoise", {"std": "0.1"}, "std"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused_by_key(target, arguments, key):
    with pytest.raises(BuildError, match=rf"^a\.{key} (has|must)") as caught:
        build({"a": {"_target_": target, **arguments}})
    assert "\n" not in str(caught.value)
