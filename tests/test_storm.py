"""The storm: it finds what it must find, and a short one finds nothing."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.storm.compare import broken, changes, contents, finished, hidden
from benchmarks.storm.episode import Episode, Tally
from benchmarks.storm.jobs import SINGLE, Reference, Shop
from benchmarks.storm.process import Ended
from benchmarks.storm.traps import Trap

ROOT = Path(__file__).resolve().parents[1]
ROW = {"id": "a", "status": "ok", "psnr": 20.5, "seconds": 1.5, "peak_memory": 7}


def fill(folder: Path) -> Path:
    """Writes what a finished run of one image leaves, as far as the storm looks at it."""
    image = folder / "images" / "a"
    image.mkdir(parents=True)
    (folder / "trace").mkdir()
    (image / "rows.json").write_text(json.dumps({"id": "a", "rows": [ROW], "sha256": "f1"}))
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(image / "truth.png")
    np.save(image / "measurement.npy", np.arange(5.0))
    (folder / "trace" / "a.csv").write_text("step,loss\n1,0.5\n2,0.25\n")
    (folder / "scores.jsonl").write_text(json.dumps(ROW) + "\n")
    kinds = {"last": {"psnr": {"mean": 20.5}, "seconds": {"mean": 1.5}}}
    (folder / "summary.json").write_text(json.dumps({"kinds": kinds}))
    (folder / "summary.md").write_text(
        "# x\n| kind | psnr | seconds | nfe |\n| a | 2 | 1.5 | 3 |\n"
    )
    (folder / "provenance.json").write_text(json.dumps([{"start": "now", "threads": 1}]))
    return folder


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "o")


@pytest.fixture
def episode(tmp_path):
    """An episode whose folder is whole, beside the undisturbed one."""
    undisturbed, place = fill(tmp_path / "undisturbed"), tmp_path / "place"
    fill(place / "o")
    reference = Reference(undisturbed, contents(undisturbed), Ended(0, ""))

    shop = Shop(tmp_path / "shop", {SINGLE.name: reference})
    episode = Episode(shop, SINGLE, place, random.Random(0))
    episode.look()
    assert not episode.tally.wrong and episode.images
    return episode


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


# the comparison


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("images/a/rows.json", '"seconds": 1.5', '"seconds": 99'),
        ("images/a/rows.json", '"peak_memory": 7', '"peak_memory": null'),
        ("images/a/rows.json", '"sha256": "f1"', '"sha256": "e2"'),
        ("scores.jsonl", '"seconds": 1.5', '"seconds": 99'),
        ("summary.json", '"seconds": {"mean": 1.5}', '"seconds": {"mean": 99}'),
        ("summary.md", "| 1.5 |", "| 99 ± 3 |"),
        ("provenance.json", '"now"', '"later"'),
    ],
)
def test_times_may_differ(folder, name, old, new):
    before = contents(folder)
    rewrite(folder / name, old, new)
    assert changes(before, contents(folder)) == {}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("images/a/rows.json", "20.5", "20.6"),
        ("scores.jsonl", "20.5", "20.6"),
        ("summary.json", "20.5", "20.6"),
        ("summary.md", "| 2 |", "| 3 |"),
        ("summary.md", "| 3 |", "| 4 |"),
        ("provenance.json", '"threads": 1', '"threads": 2'),
        ("trace/a.csv", "0.25", "0.26"),
    ],
)
def test_a_changed_number_is_seen(folder, name, old, new):
    before = contents(folder)
    rewrite(folder / name, old, new)
    assert list(changes(before, contents(folder))) == [name]


@pytest.mark.parametrize("name", ["images/a/truth.png", "images/a/measurement.npy"])
def test_any_changed_bit_is_seen(folder, name):
    before, data = contents(folder), bytearray((folder / name).read_bytes())
    data[-9] ^= 1
    (folder / name).write_bytes(data)
    assert changes(before, contents(folder)) == {name: 1}


def test_missing_and_additional_files_are_seen(folder):
    before = contents(folder)
    size = (folder / "images/a/truth.png").stat().st_size
    (folder / "images/a/truth.png").unlink()
    (folder / "images/a/more.png").write_bytes(b"abc")
    found = changes(before, contents(folder))
    assert found == {"images/a/truth.png": size, "images/a/more.png": 3}


def test_checkpoints_are_compared_by_their_values(tmp_path):
    def save(name: str, **state: object) -> dict[str, bytes]:
        (tmp_path / name).mkdir()
        torch.save(state, tmp_path / name / "step_00000001.pt")
        return contents(tmp_path / name)

    weights = torch.arange(4.0)
    rows = [{"step": 1.0, "loss": 2.0, "seconds": 3.0}]
    before = save("a", step=1, seconds=3.0, net={"w": weights, "v": weights}, rows=rows)
    same = {"w": weights, "v": weights.clone()}
    later = [{"step": 1.0, "loss": 2.0, "seconds": 9.0}]
    assert changes(before, save("b", step=1, seconds=9.0, net=same, rows=later)) == {}
    assert changes(before, save("e", step=1, seconds=9.0, net=same, rows=[]))
    assert changes(before, save("c", step=1, seconds=3.0, net={"w": weights, "v": weights + 1}))
    assert changes(before, save("d", step=2, seconds=3.0, net={"w": weights, "v": weights}))


@pytest.mark.parametrize(
    "name",
    ["images/a/rows.json", "images/a/truth.png", "images/a/measurement.npy", "summary.json"],
)
def test_half_a_file_is_seen(folder, name):
    assert broken(folder) == []
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    assert broken(folder) == [name]


def test_only_the_last_line_of_scores_may_be_torn(folder):
    file = folder / "scores.jsonl"
    file.write_text(f"{json.dumps(ROW)}\n" + json.dumps(ROW)[:9])
    assert broken(folder) == []
    file.write_text(json.dumps(ROW)[:9] + f"\n{json.dumps(ROW)}\n")
    assert broken(folder) == ["scores.jsonl"]


def test_hidden_files_are_told_apart(folder):
    (folder / "images" / "a" / ".truth.png.1.tmp").touch()
    assert hidden(folder) == ["images/a/.truth.png.1.tmp"]
    assert not any(".tmp" in name for name in contents(folder))


def test_only_images_whose_rows_are_all_ok_are_finished(folder):
    assert list(finished(folder)) == ["images/a"]
    rewrite(folder / "images/a/rows.json", '"ok"', '"interrupted"')
    assert finished(folder) == {}


# the episode


def test_a_lost_image_is_counted(episode):
    (episode.output / "images/a/rows.json").unlink()
    episode.look()
    assert episode.tally.lost == 1 and episode.tally.wrong


def test_an_image_that_was_solved_again_is_counted_as_lost(episode):
    rewrite(episode.output / "images/a/rows.json", '"seconds": 1.5', '"seconds": 2.5')
    episode.look()
    assert episode.tally.lost == 1


def test_changed_half_and_left_over_files_are_counted(episode):
    (episode.output / ".config.yaml.1.tmp").touch()
    (episode.output / "summary.json").write_text("{")
    episode.look()
    episode.compare()
    assert episode.tally.halves == 1 and episode.tally.left == 1 and episode.tally.changed > 0
    assert any("summary.json" in fault for fault in episode.faults)


@pytest.mark.parametrize(
    ("ended", "unclear"),
    [
        (Ended(1, "plugip: no space is left there"), 0),
        (Ended(2, "plugip: no space is left there"), 1),
        (Ended(1, "Traceback (most recent call last):\nOSError"), 1),
        (Ended(0, "Exception ignored in: f\nTraceback (most recent call last):\nKey"), 0),
        (Ended(1, "plugip: EOF (EOFError; debug=true shows where)"), 1),
        (Ended(-9, ""), 1),
    ],
)
def test_an_unclear_end_is_counted(episode, ended, unclear):
    episode.judge(ended, (0, 1))
    assert episode.tally.unclear == unclear


def test_tallies_add_up_and_only_faults_are_wrong():
    total = Tally()
    for part in (Tally(episodes=1, cut=3, refused=1), Tally(episodes=1, cut=2, changed=5)):
        total.add(part)
    assert (total.episodes, total.cut, total.changed) == (2, 5, 5)
    assert not Tally(episodes=9, cut=9, refused=9).wrong
    for name in ("changed", "lost", "halves", "left", "unclear"):
        assert Tally(**{name: 1}).wrong


# processes


WATCHED = """
import os, sys
from pathlib import Path
from benchmarks.storm.process import fork
from benchmarks.storm.traps import Trap

def main():
    for name in "abc":
        with open(f"o/{name}.tmp", "wb") as file:
            file.write(bytes(100))
        os.replace(f"o/{name}.tmp", f"o/{name}")
    print("done")

ended = fork(main, ["x"], Path(sys.argv[1]), eval(sys.argv[2]), {}).wait()
print(ended.code, ended.writes, ended.words.split())
"""


@pytest.mark.parametrize(
    ("trap", "said", "left"),
    [
        (Trap(), "0 6 ['done']", {"a": 100, "b": 100, "c": 100}),
        (Trap(4, number=9), "-9 0 []", {"a": 100, "b.tmp": 100}),
        (Trap(3, room=60, torn=True), "-25 0 []", {"a": 100, "b.tmp": 60}),
    ],
)
def test_a_trap_hits_the_write_it_is_set_for(tmp_path, trap, said, left):
    (tmp_path / "o").mkdir()
    words = [sys.executable, "-c", WATCHED, str(tmp_path), repr(trap)]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == said, done.stderr
    assert {file.name: file.stat().st_size for file in (tmp_path / "o").iterdir()} == left


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="the storm forks, traps and mounts as on Linux"
)
def test_a_short_storm_changes_nothing():
    words = [sys.executable, "-m", "benchmarks.storm", "--short"]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all |" in done.stdout
