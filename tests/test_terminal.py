"""Lines for people never cost a result, whatever the names and the outputs are."""

import io
import os
import subprocess
import sys

import pytest
import torch
from runs import METHOD, NAMES, experiment

from plugip import gallery
from plugip.cli.text import closing, opening
from plugip.experiment.observers import Progress
from plugip.experiment.summary import Summary
from plugip.method import Info
from plugip.record import Row
from plugip.stopping import Budget, Stopped
from plugip.terminal import is_terminal, say
from plugip.texts import for_terminal


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch):
    monkeypatch.setattr("plugip.record.figures.comparison", lambda *_: b"figure")
    monkeypatch.setattr("plugip.record.figures.curves", lambda *_: b"figure")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("cp1252", "café ??"),
        ("ascii", "caf? ??"),
        ("utf-8", "café 写真"),
        ("utf-16-le", "café 写真"),
    ],
)
def test_what_an_output_cannot_encode_is_replaced(encoding, shown):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    say("café 写真", stream)
    assert raw.getvalue().decode(encoding) == f"{shown}\n"


def test_bytes_that_are_no_text_are_replaced():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n")
    say("caf\udce9", stream)
    stream.seek(0)
    assert stream.read() == "caf?\n"


def test_a_command_says_names_that_its_output_cannot_encode(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(gallery, "write_sheet", lambda *_: {"Ключ": "no picture"})
    gallery.main(["--out", "café.png"])
    assert raw.getvalue().decode() == "not shown: ????: no picture\nsheet: caf?.png\n"


def test_a_closed_or_missing_output_is_no_error(monkeypatch):
    closed = io.StringIO()
    closed.close()
    say("lost", closed)
    monkeypatch.setattr(sys, "stdout", None)
    say("lost")
    assert not is_terminal(closed) and not is_terminal(None)


def test_a_reader_that_left_is_no_error_now_or_at_the_end():
    program = "from plugip.terminal import say\nfor i in range(50000): say(f'line {i}')"
    command, pipe = [sys.executable, "-c", program], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().strip() == b"line 0"
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\u202eb", "a\rb", "caf\udce9"])
def test_names_cannot_write_lines_or_move_the_cursor(name):
    assert for_terminal(name).isprintable() and for_terminal(name) != name
    assert for_terminal("café 写真.png") == "café 写真.png"


# one line for each image


def rows_of(name, **values):
    return [Row(name, "input", "ok"), Row(name, "last", "ok", **values)]


def test_every_finished_image_has_a_line_where_there_is_no_terminal(capsys):
    progress = Progress(3, None, 0.1, images=3)
    progress.finished(rows_of("a.png", metrics={"psnr": 21.5}, residual_to_noise=1.0, seconds=2.0))
    progress.finished(rows_of("b.png", residual_to_noise=1.25, seconds=2.0))
    progress.finished([Row("c\n.png", "", "failed", "RuntimeError: no")])
    assert capsys.readouterr().out.splitlines() == [
        "1 of 3  a.png: psnr 21.50, 2.0 s",
        "2 of 3  b.png: residual/noise 1.25, 2.0 s",
        "3 of 3  c\\n.png: failed: RuntimeError: no",
    ]


def test_a_large_run_says_a_hundred_lines(capsys):
    progress = Progress(950, None, 0.1, images=950, process=1)
    for i in range(950):
        progress.finished(rows_of(f"{i}.png"))
    lines = capsys.readouterr().out.splitlines()
    assert 90 <= len(lines) <= 100 and lines[-1].startswith("process 1: 950 of 950  949.png")


def test_a_run_says_lines_only_if_it_shows_progress(tmp_path, capsys):
    experiment(tmp_path).run()
    assert capsys.readouterr().out == ""
    experiment(tmp_path, "other", progress=True).run()
    assert [line.split()[3] for line in capsys.readouterr().out.splitlines()] == [
        f"{name}:" for name in NAMES
    ]


class Gone(io.StringIO):
    """A terminal that has been closed."""

    error: Exception = OSError(5, "input/output error")

    def isatty(self):
        return True

    def write(self, text):
        raise self.error


class Piped(Gone):
    """A terminal whose other end has left."""

    error = BrokenPipeError()


@pytest.mark.parametrize("kind", [Gone, Piped])
def test_a_terminal_that_is_gone_does_not_end_the_run(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(sys, "stderr", kind())
    monkeypatch.setattr(sys, "stdout", kind())
    assert experiment(tmp_path, progress=True).run().exit_code == 0


def test_a_bar_shows_names_of_any_kind(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress(1, 2, 0.1)
    info = Info(torch.zeros(1, 1, 1, 1), torch.zeros(1), torch.zeros(1, dtype=torch.bool))
    progress.begin(["a\udce9\n.png"])
    progress(1, [0], info)
    assert "a\\udce9\\n.png" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    progress.close()


# opening and closing


def test_the_opening_names_task_method_prior_and_what_is_left_out(tmp_path):
    run = experiment(tmp_path, title="denoise, dmplug", method=Stopped(METHOD, Budget(1)))
    assert len(opening(run).splitlines()) == 1
    for i in range(9):
        (tmp_path / f"photos/note{i}.txt").write_text("no picture")
    first, second = opening(run).splitlines()
    for word in ("denoise, dmplug", "3 images", "Identity", "DMPlug", "ExactPrior"):
        assert word in first
    assert "note0.txt" in second and "1 more" in second and "note8" not in second


def summary_of(tmp_path, rows, **values):
    parts = {
        "skipped": [],
        "conventions": {},
        "interrupted": False,
        "title": "task, method, prior",
    }
    return Summary(tmp_path, rows, **parts | values)


def test_the_closing_names_what_ran_and_what_is_missing(tmp_path):
    rows = [*rows_of("a"), Row("b\x1b[0m", "", "failed", "RuntimeError: two\nlines")]
    said = closing(summary_of(tmp_path, rows, ids=["a", "b\x1b[0m", "c"]))
    assert "task, method, prior: 1 of 3 images" in said
    assert "not solved: c" in said and "b\\x1b[0m failed: RuntimeError: two\\nlines" in said
    assert "interrupted" not in said


def test_a_metric_that_is_missing_is_told_once_in_few_words(tmp_path):
    text = "lpips_x is not available: its backbone is not at /a/very/long/path"
    summary = summary_of(tmp_path, rows_of("a"), conventions={"lpips_x": text})
    assert "lpips_x is not available" in closing(summary)
    assert "lpips_x" not in closing(summary)


def test_an_interrupted_run_says_whether_something_is_left(tmp_path):
    whole = summary_of(tmp_path, rows_of("a"), ids=["a"], interrupted=True)
    part = summary_of(tmp_path, rows_of("a"), ids=["a", "b"], interrupted=True)
    assert "all images are solved" in closing(whole) and "goes on" in closing(part)


@pytest.mark.skipif(os.name == "nt", reason="Windows names are Unicode")
def test_a_message_with_bytes_that_are_no_text_can_be_recorded(tmp_path):
    from plugip.data import ImageError, ImageFolder

    class Folder(ImageFolder):
        def load(self, item):
            raise ImageError(f"{tmp_path}/caf\udce9.png cannot be read")

    summary = experiment(tmp_path, data=Folder(experiment(tmp_path).data.path)).run()
    assert "caf?.png cannot be read" in summary.failed["a.png"]
