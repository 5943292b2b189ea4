"""Whole trainings of seconds: what is written, going on, ending early, refusing."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from trainings import SMALL, curve, merged

from plugip.priors import DiffusersUNet
from plugip.priors.embedded import FACES64
from plugip.training import TrainingError, train
from plugip.training import folder as folders
from plugip.training.checkpoint import Checkpoints
from plugip.training.images import load_images
from plugip.training.learner import Learner
from plugip.training.log import read_table
from plugip.training.run import probe_sentence
from plugip.training.sections import Data
from plugip.training.stop import Reason


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """A training that ran without a break."""
    from plugip.training import read_settings

    folder = tmp_path_factory.mktemp("finished") / "model"
    here = {"data": {"path": str(photos)}, "output": {"folder": str(folder)}}
    outcome = train(read_settings(merged(SMALL, here)))
    assert outcome.folder == folder and outcome.reason is Reason.NONE and outcome.step == 30
    return outcome


def test_what_is_written(finished):
    names = {file.name for file in finished.folder.iterdir()}
    assert names == {
        "config.json", "diffusion_pytorch_model.safetensors", "plugip_prior.json", "README.md",
        "train.yaml", "train.csv", "train.log", "samples.png", "loss.png", "checkpoints",
    }  # fmt: skip
    assert [f.name for f in (finished.folder / "checkpoints").iterdir()] == ["step_00000030.pt"]
    weights = finished.folder / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_mode & 0o444 == (finished.folder / "train.csv").stat().st_mode & 0o444


def test_a_folder_in_which_a_training_is_at_work_is_refused(photos, tmp_path):
    from plugip.training import read_settings

    here = {"data": {"path": str(photos)}, "output": {"folder": str(tmp_path / "model")}}
    settings = read_settings(merged(SMALL, here))
    with (
        folders.claim(tmp_path / "model", settings, 10),
        pytest.raises(TrainingError, match="another training is at work in"),
    ):
        train(settings)
    with folders.claim(tmp_path / "model", settings, 10):  # let go of after the first has ended
        assert (tmp_path / "model" / "train.yaml").is_file()


def test_the_loss_falls_and_is_logged(finished):
    rows = read_table(finished.folder / "train.csv")
    assert [row["step"] for row in rows] == list(range(5, 35, 5))
    held_out = [row["held_out_loss"] for row in rows if row["step"] % 15 == 0]
    assert rows[0]["loss"] > 1.05 * rows[-1]["loss"]
    assert held_out[0] > held_out[-1] == finished.held_out_loss
    assert rows[0]["lr"] == pytest.approx(2e-2) and rows[-1]["lr"] < 1e-3


def test_the_folder_is_the_averaged_network(finished):
    prior = DiffusersUNet.from_pretrained(str(finished.folder), probe=False)
    assert prior.shape == (12, 4, 4) and prior.image_shape == (3, 8, 8)
    state = Checkpoints(finished.folder / "checkpoints").load(
        finished.folder / "checkpoints/step_00000030.pt"
    )
    for name, value in prior.net.state_dict().items():
        assert torch.equal(value, state["ema"][name].half().float())
    assert any(not torch.equal(v, state["net"][n]) for n, v in state["ema"].items())


def test_the_config_loads_the_folder(finished):
    from plugip.building import build

    target = "plugip.priors.diffusers_unet.DiffusersUNet.from_pretrained"
    prior = build({"_target_": target, "source": str(finished.folder), "probe": False})
    assert json.loads((finished.folder / "plugip_prior.json").read_text()) == {
        "prediction": "velocity", "value_range": [-1, 1], "space_to_depth": 2,
        "path": "flow", "time_scale": 1000.0,
    }  # fmt: skip
    # The trained network denoises pictures of its own kind better than no network.
    x = torch.zeros(1, 3, 8, 8)
    h, t = prior.encode(x), torch.tensor(0.6)
    noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(0))
    x0 = prior((1 - t) * h + t * noise, t)
    assert (x0 - h).square().mean() < 0.5 * (t / (1 - t) * noise).square().mean()


def test_the_same_command_again_changes_nothing_but_the_card(finished, photos, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(finished.folder, copy)
    (copy / ".model.abc").mkdir()  # left by a kill
    from plugip.training import read_settings

    here = {"data": {"path": str(photos)}, "output": {"folder": str(copy)}}
    before = (copy / "diffusion_pytorch_model.safetensors").read_bytes()
    outcome = train(read_settings(merged(merged(SMALL, here), {"card": {"licence": "CC0-1.0"}})))
    assert outcome.step == 30 and curve(copy) == curve(finished.folder)
    assert (copy / "diffusion_pytorch_model.safetensors").read_bytes() == before
    assert "CC0-1.0" in (copy / "README.md").read_text() and not (copy / ".model.abc").exists()


def interrupting(monkeypatch, at):
    """Sends Ctrl-C in the middle of a step."""
    real = Learner.advance

    def advance(self):
        real(self)
        if self.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Learner, "advance", advance)


def test_ctrl_c_saves_and_the_curve_goes_on_bit_for_bit(finished, small, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        interrupting(patched, 13)
        outcome = train(small())
    assert outcome.reason is Reason.INTERRUPTED and outcome.step == 13 and outcome.exit_code == 130
    said = capsys.readouterr().out
    assert "13 of 30 steps, interrupted" in said and "the same command goes on from here" in said
    # One is in the middle of the rows' rhythm, and the folder is usable already.
    assert DiffusersUNet.from_pretrained(str(outcome.folder), probe=False).shape == (12, 4, 4)
    outcome = train(small())
    assert outcome.step == 30 and curve(outcome.folder) == curve(finished.folder)
    assert "going on after step 13 of 30" in capsys.readouterr().out
    name = "diffusion_pytorch_model.safetensors"
    assert (outcome.folder / name).read_bytes() == (finished.folder / name).read_bytes()


def test_the_end_of_the_time(small):
    outcome = train(small(minutes=1e-6))
    assert outcome.reason is Reason.MINUTES and outcome.step == 0 and outcome.exit_code == 0
    assert (outcome.folder / "samples.png").is_file()


def test_epsilon_on_grey_pixels_with_dropout_and_bf16(small):
    changes = {
        "objective": "epsilon",
        "precision": "bf16",
        "data": {"channels": 1},
        "network": {"patch": 1, "dropout": 0.1},
        "channels_last": True,
        "steps": 4,
        "optimiser": {"warmup": 1},
        "log": {"every": 4},
        "output": {"half": False},
    }
    outcome = train(small(**changes))
    prior = DiffusersUNet.from_pretrained(str(outcome.folder), probe=False)
    assert prior.image_shape == (1, 8, 8) and prior.path.train_steps == 1000
    rows = read_table(outcome.folder / "train.csv")
    assert 0.5 < rows[0]["loss"] < 2
    with Image.open(outcome.folder / "samples.png") as picture:
        assert picture.mode == "RGB"


def test_dropout_goes_on_bit_for_bit_too(small, tmp_path, monkeypatch):
    changes = {"network": {"dropout": 0.3}, "steps": 8}
    whole = train(small(**changes, output={"folder": str(tmp_path / "whole")}))
    with monkeypatch.context() as patched:
        interrupting(patched, 4)
        train(small(**changes))
    torch.rand(3)  # whatever else uses torch's own generator
    assert curve(train(small(**changes)).folder) == curve(whole.folder)


def test_a_start_from_other_weights(finished, small, tmp_path):
    changes = {"steps": 5, "log": {"every": 1}, "optimiser": {"lr": 1e-5, "warmup": 1}}
    outcome = train(small(**changes, init=str(finished.folder)))
    first = read_table(outcome.folder / "train.csv")[0]["loss"]
    fresh = train(small(**changes, output={"folder": str(tmp_path / "fresh")}))
    assert first < 0.9 * read_table(fresh.folder / "train.csv")[0]["loss"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_it_learns_as_on_a_cpu_and_goes_on(finished, small, precision, monkeypatch):
    changes = {"device": "cuda", "precision": precision}
    with monkeypatch.context() as patched:
        interrupting(patched, 13)
        train(small(**changes))
    outcome = train(small(**changes))
    assert outcome.step == 30
    # Other noise, the same images and times.
    assert outcome.held_out_loss == pytest.approx(finished.held_out_loss, rel=0.15)


# refusals


def test_a_folder_of_other_settings_is_refused(finished, small):
    said = "holds a training with other settings: steps is 30 there and 70 now"
    with pytest.raises(TrainingError, match=said):
        train(small(steps=70, output={"folder": str(finished.folder)}))


def test_a_folder_with_other_things_is_refused(small, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/README.md").write_text("mine")
    with pytest.raises(TrainingError, match="is not empty and holds no training"):
        train(small(output={"folder": str(tmp_path / "full")}))
    assert (tmp_path / "full/README.md").read_text() == "mine"


def test_other_images_are_refused(small, tmp_path, photos, monkeypatch):
    with monkeypatch.context() as patched:
        interrupting(patched, 2)
        train(small())
    shutil.copytree(photos, tmp_path / "changed")
    pixels = np.full((10, 12, 3), 99, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "changed/00.png")
    with pytest.raises(TrainingError, match=r"the images of data.path are not those of"):
        train(small(data={"path": str(tmp_path / "changed")}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"path": "nowhere"}}, "data.path nowhere does not exist"),
        ({"batch_size": 25}, "batch_size=25 is more than the 24 images; choose a smaller one"),
        ({"batch_size": 23}, "batch_size=23 is more than the 22 images to train on"),
        ({"precision": "fp16"}, "precision=fp16 needs a GPU"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"init": "nowhere"}, "there is no folder"),
    ],
)
def test_what_cannot_work_is_said_before_any_step(small, changes, said, monkeypatch):
    monkeypatch.setattr(Learner, "advance", lambda self: 1 / 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=said) as caught:
        train(small(**changes))
    assert "\n" not in str(caught.value)


def test_too_small_a_disk_is_said_before_any_step(small, monkeypatch):
    class Usage:
        free = 10**6

    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(TrainingError, match="has 1 MB of free disk, and checkpoints and model"):
        train(small())


def test_a_loss_that_is_no_number_ends_with_a_sentence(small, monkeypatch):
    real = Learner.advance

    def advance(self):
        real(self)
        if self.step == 22:
            self.loss_sum = self.loss_sum * torch.nan

    monkeypatch.setattr(Learner, "advance", advance)
    with pytest.raises(TrainingError, match="the loss is nan at step 25: choose a smaller"):
        train(small())


# the probe


def test_the_probe_speaks_of_the_written_folder(finished, photos):
    size = Data(str(photos), 64)
    assert probe_sentence(FACES64, load_images(size, 0, lambda _: None)) == "passes"
    assert finished.probe.startswith(("fails, with an image", "passes with an image"))
    assert finished.probe in (finished.folder / "README.md").read_text()
