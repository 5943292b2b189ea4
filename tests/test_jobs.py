"""What a command does with its words: names of runs, values, grids, paths and what is written."""

import json
import math
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.core.plugins import Plugins
from labs import COMMAND
from PIL import Image

from plugip.building import resolved
from plugip.cli.compose import compose_config
from plugip.cli.loader import GuardedLoader
from plugip.cli.said import said_by
from plugip.cli.secrets import without_secrets

SHIPPED = ("super_resolution", "bicubic_downsample", "dmplug")

# names and hints


@pytest.mark.parametrize(
    ("words", "names", "aligned"),
    [
        ([], SHIPPED, False),
        (["operator=gaussian_blur"], (None, "gaussian_blur", "dmplug"), False),
        (["operator=bicubic_downsample"], SHIPPED, False),
        (["operator.factor=2"], SHIPPED, False),
        (["task=phase_retrieval"], ("phase_retrieval", "fourier_magnitude", "dmplug"), True),
        (["task=phase_retrieval", "operator=denoise"], (None, "denoise", "dmplug"), False),
        (
            ["task=phase_retrieval", "operator._target_=plugip.operators.JPEG"],
            (None, "jpeg", "dmplug"),
            False,
        ),
        (["experiment=demo", "operator=denoise"], (None, "denoise", "dmplug"), False),
        (["experiment=demo", "task=denoise"], ("denoise", "denoise", "dmplug"), False),
        (["task=blind/gaussian_deblur", "operator=denoise"], (None, "denoise", "dmplug"), False),
        (
            ["method._target_=plugip.methods.DPS"],
            ("super_resolution", "bicubic_downsample", "dps"),
            False,
        ),
    ],
)
def test_a_run_is_named_by_what_runs(words, names, aligned):
    from hydra.types import RunMode

    loader = GuardedLoader(None, said_by(words))
    cfg = loader.load_configuration("config", words, RunMode.RUN)
    choices = cfg.hydra.runtime.choices
    assert (choices["task"], choices["operator"], choices["method"]) == names
    assert (cfg.align is not None) == aligned


def test_the_hints_of_a_task_go_with_its_operator():
    kept = compose_config(["task=denoise"], None)
    gone = compose_config(["task=denoise", "operator=jpeg"], None)
    own = compose_config(["task=denoise", "operator=jpeg", "hints.noise.std=0.3"], None)
    assert (kept.noise.std, gone.noise.std, own.noise.std) == (0.2, 0.01, 0.3)
    blind = compose_config(["task=blind/gaussian_deblur", "operator=gaussian_blur"], None)
    assert "truth" not in blind.operator


# values


@pytest.mark.parametrize(
    ("word", "key"),
    [
        *((f"rng_seed={value}", "rng_seed") for value in ("1.5", "true", "1e400", "null", "abc")),
        ("halt=maybe", "halt"),
        ("output.oracle=maybe", "output.oracle"),
        ("output.bits=8.0", "output.bits"),
        ("output=x", "output"),
        ("align=abc", "align"),
        ("+stopping.x=3", "stopping"),
        ("batch_size=1.5", "batch_size"),
        ("batch_size=true", "batch_size"),
        ("threads=100000", "threads"),
        ("threads=nope", "threads"),
        ("device=1", "device"),
        ("method.steps=nope", "method.steps"),
        ("method.steps=1.5", "method.steps"),
        ("method.steps=null", "method.steps"),
        ("method.lr=nan", "method.lr"),
        ("method.lr=inf", "method.lr"),
        ("method.lr=true", "method.lr"),
        ("data.size=32.5", "data.size"),
        ("data.path=[2024,a.png]", "data.path"),
        ("measurement=[1,2]", "measurement"),
        ("method=null", "not null"),
        ("metrics=null", "not null"),
        ("data.path=''", "path"),
        ("measurement=''", "path"),
        ("output.folder=''", "output.folder"),
        ("optimized_metric=ssmi", "optimized_metric"),
        ("optimized_metric=''", "optimized_metric"),
        ("+metrics.x=3", "metrics.x"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_key(run, word, key):
    code, out, err = run(*COMMAND, word)
    assert (code, out) == (1, "") and err.count("\n") == 1 and "debug=true" not in err
    assert key in err and not Path("runs").exists()


@pytest.mark.parametrize("name", ["2024_05_01", "1e3", "1_000", "true", "1.0"])
def test_a_folder_is_called_what_the_command_says(run, name):
    assert run(*COMMAND, f"output.folder={name}", "method.steps=1")[0] == 0
    assert Path(name, "figure.png").is_file()


def test_names_that_look_like_numbers_are_read_as_names(run):
    Path("photos").rename("2024")
    code, out, _ = run(*COMMAND, "data.path=2024", "data.limit=1", "method.steps=1")
    assert code == 0 and "1 image" in out


@pytest.mark.parametrize("text", ["2024_05_01", "1e3", "on", "1:30"])
def test_a_file_that_does_not_quote_a_name_is_refused(run, text):
    Path("conf/experiment").mkdir()
    lines = f"# @package _global_\noutput:\n  folder: {text}\n"
    Path("conf/experiment/mine.yaml").write_text(lines)
    code, _, err = run(*COMMAND, "experiment=mine")
    assert code == 1 and "output.folder" in err and "quotes" in err


# folders and words


@pytest.mark.parametrize(
    "place",
    ["plain dir", "josé", "a (1)", "a=b", "a,b", "写真", "it's", 'a"b', "$x", "a\\b"],
)
def test_a_config_folder_may_lie_anywhere(tmp_path, place):
    folder = tmp_path / place / "mine"
    (folder / "operator").mkdir(parents=True)
    (folder / "operator/own.yaml").write_text("_target_: plugip.operators.Denoise\n")
    assert compose_config(["operator=own"], str(folder)).operator._target_.endswith("Denoise")


@pytest.mark.parametrize(
    "value", ["josé/x", "~/x", "a=b", "a#b", "a(b", "a{b", "it's(", 'a"b(', "a)b", "写真", "a\\("]
)
def test_a_value_that_cannot_be_read_is_shown_quoted(run, value):
    import shlex

    code, _, err = run(*COMMAND, f"output.folder={value}", "threads=0")
    if "threads must" in err:  # this one can be read
        return
    assert code == 1 and "quote" in err
    (better,) = shlex.split(err.splitlines()[0].partition("quote the value: ")[2])
    code, _, err = run(*COMMAND, better, "threads=0")
    assert code == 1 and "threads must" in err


def test_a_word_without_a_key_is_explained(run):
    code, _, err = run(*COMMAND, "output.folder=my", "photos")
    assert code == 1 and "'photos'" in err and "quote" in err


def test_a_runs_own_config_is_not_run_again_by_mistake(run):
    assert run(*COMMAND, "output.folder=before", "method.steps=1")[0] == 0
    for words in (["--config-name", "config"], []):
        code, out, err = run("--config-dir", "before", *words)
        assert (code, out) == (1, "") and "provenance.json" in err and "config.yaml" in err
    code, _, err = run("--config-path", "before", "--config-name", "config")
    assert code == 1 and "--config-dir" in err


def test_a_file_that_plugips_own_would_hide_is_refused(run):
    Path("conf/operator/jpeg.yaml").write_text("_target_: mylab.Halve\n")
    code, _, err = run(*COMMAND, "operator=jpeg")
    assert code == 1 and "jpeg.yaml" in err and "another name" in err


def test_a_root_config_without_plugips_keys_is_refused(run):
    Path("conf/mine.yaml").write_text(
        "defaults: [_self_, operator: jpeg, override hydra/job_logging: stdout]\n"
    )
    code, _, err = run("--config-dir", "conf", "--config-name", "mine")
    assert code == 1 and "rng_seed is missing" in err


# what stays on the disk


def test_a_job_that_fails_leaves_no_folder(run):
    assert run(*COMMAND, "noise.std=-1")[0] == 1
    assert run(*COMMAND, "noise.std=-1", "output.folder=a/b")[0] == 1
    assert not Path("runs").exists() and not Path("a").exists()


def test_a_grid_leaves_its_run_folders_and_nothing_else(run):
    before = set(Path().iterdir())
    assert run("-m", *COMMAND, "noise.std=-1,0.01", "method.steps=1")[0] == 1
    assert {p.name for p in set(Path().iterdir()) - before} == {"runs"}
    assert len(list(Path("runs").iterdir())) == 1 and not list(Path().rglob("multirun.yaml"))
    assert run("-m", *COMMAND, "method.steps=1,2", "hydra.sweep.dir=grid")[0] == 0
    assert Path("grid/multirun.yaml").is_file()


def test_what_the_environment_says_is_not_written_down(run, monkeypatch):
    from omegaconf import OmegaConf

    monkeypatch.setenv("TOKEN", "hunter2")
    cfg = OmegaConf.create(
        {
            "a": "${oc.env:TOKEN}",
            "b": ["${a}", "x${a}", 1],
            "c": "${b}",
            "d": "${oc.decode:${oc.env:TOKEN}}",
            "e": "${oc.create:{x:'${oc.env:TOKEN}'}}",
            "f": {"g": "${..plain}"},
            "plain": "text",
        }
    )
    written = without_secrets(cfg, resolved(cfg))
    assert "hunter2" not in str(written) and written["f"] == {"g": "text"}
    words = [*COMMAND, "method.steps=1", "output.folder=out", "device='${oc.env:WHERE}'"]
    monkeypatch.setenv("WHERE", "cpu")
    assert run(*words)[0] == 0
    said = yaml.safe_load(Path("out/config.yaml").read_text())["device"]
    assert said.startswith("${oc.env:WHERE}") and "cpu" not in said


def test_a_file_that_the_environment_names_is_known_by_its_content(run, monkeypatch):
    monkeypatch.setenv("MASK", "mask.png")
    words = [*COMMAND, "operator=inpaint_mask", "method.steps=1", "output.folder=out"]
    words.append("operator.mask.path='${oc.env:MASK}'")
    for rows in (1, 2):
        pixels = np.full((16, 16), 255, np.uint8)
        pixels[:rows] = 0
        Image.fromarray(pixels).save("mask.png")
        code, _, err = run(*words)
        assert code == (rows == 2), err
    assert "whose content has changed" in err


# grids


@pytest.fixture(params=["here", "in a worker"])
def launched(request, monkeypatch):
    """Launches here, or as joblib does: in a process whose memory does not come back."""
    name = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
    launcher: Any = Plugins.instance().class_name_to_class[name]
    launch, used = launcher.launch, []

    def launch_elsewhere(self, *arguments):
        used.append(arguments)
        sent = pickle.dumps((self.hydra_context, self.task_function, self.config))
        self.hydra_context, self.task_function, self.config = pickle.loads(sent)
        fork = multiprocessing.get_context("fork")
        here, there = fork.Pipe()
        worker = fork.Process(target=lambda: there.send(launch(self, *arguments)))
        worker.start()
        returns = here.recv()
        worker.join()
        return returns

    if request.param != "here":
        monkeypatch.setattr(launcher, "launch", launch_elsewhere)
        yield
        assert used
    else:
        yield


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize(
    ("levels", "batch", "code"), [("-1,0.01", 1, 1), ("0.01,-1", 2, 1), ("0.01,0.02", 2, 0)]
)
def test_a_grid_fails_if_and_only_if_a_job_fails(run, levels, batch, code):
    words = ["-m", *COMMAND, "method.steps=1", f"noise.std={levels}"]
    assert run(*words, f"hydra.sweeper.max_batch_size={batch}")[0] == code
    assert len(list(Path("runs").iterdir())) == 2 - code


def test_a_surprise_in_one_job_is_shown_and_the_others_run(run, monkeypatch):
    from plugip.experiment import Experiment

    solve = Experiment.run

    def fails(self):
        if self.noise.std == 0.01:
            raise RuntimeError("out of luck")
        return solve(self)

    monkeypatch.setattr(Experiment, "run", fails)
    words = ["-m", *COMMAND, "method.steps=1", "noise.std=0.01,0.02"]
    code, out, err = run(*words, "hydra.sweeper.max_batch_size=1")
    assert code == 1 and "out of luck" in err and out.count("figure: ") == 1


def test_a_job_gives_its_number_to_sweepers(run, monkeypatch):
    from plugip.cli import grid

    given = []

    class Keeping(grid.CountedLauncher):
        def launch(self, job_overrides, initial_job_idx):
            returns = super().launch(job_overrides, initial_job_idx)
            given.extend(job.return_value for job in returns)
            return returns

    monkeypatch.setattr(grid, "CountedLauncher", Keeping)
    base = ["-m", *COMMAND, "method.steps=1"]
    run(*base, "noise.std=0.01,-1", "output.folder=plain")
    for file in Path("plain").glob("*/provenance.json"):
        (told,) = json.loads(file.read_text())
        assert told["command"][0] == "plugip" and "noise.std=0.01" in told["command"]
    assert given[0] > 0 and math.isnan(given[1])
    run(*base, "noise.std=0.01,0.02", "optimized_metric=ssim", "output.folder=ssim")
    assert all(-1 <= value <= 1 for value in given[2:]) and len(given) == 4


def test_no_setting_of_a_sweeper_is_a_setting_of_the_result():
    from plugip.record import run_hash

    assert run_hash({"a": 1}) == run_hash({"a": 1, "optimized_metric": "ssim"})
