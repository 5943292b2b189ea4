"""Priors from ADM (guided-diffusion) checkpoints, converted exactly into a UNet2DModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any

from torch import Tensor

from plugip.options import choose, require_choice
from plugip.path import SIGNED, Prediction
from plugip.priors.adm_layout import Architecture
from plugip.priors.adm_presets import PRESETS, Preset
from plugip.priors.adm_weights import blank_state, misfits, read_weights, to_unet
from plugip.priors.declaration import PATHS
from plugip.priors.diffusers_unet import DiffusersUNet
from plugip.priors.probe import probe_as_asked
from plugip.priors.runtime import Runtime
from plugip.priors.tensors import WeightsError, unwrapped

FOLDER = "models"  # where the READMEs of these checkpoints put them
SCHEDULES = ("ddpm", "cosine")


@dataclass(frozen=True)
class Checkpoint:
    """A converted checkpoint.

    Attributes:
        net: The UNet2DModel, float32, on the CPU.
        file: Where it was read from.
        schedule: Noise schedule of its training, a name of ``plugip.priors.declaration.PATHS``.
        architecture: Settings of the network in the file.
        label: The class that was folded in, or None.
    """

    net: Any
    file: File
    schedule: str
    architecture: Architecture
    label: int | None


def load_adm(
    source: str | None = None,
    preset: str | None = None,
    architecture: Architecture | None = None,
    schedule: str | None = None,
    label: int | None = None,
    probe: bool | str = True,
    runtime: Runtime | None = None,
    key: str | None = None,
) -> DiffusersUNet:
    """Loads an ADM checkpoint as a prior; predictions are epsilon, images lie in [-1, 1].

    A learned variance is offered to methods that sample (``with_variance``; method=dps_paper).
    Nothing is guessed: every tensor of the file must have its
    place in the network, and the network must be filled.

    Args:
        source: The checkpoint's file, or the folder that holds the preset's file; by default the
            preset's file in ``models/``.
        preset: Name of a published checkpoint's settings, see ``adm_presets.PRESETS``.
        architecture: Settings of a network of your own, instead of a preset.
        schedule: Noise schedule of the training: ddpm (linear) or cosine; by default the
            preset's, or ddpm.
        label: Class of the images to restore, for a class-conditional network.
        probe: Whether to check that the network denoises a known picture, or yours (its file).
        runtime: How the network is run; as it is by default.
        key: Where the state dict lies in the file, such as ``ema``; not needed if it is one.

    Returns:
        The prior, in float32 on the CPU; its counter is zero.

    Raises:
        WeightsError: If the file is missing, damaged, unsafe, or does not fit the settings.
        ValueError: If the settings are incomplete or contradict each other.
        ProbeError: If the network does not denoise.

    Source: Dhariwal and Nichol 2021 (Diffusion Models Beat GANs).
    """
    prior = to_prior(open_adm(source, preset, architecture, schedule, label, key))
    probe_as_asked(prior, probe)
    return prior.equip(runtime)


def to_prior(checkpoint: Checkpoint) -> DiffusersUNet:
    """Returns a converted checkpoint as a prior, without a probe."""
    path = PATHS[checkpoint.schedule]()
    return DiffusersUNet(checkpoint.net, path, Prediction.EPS, SIGNED)


def open_adm(
    source: str | None = None,
    preset: str | None = None,
    architecture: Architecture | None = None,
    schedule: str | None = None,
    label: int | None = None,
    key: str | None = None,
) -> Checkpoint:
    """Reads and converts a checkpoint; arguments and errors are those of ``load_adm``."""
    known = _settings(preset, architecture, schedule)
    known.architecture.require_label(label)
    place = _find_file(source, known)
    state = unwrapped(read_weights(place, key), blank_state(known.architecture))
    faults = misfits(state, known.architecture)
    if faults:
        what = f"preset {preset}" if preset else "the given architecture"
        others = _fitting_presets(state)
        raise WeightsError(f"{place} does not fit {what}: {'; '.join(faults)}{others}")
    net = to_unet(state, known.architecture, label)
    return Checkpoint(net, place, known.schedule, known.architecture, label)


def _settings(
    preset: str | None, architecture: Architecture | None, schedule: str | None
) -> Preset:
    if preset is not None and architecture is None:
        known = choose(PRESETS, preset, "preset")
    elif architecture is not None and preset is None:
        known = Preset("", "", architecture)
    else:
        raise ValueError(
            f"give either a preset ({', '.join(PRESETS)}) or an architecture, not "
            f"{'both' if preset else 'neither'}"
        )
    if schedule is None:
        return known
    return replace(known, schedule=require_choice(schedule, SCHEDULES, "schedule"))


def _find_file(source: str | None, known: Preset) -> File:
    if not source and not known.file:
        raise ValueError("give source=..., the checkpoint with this architecture")
    place = File(source or f"{FOLDER}/{known.file}").expanduser()
    if place.is_dir() and known.file:
        place = place / known.file
    if place.is_file():
        return place
    advice = (
        f"; {known.file} is published at {known.url}: download it to that place, or give "
        "source=..., the place where you have it"
    )
    raise WeightsError(f"there is no file {place.absolute()}{advice if known.file else ''}")


def _fitting_presets(state: Mapping[str, Tensor]) -> str:
    names = [name for name, known in PRESETS.items() if not misfits(state, known.architecture)]
    return f"; it fits preset {' or '.join(names)}" if names else ""
