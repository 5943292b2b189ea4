"""The processes that share a run, and the device of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

T = TypeVar("T")
# A process waits for those that have more to do, however long that takes; the default of some
# backends is ten minutes.
_PATIENCE = timedelta(days=30)
_KINDS = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class Team:
    """One process among those that share a run; alone by default.

    Args:
        device: Where this process computes.
        index: Its number; 0 leads and merges.
        size: Number of processes.
        state: accelerate's PartialState, if there are several.
    """

    device: torch.device
    index: int = 0
    size: int = 1
    state: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes what belongs to all."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Returns the items of this process: every size-th one."""
        return list(items[self.index :: self.size])

    def wait(self) -> bool:
        """Waits until all processes are here; returns whether they came, and none was lost."""
        if self.state is None:
            return True
        try:
            self.state.wait_for_everyone()
        except RuntimeError:  # the backend's word for a connection that is closed
            return False
        return True

    def leave(self) -> None:
        """Ends the process group."""
        if self.state is not None:
            self.state.destroy_process_group()


def join_team(device: str) -> Team:
    """Joins the processes that torchrun started; alone without it.

    Args:
        device: "auto", or a torch device.

    Raises:
        ValueError: If the device is unknown, not here, or cannot be shared by several processes.
        RuntimeError: If the processes do not find each other.
    """
    chosen, size = choose_device(device), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team(chosen)
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cuda" and chosen.index is not None):
        raise ValueError(f"{size} processes cannot share device={device}; use auto, cuda or cpu")
    from accelerate import PartialState

    # Without cpu=True each process of a host without GPU believes that it is alone.
    state = PartialState(cpu=chosen.type == "cpu", timeout=_PATIENCE)
    if state.num_processes != size:
        raise RuntimeError(
            f"{size} processes were started, but this one sees {state.num_processes}; "
            "start them with torchrun (`accelerate launch --cpu` runs only one)"
        )
    # accelerate's "cpu:0" is not torch's "cpu": moving there copies what is there already.
    place = chosen if chosen.type == "cpu" else torch.device(state.device or chosen)
    return Team(place, state.process_index, size, state)


def choose_device(name: str) -> torch.device:
    """Returns the device of a name; "auto" is the GPU if there is one.

    Raises:
        ValueError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:0") from error
    if device.type not in _KINDS:
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:0")
    if not _present(device):
        raise ValueError(f"device {name!r} is not here: {_inventory()}; use device=auto or cpu")
    return torch.device("cpu") if device.type == "cpu" else device


def _present(device: torch.device) -> bool:
    if device.type == "cpu":
        return True
    module = getattr(torch, device.type)
    if not module.is_available():
        return False
    return device.index is None or device.index < module.device_count()


def _inventory() -> str:
    count = torch.cuda.device_count()
    return f"torch sees {count} GPU{'s' if count != 1 else ''}" if count else "torch sees no GPU"
