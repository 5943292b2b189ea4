"""Onlookers of a running solve: the oracle, which knows the truth, and the progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from plugip.method import Info
from plugip.metrics import to_unit
from plugip.texts import for_terminal

Align = Callable[[Tensor, Tensor], Tensor]


class Oracle:
    """Keeps each image's iterate of highest true PSNR; the method cannot see it.

    Everything stays on the device: no step waits for the GPU.

    Args:
        x: True images, (B, C, H, W), in [-1, 1].
        align: Resolves symmetries of the answer, if the operator has any.
    """

    def __init__(self, x: Tensor, align: Align | None = None) -> None:
        self.x, self.align = x, align
        self.best = torch.zeros_like(x)
        self.error = torch.full((x.shape[0],), math.inf, device=x.device)
        self.step = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
        self._rows: list[int] = []
        self._at = self.step

    @torch.no_grad()
    def __call__(self, step: int, rows: list[int], info: Info) -> None:
        """Compares one iterate of some images with their best so far."""
        at = self._index(rows)
        x = self.x[at]
        x_hat = info.x_hat if self.align is None else self.align(info.x_hat, x)
        error = (to_unit(x_hat) - to_unit(x)).square().flatten(1).mean(dim=1)
        better = error < self.error[at]
        self.error[at] = torch.where(better, error, self.error[at])
        self.step[at] = torch.where(better, step, self.step[at])
        self.best[at] = torch.where(better[:, None, None, None], info.x_hat, self.best[at])

    def _index(self, rows: list[int]) -> Tensor:
        if rows != self._rows:  # sent to the device only when an image has ended
            self._rows, self._at = list(rows), torch.tensor(rows, device=self.x.device)
        return self._at

    def of(self, i: int) -> tuple[int, Tensor] | None:
        """Returns step and iterate, (1, C, H, W), of one image; None before its first step."""
        step = int(self.step[i])
        return (step, self.best[i : i + 1]) if step else None


class Progress:
    """Shows image, step, loss, residual / noise and time left on a terminal; silent in pipes.

    Args:
        solves: How many times the method will run.
        iterations: Steps of each run, if known.
        std: Noise level, if known.
        enabled: False keeps it silent also on a terminal.
    """

    def __init__(
        self, solves: int, iterations: int | None, std: float | None, enabled: bool = True
    ) -> None:
        total = None if iterations is None else iterations * solves
        # disable=None: no bar where the output is not a terminal, so that logs stay clean.
        self.bar: tqdm[Any] = tqdm(total=total, disable=None if enabled else True, leave=False)
        self.std, self.iterations, self.names = std, iterations, [""]
        self.base, self.latest, self.shown = 0, 0, 0.0

    def begin(self, names: list[str]) -> None:
        """Says which images the next steps belong to."""
        self.names = names

    def __call__(self, step: int, rows: list[int], info: Info) -> None:
        """Notes one step; draws at most four times a second: reading a loss waits for a GPU."""
        if self.bar.disable:
            return
        if step <= self.latest:
            self.base += self.iterations or self.latest
        self.latest = step
        if time.monotonic() - self.shown < 0.25:
            return
        self.shown = time.monotonic()
        self.bar.n = self.base + step
        more = f" +{len(rows) - 1}" if len(rows) > 1 else ""
        self.bar.set_description_str(for_terminal(self.names[rows[0]]) + more, refresh=False)
        self.bar.set_postfix_str(self._numbers(step, info), refresh=True)

    def close(self) -> None:
        """Removes the bar."""
        self.bar.close()

    def _numbers(self, step: int, info: Info) -> str:
        said = f"step {step}, loss {float(info.loss.mean()):.4g}"
        if info.residual is None:
            return said
        residual = float(info.residual.mean())
        if self.std is None:
            return f"{said}, residual {residual:.3g}"
        return f"{said}, residual/noise {residual / self.std:.2f}"
