"""Configs of a stranger: none runs code, and none writes outside of its run folder."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from plugip import cli
from plugip.building import BuildError, build
from plugip.cli import train

ROOT = Path(__file__).resolve().parents[1]
CANARY = "CANARY"

EVIL = f"{{_target_: evil.run, path: {CANARY}}}"
FACTORY = f'{{"()": os.mkdir, path: {CANARY}}}'

# An experiment file each, below `# @package _global_`.
TEXT = (Path(__file__).parent / "hostile_configs.yaml").read_text()
CONFIGS = yaml.safe_load(TEXT.replace("EVIL", EVIL).replace("FACTORY", FACTORY))
HYDRA, BUILT = CONFIGS["hydra"], CONFIGS["built"]
FILES = {
    "evil.py": f"import os\nos.mkdir({CANARY!r})\n",
    "torch.py": f"import os\nos.mkdir({CANARY!r})\n",
    "yaml.py": f"import os\nos.mkdir({CANARY!r})\n",
    "transformers.py": f"import os\nos.mkdir({CANARY!r})\n",
    "hydra_plugins/evil/__init__.py": f"import os\nos.mkdir({CANARY!r})\n",
    "evilpkg/__init__.py": f"import os\nos.mkdir({CANARY!r})\n",
    "evilpkg/config.yaml": "a: 1\n",
    "cfg/hydra/sweeper/evil.yaml": "_target_: evil.Sweeper\n",
    "cfg/hydra/launcher/evil.yaml": "_target_: evil.Launcher\n",
    "cfg/hydra/callbacks/evil.yaml": f"x: {EVIL}\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A stranger's folder, and a shell in it."""
    for name, text in FILES.items():
        if name not in ("torch.py", "yaml.py"):  # those are for a fresh interpreter
            place = tmp_path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("STRANGER", "evil")
    monkeypatch.delenv("PLUGIP_TRUSTED", raising=False)
    yield tmp_path
    logging.getLogger().handlers.clear()  # Hydra's write to a stream that pytest closes


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    """Runs a command that must be refused; returns what it says."""

    def refused(*words, command=cli.main):
        before = tree(folder)
        monkeypatch.setattr(sys, "argv", ["plugip", *words])
        with pytest.raises(SystemExit) as end:
            command()
        out, err = capsys.readouterr()
        assert end.value.code == 1 and out == "" and "Traceback" not in err
        assert tree(folder) == before and not (folder.parent / CANARY).exists()
        assert not {"evil", "evilpkg"} & set(sys.modules)
        return err

    return refused


def tree(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts}


def experiment(text, where="cfg/experiment/evil.yaml"):
    Path(where).parent.mkdir(parents=True, exist_ok=True)
    Path(where).write_text(f"# @package _global_\n{text}\n")


@pytest.mark.parametrize("name", HYDRA)
def test_hydra_builds_nothing_that_a_config_names(refused, name):
    # A root config of its own: composing plugip's takes most of the time.
    root = {"trusted": [], "align": None, "hydra": {}} | yaml.safe_load(HYDRA[name])
    root["hydra"].setdefault("sweep", {"dir": "."})
    Path("cfg/mine.yaml").write_text(yaml.safe_dump(root))
    err = refused("--config-dir", "cfg", "--config-name", "mine")
    assert "hydra" in err or "trusted" in err


@pytest.mark.parametrize("name", BUILT)
def test_plugip_builds_nothing_that_a_config_names(folder, name):
    before = tree(folder)
    Path("evil.yaml").write_text(BUILT[name])
    with pytest.raises((BuildError, yaml.YAMLError)):
        build(OmegaConf.load("evil.yaml"))
    Path("evil.yaml").unlink()
    assert tree(folder) == before and not {"evil", "evilpkg"} & set(sys.modules)


@pytest.mark.parametrize(
    "text",
    [
        HYDRA["a callback"],
        HYDRA["a grid that trusts"],
        BUILT["a target"],
        BUILT["a writer of files"],
        BUILT["a YAML object"],
        f"trusted: [evil]\nalign: {EVIL}",
        f"trusted: ['${{oc.env:STRANGER}}']\nalign: {EVIL}",
        f"trusted: os\nalign: {{_target_: os.mkdir, path: {CANARY}}}",
    ],
)
def test_an_experiment_of_a_stranger_is_refused(refused, text):
    experiment(text)
    assert refused("--config-dir", "cfg", "experiment=evil", "prior=gaussian").count("\n") < 4


@pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/basic':UserWarning")
def test_a_file_that_hides_hydras_own_choice_is_refused(refused):
    Path("cfg/hydra/launcher/basic.yaml").write_text("_target_: evil.Launcher\n")
    assert "hydra.launcher" in refused("--config-dir", "cfg", "prior=gaussian")


@pytest.mark.parametrize("option", ["--cfg=job", "--cfg=all", "--help"])
def test_options_that_only_show_something_run_nothing_either(refused, option):
    experiment(HYDRA["a logging factory of Hydra's own"])
    refused("--config-dir", "cfg", "experiment=evil", option)


@pytest.mark.parametrize(
    "root",
    [
        "hydra: {searchpath: ['pkg://evilpkg']}\ndefaults: [config]",
        "hydra: {searchpath: ['evil://x']}\ndefaults: [config]",
        f"hydra: {{callbacks: {{x: {EVIL}}}}}\ndefaults: [config, _self_]",
        "defaults: [config, _self_, override hydra/launcher: evil]",
    ],
)
def test_a_root_config_is_checked_as_well(refused, root):
    Path("cfg/mine.yaml").write_text(root)
    refused("--config-dir", "cfg", "--config-name", "mine", "prior=gaussian")


def test_a_search_path_in_a_package_imports_it_and_needs_trust(refused):
    assert "evilpkg" in refused("hydra.searchpath=[pkg://evilpkg]", "prior=gaussian")


@pytest.mark.parametrize("command", [cli.check, train.main])
def test_the_other_commands_check_as_well(refused, command):
    experiment(HYDRA["a callback"])
    experiment(HYDRA["a callback"], "cfg/train/evil.yaml")
    group = "train=evil" if command is train.main else "experiment=evil"
    words = [] if command is train.main else ["operator=denoise"]
    assert "hydra.callbacks" in refused("--config-dir", "cfg", group, *words, command=command)


def test_a_pickle_is_not_run_again(refused):
    assert "pickle" in refused("--experimental-rerun", "evil.pkl")


@pytest.mark.parametrize("word", ["trusted=null", "trusted=[1]", "trusted=${x}", "trusted=[a/b]"])
def test_trust_is_a_list_of_packages(refused, word):
    assert "trusted must be a list of package names" in refused(word)


def test_trust_is_not_swept(refused):
    assert "trusted" in refused("-m", "trusted=evil,os", "prior=gaussian")


def test_the_command_line_and_the_environment_may_trust(folder, monkeypatch):
    from plugip.cli.compose import compose_config

    experiment("trusted: [mine]")
    words = ["experiment=evil", "trusted=[mine,more]"]
    assert compose_config(words, "cfg").trusted == ["mine", "more"]
    monkeypatch.setenv("PLUGIP_TRUSTED", "mine, other")
    assert compose_config(words[:1], "cfg").trusted == ["mine", "other"]


def test_a_trusted_callback_runs(folder, monkeypatch, capsys):
    Path("mycalls.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Told(Callback):\n"
        "    def on_run_start(self, config, **kwargs): print('told')\n"
    )
    experiment("hydra: {callbacks: {x: {_target_: mycalls.Told}}}")
    words = ["--config-dir", "cfg", "experiment=evil", "trusted=[mycalls]", "threads=0"]
    monkeypatch.setattr(sys, "argv", ["plugip", *words])
    with pytest.raises(SystemExit):
        cli.main()
    assert "told" in capsys.readouterr().out
    sys.modules.pop("mycalls", None)


def test_plain_settings_of_hydra_may_come_from_anywhere(folder, monkeypatch):
    from plugip.cli.compose import compose_config

    experiment(
        "hydra: {mode: RUN, verbose: false, sweeper: {max_batch_size: 2, params: {a: '1,2'}}}"
    )
    compose_config(["experiment=evil", "hydra.run.dir=x", "hydra.sweep.dir=y"], "cfg")


@pytest.mark.parametrize("module", ["plugip", "plugip.cli.train"])
def test_the_working_folder_is_not_imported(folder, module):
    for name in ("torch.py", "yaml.py"):
        Path(name).write_text(FILES[name])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, "prior=gaussian", "threads=0"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not Path(CANARY).exists() and done.returncode == 1
    assert "Traceback" not in done.stderr
