"""What a network's weights do not say: its prediction, path, range and layout, as typed values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path as File
from typing import Any

from plugip.path import SIGNED, DiscretePath, FlowPath, Path, Prediction, ValueRange, VPPath
from plugip.reverse import choose

CARD = "plugip_prior.json"
SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")
PATHS: dict[str, Callable[[], Path]] = {
    "flow": FlowPath,
    "ddpm": DiscretePath.linear,
    "cosine": DiscretePath.cosine,
    "vp": VPPath,
}
PREDICTIONS = {str(kind): kind for kind in Prediction}


@dataclass(frozen=True)
class Declaration:
    """States how a network's input and output are to be read.

    Attributes:
        prediction: What the output means.
        path: Noise path of the training.
        value_range: Range of clean images. The default is the one that diffusers' unconditional
            pipelines assume when they save a picture.
        space_to_depth: Side of the pixel blocks that the network sees as channels.
        time_scale: Factor from t to the time input on a continuous path.
    """

    prediction: Prediction
    path: Path
    value_range: ValueRange = SIGNED
    space_to_depth: int = 1
    time_scale: float = 1000.0


def declare(folder: File, given: Mapping[str, Any]) -> Declaration:
    """Gathers a declaration: what is given, then ``plugip_prior.json``, then the scheduler.

    Args:
        folder: Folder of the weights or of the pipeline.
        given: Values by the names of ``Declaration``'s fields; they win over both files.

    Raises:
        ValueError: If prediction or path are declared nowhere, or a value is not understood.
    """
    facts = {**_read_card(folder / CARD), **given}
    if not {"prediction", "path"} <= set(facts):
        facts = {**_read_scheduler(folder), **facts}
    missing = [name for name in ("prediction", "path") if name not in facts]
    if missing:
        raise ValueError(
            f"{folder} has no {CARD} and no {SCHEDULERS[0]} that declare it, so give "
            f"{' and '.join(f'{name}=...' for name in missing)}; prediction: "
            f"{', '.join(PREDICTIONS)}; path: {', '.join(PATHS)} or a plugip.path.Path"
        )
    return _typed(facts)


def _typed(facts: Mapping[str, Any]) -> Declaration:
    path = facts["path"]
    return Declaration(
        prediction=choose(PREDICTIONS, str(facts["prediction"]), "prediction"),
        path=path if isinstance(path, Path) else choose(PATHS, path, "path")(),
        value_range=as_range(facts.get("value_range", SIGNED)),
        space_to_depth=int(facts.get("space_to_depth", 1)),
        time_scale=float(facts.get("time_scale", 1000.0)),
    )


def as_range(value: ValueRange | Sequence[float]) -> ValueRange:
    """Returns two rising numbers as a range; a ValueError says so if they are something else."""
    if isinstance(value, ValueRange):
        return value
    ends = [float(v) for v in value]
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise ValueError(f"value_range must be two rising numbers such as [-1, 1], got {value}")
    return ValueRange(*ends)


def _read_card(file: File) -> dict[str, Any]:
    facts = read_json(file) if file.is_file() else {}
    known = {field.name: field.name for field in fields(Declaration)}
    for name in facts:
        choose(known, name, f"key in {file}")
    return facts


def read_scheduler(folder: File) -> Any:
    """Returns the scheduler of a diffusers folder, or None if there is no config of one.

    Raises:
        ValueError: If it is none, or asks for what plugip cannot read.
    """
    file = _scheduler_file(folder)
    return None if file is None else _build_scheduler(read_json(file), file)


def reads_variance(folder: File) -> bool:
    """Tells whether a second half of outputs is the variance that plugip can read.

    It is the place of the logarithm between two fixed choices, diffusers' ``learned_range``,
    unless the folder's scheduler says otherwise.
    """
    scheduler = read_scheduler(folder)
    return scheduler is None or scheduler.config.get("variance_type") == "learned_range"


def _scheduler_file(folder: File) -> File | None:
    return next((folder / name for name in SCHEDULERS if (folder / name).is_file()), None)


def _read_scheduler(folder: File) -> dict[str, Any]:
    """Reads prediction and path from a scheduler's config; nothing if there is none."""
    file, scheduler = _scheduler_file(folder), read_scheduler(folder)
    if file is None:
        return {}
    config = read_json(file)
    if type(scheduler).__name__.startswith("FlowMatch"):
        scale = scheduler.config.num_train_timesteps
        return {"prediction": Prediction.VELOCITY, "path": FlowPath(), "time_scale": scale}
    return {"prediction": _old_name(config) or scheduler.config.prediction_type} | {
        "path": DiscretePath(scheduler.alphas_cumprod)
    }


def _build_scheduler(config: dict[str, Any], file: File) -> Any:
    # diffusers' own class fills in what old config files leave out.
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    name = str(config.get("_class_name"))
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise _unsupported(file, name)
    if config.get("rescale_betas_zero_snr"):
        raise _unsupported(file, "rescale_betas_zero_snr, a noise level without any image")
    if config.get("invert_sigmas"):
        raise _unsupported(file, "invert_sigmas, a flow whose time runs from noise to data")
    make: Any = kind
    try:
        scheduler = make.from_config(config)
    except NotImplementedError as error:
        raise _unsupported(file, f"the schedule {config.get('beta_schedule')!r}") from error
    if not (name.startswith("FlowMatch") or hasattr(scheduler, "alphas_cumprod")):
        raise _unsupported(file, f"{name}, which has no table of alpha-bar")
    return scheduler


def _unsupported(file: File, what: str) -> ValueError:
    return ValueError(
        f"{file} asks for {what}, which plugip cannot read; give prediction=... and path=..."
    )


def _old_name(config: dict[str, Any]) -> str | None:
    """Translates ``predict_epsilon``, which early diffusers wrote and later ones ignore."""
    if "prediction_type" in config or "predict_epsilon" not in config:
        return None
    return "epsilon" if config["predict_epsilon"] else "sample"


def read_json(file: File) -> dict[str, Any]:
    """Reads a JSON file that holds an object; ValueError names the file if it does not."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not a JSON file: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} must hold a JSON object, not a {type(value).__name__}")
    return value
