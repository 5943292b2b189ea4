"""Damaged, foreign and newer files of finished images: named and solved again, or refused."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from test_record import CONFIG, CPU, parts

from plugip.record import Parts, Record, RecordError, Row
from plugip.record.parts import _sum

IDS = ("a.png", "b.png")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A run folder with two finished images of different pixels."""
    folder = tmp_path_factory.mktemp("sound") / "run"
    with Record(folder, CONFIG) as record:
        record.begin(CPU, "w1")
        for i, image_id in enumerate(IDS):
            plain = parts(image_id)
            pictures = {name: x * (0.5 + 0.1 * i) for name, x in plain.pictures.items()}
            arrays = {"measurement": pictures["truth"][None]}
            record.write_parts(replace(plain, pictures=pictures, arrays=arrays))
        record.write_scores(IDS)
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "run", symlinks=True)


def edit(path, change):
    """Changes a JSON file by a function of its content."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def swapped(folder, name):
    """Puts the other image's file in the place of this one's."""
    shutil.copy(folder / "images/b.png" / name, folder / "images/a.png" / name)


def unlike(path):
    """Other bytes of the same number."""
    path.write_bytes(bytes(byte ^ 0x55 for byte in path.read_bytes()))


def flipped(path):
    """One bit, in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def longer(path):
    path.write_bytes(path.read_bytes() + b"\n")


def linked(path):
    path.unlink()
    path.symlink_to("nowhere")


def piped(path):
    path.unlink()
    os.mkfifo(path)


PARTS = [
    "images/a.png/truth.png", "images/a.png/measurement.png", "images/a.png/reconstruction.png",
    "images/a.png/measurement.npy", "trace/a.png.csv",
]  # fmt: skip
HARM = {
    "missing": os.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "half": half,
    "longer": longer,
    "one bit": flipped,
    "garbage": unlike,
    "a link": linked,
    "a pipe": piped,
}
ROWS = {
    "empty": lambda path: path.write_bytes(b""),
    "half": half,
    "garbage": unlike,
    "no UTF-8": lambda path: path.write_bytes(b'{"id": "\xff\xfe"}'),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a list": lambda path: path.write_text("[1]"),
    "a number": lambda path: path.write_text("1"),
    "null": lambda path: path.write_text("null"),
    "an empty object": lambda path: path.write_text("{}"),
    "a pipe": piped,
    "no format": lambda p: edit(p, lambda s: {k: v for k, v in s.items() if k != "format"}),
    "an older format": lambda p: edit(p, lambda s: s | {"format": 1}),
    "a text as format": lambda p: edit(p, lambda s: s | {"format": "2"}),
    "no digest": lambda p: edit(p, lambda s: {k: v for k, v in s.items() if k != "sha256"}),
    "another id": lambda p: edit(p, lambda s: s | {"id": "c.png"}),
    "no id": lambda p: edit(p, lambda s: {k: v for k, v in s.items() if k != "id"}),
    "no rows": lambda p: edit(p, lambda s: s | {"rows": []}),
    "rows as text": lambda p: edit(p, lambda s: s | {"rows": "ok"}),
    "rows of numbers": lambda p: edit(p, lambda s: s | {"rows": [1, 2]}),
    "rows null": lambda p: edit(p, lambda s: s | {"rows": None}),
    "a row less": lambda p: edit(p, lambda s: s | {"rows": s["rows"][:1]}),
    "metrics as text": lambda p: edit(
        p, lambda s: s | {"rows": [row | {"metrics": "good"} for row in s["rows"]]}
    ),
    "metrics null": lambda p: edit(
        p, lambda s: s | {"rows": [row | {"metrics": None} for row in s["rows"]]}
    ),
    "a better score": lambda p: edit(
        p, lambda s: s | {"rows": [row | {"metrics": {"psnr": 99.0}} for row in s["rows"]]}
    ),
    "a status that is not": lambda p: edit(
        p, lambda s: s | {"rows": [row | {"status": 1} for row in s["rows"]]}
    ),
    "a row without kind": lambda p: edit(
        p,
        lambda s: (
            s | {"rows": [{k: v for k, v in row.items() if k != "kind"} for row in s["rows"]]}
        ),
    ),
    "no files": lambda p: edit(p, lambda s: s | {"files": {}}),
    "files as list": lambda p: edit(p, lambda s: s | {"files": []}),
    "no view": lambda p: edit(p, lambda s: {k: v for k, v in s.items() if k != "view"}),
    "of the other image": lambda p: shutil.copy(p.parents[1] / "b.png/rows.json", p),
}


def resumed(folder, caplog):
    """What a resume says of a.png, after it has been solved again and the run has ended."""
    with Record(folder, CONFIG) as record:
        record.begin(CPU, "w1")
        assert record.finished("b.png", "d1")
        assert not record.finished("a.png", "d1")
        said = caplog.text
        record.write_parts(parts("a.png"))
        assert record.finished("a.png", "d1")
        record.end(IDS, {}, "title")
    assert len((folder / "scores.jsonl").read_text().splitlines()) == 4
    return said


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch):
    for name in ("comparison", "curves"):
        monkeypatch.setattr(f"plugip.record.figures.{name}", lambda *_: b"figure")


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("part", PARTS)
def test_an_image_with_a_damaged_part_is_named_and_solved_again(folder, part, harm, caplog):
    HARM[harm](folder / part)
    said = resumed(folder, caplog)
    assert "a.png is solved again" in said and part in said


@pytest.mark.parametrize("name", ["truth.png", "measurement.npy"])
def test_the_part_of_another_image_is_no_part_of_this_one(folder, name, caplog):
    swapped(folder, name)
    assert name in resumed(folder, caplog)


@pytest.mark.parametrize("harm", ROWS)
def test_damaged_rows_are_named_and_solved_again(folder, harm, caplog):
    ROWS[harm](folder / "images/a.png/rows.json")
    assert "a.png is solved again" in resumed(folder, caplog)


def test_a_missing_image_is_solved_again(folder, caplog):
    shutil.rmtree(folder / "images/a.png")
    resumed(folder, caplog)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s | {"format": 3},
        lambda s: s | {"format": 99, "rows": {"kind": "columns"}},
        lambda s: s | {"rows": [row | {"new_field": 1} for row in s["rows"]]},
    ],
)
def test_what_a_newer_version_wrote_is_kept_and_said_to_be_newer(folder, change):
    path = folder / "images/a.png/rows.json"
    edit(path, change)
    before = path.read_bytes()
    with Record(folder, CONFIG) as record:
        record.begin(CPU, "w1")
        with pytest.raises(RecordError, match=r"newer.*output\.folder"):
            record.finished("a.png", "d1")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "name",
    ["rows.json", "truth.png", "measurement.npy", "../../trace/a.png.csv"],
)
def test_a_folder_in_the_place_of_a_file_is_refused_before_solving(folder, name):
    place = folder / "images/a.png" / name
    place.unlink()
    (place / "deeper").mkdir(parents=True)
    with Record(folder, CONFIG) as record:
        record.begin(CPU, "w1")
        with pytest.raises(RecordError, match="is a folder"):
            record.finished("a.png", "d1")


@pytest.mark.parametrize("name", ["scores.jsonl", "summary.json", "figure.png", "loss.png"])
def test_a_folder_in_the_place_of_a_result_is_refused_before_anything(folder, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with pytest.raises(RecordError, match=f"{name} is a folder"):
        Record(folder, CONFIG)


def told(saved, **values):
    return saved | {"rows": [saved["rows"][0] | values]}


WRONG = {
    "no id": lambda saved: {k: v for k, v in saved.items() if k != "id"},
    "no files": lambda saved: {k: v for k, v in saved.items() if k != "files"},
    "files no dict": lambda saved: saved | {"files": ["a"]},
    "a file elsewhere": lambda saved: saved | {"files": {"images/a.png/../../x": "0"}},
    "an absolute file": lambda saved: saved | {"files": {"/etc/hostname": "0"}},
    "digest no text": lambda saved: saved | {"digest": 1},
    "rows a number": lambda saved: saved | {"rows": 5},
    "rows of numbers": lambda saved: saved | {"rows": [5]},
    "a row without kind": lambda saved: saved | {"rows": [{"id": "a.png", "status": "ok"}]},
    "a metric in words": lambda saved: told(saved, metrics={"psnr": "high"}),
    "metrics a text": lambda saved: told(saved, metrics="x"),
    "seconds in words": lambda saved: told(saved, seconds="long"),
}  # fmt: skip


@pytest.mark.parametrize("change", WRONG)
def test_rows_of_another_form_are_solved_again_even_if_their_sum_is_right(folder, change, caplog):
    path = folder / "images/a.png/rows.json"
    saved = json.loads(path.read_text())
    del saved["sha256"]
    saved = WRONG[change](saved)
    path.write_text(json.dumps(saved | {"sha256": _sum(saved)}))
    assert "a.png is solved again" in resumed(folder, caplog)


@pytest.mark.parametrize("name", ["images", "images/a.png", "trace"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_in_the_place_of_a_folder_is_refused_before_solving(folder, name, kind):
    elsewhere = folder.parent / "elsewhere"
    shutil.move(folder / name, elsewhere)
    if kind == "file":
        (folder / name).write_text("mine")
    else:
        (folder / name).symlink_to(elsewhere)
        flipped(next(file for file in sorted(elsewhere.rglob("*")) if file.is_file()))
    before = {file: file.read_bytes() for file in elsewhere.rglob("*") if file.is_file()}
    with Record(folder, CONFIG) as record:
        record.begin(CPU, "w1")
        with pytest.raises(RecordError, match=f"is a {kind}"):
            record.finished("a.png", "d1")
        with pytest.raises(RecordError, match=f"is a {kind}"):
            record.write_parts(parts("a.png"))
    assert {file: file.read_bytes() for file in before} == before


BOMB = b"%c: &%c [*%c, *%c]\n"  # each line twice the one before
DAMAGED = {
    "empty": b"", "a list": b"[1]", "a text": b"just words", "null": b"null", "open": b"a: [1, 2",
    "binary": bytes(range(256)), "UTF-16": "a: 1".encode("utf-16"), "tab": b"\tx",
    "object": b'{"a":1}', "list of lists": b"[[1]]", "deep": b"[" * 100_000,
    "bomb": b"a: &a [1]\n" + b"".join(BOMB % (i, i, i - 1, i - 1) for i in range(98, 123)),
    "wrong files": b'[{"files": 1}]', "wrong weights": b'[{"prior_sha256": [1]}]',
}  # fmt: skip


@pytest.mark.parametrize("harm", [*DAMAGED, "a folder", "a pipe"])
@pytest.mark.parametrize("name", ["config.yaml", "provenance.json"])
def test_a_folder_of_unknown_settings_is_refused_in_one_sentence(folder, name, harm):
    path = folder / name
    if harm in DAMAGED:
        path.write_bytes(DAMAGED[harm])
    elif harm == "a folder":
        path.unlink()
        path.mkdir()
    else:
        piped(path)
    with pytest.raises(ValueError, match=r"output\.folder") as caught:
        Record(folder, CONFIG)
    assert "\n" not in str(caught.value)
    assert "damaged" in str(caught.value) or "other settings" in str(caught.value)


def test_settings_that_share_a_list_are_written_in_full_and_read_again(tmp_path):
    shape = [3, 8, 8]
    for _ in range(2):
        with Record(tmp_path / "run", {"prior": {"shape": shape}, "data": {"shape": shape}}) as r:
            r.begin(CPU, "w1")
    assert "&" not in (tmp_path / "run/config.yaml").read_text()


def test_a_record_that_is_entered_again_looks_at_the_folder_again(tmp_path):
    record = Record(tmp_path / "run", CONFIG)
    record.close()
    with Record(tmp_path / "run", {"rng_seed": 7}) as other:
        other.begin(CPU, "w1")
    with pytest.raises(ValueError, match="other settings"), record:
        pass
    with Record(tmp_path / "run", {"rng_seed": 7}):  # the refused one has let go
        pass


def test_rows_that_nobody_can_read_are_named(folder, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    record = Record.__new__(Record)
    record.folder, record.hash, record._leads, record._lock = folder, "", True, None
    assert not record.finished("a.png", "d1")
    assert "a.png is solved again" in caplog.text


def test_what_belongs_to_others_stays_in_an_image_folder(folder, caplog):
    """JupyterLab leaves .ipynb_checkpoints where a file was saved."""
    inside = folder / "images/a.png"
    (inside / ".ipynb_checkpoints").mkdir()
    (inside / ".ipynb_checkpoints" / "truth-checkpoint.png").write_bytes(b"mine")
    for name in ("notes.txt", "crop.png", ".hidden.png", "sub.folder"):
        (inside / name).mkdir() if name == "sub.folder" else (inside / name).write_bytes(b"mine")
    (inside / "rows.json").unlink()
    resumed(folder, caplog)
    assert (inside / ".ipynb_checkpoints" / "truth-checkpoint.png").read_bytes() == b"mine"
    for name in ("notes.txt", "crop.png", ".hidden.png"):
        assert (inside / name).read_bytes() == b"mine"


def test_an_earlier_try_leaves_no_picture_of_its_own(folder, caplog):
    """A stopping rule's picture of an interrupted try is not shown beside a new answer."""
    stray = folder / "images/a.png/stopped.png"
    Image.new("RGB", (4, 4)).save(stray)
    (folder / "images/a.png/rows.json").unlink()
    resumed(folder, caplog)
    assert not stray.exists()


# halves, order, foreign folders


def test_scores_are_added_image_by_image_and_repaired_after_a_kill(folder):
    scores = folder / "scores.jsonl"
    whole = scores.read_bytes()
    scores.write_bytes(whole[: len(whole) // 3])
    with Record(folder, CONFIG) as record:
        record.begin(CPU, "w1")
        record.write_scores(["a.png"])
        first = scores.read_bytes()
        record.write_parts(Parts("b.png", "d1", [Row("b.png", "last", "ok")]))
        assert scores.read_bytes().startswith(first)
        rows = [json.loads(line) for line in scores.read_bytes().splitlines()]
        assert [row["id"] for row in rows] == ["a.png", "a.png", "b.png"]
        record.write_parts(parts("b.png"))
        record.end(["b.png", "a.png"], {}, "title")
    rows = [json.loads(line) for line in scores.read_bytes().splitlines()]
    assert [row["id"] for row in rows] == ["b.png", "b.png", "a.png", "a.png"]


def test_an_image_costs_the_same_however_many_there_are(tmp_path, monkeypatch):
    """Files read and bytes written by an image do not grow with the images before it."""
    record = Record(tmp_path / "run", CONFIG)
    record.begin(CPU, "w1")
    written, write = [], os.write
    monkeypatch.setattr(os, "write", lambda f, data: written.append(len(data)) or write(f, data))
    monkeypatch.setattr("plugip.record.parts.read_json", lambda path: pytest.fail("rows are read"))
    for i in range(50):
        record.write_parts(Parts(f"{i:02}.png", "", [Row(f"{i:02}.png", "last", "ok")]))
    assert len(written) == 50 and len(set(written)) == 1


def test_halves_of_killed_runs_go_and_look_alikes_stay(folder):
    half, alike = ".plugip-0123456789abcdef.tmp", ".plugip-mine.tmp"
    for place in (folder, folder / "images/a.png", folder / "trace"):
        (place / half).write_bytes(b"half")
        (place / alike).write_bytes(b"mine")
    Record(folder, CONFIG).close()
    assert not list(folder.rglob(half)) and len(list(folder.rglob(alike))) == 3


@pytest.mark.parametrize(
    "names",
    [
        ["figure.png"], ["summary.md"], ["scores.jsonl"], ["loss.png"], ["images/mine.png"],
        ["provenance.json"], ["config.yaml", "figure.png"], ["train.yaml", "loss.png"], ["a.txt"],
        ["trace/x.csv"], ["provenance.json", "figure.png"],
    ],
)  # fmt: skip
def test_a_folder_of_others_is_left_alone(tmp_path, names):
    for name in names:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("rng_seed: 0\n")
    with pytest.raises(ValueError, match=r"not empty.*output\.folder"):
        Record(tmp_path / "run", {"rng_seed": 0})
    left = {
        file.relative_to(tmp_path / "run").as_posix() for file in (tmp_path / "run").rglob("*")
    }
    assert left - {"images", "trace"} == set(names)


@pytest.mark.parametrize("names", [[], [".DS_Store"], [".ipynb_checkpoints"], ["config.yaml"]])
def test_an_empty_folder_and_one_of_a_run_killed_at_its_start_are_taken(tmp_path, names):
    (tmp_path / "run").mkdir()
    for name in names:
        (tmp_path / "run" / name).write_text("rng_seed: 0\n")
    with Record(tmp_path / "run", {"rng_seed": 0}) as record:
        record.begin(CPU, None)
        assert not record.finished("a.png", "")


def test_no_link_is_followed_out_of_the_folder(folder, tmp_path):
    names = (
        "scores.jsonl",
        "summary.md",
        "figure.png",
        "trace/a.png.csv",
        "images/a.png/truth.png",
    )
    victim = tmp_path / "victim"
    for name in names:
        victim.write_text("precious")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(victim)
    with Record(folder, CONFIG) as record:
        record.begin(CPU, "w1")
        with pytest.raises(RecordError, match="link"):
            record.write_parts(parts("a.png"))
        record.write_scores(["b.png"])
        record.write_parts(parts("a.png"))
        record.end(IDS, {}, "title")
    assert victim.read_text() == "precious"
    assert not any((folder / name).is_symlink() for name in names)
