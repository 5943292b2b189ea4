"""The sheet of all measurements: what is on it, how it is shown, and what is refused."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plugip import gallery
from plugip.data import demo_image, load_image
from plugip.operators import BicubicDownsample
from plugip.pictures import show

ROOT = Path(__file__).resolve().parents[1]
FEW = ("bicubic_downsample", "walsh_hadamard", "temporal_blur", "blind_shift", "kernel_blur")


@pytest.fixture
def photo():
    return load_image(demo_image())[None]


@pytest.fixture
def few(monkeypatch):
    """A handful of configs, so that a sheet takes a moment."""
    configs = {name: gallery.operator_configs()[name] for name in FEW}
    monkeypatch.setattr(gallery, "operator_configs", lambda: configs)


def refused(capsys, *words):
    with pytest.raises(SystemExit) as end:
        gallery.main([str(word) for word in words])
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("plugip-operators: ") and err.count("\n") == 1
    return err


def test_every_config_is_shown_or_waits_for_a_file(photo):
    configs = gallery.operator_configs()
    # By far the largest matrix; another test may pay for it.
    configs = {name: c for name, c in configs.items() if name != "gaussian_phase_retrieval"}
    panels, skipped = gallery.measure_all(photo, configs)
    assert {panel.name for panel in panels} | set(skipped) == set(configs)
    assert set(skipped) == {name for name, c in configs.items() if "???" in str(c)}
    assert skipped["kernel_blur"] == "needs operator.kernel.path=..."
    for panel in panels:
        assert panel.picture.ndim == 3 and panel.picture.shape[0] in (1, 3)
        assert panel.picture.isfinite().all()
        assert panel.picture.std() > 0.01, f"{panel.name} is one flat colour"
        assert panel.family != gallery.MORE, f"{panel.name} has no family"


def test_a_picture_is_shown_as_it_is(photo):
    config = {"_target_": "plugip.operators.BicubicDownsample", "factor": 4}
    panel = gallery.measure_one(photo, "mine", config)
    assert torch.equal(panel.picture, BicubicDownsample(4)(photo)[0])
    assert panel.lines == ("BicubicDownsample", "3 × 16 × 16", "")
    assert panel.family == "super-resolution"


def test_the_photograph_is_adapted(photo):
    configs = gallery.operator_configs()
    panels, _ = gallery.measure_all(photo, {n: configs[n] for n in ("temporal_blur", "ct")})
    lines = {panel.name: panel.lines for panel in panels}
    assert lines["temporal_blur"] == ("TemporalBlur", "3 × 8 × 64 × 64", "frame 5 of 8, x moves")
    assert lines["ct"][1:] == ("1 × 91 × 60", "-0.41 to 0.59, x grey")


@pytest.mark.parametrize("name", ["mri_multi_coil", "ptychography", "fourier_ptychography"])
def test_configs_follow_the_size(name):
    x = load_image(demo_image(), 96)[None]
    panels, skipped = gallery.measure_all(x, {name: gallery.operator_configs()[name]})
    assert skipped == {} and len(panels) == 1


def test_an_operator_that_does_not_fit_is_named_with_the_reason():
    x = load_image(demo_image(), 20)[None]
    _, skipped = gallery.measure_all(x, {"blur": gallery.operator_configs()["gaussian_blur"]})
    assert "30" in skipped["blur"] and "\n" not in skipped["blur"]


def test_lists_fold_row_by_row_and_stacks_are_tiled():
    ramp = torch.arange(1.0, 8.0)  # 7 numbers: 3 x 3 with two empty places
    picture, note = show(ramp, 64)
    assert note == "folded, 1 to 7" and picture.shape == (1, 3, 3)
    assert (picture.flatten()[:7].diff() > 0).all()
    assert (picture.flatten()[7:] == -1).all()
    stack = torch.stack([torch.full((2, 2), float(k)) for k in range(1, 6)])
    picture, note = show(stack, 64)
    assert note == "tiled, 1 to 5" and picture.shape == (1, 4, 6)
    assert (picture[0, ::2, ::2].flatten()[:5].diff() > 0).all()
    assert (picture[0, 2:, 4:] == -1).all()


def test_complex_intensities_and_bright_pictures():
    wave = torch.polar(torch.tensor([[[1.0, 10.0], [100.0, 1000.0]]]), torch.ones(1, 2, 2))
    picture, note = show(wave, 64)
    assert note == "log |y|" and not picture.is_complex()
    assert (picture.flatten().diff() > 0).all()
    picture, note = show(torch.tensor([[[0.0, 1.0], [1.0, 4.0]]]), 64)
    assert note == "white = 4"
    assert picture.flatten().tolist() == [-1, -0.5, -0.5, 1]
    assert show(torch.tensor([[[-1.0, 0.0], [1.0, 3.0]]]), 64)[1] == "clamped"
    assert show(torch.zeros(1, 9), 64)[0].isfinite().all()


def test_families_stand_together_and_share_lines():
    def some(family, count):
        return [gallery.Panel(family, family, (), torch.zeros(1, 2, 2)) for _ in range(count)]

    panels = some("blur", 9) + some("medical", 7) + some("photograph", 1)
    lines = [[panel.family for panel in line] for line in gallery._layout(panels)]
    assert lines == [["photograph", *["medical"] * 7], ["blur"] * 8, ["blur"]]


def test_the_command_writes_a_sheet(few, tmp_path, capsys):
    out = tmp_path / "new" / "sheet.png"
    gallery.main(["--out", str(out)])
    said = capsys.readouterr().out
    assert said == (f"not shown: kernel_blur: needs operator.kernel.path=...\nsheet: {out}\n")
    pixels = np.asarray(Image.open(out).convert("RGB"))
    assert pixels.shape[1] > 1500
    assert (pixels.std(axis=(0, 1)) > 10).all()


def test_any_file_name_is_drawn(few, tmp_path):
    odd = tmp_path / ("写真 $^$ " + "long " * 20 + ".png")
    odd.write_bytes(demo_image().read_bytes())
    gallery.main([str(odd), "--size", "32", "--out", str(tmp_path / "sheet.png")])


def test_the_sheet_shows_the_panels_that_it_was_given():
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 4, 4)
    data = gallery.draw([gallery.Panel("red", "blur", ("A", "3"), red)], "title", {})
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3)
    side = gallery._PICTURE * 120
    count = (pixels == [255, 0, 0]).all(axis=1).sum()
    assert count == pytest.approx(side**2, rel=0.03)


def test_what_cannot_be_read_is_one_sentence(few, tmp_path, capsys):
    assert "nowhere.png does not exist" in refused(capsys, tmp_path / "nowhere.png")
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    assert "broken.png cannot be read as an image" in refused(capsys, broken)
    assert "is a folder; give one image file" in refused(capsys, tmp_path)
    assert "size must be a whole number of at least 1" in refused(capsys, "--size", "0")


def test_what_cannot_be_written_is_one_sentence(few, tmp_path, capsys):
    assert "must end in .png" in refused(capsys, "--out", tmp_path / "sheet.jpg")
    (tmp_path / "folder.png").mkdir()
    assert "is a folder; give a file in it" in refused(capsys, "--out", tmp_path / "folder.png")
    (tmp_path / "file").write_text("")
    said = refused(capsys, "--out", tmp_path / "file" / "sheet.png")
    assert "it is a file, not a folder" in said or "part of the path is a file" in said
    assert said.endswith("choose another folder with --out\n")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a read-only folder")
def test_a_read_only_folder_is_one_sentence(few, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert "you may not write there" in refused(capsys, "--out", tmp_path / "sheet.png")


def test_help_answers_without_torch():
    code = (
        "import sys; from plugip.gallery import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.endswith("False False\n") and "--size" in run.stdout
    assert time.perf_counter() - start < 5
