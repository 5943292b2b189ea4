"""How a run ends: exit code, what is missing, one number for sweepers, signals, lost processes."""

import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from runs import METHOD, NAMES, Wrapped, experiment
from toys import Identity

import plugip.experiment.share as share
from plugip.cli.text import closing
from plugip.experiment.signals import Signals
from plugip.experiment.summary import Summary
from plugip.experiment.team import Team, choose_device, join_team
from plugip.loop import solve
from plugip.methods import MultiStart
from plugip.record import RecordError, Row
from plugip.stopping import Budget, Discrepancy, Stopped


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch):
    monkeypatch.setattr("plugip.record.figures.comparison", lambda *_: b"figure")
    monkeypatch.setattr("plugip.record.figures.curves", lambda *_: b"figure")


def summary_of(tmp_path, rows, ids=(), interrupted=False):
    return Summary(tmp_path, rows, [], {}, interrupted, ids)


def solved(name, psnr=None, **values):
    return Row(name, "last", "ok", metrics={} if psnr is None else {"psnr": psnr}, **values)


# exit codes


def test_the_exit_code_is_0_only_if_every_image_asked_for_is_solved(tmp_path):
    a, failed = solved("a"), Row("b", "", "failed", "no")
    cut = Row("b", "last", "interrupted")
    assert summary_of(tmp_path, [a], ["a"]).exit_code == 0
    assert summary_of(tmp_path, [a, failed], ["a", "b"]).exit_code == 1
    for lost in (
        summary_of(tmp_path, [a], ["a", "b"]),
        summary_of(tmp_path, [a, cut], ["a", "b"]),
    ):
        assert lost.exit_code == 1 and lost.missing == ["b"]
    assert summary_of(tmp_path, [a], ["a"], True).exit_code == 130


class LostPeer:
    """What accelerate says where another process of the run has died."""

    def __init__(self, lost_at):
        self.calls, self.lost_at = 0, lost_at

    def wait_for_everyone(self):
        self.calls += 1
        if self.calls >= self.lost_at:
            raise RuntimeError("Connection closed by peer [127.0.0.1]:1234")

    def destroy_process_group(self):
        return


def with_team(monkeypatch, lost_at):
    team = Team(torch.device("cpu"), 0, 2, LostPeer(lost_at))
    monkeypatch.setattr("plugip.experiment.run.join_team", lambda _: team)


def test_the_leader_names_the_images_of_a_process_that_was_lost(tmp_path, monkeypatch):
    with_team(monkeypatch, lost_at=2)
    summary = experiment(tmp_path).run()
    assert summary.exit_code == 1 and summary.missing == ["b.png"]
    assert "not solved: b.png" in closing(summary)
    assert "2 of 3 images" in (summary.folder / "summary.md").read_text()


def test_a_process_that_is_lost_before_the_first_image_ends_the_run(tmp_path, monkeypatch):
    with_team(monkeypatch, lost_at=1)
    with pytest.raises(ConnectionError, match="process"):
        experiment(tmp_path).run()


def test_a_process_that_cannot_go_on_lets_the_others_finish(tmp_path, monkeypatch):
    def full(*_):
        raise RecordError("no space is left there")

    with_team(monkeypatch, lost_at=9)
    monkeypatch.setattr("plugip.record.Record.write_parts", full)
    run = experiment(tmp_path)
    with pytest.raises(RecordError):
        run.run()
    from plugip.experiment import run as module

    assert module.join_team("cpu").state.calls == 2


def test_the_cpu_of_several_processes_is_that_of_one(monkeypatch):
    class State:
        device, process_index, num_processes = torch.device("cpu:0"), 1, 2

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", lambda **_: State())
    assert str(join_team("cpu").device) == "cpu"
    assert str(choose_device("cpu:0")) == "cpu"


# one number for sweepers


def test_the_objective_is_the_mean_score_of_the_answers(tmp_path):
    rows = [
        Row("a", "last", "ok", metrics={"psnr": 10.0, "ssim": 0.5}, seconds=1.0),
        Row("a", "stopped", "ok", metrics={"psnr": 20.0, "ssim": 0.7}, seconds=1.0),
        Row("a", "oracle", "ok", metrics={"psnr": 90.0, "ssim": 0.9}),
        Row("b", "last", "ok", metrics={"psnr": 30.0, "ssim": 0.1}, seconds=2.0),
    ]
    summary = summary_of(tmp_path, rows, ["a", "b"])
    assert summary.objective() == summary.objective("psnr") == 25.0
    assert summary.objective("ssim") == pytest.approx(0.4)
    assert summary.objective("seconds") == 1.5
    with pytest.raises(ValueError, match="no row has a number"):
        summary.objective("spnr")


def test_without_a_truth_the_objective_is_the_residual(tmp_path):
    rows = [solved("a", residual_to_noise=0.9), solved("b", residual_to_noise=1.3)]
    summary = summary_of(tmp_path, rows, ["a", "b"])
    for metric in (None, "residual_to_noise"):
        assert summary.objective(metric) == pytest.approx(1.1)
    with pytest.raises(ValueError, match="no row has a number 'psnr'"):
        summary.objective("psnr")


def test_a_setting_that_fails_on_an_image_has_no_objective(tmp_path):
    a, none = solved("a", 20.0), Row("b", "last", "ok", metrics={"psnr": None})
    failed = Row("b", "", "failed", "no")
    for rows in ([a, failed], [a], [a, none], [failed], []):
        assert math.isnan(summary_of(tmp_path, rows, ["a", "b"]).objective())


# signals


@dataclass(frozen=True)
class SignalAt(Wrapped):
    """A signal comes during the n-th step."""

    number: int = signal.SIGTERM
    at: int = 4
    count: ClassVar[list[int]] = []

    def before(self, problem, state):
        self.count.append(0)
        if len(self.count) == self.at:
            os.kill(os.getpid(), self.number)


SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_in_order(tmp_path, number):
    SignalAt.count.clear()
    handlers = [signal.getsignal(n) for n in SIGNALS]
    summary = experiment(tmp_path, method=SignalAt(METHOD, number=number)).run()
    assert summary.exit_code == 130 and summary.missing == ["b.png", "c.png"]
    assert {row.id: row.status for row in summary.rows} == {"a.png": "ok", "b.png": "interrupted"}
    assert [signal.getsignal(n) for n in SIGNALS] == handlers
    text = (summary.folder / "summary.md").read_text()
    assert "1 of 3 images" in text
    assert "interrupted: b.png" in text and "not solved yet: c.png" in text
    again = experiment(tmp_path).run()
    assert again.skipped == ["a.png"] and again.exit_code == 0


def test_a_signal_while_results_are_written_waits_until_they_are_whole(tmp_path, monkeypatch):
    from plugip.record import Record

    write = Record.write_parts

    def interrupted(self, parts):
        os.kill(os.getpid(), signal.SIGINT)
        write(self, parts)

    monkeypatch.setattr(Record, "write_parts", interrupted)
    summary = experiment(tmp_path).run()
    assert {row.id: row.status for row in summary.rows} == {"a.png": "ok"}
    assert summary.interrupted and summary.missing == ["b.png", "c.png"]


def test_a_signal_while_a_solved_batch_is_written_waits_for_all_of_it(tmp_path, monkeypatch):
    from plugip.record import Record

    write, asked = Record.write_parts, []

    def interrupted(self, parts):
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGINT))
        write(self, parts)

    def together(problem, method, rng, observer):
        return solve(problem, method, rng, observer=observer, rows=problem.batch)

    monkeypatch.setattr(Record, "write_parts", interrupted)
    monkeypatch.setattr(share, "solve", together)
    summary = experiment(tmp_path, batch_size=3).run()
    assert {row.id: row.status for row in summary.rows} == dict.fromkeys(NAMES, "ok")


@pytest.mark.parametrize("name", ["comparison", "curves"])
def test_a_figure_that_cannot_be_drawn_is_named_and_loses_nothing(
    tmp_path, monkeypatch, name, caplog
):
    def draw(*_):
        raise RuntimeError("the font has no such glyph")

    monkeypatch.setattr(f"plugip.record.figures.{name}", draw)
    summary = experiment(tmp_path).run()
    assert summary.exit_code == 0 and "no such glyph" in caplog.text
    assert (summary.folder / "figure.png").is_file() == (name == "curves")
    assert (summary.folder / "summary.md").is_file()


def test_a_signal_while_the_figure_is_drawn_loses_nothing(tmp_path, monkeypatch):
    def draw(*_):
        os.kill(os.getpid(), signal.SIGINT)
        return b"figure"

    monkeypatch.setattr("plugip.record.figures.comparison", draw)
    summary = experiment(tmp_path).run()
    assert summary.exit_code == 130 and summary.missing == []
    assert (summary.folder / "figure.png").is_file() and (summary.folder / "loss.png").is_file()
    assert "all images are solved" in closing(summary)


def test_a_second_ctrl_c_ends_at_once_and_a_second_termination_does_not():
    with Signals() as signals:
        signals.hold()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_that_somebody_handles_already_are_left_to_him():
    seen = []
    old = signal.signal(signal.SIGTERM, lambda *_: seen.append("theirs"))
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
        assert seen == ["theirs"] and not signals.received
    finally:
        signal.signal(signal.SIGTERM, old)


def test_a_run_outside_the_main_thread_leaves_signals_alone(tmp_path):
    found = []
    worker = threading.Thread(target=lambda: found.append(experiment(tmp_path).run().exit_code))
    worker.start()
    worker.join()
    assert found == [0]


def test_ctrl_c_counts_where_nothing_can_be_told_of_the_step_at_work(tmp_path):
    @dataclass(frozen=True)
    class Untold(SignalAt):
        def finish(self, problem, state):
            if len(self.count) == self.at:
                raise RuntimeError("half a step")
            return super().finish(problem, state)

    SignalAt.count.clear()
    summary = experiment(tmp_path, method=Untold(METHOD)).run()
    assert summary.interrupted and {row.id for row in summary.rows} == {"a.png"}


# answers of a stopping rule


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda rule: Stopped(METHOD, rule, halt=False),
        lambda rule: MultiStart(Stopped(METHOD, rule, halt=False), 2, 1),
        lambda rule: Stopped(MultiStart(METHOD, 2, 1), rule, halt=False),
    ],
    ids=["alone", "inside", "outside"],
)
def test_a_rules_pick_has_a_row_and_a_picture_wherever_the_rule_stands(tmp_path, wrapped):
    summary = experiment(tmp_path, method=wrapped(Budget(1))).run()
    rows = {row.kind: row for row in summary.rows if row.id == "a.png"}
    assert (rows["stopped"].step, rows["last"].step) == (1, 2)
    assert rows["stopped"].metrics != rows["last"].metrics
    assert (summary.folder / "images/a.png/stopped.png").is_file()


def test_a_rule_that_never_fires_leaves_the_last_iterate_and_says_so(tmp_path):
    never = Stopped(METHOD, Discrepancy(tau=1e-6))
    summary = experiment(tmp_path, method=never).run()
    assert {row.kind for row in summary.rows} == {"input", "last", "oracle"}
    last = next(row for row in summary.rows if row.kind == "last")
    assert "never fired" in last.message
    assert not (summary.folder / "images/a.png/stopped.png").exists()
    plain = experiment(tmp_path, "plain").run()
    assert all("never fired" not in row.message for row in plain.rows)


# another start, the same measurement


def test_a_solver_seed_changes_the_start_and_not_the_measurement(tmp_path):
    def read(run, **seeds):
        summary = experiment(tmp_path, run, operator=Identity(), **seeds).run()
        y = (summary.folder / "images/a.png/measurement.npy").read_bytes()
        row = next(row for row in summary.rows if row.kind == "last")
        assert row.rng_seed == seeds.get("rng_seed", 0)
        assert row.solver_seed == seeds.get("solver_seed", row.rng_seed)
        return y, row.metrics["psnr"]

    plain = read("plain")
    assert read("same", solver_seed=0) == plain
    other, seeded = read("other", solver_seed=1), read("seeded", rng_seed=1)
    assert other[0] == plain[0] and other[1] != plain[1]
    assert seeded[0] != plain[0]
    assert read("both", rng_seed=1, solver_seed=1) == seeded


@pytest.mark.parametrize(
    ("key", "value"), [("solver_seed", 1.5), ("solver_seed", True), ("batch_size", 3.5)]
)
def test_seeds_and_sizes_that_are_no_whole_numbers_are_refused(tmp_path, key, value):
    with pytest.raises(TypeError, match=key):
        experiment(tmp_path, **{key: value})


# a system without POSIX


def test_a_system_without_posix_modules_imports_everything_and_solves(tmp_path):
    program = f"""
import importlib, pkgutil, sys, tempfile, pathlib
import torch
for name in ("resource", "fcntl", "termios", "pwd", "grp", "tty", "pty", "syslog", "psutil"):
    sys.modules[name] = None
sys.path[:0] = [{str(os.path.dirname(__file__))!r}]
import plugip
for module in pkgutil.walk_packages(plugip.__path__, "plugip."):
    if not module.name.endswith(("__main__", "bridges.deepinv", "pygranso")):
        importlib.import_module(module.name)
from runs import experiment
summary = experiment(pathlib.Path({str(tmp_path)!r})).run()
assert summary.exit_code == 0, summary.failed
assert all(row.peak_memory is None for row in summary.rows)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert len(list((tmp_path / "run/images").iterdir())) == len(NAMES)
