"""Checkpoints: whole or absent, and read without running any code of theirs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from plugip.record.files import remove_halves, write_atomic
from plugip.training.checks import TrainingError


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a folder, ``step_00001000.pt`` and so on.

    Args:
        folder: Where they are; made when the first one is saved.
        keep: How many are kept, the newest.
    """

    folder: Path
    keep: int = 1

    def files(self) -> list[Path]:
        """Returns the files, the newest last."""
        return sorted(self.folder.glob("step_*.pt"))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes a checkpoint, then removes those that are not kept.

        A kill at any moment leaves the earlier one in place.

        Args:
            step: Finished steps.
            state: Tensors, numbers and texts in dicts and lists.

        Raises:
            RecordError: If it cannot be written.
        """
        path, buffer = self.folder / f"step_{step:08d}.pt", io.BytesIO()
        torch.save(state, buffer)
        write_atomic(path, buffer.getvalue(), durable=True)
        for old in self.files()[: -self.keep]:
            old.unlink(missing_ok=True)
        remove_halves(self.folder)  # left behind by kills
        return path

    def load(self, path: Path) -> dict[str, Any]:
        """Reads a checkpoint to the CPU.

        Raises:
            TrainingError: If it is damaged.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        # Damaged files raise a dozen exception types; all mean the same here.
        except Exception as error:
            raise damaged(path) from error
        if not isinstance(state, dict):
            raise damaged(path)
        return state


def damaged(path: Path) -> TrainingError:
    """Returns what to say of a checkpoint that cannot be used."""
    return TrainingError(
        f"the checkpoint {path} is damaged; delete it, and the training goes on from the one "
        "before, or from the start"
    )
