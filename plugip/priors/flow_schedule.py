"""The noise path of diffusers' flow matching models: rectified flow with a time shift."""

from __future__ import annotations

import math
from pathlib import Path as File
from typing import Any

from plugip.path import FlowPath, Path, ShiftedFlowPath
from plugip.priors.declaration import read_scheduler

SHIFTS = {"exponential": math.exp, "linear": float}


def flow_schedule(folder: File, tokens: int, shift: float | None = None) -> tuple[Path, float]:
    r"""Reads path and time scale from the config of a flow matching scheduler.

    The shift spaces equal steps of t; it changes neither the network nor its time input, which
    belongs to the noise level. Where the config asks for a dynamic shift, mu grows linearly with
    the number of image tokens, and the shift is exp(mu). Other spacings that samplers choose
    (Karras, beta, exponential, stretched ends) are left to plugip's grids.

    Args:
        folder: A pipeline's folder with ``scheduler/``.
        tokens: Number of image tokens that the network attends to.
        shift: The shift, in place of the config's.

    Returns:
        The path, and the factor from noise level to the scheduler's time, its training steps.

    Raises:
        ValueError: If there is no scheduler, or it is not one of flow matching.

    Source: Esser et al. 2024 (Stable Diffusion 3), on resolution-dependent time shifts.
    """
    scheduler = read_scheduler(folder)
    if scheduler is None or not type(scheduler).__name__.startswith("FlowMatch"):
        name = "no scheduler" if scheduler is None else f"a {type(scheduler).__name__}"
        raise ValueError(f"{folder} has {name}; this network needs a FlowMatch... scheduler")
    config: Any = scheduler.config
    own = _shift(config, tokens) if shift is None else float(shift)
    path = FlowPath() if own == 1 else ShiftedFlowPath(own)
    return path, float(config.num_train_timesteps)


def _shift(config: Any, tokens: int) -> float:
    if not config.get("use_dynamic_shifting"):
        return float(config.shift)
    few, many = config.base_image_seq_len, config.max_image_seq_len
    share = (tokens - few) / (many - few)
    mu = config.base_shift + share * (config.max_shift - config.base_shift)
    return SHIFTS[config.time_shift_type](mu)
