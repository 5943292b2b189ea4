"""The commands ``plugip`` and ``plugip-check``: they compose a config, build its parts, and report.

Nothing here imports torch at the top, so that --help, --cfg and Tab answer at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose, initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from plugip.experiment import Experiment, Summary
    from plugip.record import Row

CONFIGS = "plugip.conf"
CHECKS = ("operator", "prior", "method")
USAGE = """plugip-check operator=NAME | prior=NAME | method=NAME  [key=value ...] [--config-dir FOLDER]
Checks an operator, a prior or a method, yours or plugip's, and says in a table what holds.
Example: plugip-check operator=gaussian_blur operator.std=1"""

# Exit codes of this process's jobs; None in the workers of a Hydra launcher, where jobs raise instead.
_codes: list[int] | None = None


def main() -> None:
    """Runs the command ``plugip``."""
    global _codes
    _codes = []
    _see_working_folder()
    options = get_args_parser().parse_args()
    if not (options.help or options.hydra_help or options.cfg or options.info):
        if not (options.multirun or options.shell_completion or options.config_path):
            _refuse_bad_config(options.overrides, options.config_dir, options.config_name)
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
        print("plugip: interrupted before the first image", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        if cfg.get("debug"):
            raise
        print(f"plugip: {error}\n(debug=true shows where)", file=sys.stderr)
        return 1


def _run(cfg: DictConfig) -> int:
    # torch reads this before anything is computed.
    import torch

    torch.set_num_threads(_threads(cfg))
    experiment = _experiment(cfg)
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        print(_opening(experiment), flush=True)
    summary = experiment.run()
    if leads:
        print(_closing(summary), flush=True)
    return summary.exit_code


def _threads(cfg: DictConfig) -> int:
    threads = cfg.threads
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads must be a whole number of at least 1, got {threads}")
    return threads


def _experiment(cfg: DictConfig) -> Experiment:
    """Builds the parts, the cheap ones first, so that bad input shows before weights are loaded."""
    from plugip.build import build, resolved
    from plugip.data import ImageFolder
    from plugip.experiment import Experiment, choose_device
    from plugip.record import Record
    from plugip.stopping import Stopped

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
        batch_size=int(config["batch_size"]),
        device=str(config["device"]),
        oracle=bool(config["output"]["oracle"]),
        title=_title(),
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


def _opening(experiment: Experiment) -> str:
    from plugip.stopping import Stopped

    method = experiment.method
    name = type(method.method if isinstance(method, Stopped) else method).__name__
    count = len(experiment.data.items())
    images = f"{count} image{'s' if count != 1 else ''}"
    operator, prior = type(experiment.operator).__name__, type(experiment.prior).__name__
    return f"plugip: {images}, {operator}, {name}, {prior} -> {experiment.record.folder}"


def _closing(summary: Summary) -> str:
    lines = []
    if summary.skipped:
        lines.append(f"{len(summary.skipped)} finished before and not solved again")
    lines += _table([row for row in summary.rows if row.status != "failed"])
    said = {row.id: row.message for row in summary.rows if row.kind in ("last", "stopped")}
    lines += [f"{i}: {message}" for i, message in list(said.items())[:8] if message]
    lines += [f"{i} failed: {message}" for i, message in summary.failed.items()]
    lines += [text for text in summary.conventions.values() if "not available" in text]
    if summary.interrupted:
        lines.append("interrupted; the same command goes on from here")
    figure = summary.folder / "figure.png"
    lines.append(f"figure: {figure}" if figure.is_file() else f"results: {summary.folder}")
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    names = list(dict.fromkeys(n for row in rows for n, v in row.metrics.items() if v is not None))
    head = ["image", "kind", *names, "residual/noise", "seconds"]
    cells = [
        [row.id, row.kind]
        + [_number(row.metrics.get(name)) for name in names]
        + [_number(row.residual_to_noise), _number(row.seconds, 1)]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    return [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in [head, *cells]
    ]


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def check() -> None:
    """Runs the command ``plugip-check``."""
    _see_working_folder()
    options = get_args_parser().parse_args()
    wanted = [name for name in CHECKS if any(_key(o).split(".")[0] == name for o in options.overrides)]
    if options.help or not wanted:
        print(USAGE)
        sys.exit(0 if options.help else 1)
    _refuse_bad_config(options.overrides, options.config_dir, options.config_name)
    try:
        reports = _reports(_compose(options.overrides, options.config_dir), wanted)
    except (ValueError, TypeError, OSError) as error:
        print(f"plugip-check: {error}", file=sys.stderr)
        sys.exit(1)
    print("\n\n".join(report.text() for report in reports))
    sys.exit(0 if all(report.ok for report in reports) else 1)


def _reports(cfg: DictConfig, wanted: list[str]) -> list[Any]:
    import torch

    from plugip import testing
    from plugip.build import build, resolved

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


def _see_working_folder() -> None:
    # The console script does not see it, `python -m plugip` does; users' own classes live there.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())


# --------------------------------------------------------------------- configs that do not compose


def _compose(overrides: list[str], folder: str | None, name: str | None = None) -> DictConfig:
    extra = [f"hydra.searchpath=[file://{Path(folder).resolve()}]"] if folder else []
    with initialize_config_module(CONFIGS, version_base="1.3"):
        return compose(name or "config", overrides=[*overrides, *extra])


def _refuse_bad_config(overrides: list[str], folder: str | None, name: str | None) -> None:
    """Ends with one clear block if the config does not compose; Hydra's own words are longer."""
    if any(_key(o) == "hydra.searchpath" for o in overrides) and folder:
        return
    if folder and not Path(folder).is_dir():
        _fail(f"--config-dir {folder} is not a folder")
    try:
        _compose(overrides, folder, name)
    except MissingConfigException as error:
        _fail(_unknown_choice(error))
    except ConfigCompositionException as error:
        found = re.search(r"Could not override '([^']+)'", str(error))
        _fail(_unknown_key(found[1], overrides, folder) if found else _plain(error))
    except HydraException as error:
        _fail(_plain(error))
    except ValueError as error:
        _fail(str(error))


def _fail(text: str) -> None:
    print(f"plugip: {text}", file=sys.stderr)
    sys.exit(1)


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    if not error.options:
        return _plain(error)
    options = list(error.options)
    return f"{group} has no choice {choice!r}{_near(choice, options)}; choose from {', '.join(options)}"


def _unknown_key(key: str, overrides: list[str], folder: str | None) -> str:
    """Names the nearest key, and what there is on the level where the key went wrong."""
    with initialize_config_module(CONFIGS, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = [g for g in loader.list_groups("") if g != "hydra"]
    cfg = _compose([o for o in overrides if _key(o) in groups], folder)
    keys = _keys(OmegaConf.to_container(cfg))
    parent = key.rpartition(".")[0]
    while parent and parent not in keys:
        parent = parent.rpartition(".")[0]
    level = [k for k in keys if k.rpartition(".")[0] == parent and "_target_" not in k]
    near = _near(key, level) or _near(key, keys + groups)
    have = f"{parent} has {', '.join(k.rpartition('.')[2] for k in level)}" if parent else (
        f"keys: {', '.join(level)}\ngroups: {', '.join(groups)}"
    )
    return f"unknown key {key!r}{near}\n{have}"


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    names = {f"{prefix}.{name}" if prefix else str(name): value for name, value in node.items()}
    return [k for name, value in names.items() for k in (name, *_keys(value, name))]


def _near(name: str, choices: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, choices, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _plain(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "hydra.cc" not in line]
    return "\n".join(line for line in lines if line and "provider=" not in line and "search path" not in line)
