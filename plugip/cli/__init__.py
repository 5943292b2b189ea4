"""The commands ``plugip`` and ``plugip-check``: compose a config, build its parts, report.

Nothing here imports torch at the top, so that --help, --cfg and Tab answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from plugip.cli.compose import CONFIGS, compose_config, first_job, key_of, refuse_bad_config
from plugip.cli.text import closing, opening
from plugip.terminal import say
from plugip.texts import for_terminal

if TYPE_CHECKING:
    from plugip.experiment import Experiment

CHECKS = ("operator", "prior", "method")
USAGE = """plugip-check operator=NAME | prior=NAME | method=NAME [key=value ...] [--config-dir DIR]
Checks an operator, a prior or a method, yours or plugip's, and says in a table what holds.
Example: plugip-check operator=gaussian_blur operator.std=1"""

# Exit codes of this process's jobs; None in a Hydra launcher's workers, where jobs raise instead.
_codes: list[int] | None = None


def main() -> None:
    """Runs the command ``plugip``."""
    global _codes
    _codes = []
    _see_working_folder()
    options = _options()
    if not (options.help or options.hydra_help or options.cfg or options.info):
        if not (options.shell_completion or options.config_path):
            words = first_job(options.overrides) if options.multirun else options.overrides
            refuse_bad_config(words, options.config_dir, options.config_name)
    _app()
    if any(_codes):
        sys.exit(max(_codes))


@hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGS}", config_name="config")
def _app(cfg: DictConfig) -> None:
    code = _job(cfg)
    if code == 130:
        raise SystemExit(code)  # Ctrl-C ends a multirun as well
    if _codes is not None:
        _codes.append(code)
    elif code:
        raise RuntimeError("this job failed; the reason stands above")


def _job(cfg: DictConfig) -> int:
    """Runs one job and returns its exit code; what the user can mend is one sentence."""
    try:
        return _run(cfg)
    except KeyboardInterrupt:
        say(
            "plugip: interrupted; what is finished is kept, and the same command goes on",
            sys.stderr,
        )
        return 130
    except (ValueError, TypeError, OSError, ImportError) as error:
        if cfg.get("debug"):
            raise
        say(f"plugip: {for_terminal(_sentence(error))}", sys.stderr)
        return 1


def _sentence(error: Exception) -> str:
    """Returns an error's words; one that plugip did not raise itself is named as a surprise."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    ours = last is not None and str(last.tb_frame.f_globals.get("__name__")).startswith("plugip.")
    return str(error) if ours else f"{error} ({type(error).__name__}; debug=true shows where)"


def _run(cfg: DictConfig) -> int:
    # torch reads this before anything is computed.
    import torch

    torch.set_num_threads(_threads(cfg))
    experiment = _experiment(cfg)
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        say(opening(experiment))
    summary = experiment.run()
    if leads:
        say(closing(summary))
    return summary.exit_code


def _threads(cfg: DictConfig) -> int:
    threads = cfg.threads
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads must be a whole number of at least 1, got {threads}")
    return threads


def _experiment(cfg: DictConfig) -> Experiment:
    """Builds the parts, cheap ones first, so that bad input shows before weights are loaded."""
    from plugip.building import build, resolved
    from plugip.data import ImageFolder
    from plugip.experiment import Experiment, choose_device
    from plugip.record import Record
    from plugip.stopping import Stopped

    if cfg.measurement is not None and "path" in cfg.data.keys():
        cfg.data.path = None  # unused then, and so allowed to be missing
    config: dict[str, Any] = resolved(cfg)
    trusted = [config["trusted"]] if isinstance(config["trusted"], str) else config["trusted"]

    def part(name: str) -> Any:
        return build({name: config[name]}, trusted)[name]

    choose_device(str(config["device"]))
    channels = config["data"].get("channels", 3)
    real = config["measurement"] is not None
    data = ImageFolder(config["measurement"], channels=channels) if real else part("data")
    data.items()
    record = Record(_folder(config), config, config["output"]["bits"])
    method = part("method")
    if config["restarts"]:
        method = part("restarts")(method)
    if config["stopping"]:
        method = Stopped(method, part("stopping"), halt=bool(config["halt"]))
    return Experiment(
        data=data,
        operator=part("operator"),
        noise=part("noise"),
        prior=part("prior"),
        method=method,
        metrics=list(part("metrics").values()),
        record=record,
        real=real,
        align=part("align"),
        rng_seed=int(config["rng_seed"]),
        batch_size=config["batch_size"],
        device=str(config["device"]),
        oracle=bool(config["output"]["oracle"]),
        title=_title(),
        solver_seed=config["solver_seed"],
        debug=bool(config["debug"]),
    )


def _title() -> str:
    choices = HydraConfig.get().runtime.choices
    return f"{choices.get('task')}, {choices.get('method')}"


def _folder(config: dict[str, Any]) -> Path:
    """Returns the run folder: the same command leads to the same one, so that it resumes."""
    from plugip.record import run_hash

    choices = HydraConfig.get().runtime.choices
    name = f"{choices.get('task')}_{choices.get('method')}_{run_hash(config)}"
    given = config["output"]["folder"]
    if given is None:
        return Path("runs") / name
    many = HydraConfig.get().mode == RunMode.MULTIRUN
    return Path(str(given)) / name if many else Path(str(given))


def check() -> None:
    """Runs the command ``plugip-check``."""
    _see_working_folder()
    options = _options()
    wanted = [
        name for name in CHECKS if any(key_of(o).split(".")[0] == name for o in options.overrides)
    ]
    if options.help or not wanted:
        print(USAGE)
        sys.exit(0 if options.help else 1)
    refuse_bad_config(options.overrides, options.config_dir, options.config_name)
    try:
        reports = _reports(compose_config(options.overrides, options.config_dir), wanted)
    except (ValueError, TypeError, OSError) as error:
        print(f"plugip-check: {for_terminal(str(error))}", file=sys.stderr)
        sys.exit(1)
    print("\n\n".join(report.text() for report in reports))
    sys.exit(0 if all(report.ok for report in reports) else 1)


def _reports(cfg: DictConfig, wanted: list[str]) -> list[Any]:
    import torch

    from plugip import testing
    from plugip.building import build, resolved

    torch.set_num_threads(_threads(cfg))
    side = cfg.data.size or 64
    reports = []
    for name in wanted:
        built = build({name: resolved(cfg[name])}, list(cfg.trusted))[name]
        if name == "operator":
            reports.append(testing.check_operator(built, (3, cfg.data.channels, side, side)))
        else:
            reports.append(getattr(testing, f"check_{name}")(built))
    return reports


def _options() -> argparse.Namespace:
    """Reads the command line; options may stand anywhere, which Hydra alone would refuse."""
    options = get_args_parser().parse_intermixed_args()
    dashed = [word for word in sys.argv[1:] if word not in options.overrides]
    sys.argv[1:] = [*dashed, *options.overrides]
    return options


def _see_working_folder() -> None:
    # The console script does not see it, `python -m plugip` does; users' own classes live there.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
