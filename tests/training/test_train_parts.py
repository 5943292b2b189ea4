"""The network, averaged weights, checkpoints, the table, sheets, the card."""

import errno
import io
import math
import os
import signal
import time
import warnings

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from plugip.path import FlowPath
from plugip.prior import Prior
from plugip.priors.embedded import FACES64
from plugip.record.files import RecordError
from plugip.reverse import clip_none
from plugip.training import TrainingError, read_settings
from plugip.training.card import Facts, model_card, warning
from plugip.training.checkpoint import Checkpoints
from plugip.training.curve import loss_curve
from plugip.training.ema import Ema
from plugip.training.folder import write_model
from plugip.training.log import Log, read_table, table
from plugip.training.network import make_network, parameter_count, warm_start
from plugip.training.objective import OBJECTIVES
from plugip.training.sections import Network
from plugip.training.sheet import sheet
from plugip.training.stop import Reason, Stop

VELOCITY = OBJECTIVES["velocity"]


# the network


def test_the_default_network_is_the_embedded_one_and_starts_from_its_weights():
    from plugip.priors.weights import load_unet

    net = make_network(Network(), 3, 64, 0)
    assert 3.7e6 < parameter_count(net) < 3.9e6
    before = net.conv_in.weight.clone()
    warm_start(net, str(FACES64), VELOCITY, 2)
    assert not torch.equal(net.conv_in.weight, before)
    loaded = load_unet(FACES64).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("network", "objective", "patch", "said"),
    [
        (Network(block_out_channels=(32, 96, 128)), "velocity", 2, "another architecture: block_"),
        (Network(attention=(False, True, True)), "velocity", 2, "down_block_types is"),
        (Network(), "epsilon", 2, "prediction is velocity there and epsilon here"),
        (Network(), "velocity", 1, "space_to_depth is 2 there and 1 here"),
    ],
)
def test_a_start_from_something_else_is_refused(network, objective, patch, said):
    net = make_network(network, 3, 64, 0)
    with pytest.raises(TrainingError, match=r"^init=") as caught:
        warm_start(net, str(FACES64), OBJECTIVES[objective], patch)
    assert said in str(caught.value)


def test_fresh_weights_follow_the_seed_and_leave_torch_alone():
    torch.manual_seed(7)
    small = Network(1, (8, 8), 1, (False, False), 8, 4)
    first, again, other = (make_network(small, 1, 8, s).conv_in.weight for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    drawn = torch.rand(())
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(()))


# averaged weights


def test_the_average_follows_its_rule():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    ema, expected = Ema(net, 0.5), 0.0
    for step, value in enumerate([1.0, 2.0, 3.0, 4.0] * 4):
        nn.init.constant_(net.weight, value)
        ema.update(net, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert ema.net.state_dict()["weight"].item() == pytest.approx(expected)
    assert ema.decay_at(20) == 0.5
    assert not ema.net.weight.requires_grad and net.weight.requires_grad


# checkpoints


def test_checkpoints_are_read_back_and_only_the_newest_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step in (5, 10, 15):
        checkpoints.save(step, {"w": torch.full((2,), float(step)), "n": step, "none": None})
    assert [file.name for file in checkpoints.files()] == ["step_00000010.pt", "step_00000015.pt"]
    state = checkpoints.load(checkpoints.files()[-1])
    assert state["n"] == 15 and torch.equal(state["w"], torch.tensor([15.0, 15.0]))


def test_an_interrupted_write_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, {"n": 5})
    (tmp_path / ".plugip-0123456789abcdef.tmp").write_bytes(b"half")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(RecordError, match="no space is left"):
        patched.setattr(os, "replace", full)
        checkpoints.save(10, {"n": 10})
    assert [file.name for file in checkpoints.files()] == ["step_00000005.pt"]
    assert checkpoints.load(checkpoints.files()[0]) == {"n": 5}
    checkpoints.save(10, {"n": 10})
    assert [file.name for file in tmp_path.iterdir()] == ["step_00000010.pt"]


class Unsafe:
    def __reduce__(self):
        return (os.getcwd, ())


@pytest.mark.parametrize("damage", ["cut", "empty", "code", "list"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, damage):
    path = Checkpoints(tmp_path).save(5, {"w": torch.zeros(1000)})
    if damage in ("code", "list"):
        torch.save({"w": Unsafe()} if damage == "code" else [1, 2], path)
    else:
        path.write_bytes(path.read_bytes()[:600] if damage == "cut" else b"")
    with pytest.raises(TrainingError, match=r"step_00000005.pt is damaged; delete it"):
        Checkpoints(tmp_path).load(path)


# the table


def test_rows_after_the_checkpoint_are_forgotten(tmp_path):
    log = Log(tmp_path)
    log.begin(0, False, "tb")
    for step in (5, 10, 15):
        log.row({"step": float(step), "loss": 1 / step})
    with (tmp_path / "train.csv").open("a") as file:
        file.write("20,0.0")  # a kill while a row was written
    assert [row["step"] for row in read_table(tmp_path / "train.csv")] == [5, 10, 15]
    Log(tmp_path).begin(10, False, "tb")
    rows = read_table(tmp_path / "train.csv")
    assert [row["loss"] for row in rows] == [0.2, 0.1] and math.isnan(rows[0]["held_out_loss"])


def test_the_table_is_made_again_from_the_rows_of_a_checkpoint(tmp_path):
    log = Log(tmp_path)
    log.begin(0, False, "tb")
    for step in (5, 10, 15):
        log.row({"step": float(step), "loss": 1 / step})
    whole, kept = (tmp_path / "train.csv").read_bytes(), log.rows
    (tmp_path / "train.csv").write_bytes(whole[:70])
    Log(tmp_path).begin(15, False, "tb", table(kept))
    assert (tmp_path / "train.csv").read_bytes() == whole
    for damaged in ([5], [{"step": 1.0}], 7):
        with pytest.raises((LookupError, TypeError)):
            table(damaged)


def test_a_table_that_may_not_grow_is_told_in_one_sentence(tmp_path, monkeypatch):
    log = Log(tmp_path)
    log.begin(0, False, "tb")

    def full(*_):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr("plugip.record.files.os.write", full)
    for work in (lambda: log.row({"step": 5.0}), lambda: log.say("a word")):
        with pytest.raises(RecordError, match="a limit on the size of files is reached"):
            work()


@pytest.mark.parametrize("error", [OSError(errno.EFBIG, "too large"), SafetensorError("full")])
def test_a_model_that_cannot_be_written_is_told_in_one_sentence(tmp_path, error):
    class Full(nn.Module):
        def save_pretrained(self, *_, **__):
            raise error

    with pytest.raises(RecordError, match=r"cannot write the model.*make room"):
        write_model(tmp_path, Full(), {}, half=False)
    assert list(tmp_path.iterdir()) == []


DAMAGES = {
    "bytes": b"\xff\xfe,nonsense\n",
    "words": b"five,0.2,,,,,\n",
    "short": b"5,0.2\n",
    "long": b"5,0.2,1,1,1,1,1,1\n",
    "nan": b"nan,0.2,,,,,\n",
    "quote": b'5,"0.2,,,,,\n',
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_lines_of_the_table_are_left_out(tmp_path, damage):
    log = Log(tmp_path)
    log.begin(0, False, "tb")
    log.row({"step": 5.0, "loss": 0.2})
    with (tmp_path / "train.csv").open("ab") as file:
        file.write(DAMAGES[damage])
    log.row({"step": 10.0, "loss": 0.1})
    assert [row["loss"] for row in read_table(tmp_path / "train.csv")] == [0.2, 0.1]
    (tmp_path / "train.csv").write_bytes(DAMAGES[damage])
    assert read_table(tmp_path / "train.csv") == []


@pytest.mark.parametrize("failure", [BrokenPipeError, ValueError, None])
def test_a_terminal_that_has_gone_stops_no_training(tmp_path, monkeypatch, failure):
    class Gone(io.StringIO):
        encoding = "ascii"

        def write(self, text):
            text.encode("ascii")
            if failure is not None:
                raise failure("closed")
            return super().write(text)

    gone = Gone()
    monkeypatch.setattr("sys.stdout", gone)
    log = Log(tmp_path)
    log.say("café")
    log.say("more")
    assert [line[20:] for line in (tmp_path / "train.log").read_text("utf-8").splitlines()] == [
        "café",
        "more",
    ]
    assert failure is not None or gone.getvalue() == "caf?\nmore\n"


def test_tensorboard_is_missed_in_one_line_or_used(tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = Log(tmp_path)
    log.begin(0, True, "tb")
    log.row({"step": 1.0, "loss": 2.0})
    log.end()
    assert capsys.readouterr().out.count("TensorBoard is not installed") == 1
    assert "TensorBoard is not installed" in (tmp_path / "train.log").read_text()
    assert read_table(tmp_path / "train.csv")[0]["loss"] == 2


def test_scalars_go_to_tensorboard_from_the_step_that_is_reached(tmp_path, monkeypatch):
    import sys
    import types

    calls = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def close(self):
            calls.append("closed")

    fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    log = Log(tmp_path)
    log.begin(7, True, "tb")
    log.row({"step": 8.0, "loss": 2.0})
    log.end()
    assert calls == [(str(tmp_path / "tb"), 8), ("loss", 2.0, 8), "closed"]


def test_other_processes_write_nothing(tmp_path, capsys):
    log = Log(tmp_path, active=False)
    log.begin(0, True, "tb")
    log.say("hello")
    log.row({"step": 1.0})
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_a_curve_is_a_picture():
    rows = [{"step": float(i), "loss": 1 / i, "held_out_loss": math.nan} for i in range(1, 30)]
    rows[9]["held_out_loss"] = 0.2
    assert loss_curve(rows, "a title").startswith(b"\x89PNG")
    assert loss_curve(rows[:1], "one row").startswith(b"\x89PNG")


# sheets


class Flat(Prior):
    """Thinks that every image is of one colour."""

    def __init__(self):
        super().__init__()
        self.shape, self.path, self.value_range = (3, 8, 8), FlowPath(), None
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x_t, t):
        return torch.full_like(x_t, 0.2)


def test_a_sheet_shows_what_the_prior_makes():
    pixels = sheet(Flat(), 10, (3, 1), clip_none, 0)
    level = round((0.2 + 1) / 2 * 255)
    tile = 96 + 2
    assert pixels.shape == (2 * (20 + 2 * tile + 2), 9 * tile + 2, 3) and pixels.dtype == np.uint8
    assert (pixels[20:116, 2:98] == level).all()  # the first sample
    assert (pixels[20 + tile : 116 + tile, 2:98] == level).all()  # the tenth, in the second row
    assert (pixels[20 + tile : 116 + tile, 100:] == 255).all()


# ending


def test_ctrl_c_is_noted_once_and_obeyed_twice():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Stop(None, time.monotonic()) as stop:
        assert stop.reason is Reason.NONE
        signal.raise_signal(signal.SIGINT)
        assert stop.reason is Reason.INTERRUPTED
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_time_runs_out():
    assert Stop(1, time.monotonic()).reason is Reason.NONE
    assert Stop(1, time.monotonic() - 61).reason is Reason.MINUTES


# the card


FACTS = Facts(
    parameters=3_790_000,
    shape=(12, 32, 32),
    step=90,
    images=100,
    held_out=7,
    skipped=2,
    loss=0.125,
    seconds=90,
    device="cpu x",
    probe="passes",
    pictures=[("samples.png", "Samples")],
)


def test_the_card_says_what_is_known_and_what_is_not_stated():
    settings = read_settings({"data": {"path": "a"}, "steps": 100, "card": {"licence": "CC0"}})
    text = model_card(settings, FACTS)
    assert text.startswith("---\nlibrary_name: diffusers\n") and "## Licence\n\nCC0\n" in text
    assert text.count("*Not stated.*") == 4
    assert "100 images were trained on and 7 held out" in text
    assert "2 files were damaged and left out" in text
    assert (
        "3.79 million parameters, float16" in text
        and "90 of 100 planned steps, 64 images each" in text
    )
    assert "| held-out loss | 0.1250," in text
    assert "![Samples](samples.png)" in text and "1.5 minutes on cpu x" in text


def test_missing_texts_are_warned_about():
    card = {"title": "t", "data": "d", "licence": "l", "attribution": "a", "intended_use": "i"}
    assert warning(read_settings({"data": {"path": "a"}, "card": card}).card) == (
        "the model card lacks card.limits: fill them in before you publish the model"
    )
    full = read_settings({"data": {"path": "a"}, "card": card | {"limits": "x"}}).card
    assert warning(full) is None


def test_no_warning_is_left_over():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_network(Network(2, (8, 8), 1, (False, True), 8, 4, 0.1), 1, 8, 0)
