"""record: whole files or none, run folders that resume, tables and figures."""

import errno
import io
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from plugip.data import load_image
from plugip.record import Parts, Record, RecordError, Row, run_hash, settings_hash
from plugip.record.figures import Strip, comparison
from plugip.record.files import (
    csv_bytes,
    json_bytes,
    npy_bytes,
    png_bytes,
    read_csv,
    safe_name,
    try_folder,
    write_atomic,
)
from plugip.record.provenance import git_state, weights_digest

CONFIG = {
    "rng_seed": 0,
    "device": "cpu",
    "data": {"_target_": "plugip.data.ImageFolder", "path": "a/", "size": None},
    "noise": {"std": 0.01},
    "method": {"lr": 1.0, "steps": [1, 2]},
    "output": {"folder": None},
}
CPU = torch.device("cpu")


def changed(**leaves):
    """CONFIG with some leaves changed, a__b for a.b."""
    config = json.loads(json.dumps(CONFIG))
    for key, value in leaves.items():
        *parents, name = key.split("__")
        place = config
        for parent in parents:
            place = place[parent]
        place[name] = value
    return config


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def picture(seed=0, channels=3, size=12):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand((channels, size, size), generator=rng) * 2 - 1


def parts(image_id, kinds=("input", "last"), status="ok", psnr=20.0, **more):
    rows = [
        Row(image_id, kind, status, metrics={"psnr": psnr + i}, residual_to_noise=1.0)
        for i, kind in enumerate(kinds)
    ]
    x = picture()
    pictures = {"truth": x, "measurement": x[:, ::2, ::2], "input": x, "reconstruction": x}
    trace = {"step": [1, 2], "loss": [3.0, 2.0], "residual": [0.2, 0.1]}
    trace["residual_to_noise"] = [2.0, 1.0]
    return Parts(image_id, "d1", rows, pictures, {"measurement": x[None]}, trace=trace, **more)


@pytest.fixture
def record(tmp_path):
    opened = Record(tmp_path / "run", CONFIG)
    opened.begin(CPU, "w1")
    return opened


# files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_atomic(tmp_path / "a.txt", b"old")
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(RecordError, match="no space is left") as caught:
        write_atomic(tmp_path / "a.txt", b"new")
    assert "output.folder=" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_folder_is_one_sentence(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RecordError) as caught:
        try_folder(tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_in_place_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RecordError, match="file"):
            Record(place, CONFIG)


def test_trying_a_folder_leaves_nothing(tmp_path):
    try_folder(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_safe_names_are_readable_distinct_and_stay_in_the_folder():
    ids = ["a.png", "a/b.png", "a_b.png", "a b.png", "../a", "..", ".a", "ä.png", "x" * 300]
    names = [safe_name(i) for i in ids]
    assert len(set(names)) == len(ids)
    assert names[0] == "a.png" and names[1].startswith("a_b.png-")
    assert all("/" not in n and not n.startswith(".") and len(n) < 120 for n in names)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 16])
def test_pictures_survive_their_file(tmp_path, channels, bits):
    x = picture(channels=channels)
    (tmp_path / "x.png").write_bytes(png_bytes(x, bits))
    back = load_image(tmp_path / "x.png", channels=channels)
    torch.testing.assert_close(back, x, rtol=0, atol=1.01 / (2**bits - 1))


def test_pictures_of_other_channel_counts_show_some_of_them():
    for channels, mode in ((2, "L"), (12, "RGB")):
        with Image.open(io.BytesIO(png_bytes(picture(channels=channels)))) as image:
            assert image.mode == mode


def test_measurements_are_kept_exactly(tmp_path):
    for y in (picture(), torch.complex(picture(1), picture(2)), picture().double()):
        back = np.load(io.BytesIO(npy_bytes(y)))
        assert torch.equal(torch.from_numpy(back), y)


def test_tables_survive_their_file(tmp_path):
    columns = {"step": [1, 2], "loss": [0.1, 1e-30], "ratio": [float("nan"), 2.5]}
    (tmp_path / "t.csv").write_bytes(csv_bytes(columns))
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == "step,loss,ratio"
    np.testing.assert_equal(read_csv(tmp_path / "t.csv"), columns)


def test_json_is_strict():
    assert json.loads(json_bytes({"a": [float("inf"), 1.5]})) == {"a": [None, 1.5]}


# settings


def test_hashes_ignore_where_and_how_fast():
    for same in (
        changed(device="cuda"),
        changed(output__folder="x"),
        changed(threads=4),
        changed(data__path="b/"),
        changed(method__lr=1),
    ):
        assert settings_hash(same) == settings_hash(CONFIG)
    for other in (changed(rng_seed=1), changed(noise__std=0.1), changed(method__steps=[2, 1])):
        assert settings_hash(other) != settings_hash(CONFIG)


def test_other_images_are_another_run_with_the_same_settings():
    other = changed(data__path="b/")
    assert run_hash(other) != run_hash(CONFIG)
    assert run_hash(changed(device="cuda")) == run_hash(CONFIG)


def test_a_folder_of_other_settings_is_refused_with_the_first_difference(record):
    with pytest.raises(ValueError, match=r"noise.std is 0.01 there and 0.02 now"):
        Record(record.folder, changed(noise__std=0.02))
    with pytest.raises(ValueError, match=r"method.k is absent there and 3 now"):
        Record(record.folder, changed(method__k=3))
    Record(record.folder, changed(device="cuda", data__path="b/"))


def test_a_damaged_config_is_refused(record):
    (record.folder / "config.yaml").write_text("just words")
    with pytest.raises(ValueError, match="damaged"):
        Record(record.folder, CONFIG)


def test_a_prior_with_other_weights_is_refused(record):
    Record(record.folder, CONFIG).begin(CPU, "w1")
    with pytest.raises(ValueError, match="other weights"):
        Record(record.folder, CONFIG).begin(CPU, "w2")


def test_bits_are_8_or_16(tmp_path):
    with pytest.raises(ValueError, match="8 or 16, got 12"):
        Record(tmp_path, CONFIG, bits=12)


# parts


def test_an_image_is_finished_by_id_file_and_settings(record):
    record.write_parts(parts("a.png"))
    assert record.finished("a.png", "d1")
    assert not record.finished("b.png", "d1")
    assert not record.finished("a.png", "another file")
    assert Record(record.folder, CONFIG).finished("a.png", "d1")


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_images_that_failed_or_were_interrupted_are_not_finished(record, status):
    record.write_parts(parts("a.png", status=status))
    assert not record.finished("a.png", "d1")


def test_rows_json_is_written_last_and_removed_first(record, monkeypatch):
    written, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (written.append(b.name), replace(a, b)))
    record.write_parts(parts("a.png"))
    assert len(written) == 7 and written[-1] == "rows.json"
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError):
        record.write_parts(parts("a.png"))
    assert not record.finished("a.png", "d1")


def test_a_half_written_marker_does_not_count(record):
    record.write_parts(parts("a.png"))
    marker = record.folder / "images/a.png/rows.json"
    marker.write_bytes(marker.read_bytes()[:50])
    assert not record.finished("a.png", "d1")
    assert record.rows(["a.png"]) == []


def test_scores_follow_the_given_order_whatever_the_writing_order(record):
    for image_id in ("b.png", "a.png", "c/d.png"):
        record.write_parts(parts(image_id))
    record.write_scores(["a.png", "c/d.png", "b.png"])
    lines = (record.folder / "scores.jsonl").read_text().splitlines()
    found = [(row["id"], row["kind"]) for row in map(json.loads, lines)]
    assert found == [(i, k) for i in ("a.png", "c/d.png", "b.png") for k in ("input", "last")]


def test_summary_holds_means_spreads_counts_and_failures(record):
    record.write_parts(parts("a", psnr=20.0))
    record.write_parts(parts("b", psnr=24.0))
    record.write_parts(Parts("c", "", [Row("c", "", "failed", "it is damaged")]))
    record.end(["a", "b", "c"], {"psnr": "PSNR: in dB."}, "a title")
    summary = json.loads((record.folder / "summary.json").read_text())
    assert (summary["images"], summary["ok"]) == (3, 2)
    assert summary["failed"] == {"c": "it is damaged"}
    assert summary["kinds"]["last"]["psnr"] == {"mean": 23.0, "std": pytest.approx(8**0.5), "n": 2}
    text = (record.folder / "summary.md").read_text()
    assert "23 ± 2.83" in text and "PSNR: in dB." in text and "it is damaged" in text


def test_the_summary_counts_what_was_asked_for(record):
    """After Ctrl-C the images that were never reached count as well."""
    record.write_parts(parts("a"))
    record.write_parts(parts("b", status="interrupted"))
    record.end(["a", "b", "c"], {}, "title")
    summary = json.loads((record.folder / "summary.json").read_text())
    assert (summary["ok"], summary["images"], summary["interrupted"]) == (1, 3, ["b"])
    assert "1 of 3 images" in (record.folder / "summary.md").read_text()


@pytest.mark.parametrize("given", [True, False])
def test_results_say_task_operator_method_and_prior(tmp_path, given):
    names = {"task": "deblur", "operator": "gaussian_blur", "prior": "faces64", "method": "dps"}
    targets = {"operator": "plugip.operators.Blur", "prior": "plugip.priors.faces64"}
    targets |= {"method": "plugip.methods.DPS"}
    config = {part: {"_target_": target} for part, target in targets.items()}
    with Record(tmp_path / "run", config, choices=names if given else None) as record:
        record.begin(CPU, None)
        record.write_parts(parts("a.png"))
        record.end(["a.png"], {}, "title")
    wanted = names if given else targets
    for file in ("summary.json", "images/a.png/rows.json"):
        assert json.loads((record.folder / file).read_text())["choices"] == wanted
    assert json.loads((record.folder / "provenance.json").read_text())[0]["choices"] == wanted
    lines = (record.folder / "summary.md").read_text().splitlines()
    assert set(lines) >= {f"- {part}: {name}" for part, name in wanted.items()}


def test_provenance_says_what_ran_where(record):
    record.end([], {}, "t")
    (run,) = json.loads((record.folder / "provenance.json").read_text())
    assert run["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert run["command"] and run["python"] and run["device"].startswith("cpu")
    assert run["start"] <= run["end"]
    Record(record.folder, CONFIG).begin(CPU, "w1")
    assert len(json.loads((record.folder / "provenance.json").read_text())) == 2


def test_no_git_state_outside_a_checkout(tmp_path):
    assert git_state(tmp_path) is None


def test_weights_digest_sees_every_bit():
    net = torch.nn.Linear(2, 2)
    before = weights_digest(net)
    assert before == weights_digest(net)
    with torch.no_grad():
        net.bias[0] += 1e-6
    assert weights_digest(net) != before


# figures


def test_figures_show_every_image_up_to_eight(record):
    ids = [f"{i}.png" for i in range(9)]
    for image_id in ids:
        record.write_parts(parts(image_id))
    record.end(ids, {}, "title")
    with Image.open(record.folder / "figure.png") as figure:
        width, height = figure.size
    assert height > 1.8 * width  # eight lines of four pictures
    with Image.open(record.folder / "loss.png") as figure:
        assert figure.width > figure.height


def test_figures_need_no_truth_no_score_and_no_noise_level(record):
    x = picture(channels=1)
    nan = float("nan")
    trace = {"step": [1], "loss": [-1.0], "residual": [0.1], "residual_to_noise": [nan]}
    pictures = {"measurement": x, "reconstruction": x}
    row = Row("a", "last", "interrupted")
    record.write_parts(
        Parts("a", "", [row], pictures, {"measurement": x[None]}, "log scale", trace)
    )
    record.end(["a"], {}, "title")
    assert (record.folder / "figure.png").stat().st_size > 1000


def test_failed_images_make_no_figure(record):
    record.write_parts(Parts("c", "", [Row("c", "", "failed", "it is damaged")]))
    record.end(["c"], {}, "title")
    assert not (record.folder / "figure.png").exists()


def test_unknowns_of_blind_operators_have_columns_of_their_own(tmp_path):
    """The figure gets wider by one panel for each part, the true one beside the found one."""
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    plain = {"truth": tmp_path / "picture.png", "reconstruction": tmp_path / "picture.png"}
    found = [f"theta{kind}_{part}" for part in ("kernel", "tilt") for kind in ("", "_true")]
    blind = plain | {name: tmp_path / "picture.png" for name in found}
    widths = []
    for pictures in (plain, blind):
        png = comparison([Strip("a", pictures, {}, "", tmp_path / "none.csv")], "title")
        widths.append(Image.open(io.BytesIO(png)).width)
    assert widths[1] / widths[0] == pytest.approx(3, rel=0.01)


def test_everything_that_a_try_leaves_goes_before_the_next(record):
    """Whatever names the pictures and arrays of an image have in this program."""
    x = picture()
    names = ("truth", "measurement", "input", "reconstruction", "stopped", "aligned", "theta_k")
    arrays = {name: x for name in ("measurement", "theta", "theta_true_k", "start_losses")}
    row = Row("a", "last", "failed", "no \udcff")
    record.write_parts(
        Parts("a", "", [row], {name: x for name in names}, arrays, error="no \udcff")
    )
    assert len(list((record.folder / "images/a").iterdir())) == len(names) + len(arrays) + 2
    record.write_parts(Parts("a", "", [row]))
    assert [file.name for file in (record.folder / "images/a").iterdir()] == ["rows.json"]
