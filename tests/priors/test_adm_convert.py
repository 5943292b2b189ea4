"""plugip-convert: the folder that it writes gives the prior that the file gives."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from adm_reference import TINY, RandomFile

from plugip.cli import convert
from plugip.priors import DiffusersUNet, load_adm
from plugip.priors.adm_layout import Architecture
from plugip.priors.adm_presets import PRESETS, Preset


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in a folder with a random file; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    classes = Architecture(16, 32, 1, (), (1, 2), num_classes=5)
    heads = Architecture(16, 32, 1, (16, 8), (1, 2), num_heads=4)
    for name, a, schedule in [
        ("small", TINY, "ddpm"),
        ("c", classes, "cosine"),
        ("h", heads, "ddpm"),
    ]:
        torch.save(RandomFile(a).state, f"{name}.pt")
        digest = sha256(Path(f"{name}.pt").read_bytes()).hexdigest() if name == "small" else None
        monkeypatch.setitem(PRESETS, name, Preset(f"{name}.pt", "", a, schedule, digest))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["plugip-convert", *words])
        try:
            convert.main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def answers(prior):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return torch.stack([prior(x, torch.tensor(t)) for t in (0.001, 0.4, 0.4563, 1.0)])


@pytest.mark.parametrize(("name", "label"), [("small", None), ("c", 4)])
def test_the_folder_gives_the_same_prior(run, name, label):
    words = [] if label is None else ["--label", str(label)]
    code, out, err = run(f"{name}.pt", "out/folder", "--preset", name, "--no-probe", *words)
    assert (code, err) == (0, "")
    assert out.endswith("use it with prior=diffusers prior.source=out/folder\n")
    want = load_adm(f"{name}.pt", name, label=label, probe=False)
    got = DiffusersUNet.from_pretrained("out/folder", probe=False)
    assert got.value_range == want.value_range and got.shape == want.shape
    assert torch.equal(answers(got), answers(want))
    source = json.loads(Path("out/folder/adm_source.json").read_text())
    assert (source["file"], source["label"]) == (f"{name}.pt", label)
    assert source["sha256"] == sha256(Path(f"{name}.pt").read_bytes()).hexdigest()


def test_diffusers_own_pipeline_samples_from_the_folder(run):
    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline

    assert run("small.pt", "out", "--preset", "small", "--no-probe")[0] == 0
    pipeline = DDPMPipeline.from_pretrained("out")
    pipeline.set_progress_bar_config(disable=True)
    made: Any = pipeline(num_inference_steps=2, output_type="np")
    assert made.images.shape == (1, 16, 16, 3)


def test_the_file_is_compared_with_the_published_one(run):
    out = run("small.pt", "one", "--preset", "small", "--no-probe")[1]
    weights = sum(tensor.numel() for tensor in RandomFile(TINY).state.values())
    assert f"small.pt: {weights:,} weights, sha256 " in out and ", as published\n" in out
    torch.save(RandomFile(TINY, seed=1).state, "small.pt")
    assert ", not the published " in run("small.pt", "two", "--preset", "small", "--no-probe")[1]
    out = run("c.pt", "three", "--preset", "c", "--label", "1", "--no-probe")[1]
    assert "no published one on record" in out


def test_untrained_weights_are_not_converted(run):
    code, _, err = run("small.pt", "out", "--preset", "small")
    assert code == 1 and err.startswith("plugip-convert: the DiffusersUNet fails its probe")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.pt", "out", "--preset", "small"], "there is no file "),
        (["small.pt", "small.pt", "--preset", "small"], "small.pt is there already"),
        (["small.pt", ".", "--preset", "small"], "is there already; give the name of a new"),
        (["small.pt", "small.pt/out", "--preset", "small", "--no-probe"], "cannot write small.pt"),
        (["c.pt", "out", "--preset", "c"], "give label=..., the class"),
        (["h.pt", "out", "--preset", "h"], "heads of 2 widths (8, 16) cannot be written"),
        (["small.pt", "out", "--preset", "h"], "heads of 2 widths"),
        (["small.pt", "out", "--preset", "ffhq256"], "does not fit preset ffhq256"),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_line(run, words, said):
    code, _, err = run(*words)
    assert code == 1 and err.startswith("plugip-convert: ") and said in err
    assert err.count("\n") == 1 and not Path("out").exists()


def test_a_failure_while_writing_leaves_nothing(run, monkeypatch):
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    def fail(self, folder, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DDPMScheduler, "save_pretrained", fail)
    before = sorted(Path().iterdir())
    code, _, err = run("small.pt", "out", "--preset", "small", "--no-probe")
    assert code == 1 and "cannot write out: " in err and "No space left" in err
    assert sorted(Path().iterdir()) == before


def test_help_names_the_files_and_needs_no_torch():
    code = (
        "import sys; sys.argv = ['plugip-convert', '--help']\n"
        "heavy = lambda: print({'torch', 'diffusers'} & set(sys.modules))\n"
        "import atexit; atexit.register(heavy)\n"
        "import plugip.cli.convert; plugip.cli.convert.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ffhq256           ffhq_10m.pt" in done.stdout and done.stdout.endswith("set()\n")
