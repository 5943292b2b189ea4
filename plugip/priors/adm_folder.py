"""Writes a converted ADM checkpoint as a diffusers pipeline folder, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plugip.priors.adm import Checkpoint
from plugip.priors.adm_layout import Architecture
from plugip.priors.declaration import CARD
from plugip.priors.tensors import WeightsError

SOURCE = "adm_source.json"
BETAS: dict[str, Any] = {"ddpm": "linear", "cosine": "squaredcos_cap_v2"}


def require_writable(architecture: Architecture, folder: Path) -> None:
    """Raises, before any long work, if the network or the place cannot take a folder.

    Raises:
        WeightsError: If the folder holds something, or is a file, or if the heads of attention
            differ in width, which no config of a UNet2DModel can say.
    """
    widths = sorted(architecture.head_widths)
    if len(widths) > 1:
        raise WeightsError(
            f"attention heads of {len(widths)} widths ({', '.join(map(str, widths))}) cannot be "
            "written as a diffusers folder, whose config states one; load the file itself"
        )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise WeightsError(f"{folder} is there already; give the name of a new folder")


def write_folder(checkpoint: Checkpoint, folder: Path, sha256: str) -> None:
    """Writes ``unet/``, ``scheduler/``, ``model_index.json`` and the declarations for plugip.

    ``DiffusersUNet.from_pretrained`` then gives the prior that ``load_adm`` gives, and diffusers'
    ``DDPMPipeline`` samples from it.

    Args:
        checkpoint: A converted checkpoint.
        folder: A new or empty folder; it appears when it is complete.
        sha256: Digest of the checkpoint's file, for the record.

    Raises:
        WeightsError: If the folder cannot be written.
    """
    from safetensors import SafetensorError

    require_writable(checkpoint.architecture, folder)
    place = folder.absolute()
    trial = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        trial.mkdir(parents=True)
        _write_pipeline(checkpoint, trial)
        _write_json(trial / CARD, _card(checkpoint))
        _write_json(trial / SOURCE, _source(checkpoint, sha256))
        os.replace(trial, place)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot write {folder}: {error}; choose another place") from error
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _write_pipeline(checkpoint: Checkpoint, folder: Path) -> None:
    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule=BETAS[checkpoint.schedule],
        variance_type="learned_range" if checkpoint.architecture.learn_sigma else "fixed_large",
        prediction_type="epsilon",
    )
    DDPMPipeline(checkpoint.net, scheduler).save_pretrained(folder)


def _card(checkpoint: Checkpoint) -> dict[str, object]:
    # The scheduler's own table of alpha-bar is in single precision; the path's name is exact.
    return {"prediction": "epsilon", "path": checkpoint.schedule, "value_range": [-1, 1]}


def _source(checkpoint: Checkpoint, sha256: str) -> dict[str, object]:
    return {
        "file": checkpoint.file.name,
        "sha256": sha256,
        "label": checkpoint.label,
        "architecture": asdict(checkpoint.architecture),
    }


def _write_json(file: Path, value: dict[str, object]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
