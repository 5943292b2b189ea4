"""A researcher's working folder for tests of the command line."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plugip import cli

LAB = Path(__file__).resolve().parent / "lab"
PLUGS = ["prior=plain", "method=descent", "trusted=[mylab]", "metrics=fast"]
COMMAND = ["--config-dir", "conf", *PLUGS, "data.size=16"]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A working folder with a researcher's own module and configs, and three photographs."""
    (tmp_path / "mylab.py").write_text((LAB / "mylab.py").read_text())
    for file in LAB.glob("conf/*/*.yaml"):
        copy = tmp_path / file.relative_to(LAB)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(60, 200, (5, 5, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((20, 20), 3).save(tmp_path / f"photos/{seed}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    logging.getLogger().handlers.clear()  # Hydra's write to a stream that pytest closes
    sys.modules.pop("mylab", None)


@pytest.fixture
def run(lab, monkeypatch, capsys):
    """Runs a command in this process; returns exit code, stdout and stderr."""

    def run(*words, command=cli.main):
        monkeypatch.setattr(sys, "argv", ["plugip", *words])
        try:
            command()
            code = 0
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return run
