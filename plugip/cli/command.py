"""Runs a command by way of Hydra: its options, one job or a grid of jobs, and the exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.types import RunMode
from omegaconf import DictConfig

from plugip.cli.compose import explain, fail, first_job, require_folder
from plugip.cli.folder import see_working_folder
from plugip.cli.grid import run_grid
from plugip.cli.loader import GuardedLoader
from plugip.cli.said import said_by
from plugip.cli.values import keep_texts


@dataclass(frozen=True)
class Command:
    """A command that composes a config and does something with it.

    Attributes:
        name: What the user types.
        root: Name of its root config.
        job: Does the work of one config, says what went wrong, and returns the exit code and, for
            sweepers, a number that is better the smaller it is. Workers import it by name.
    """

    name: str
    root: str
    job: Callable[[DictConfig], tuple[int, float]]


def run_command(command: Command) -> None:
    """Reads the command line and does what it asks; ends with the exit code if that is not 0."""
    options = read_options()
    refuse_options(options, command)
    loader = guarded(options, command.name)
    hydra = Hydra(command.name, loader)
    GlobalHydra.instance().initialize(hydra)
    try:
        code = _dispatch(hydra, options, command)
    finally:
        GlobalHydra.instance().clear()
    if code:
        sys.exit(code)


def read_options() -> argparse.Namespace:
    """Reads the command line; options may stand anywhere, which Hydra alone would refuse."""
    options = get_args_parser().parse_intermixed_args()
    options.overrides = keep_texts(options.overrides)
    return options


def refuse_options(options: argparse.Namespace, command: Command) -> None:
    """Ends with one sentence if an option cannot mean anything here."""
    if options.config_path:
        fail(
            command.name,
            f"--config-path {options.config_path} would hide plugip's own configs; give a folder "
            "of yours with --config-dir",
        )
    if options.experimental_rerun:
        fail(
            command.name,
            f"--experimental-rerun {options.experimental_rerun} would load a pickle, which runs "
            "code; the command in provenance.json runs a job again",
        )
    if options.resolve and not (options.cfg or options.help):
        fail(command.name, "--resolve goes with --cfg or --help")
    if sum(map(bool, (options.run, options.cfg, options.multirun, options.info))) > 1:
        fail(command.name, "only one of --run, --multirun, --cfg and --info can be given")
    require_folder(command.name, options.config_dir)


def guarded(options: argparse.Namespace, name: str) -> GuardedLoader:
    """Returns the loader for a command line; the working folder is on the import path then."""
    with explain(name, options.overrides, None, None):
        said = said_by(options.overrides)
    loader = GuardedLoader(options.config_dir, said)  # finds Hydra's plugins: nothing from here
    see_working_folder(said.trusted)
    return loader


def _dispatch(hydra: Hydra, options: argparse.Namespace, command: Command) -> int:
    name, words = options.config_name or command.root, options.overrides
    parser = get_args_parser()
    if options.shell_completion:
        hydra.shell_completion(name, words)
        return 0
    with explain(command.name, words, hydra.config_loader, name):
        if options.help:
            hydra.app_help(name, parser, options)
        elif options.hydra_help:
            hydra.hydra_help(name, parser, options)
        elif options.cfg:
            hydra.show_cfg(name, words, options.cfg, options.package, options.resolve)
        elif options.info:
            hydra.show_info(options.info, name, words)
        else:
            return _run(hydra, options, command)
    return 0


def _run(hydra: Hydra, options: argparse.Namespace, command: Command) -> int:
    """Runs one job, or a grid where the command line or a config asks for one."""
    name, words = options.config_name or command.root, options.overrides
    # What does not compose is explained before Hydra does anything.
    first = first_job(words)
    cfg = hydra.config_loader.load_configuration(name, first, RunMode.RUN)
    many = options.multirun or cfg.hydra.mode == RunMode.MULTIRUN
    if not many and first != words:
        hydra.config_loader.load_configuration(name, words, RunMode.RUN)  # says what is missing
    words = [*words, f"hydra.mode={'MULTIRUN' if many else 'RUN'}"]
    if many:
        return run_grid(hydra, name, words, command.job)
    done: JobReturn = hydra.run(name, lambda cfg: command.job(cfg)[0], words)
    return done.return_value
