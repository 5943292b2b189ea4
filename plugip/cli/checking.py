"""The command ``plugip-check``: builds an operator, a prior or a method and checks it."""

from __future__ import annotations

import sys
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig

from plugip.cli.command import Command, guarded, read_options, refuse_options
from plugip.cli.compose import explain
from plugip.cli.said import key_of
from plugip.cli.values import ROOT_KEYS, require_values
from plugip.terminal import say
from plugip.texts import for_terminal

NAME = "plugip-check"
CHECKS = ("operator", "prior", "method")
USAGE = """plugip-check operator=NAME | prior=NAME | method=NAME [key=value ...] [--config-dir DIR]
Checks an operator, a prior or a method, yours or plugip's, and says in a table what holds.
Example: plugip-check operator=gaussian_blur operator.std=1"""


def run_checks() -> None:
    """Runs the command; ends with 0 if every check passed, else 1."""
    options = read_options()
    wanted = [
        name for name in CHECKS if any(key_of(o).split(".")[0] == name for o in options.overrides)
    ]
    if options.help or not wanted:
        say(USAGE)
        sys.exit(0 if options.help else 1)
    refuse_options(options, Command(NAME, "config", lambda cfg: (0, 0.0)))
    loader, name = guarded(options, NAME), options.config_name or "config"
    with explain(NAME, options.overrides, loader, name):
        cfg = loader.load_configuration(name, options.overrides, RunMode.RUN)
    try:
        reports = _reports(cfg, wanted)
    except (ValueError, TypeError, OSError) as error:
        say(f"{NAME}: {for_terminal(str(error))}", sys.stderr)
        sys.exit(1)
    say("\n\n".join(report.text() for report in reports))
    sys.exit(0 if all(report.ok for report in reports) else 1)


def _reports(cfg: DictConfig, wanted: list[str]) -> list[Any]:
    import torch

    from plugip import testing
    from plugip.building import build, resolved

    root = resolved({key: cfg[key] for key in ROOT_KEYS if key in cfg})
    require_values(root)
    torch.set_num_threads(root["threads"])
    side = cfg.data.size or 64
    reports = []
    for name in wanted:
        built = build({name: resolved(cfg[name])}, list(cfg.trusted))[name]
        if name == "operator":
            reports.append(testing.check_operator(built, (3, cfg.data.channels, side, side)))
        else:
            reports.append(getattr(testing, f"check_{name}")(built))
    return reports
