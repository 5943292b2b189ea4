"""The folder of a model: who may write there, and the model itself."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from plugip.priors.declaration import CARD
from plugip.record.files import (
    RecordError,
    json_bytes,
    remove_halves,
    try_folder,
    write_atomic,
)
from plugip.record.lock import FolderBusyError, FolderLock
from plugip.training.checks import TrainingError
from plugip.training.reading import difference, public_settings
from plugip.training.settings import Settings

SETTINGS = "train.yaml"
CHECKPOINTS, SHEETS, TENSORBOARD = "checkpoints", "sheets", "tensorboard"
SPARE = 64 << 20  # bytes for sheets, logs and figures
_HALF = ".model."


@contextmanager
def claim(folder: Path, settings: Settings, parameters: int) -> Iterator[None]:
    """Makes the folder, or sees that an earlier start of the same training made it; keeps it.

    Args:
        folder: Where everything is written.
        settings: The training.
        parameters: Weights of its network, from which the room for checkpoints follows.

    Raises:
        TrainingError: If the folder holds anything else, another training is at work in it, or
            there is too little room.
        RecordError: If it cannot be written.
    """
    plain, file = public_settings(settings), folder / SETTINGS
    try:
        lock = FolderLock(folder, "training")
    except FolderBusyError as error:
        raise TrainingError(str(error)) from None
    with lock:
        if file.is_file():
            _refuse_other(folder, plain)
        else:
            _refuse_foreign(folder)
        try_folder(folder)
        remove_halves(folder)
        for halves in folder.glob(f"{_HALF}*"):  # left by a kill
            shutil.rmtree(halves, ignore_errors=True)
        _require_room(folder, parameters, settings.checkpoint.keep)
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        write_atomic(file, text.encode())
        yield


def write_model(folder: Path, net: Any, declaration: dict[str, Any], half: bool) -> None:
    """Writes a network as a diffusers folder that plugip reads; each file is whole or as it was.

    Args:
        folder: Of the model.
        net: A diffusers ``UNet2DModel``; it is not changed.
        declaration: Content of ``plugip_prior.json``.
        half: Whether the weights are written in float16.
    """
    shown = copy.deepcopy(net).cpu()
    shown = shown.half() if half else shown
    with tempfile.TemporaryDirectory(prefix=_HALF, dir=folder) as place:
        try:
            shown.save_pretrained(place, safe_serialization=True)
        except (OSError, SafetensorError) as error:  # the latter is its own word for a full disk
            raise RecordError(
                f"cannot write the model to {folder}: {error}; make room, and the same command "
                "goes on"
            ) from error
        for file in Path(place).iterdir():
            write_atomic(folder / file.name, file.read_bytes())
    write_atomic(folder / CARD, json_bytes(declaration, indent=2))


def _refuse_foreign(folder: Path) -> None:
    if any(not name.startswith(".") for name in os.listdir(folder)):
        raise TrainingError(
            f"{folder} is not empty and holds no training; choose a new folder with "
            "output.folder=..."
        )


def _refuse_other(folder: Path, plain: dict[str, Any]) -> None:
    try:
        old = yaml.safe_load((folder / SETTINGS).read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        old = None
    found = difference(old, plain) if isinstance(old, dict) else f"{SETTINGS} there is damaged"
    if found:
        raise TrainingError(
            f"{folder} holds a training with other settings: {found}; choose another "
            "output.folder, or delete it"
        )


def _require_room(folder: Path, parameters: int, keep: int) -> None:
    # Weights, their average and two moments, for each checkpoint and the one being written.
    needed = 16 * parameters * (keep + 1) + 8 * parameters + SPARE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TrainingError(
            f"{folder} has {free / 1e6:.0f} MB of free disk, and checkpoints and model need "
            f"{needed / 1e6:.0f} MB; choose another output.folder"
        )
