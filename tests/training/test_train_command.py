"""The command: answers at once, refuses in a sentence, survives kills, shares work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainings import curve

from plugip.cli import train as command
from plugip.training.log import read_table

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "data.size=8", "data.holdout=0.1", "network.block_out_channels=[8,16]", "batch_size=8",
    "network.attention=[false,true]", "network.attention_head_dim=8", "network.norm_num_groups=4",
    "log.every=2", "eval.every=10", "sheet.every=null", "sheet.images=2",
    "sheet.steps=[2]", "checkpoint.every=10", "threads=1",
]  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in this process and an empty folder; returns code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["plugip-train", *words])
        code = 0
        try:
            command.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def start(*words, launcher=()):
    names = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "plugip.cli.train", *words],
        env=os.environ | names,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_help_comes_without_torch():
    code = (
        "import sys; sys.argv = ['plugip-train', '--help']\n"
        "import plugip.cli.train as t\n"
        "try: t.main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'diffusers', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "plugip-train data.path=my_photos/" in done.stdout
    assert "block_out_channels" in done.stdout and done.stdout.rstrip().endswith("set()")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "data.path has no default; give it: data.path=..."),
        (("data.path=no",), "data.path no does not exist"),
        (("data.path=no", "stepz=3"), "unknown key 'stepz'; did you mean 'steps'?"),
        (("data.path=no", "data.sise=3"), "unknown key 'data.sise'; did you mean 'data.size'?"),
        (("data.path=no", "train=facez"), "train has no choice 'facez'"),
        (("data.path=no", "operator=ct", "noise=shot"), "unknown key 'operator'"),
        (("data.path=no", "objective=eps"), "unknown objective 'eps', choose from"),
    ],
)
def test_mistakes_are_one_sentence(run, words, said):
    code, _, err = run(*words)
    assert code == 1 and said in err and "Traceback" not in err


def test_the_embedded_priors_setting_composes_and_states_everything():
    from plugip.building import resolved
    from plugip.cli.compose import compose_config
    from plugip.training import read_settings
    from plugip.training.network import make_network, parameter_count

    config = resolved(compose_config(["train=faces64", "data.path=a"], None, "train"))
    del config["debug"]
    settings = read_settings(config)
    assert settings.card.missing() == []
    net = make_network(settings.network, 3, settings.data.size, 0)
    assert 2 * parameter_count(net) < 20e6  # bytes in float16


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_same_curve(run, photos, tmp_path):
    words = [f"data.path={photos}", "steps=60", *WORDS]
    code, _, err = run(*words, "output.folder=whole")
    assert code == 0, err
    process, table = start(*words, "output.folder=killed"), tmp_path / "killed/train.csv"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if len(read_table(table)) >= 7:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    reached = len(curve("killed")) - 1
    assert 7 <= reached < 30
    code, out, err = run(*words, "output.folder=killed")
    assert code == 0 and "going on after step" in out, err
    assert curve("killed") == curve("whole") and len(curve("whole")) == 31
    name = "diffusion_pytorch_model.safetensors"
    assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes()


@pytest.mark.slow
def test_two_processes_have_the_curve_of_one(run, photos):
    words = [f"data.path={photos}", "steps=10", "data.cache=cache", *WORDS]
    code, _, err = run(*words, "output.folder=one")
    assert code == 0, err
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(*words, "output.folder=two", "device=cpu", launcher=torchrun)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert out.count("10 of 10 steps") == 1
    one, two = read_table(Path("one/train.csv")), read_table(Path("two/train.csv"))
    for name in ("step", "loss", "lr", "grad_norm"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-4)
    assert two[-1]["held_out_loss"] == pytest.approx(one[-1]["held_out_loss"], rel=1e-4)
