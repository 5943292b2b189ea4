"""The files that a config names: a resumed folder notices when their content has changed."""

import json
import os
import shutil

import pytest
from test_record import CPU, parts

from plugip.record import Record, inputs
from plugip.record.inputs import named_files

KEYS = {
    "operator.mask.path": "mask.png",
    "operator.kernel": "kernel.npy",
    "operator.maps.0": "maps/a.npy",
    "prior.source": "prior.safetensors",
    "prior.text": "text.safetensors",
    "prior.priors.1.source": "folder",
    "method.guide.files.0": "guide.png",
    "metrics.lpips.weights": "lpips.pth",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a file for each key, and one folder of weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maps").mkdir()
    for i, name in enumerate(KEYS.values()):
        if name != "folder":
            (tmp_path / name).write_bytes(bytes([i]) * 10)
    for name in (
        "config.json",
        "unet/config.json",
        "unet/weights.safetensors",
        "vae/weights.bin",
        "vae/config.json",
    ):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text(name)
    (tmp_path / "folder/README.md").write_text("about")
    return tmp_path


def config(**changes):
    """A config that names all files; a__b=... changes the leaf a.b."""
    nested = {
        "operator": {"mask": {"path": "mask.png"}, "kernel": "kernel.npy", "maps": ["maps/a.npy"]},
        "prior": {
            "source": "prior.safetensors",
            "text": "text.safetensors",
            "priors": [{"source": "a hub/id"}, {"source": "folder"}],
        },
        "method": {"_target_": "mask.png", "guide": {"files": ["guide.png"]}, "steps": 3},
        "metrics": {"lpips": {"weights": "lpips.pth"}},
        "data": {"path": "photos"},
        "output": {"folder": "run"},
    }
    for key, value in changes.items():
        *parents, name = key.split("__")
        node = nested
        for parent in parents:
            node = node[parent]
        node[name] = value
    return nested


def solved(place):
    with Record("run", config()) as record:
        record.begin(CPU, None)
        record.write_parts(parts("a.png"))
    return place / "run"


def test_every_named_file_is_known_by_its_content(place):
    found = named_files(config())
    assert set(found) == set(KEYS) and len(set(found.values())) == len(KEYS)
    (run,) = json.loads((solved(place) / "provenance.json").read_text())
    assert run["files"] == found


@pytest.mark.parametrize("key", [key for key, name in KEYS.items() if name != "folder"])
def test_a_changed_file_is_refused_with_its_key_and_name(place, key):
    solved(place)
    path = place / KEYS[key]
    before = path.stat()
    path.write_bytes(b"changed!!!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time
    with pytest.raises(ValueError, match=r"content has changed.*output\.folder") as caught:
        Record("run", config())
    assert key in str(caught.value) and KEYS[key] in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "config.json").write_text("{}"),
        lambda folder: (folder / "unet/weights.safetensors").write_bytes(b"1"),
        lambda folder: (folder / "vae/weights.bin").unlink(),
        lambda folder: (folder / "unet/more.safetensors").write_bytes(b"1"),
        lambda folder: (folder / "vae/weights.bin").rename(folder / "unet/weights.bin"),
    ],
)
def test_a_changed_folder_of_weights_is_refused(place, change):
    solved(place)
    change(place / "folder")
    with pytest.raises(ValueError, match=r"prior\.priors\.1\.source.*folder.*changed"):
        Record("run", config())


def test_what_no_loader_reads_may_change_in_a_folder_of_weights(place):
    solved(place)
    (place / "folder/README.md").write_text("more about")
    (place / "folder/.cache").mkdir()
    (place / "folder/.cache/state.json").write_text("{}")
    (place / "folder/checkpoints").mkdir()
    (place / "folder/checkpoints/step_1.pt").write_bytes(b"1")
    Record("run", config())


def test_a_folder_of_weights_may_hold_the_run_itself(place):
    there = config(prior__source="folder")
    for _ in range(2):
        with Record("folder/run", there) as record:
            record.begin(CPU, None)
            record.write_parts(parts("a.png"))
    assert Record("folder/run", there).finished("a.png", "d1")


def test_a_file_that_is_gone_or_new_is_refused(place):
    solved(place)
    (place / "kernel.npy").unlink()
    with pytest.raises(ValueError, match=r"operator\.kernel.*kernel\.npy.*no longer there"):
        Record("run", config())
    (place / "kernel.npy").write_bytes(bytes([1]) * 10)
    (place / "a hub").mkdir()
    (place / "a hub/id").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"prior\.priors\.0\.source.*a hub/id"):
        Record("run", config())


def test_a_file_that_has_moved_goes_on(place):
    solved(place)
    shutil.move(place / "mask.png", place / "elsewhere.png")
    os.utime(place / "elsewhere.png")
    moved = config(operator__mask={"path": str(place / "elsewhere.png")})
    with Record("run", moved) as record:
        record.begin(CPU, None)
        assert record.finished("a.png", "d1")
    (place / "elsewhere.png").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"operator\.mask\.path.*elsewhere\.png.*changed"):
        Record("run", moved)


def test_another_file_of_other_content_is_refused(place):
    solved(place)
    with pytest.raises(ValueError, match=r"operator\.kernel.*lpips\.pth"):
        Record("run", config(operator__kernel="lpips.pth"))


def test_images_secrets_and_folders_without_weights_are_not_read(place, monkeypatch):
    read = []
    digest = inputs.file_digest
    monkeypatch.setattr(inputs, "file_digest", lambda path: read.append(path.name) or digest(path))
    for folder in ("photos", "kernels"):
        (place / folder).mkdir()
        (place / folder / "a.png").write_bytes(b"1")
    (place / "token.txt").write_text("secret")
    named = {
        "data": {"path": "photos", "cache": "mask.png"},
        "measurement": "mask.png",
        "output": {"folder": "photos", "like": "mask.png"},
        "prior": {"token": "token.txt", "api_key": "token.txt", "password_file": "token.txt"},
        "operator": {
            "kernels": "kernels",
            "empty": "",
            "nul": "\0",
            "long": "x" * 9999,
        },
        "method": {"tokenizer": "kernel.npy", "user": "~nobody-of-that-name/x"},
    }
    assert set(named_files(named)) == {"data.cache", "method.tokenizer"}
    assert sorted(read) == ["kernel.npy", "mask.png"]


def test_a_folder_from_before_the_digests_goes_on(place):
    solved(place)
    path = place / "run/provenance.json"
    runs = json.loads(path.read_text())
    del runs[0]["files"]
    path.write_text(json.dumps(runs))
    Record("run", config())
