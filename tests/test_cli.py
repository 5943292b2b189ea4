"""The commands: composing, refusing, running, resuming, several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from labs import COMMAND, LAB
from PIL import Image

from plugip import cli
from plugip.cli.compose import compose_config
from plugip.cli.job import sentence

ROOT = Path(__file__).resolve().parents[1]
VARYING = ("seconds", "peak_memory", "nfe", "vjps")


def environment():
    names = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return os.environ | names | {"PYTHONPATH": str(ROOT)}


def start(*words, launcher=("-m", "plugip")):
    return subprocess.Popen(
        [sys.executable, *launcher, *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(folder):
    """Rows of a run by (id, kind), without what may differ between runs."""
    lines = (Path(folder) / "scores.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {(r["id"], r["kind"]): {k: v for k, v in r.items() if k not in VARYING} for r in found}


# answering at once


def test_the_command_line_needs_no_torch():
    code = "import sys, plugip.cli; print({'torch', 'diffusers', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_help_lists_the_groups_and_the_users_own(run):
    code, out, _ = run("--config-dir", "conf", "--help")
    assert code == 0
    (methods,) = [line for line in out.splitlines() if line.startswith("method: ")]
    assert "gaussian_deblur" in out and "descent, " in methods and "dmplug, " in methods


def test_cfg_shows_one_part(run):
    code, out, _ = run(*COMMAND, "task=denoise", "--cfg", "job", "--package", "operator")
    assert code == 0 and "plugip.operators.Denoise" in out


# composing


@pytest.mark.parametrize("task", sorted(p.stem for p in (ROOT / "conf/task").glob("*.yaml")))
def test_every_task_composes_with_every_method(task):
    from plugip.building import resolved

    for method in ("dmplug", "dps", "fmplug"):
        words = [f"task={task}", f"method={method}", "prior=plain"]
        cfg = resolved(compose_config(words, str(LAB / "conf")))
        assert cfg["operator"]["_target_"].startswith("plugip.operators.")
        assert cfg["noise"]["std"] == cfg["hints"]["noise"]["std"]
        if method == "dps":
            assert cfg["method"]["zeta"] == cfg["hints"]["dps"]["zeta"]
        if method == "dmplug":
            assert (cfg["method"]["start"]["scale"] == 0) == task.startswith("phase_retrieval")
        if method == "fmplug":
            assert (cfg["method"]["time_step"] == 0) == task.startswith("inpaint")


def test_the_command_line_wins_over_the_task_and_the_task_over_the_default():
    from plugip.building import resolved

    def composed(*words):
        return resolved(compose_config(["prior=plain", *words], str(LAB / "conf")))

    assert composed("task=denoise")["noise"]["std"] == 0.2
    assert composed("task=denoise", "noise.std=0.1")["noise"]["std"] == 0.1
    own = composed("task=denoise", "operator=halve", "noise=unknown")
    assert own["operator"] == {"_target_": "mylab.Halve"} and "std" not in own["noise"]
    demo = composed("experiment=demo")
    assert demo["operator"]["_target_"].endswith("Inpaint") and demo["method"]["iterations"] == 60
    assert composed("experiment=demo", "task=denoise")["noise"]["std"] == 0.2
    assert composed("data.path=[a.png,b.png]")["data"]["path"] == ["a.png", "b.png"]


def test_a_method_may_bring_its_stopping_rule_and_the_command_line_wins():
    def rule(*words):
        found = compose_config(["prior=plain", *words], str(LAB / "conf"))["stopping"]
        return found.get("_target_", "none").rpartition(".")[2]

    assert rule() == rule("method=fmplug") == rule("experiment=demo") == "ByNoise"
    assert rule("method=dps") == rule("method=dmplug_paper") == rule("stopping=none") == "none"
    assert rule("stopping=es_emv", "method=dmplug") == "ESEMV"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tsk=3"], "unknown key 'tsk'; did you mean 'task'?"),
        (["method.stps=3"], "did you mean 'method.steps'?\nmethod has steps, lr, pause"),
        (["task=denoize"], "did you mean 'denoise'?"),
        (["metrics=all"], "metrics has no choice 'all'; choose from default, dmplug, fast"),
        (["rng_seed=[1"], "cannot read 'rng_seed=[1'"),
        (["operator=denoise,halve"], "add --multirun"),
        (["-m", "task=denoise,nope"], "task has no choice 'nope'"),
        (["-m", "method.stps=3,4"], "did you mean 'method.steps'?"),
    ],
)
def test_configs_that_do_not_compose_are_refused_in_one_block(run, words, said):
    code, out, err = run(*COMMAND, *words)
    assert code == 1 and said in err and "Traceback" not in err and out == ""


def test_a_config_folder_that_is_missing_is_named(run):
    code, _, err = run("--config-dir", "nope", "--cfg", "job")
    assert code == 1 and "nope" in err
    code, _, err = run("--config-dir", "nope", "prior=plain")
    assert (code, err) == (1, "plugip: --config-dir nope is not a folder\n")


# bad input: one sentence, before any solving


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["device=gpu"], "unknown device 'gpu'; use auto, cpu, cuda or cuda:0"),
        (["data.path=nope/"], "nope does not exist"),
        (["data=folder"], "data.path has no default; give it: data.path=..."),
        (["measurement=nope.png"], "nope.png does not exist"),
        (["threads=0"], "threads must be a whole number of at least 1, got 0"),
        (["batch_size=0"], "batch_size must be at least 1, or null, got 0"),
        (["output.bits=12"], "output.bits must be 8 or 16, got 12"),
        (["output.folder=mylab.py"], "mylab.py: part of the path is a file"),
        (["output.folder=mylab.py/run"], "part of the path is a file"),
        (["trusted=[]"], "mylab.Descent is not trusted"),
        (["noise.std=-1"], "noise std must be positive and finite, got -1"),
        (["+method.nope=1"], "Descent has no argument 'nope'; it takes steps, lr, pause"),
        (["operator=gaussian_blur"], "a kernel of 61 taps"),
    ],
)
def test_bad_input_is_one_sentence(run, words, said):
    code, _, err = run(*COMMAND, *words)
    assert code == 1 and said in err and "Traceback" not in err
    assert err.startswith("plugip: ") and err.count("\n") == 1
    assert not list(Path().glob("runs/*/images"))


def test_debug_shows_the_traceback(run):
    with pytest.raises(ValueError, match="unknown device"):
        run(*COMMAND, "device=gpu", "debug=true")


def test_a_surprise_is_named_as_one():
    try:
        int("x")
    except ValueError as error:
        assert "(ValueError; debug=true shows where)" in sentence(error)


# running


def test_own_operator_prior_and_method_plug_in_and_the_run_resumes(run):
    words = [*COMMAND, "operator=halve", "data.path=photos/"]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("halve_descent_")  # not the task, which has another operator
    assert "3 images, Halve, GaussianNoise(std=0.01 on [-1, 1] = 0.005 on [0, 1])" in out
    assert f"figure: {folder}/figure.png" in out and "psnr" in out
    before = rows(folder)
    code, out, _ = run(*words, "threads=1", "batch_size=2")
    assert code == 0 and "3 finished before and not solved again" in out
    assert rows(folder) == before and len(list(Path("runs").iterdir())) == 1
    assert {p.name for p in Path().iterdir()} == {"conf", "mylab.py", "photos", "runs"}


def test_options_may_stand_anywhere(run):
    code, out, _ = run("task=denoise", *COMMAND, "--cfg", "job")
    assert code == 0 and "plugip.operators.Denoise" in out


def test_a_folder_of_ones_own_is_used_and_guarded(run):
    assert run(*COMMAND, "output.folder=here")[0] == 0
    assert (Path("here") / "figure.png").is_file() and not Path("runs").exists()
    code, _, err = run(*COMMAND, "output.folder=here", "method.lr=0.4")
    assert code == 1 and "method.lr is 0.5 there and 0.4 now" in err


def test_a_failed_image_is_told_and_the_exit_status_says_so(run):
    Path("photos/broken.png").write_text("no picture")
    code, out, _ = run(*COMMAND, "data.path=photos/")
    assert code == 1 and "broken.png failed: " in out and "2.png" in out


def test_a_real_measurement(run):
    Image.new("RGB", (4, 4), (90, 120, 150)).save("small.png")
    code, out, _ = run(*COMMAND, "measurement=small.png", "data=folder")
    assert code == 0 and "psnr" not in out and "small.png  last" in out
    Image.new("RGB", (5, 4)).save("odd.png")
    code, out, _ = run(*COMMAND, "measurement=odd.png")
    assert code == 1 and "y has shape (1, 3, 4, 5)" in out


def test_a_stopping_rule_from_the_command_line(run):
    code, out, _ = run(*COMMAND, "stopping=best_loss", "halt=false")
    assert code == 0 and "stopped" in out


def test_several_starts_from_the_command_line(run):
    words = ["restarts=multi_start", "restarts.starts=3", "restarts.trial=2", "stopping=best_loss"]
    code, out, _ = run(*COMMAND, *words, "output.folder=out")
    (losses,) = Path("out").rglob("start_losses.npy")
    assert code == 0 and "Descent" in out and np.load(losses).shape == (3,)


def test_a_multirun_runs_every_combination_each_in_its_folder(run):
    words = ["task=glob(denois*)", "noise.std=0.01,0.02", "output.folder=all"]
    code, out, _ = run("-m", *COMMAND, *words)
    names = sorted(p.name.rpartition("_")[0] for p in Path("all").iterdir())
    assert code == 0 and out.count("figure: ") == 2
    assert names == ["denoise_descent"] * 2


def test_a_job_that_fails_does_not_stop_a_multirun(run):
    code, out, err = run("-m", *COMMAND, "noise.std=-1,0.01")
    assert code == 1 and "noise std must be positive" in err and out.count("figure: ") == 1


def test_ctrl_c_ends_with_130(run, monkeypatch):
    from plugip.experiment import Experiment

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Experiment, "run", interrupt)
    assert run("-m", *COMMAND, "rng_seed=0,1")[0] == 130


# plugip-check


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["operator=halve"], "operator Halve"),
        (["method=descent"], "method Descent"),
        (["prior=plain"], "prior Plain"),
    ],
)
def test_check_prints_a_report(run, words, said):
    code, out, err = run("--config-dir", "conf", "trusted=[mylab]", *words, command=cli.check)
    assert said in out and "checks" in out and err == ""
    assert code == (0 if "all checks passed" in out else 1)


def test_check_without_a_subject_says_how(run):
    code, out, _ = run(command=cli.check)
    assert code == 1 and "plugip-check operator=NAME" in out
    code, _, err = run("operator=nope", command=cli.check)
    assert code == 1 and "operator has no choice 'nope'" in err


# other processes


@pytest.fixture
def reference(run):
    """Rows of an undisturbed run of three photographs."""
    assert run(*COMMAND, "data.path=photos/", "output.folder=whole")[0] == 0
    return rows("whole")


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(reference, run, end):
    words = [*COMMAND, "data.path=photos/", "output.folder=cut"]
    # A pause in the config would be another setting, so the run is slowed down from outside.
    slow = Path("slow.py")
    slow.write_text(
        "import signal, time, mylab\n"
        # Background jobs of a shell start with SIGINT ignored, and so would this one there.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "step = mylab.Descent.step\n"
        "def slower(self, *rest):\n    time.sleep(0.2)\n    return step(self, *rest)\n"
        "mylab.Descent.step = slower\n"
        "from plugip.cli import main\nmain()\n"
    )
    process = start(*words, launcher=("slow.py",))
    deadline = time.monotonic() + 60
    while not Path("cut/images/0.png/rows.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)  # into the second image
    process.send_signal(end)
    process.communicate(timeout=60)
    assert not Path("cut/images/2.png/rows.json").exists()
    if end is signal.SIGINT:
        assert process.returncode == 130 and Path("cut/figure.png").is_file()
        assert {row["status"] for row in rows("cut").values()} == {"ok", "interrupted"}
    code, out, _ = run(*words)
    assert code == 0 and "finished before and not solved again" in out
    assert rows("cut") == reference


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(reference):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    launcher = (*torchrun, "-m", "plugip")
    process = start(*COMMAND, "data.path=photos/", "output.folder=two", launcher=launcher)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("figure: ") == 1
    assert rows("two") == reference
