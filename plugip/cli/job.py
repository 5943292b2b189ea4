"""One job of the command ``plugip``: from its config to a finished run folder."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from plugip.cli.secrets import without_secrets
from plugip.cli.text import closing, opening
from plugip.cli.values import require_nodes, require_values
from plugip.terminal import say
from plugip.texts import for_terminal

if TYPE_CHECKING:
    from plugip.experiment import Experiment, Summary


def job(cfg: DictConfig) -> tuple[int, float]:
    """Runs one job; what the user can mend is one sentence.

    Returns:
        The exit code, and the number that sweepers make small.
    """
    try:
        return _run(cfg)
    except KeyboardInterrupt:
        say(
            "plugip: interrupted; what is finished is kept, and the same command goes on",
            sys.stderr,
        )
        return 130, math.nan
    except TOLD as error:
        if cfg.get("debug"):
            raise
        say(f"plugip: {for_terminal(sentence(error))}", sys.stderr)
        return 1, math.nan


# What bad input raises, also in libraries; a part may even call sys.exit().
TOLD = (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError, SystemExit)


def sentence(error: BaseException) -> str:
    """Returns an error's words; one that plugip did not raise itself is named as a surprise."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    ours = last is not None and str(last.tb_frame.f_globals.get("__name__")).startswith("plugip.")
    words = str(error).splitlines()[0] if str(error) else "no further word"
    return str(error) if ours else f"{words} ({type(error).__name__}; debug=true shows where)"


def _run(cfg: DictConfig) -> tuple[int, float]:
    # torch reads this before anything is computed.
    import torch

    config = resolved_config(cfg)
    torch.set_num_threads(config["threads"])
    with _no_empty_folder(config):
        experiment = _experiment(config, without_secrets(cfg, config))
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        say(opening(experiment))
    summary = experiment.run()
    if leads:
        say(closing(summary))
    return summary.exit_code, _objective(summary, config["optimized_metric"])


def resolved_config(cfg: DictConfig) -> dict[str, Any]:
    """Returns a job's config as plain dicts and lists, its root keys checked."""
    from plugip.building import resolved

    if cfg.get("measurement") is not None and "path" in cfg.data.keys():
        cfg.data.path = None  # unused then, and so allowed to be missing
    config: dict[str, Any] = resolved(cfg)
    require_values(config)
    require_nodes(config)
    return config


def _objective(summary: Summary, metric: str | None) -> float:
    """Returns a job's number for sweepers; NaN where nobody asks and there is no usual one."""
    scores = {name for row in summary.rows for name in row.metrics}
    if metric is None and scores and "psnr" not in scores:
        return math.nan
    return summary.objective(metric)


@contextmanager
def _no_empty_folder(config: dict[str, Any]) -> Iterator[None]:
    """Removes the run folder again if nothing came into it: the parts could not be built."""
    folder = _folder(config)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):  # it holds something, or was never made
                place.rmdir()
        raise


def _experiment(config: dict[str, Any], written: dict[str, Any]) -> Experiment:
    """Builds the parts, cheap ones first, so that bad input shows before weights are loaded."""
    from plugip.building import build
    from plugip.data import ImageFolder
    from plugip.experiment import Experiment, choose_device
    from plugip.experiment.summary import require_number
    from plugip.record import Record
    from plugip.stopping import Stopped

    def part(name: str) -> Any:
        return build({name: config[name]}, config["trusted"])[name]

    choose_device(config["device"])
    channels = config["data"].get("channels", 3)
    real = config["measurement"] is not None
    data = ImageFolder(config["measurement"], channels=channels) if real else part("data")
    data.items()
    bits, command = config["output"]["bits"], _command()
    record = Record(_folder(config), written, bits, _choices(), command, config)
    with ExitStack() as undo:
        undo.callback(record.close)
        metrics = list(part("metrics").values())
        scores = [] if real else [metric.name for metric in metrics]
        require_number(config["optimized_metric"], scores)
        method = part("method")
        if config["restarts"]:
            method = part("restarts")(method)
        if config["stopping"]:
            method = Stopped(method, part("stopping"), halt=config["halt"])
        experiment = Experiment(
            data=data,
            operator=part("operator"),
            noise=part("noise"),
            prior=part("prior"),
            method=method,
            metrics=metrics,
            record=record,
            real=real,
            align=part("align"),
            rng_seed=config["rng_seed"],
            batch_size=config["batch_size"],
            device=config["device"],
            oracle=config["output"]["oracle"],
            title=", ".join([*_names(), str(_choices().get("prior", "prior"))]),
            solver_seed=config["solver_seed"],
            debug=config["debug"],
        )
        undo.pop_all()  # the folder is the run's from here on
    return experiment


def _choices() -> dict[str, str]:
    """Returns what was chosen by name, Hydra's own choices left out."""
    choices = HydraConfig.get().runtime.choices.items()
    return {k: str(v) for k, v in choices if v is not None and not k.startswith("hydra/")}


def _command() -> list[str]:
    """Returns the command of this job alone, also where it is one of a grid."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return sys.argv
    folders = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    options = [word for folder in folders for word in ("--config-dir", folder)]
    return ["plugip", *options, *hydra.overrides.task]


def _names() -> list[str]:
    """Returns task and method; without a task, the operator stands for it."""
    choices = HydraConfig.get().runtime.choices
    problem = choices.get("task") or choices.get("operator") or "problem"
    return [str(problem), str(choices.get("method") or "method")]


def _folder(config: dict[str, Any]) -> Path:
    """Returns the run folder: the same command leads to the same one, so that it resumes."""
    from plugip.record import run_hash

    name = "_".join([*_names(), run_hash(config)])
    given = config["output"]["folder"]
    if given == "":  # such as a variable of the shell that is not set
        raise ValueError("output.folder must name a folder, got ''; null chooses one")
    if given is None:
        return Path("runs") / name
    many = HydraConfig.get().mode == RunMode.MULTIRUN
    return Path(given) / name if many else Path(given)
