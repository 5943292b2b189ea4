"""Options: what is refused, in which words, and when two trainings are the same."""

import subprocess
import sys

import pytest

from plugip.training import Settings, read_settings
from plugip.training.reading import difference, public_settings, settings_name
from plugip.training.schedule import learning_rate
from plugip.training.sections import Data, Optimiser


def settings(**changes):
    return read_settings({"data": {"path": "photos"}, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": "many"}, "steps must be a whole number of at least 1, got 'many'"),
        ({"steps": True}, "steps must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"objective": "velocty"}, "unknown objective 'velocty', choose from velocity, epsilon"),
        ({"objective": "velocty"}, "did you mean 'velocity'?"),
        ({"times": "often"}, "unknown times 'often'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"minutes": 0}, "minutes must be a number above 0, got 0"),
        ({"ema_decay": 1}, "ema_decay must be a number of at least 0 and at most 0.999999"),
        ({"stepz": 3}, "unknown option stepz; there are"),
        ({"stepz": 3}, "did you mean 'steps'?"),
        ({"data": {"path": ""}}, "data.path must name a folder or a zip file of images, got ''"),
        ({"data": {}}, "data.path must name a folder or a zip file of images"),
        ({"data": {"path": "a", "size": 4}}, "data.size must be a whole number from 8 to 4096"),
        (
            {"data": {"path": "a", "size": 60}},
            "data.size must be a multiple of 8 for a network of",
        ),
        ({"data": {"path": "a", "channels": 4}}, "data.channels must be 1 (grey) or 3 (RGB)"),
        ({"data": {"path": "a", "holdout": 0.9}}, "data.holdout must be a number of at least 0"),
        ({"data": {"path": "a", "flipp": True}}, "unknown option data.flipp"),
        ({"data": 3}, "data must be a section of options, got 3"),
        ({"network": {"patch": 4}}, "network.patch must be 1 or 2, got 4"),
        ({"network": {"attention": [True]}}, "network.attention must be a list of 3 entries"),
        ({"network": {"norm_num_groups": 7}}, "network.norm_num_groups 7 does not divide the 64"),
        ({"network": {"attention_head_dim": 48}}, "attention_head_dim 48 does not divide the 128"),
        ({"optimiser": {"lr": -1}}, "optimiser.lr must be a number above 0 and at most 1, got -1"),
        ({"optimiser": {"schedule": "step"}}, "unknown optimiser.schedule 'step'"),
        ({"optimiser": {"warmup": 10}, "steps": 10}, "optimiser.warmup=10 must be less than"),
        ({"objective": "epsilon", "times": "logit_normal"}, "times=logit_normal is made for"),
        ({"sheet": {"steps": []}}, "sheet.steps must be a list with one entry or more, got []"),
        ({"card": {"licence": None}}, "card.licence must be a text, got None"),
    ],
)
def test_what_is_refused(changes, said):
    with pytest.raises(ValueError) as caught:
        settings(**changes)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_settings_are_read_without_torch():
    code = (
        "import sys; from plugip.training import read_settings\n"
        "read_settings({'data': {'path': 'a'}}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_decides_and_what_does_not():
    first = public_settings(settings())
    assert difference(first, public_settings(settings(minutes=3, log={"every": 7}))) is None
    assert difference(first, public_settings(settings(data={"path": "elsewhere/"}))) is None
    said = difference(first, public_settings(settings(optimiser={"lr": 1e-3})))
    assert said == "optimiser.lr is 0.0004 there and 0.001 now"
    assert difference(first, public_settings(settings(steps=7))) == (
        "steps is 20000 there and 7 now"
    )


def test_public_settings_hold_no_paths():
    made = settings(data={"path": "/home/me/faces.zip"}, init="/home/me/old")
    plain = public_settings(made)
    assert plain["data"]["path"] == "faces.zip" and plain["init"] == "old"
    assert "/home" not in str(plain)


def test_a_name_follows_from_the_settings():
    name = settings_name(settings())
    assert name.startswith("train_velocity_64_") and name == settings_name(settings(minutes=1))
    assert name != settings_name(settings(data={"path": "others"}))
    assert name != settings_name(settings(rng_seed=1))


def test_the_settings_of_python_are_those_of_the_config():
    from plugip.building import resolved
    from plugip.cli.compose import compose_config

    config = resolved(compose_config(["data.path=photos"], None, "train"))
    config.pop("debug")
    assert read_settings(config) == read_settings(
        {"data": {"path": "photos"}, "network": config["network"], "sheet": config["sheet"]}
        | {"optimiser": config["optimiser"]}
    )
    for name in ("steps", "batch_size", "ema_decay", "objective", "times"):
        assert config[name] == getattr(Settings(Data("photos")), name)
    assert tuple(config["optimiser"]["betas"]) == Optimiser().betas


def test_the_learning_rate():
    cosine = Optimiser(lr=0.1, warmup=10)
    assert learning_rate(cosine, 0, 110) == pytest.approx(0.01)
    assert learning_rate(cosine, 9, 110) == pytest.approx(0.1)
    assert learning_rate(cosine, 60, 110) == pytest.approx(0.05)
    assert learning_rate(cosine, 110, 110) == pytest.approx(0)
    constant = Optimiser(lr=0.1, schedule="constant")
    assert learning_rate(constant, 4, 100) == pytest.approx(0.05)
    assert learning_rate(constant, 99, 100) == pytest.approx(0.1)
