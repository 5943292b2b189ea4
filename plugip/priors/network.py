"""Calls a network of any library with states and times, and checks what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def call_network(network: nn.Module, x: Tensor, time: Tensor, time_first: bool = False) -> Tensor:
    """Returns a network's output in the type of its input.

    Args:
        network: Any module (x, time) -> output; computes in the type of its own weights, or, under
            autocast, in those that autocast chooses.
        x: States, (B, ...).
        time: The network's time input, () or (B,); it receives (B,).
        time_first: Whether it is called as (time, x).

    Returns:
        The output, same shape and type as ``x``. Outputs that diffusers wraps are unwrapped.

    Raises:
        TypeError, ValueError: If the output is no tensor, or not of the shape of ``x``.
    """
    weights = (w for w in network.parameters() if w.is_floating_point())
    like = x if torch.is_autocast_enabled(x.device.type) else next(weights, x)
    states = x.to(like.dtype)  # under autocast a time of 999 must not become a bfloat16 here
    times = time.to(states).expand(len(states))
    made = network(times, states) if time_first else network(states, times)
    output = only_tensor(network, made)
    if output.shape != x.shape:
        raise ValueError(
            f"{type(network).__name__} answers states of shape {tuple(x.shape)} with shape "
            f"{tuple(output.shape)}; wrap it in a module that returns one tensor of their shape"
        )
    return output.to(x.dtype)


def only_tensor(network: nn.Module, made: Any) -> Tensor:
    """Returns a network's output, unwrapped where it is one of diffusers' output objects.

    Raises:
        TypeError: If it is something else than one tensor.
    """
    output = made if isinstance(made, Tensor) else getattr(made, "sample", made)
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{type(network).__name__} returns a {type(output).__name__}; wrap it in a module "
            "that returns one tensor"
        )
    return output


def state_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns (channels, height, width) as a tuple; a ValueError if it is something else."""
    given = tuple(int(n) for n in shape)
    if len(given) != 3 or min(given) < 1:
        raise ValueError(f"shape must be (channels, height, width), all positive, got {given}")
    return given
