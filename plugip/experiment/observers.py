"""Onlookers of a running solve: the oracle, which knows the truth, and what shows progress."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from plugip.experiment.failure import reason
from plugip.method import Info
from plugip.metrics import to_unit
from plugip.record import Row
from plugip.terminal import Steady, is_terminal, say
from plugip.texts import for_terminal

Align = Callable[[Tensor, Tensor], Tensor]
LINES = 100  # of finished images, at most; a run of more says every n-th


class Oracle:
    """Keeps each image's iterate of highest true PSNR; the method cannot see it.

    Everything stays on the device: no step waits for the GPU. Where one image's comparison raises,
    that image goes on without an oracle. In a tensor of several images nobody knows whose fault it
    is: there the error goes through, and the images are solved one by one.

    Args:
        x: True images, (B, C, H, W), in [-1, 1].
        align: Resolves symmetries of the answer, if the operator has any.
        debug: Let exceptions through.
    """

    def __init__(self, x: Tensor, align: Align | None = None, debug: bool = False) -> None:
        self.x, self.align, self.debug = x, align, debug
        self.lost: dict[int, str] = {}
        self.best = torch.zeros_like(x)
        self.error = torch.full((x.shape[0],), math.inf, device=x.device)
        self.step = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
        self._rows: list[int] = []
        self._at = self.step

    def __call__(self, step: int, rows: list[int], info: Info) -> None:
        """Compares one iterate of some images with their best so far."""
        if len(rows) == 1 and rows[0] in self.lost:
            return
        try:
            self._compare(step, rows, info)
        except Exception as error:
            if self.debug or len(rows) > 1:
                raise
            self.lost[rows[0]] = f"no oracle: {reason(error)}"

    @torch.no_grad()
    def _compare(self, step: int, rows: list[int], info: Info) -> None:
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
        if i in self.lost:
            return None
        step = int(self.step[i])
        return (step, self.best[i : i + 1]) if step else None

    def notes(self, i: int) -> list[str]:
        """Returns why one image has no such iterate, if it was lost."""
        return [self.lost[i]] if i in self.lost else []


class Progress:
    """Shows image, step, loss, residual / noise and time left in a bar on terminals.

    Where nobody looks on, in pipes and logs, there is one line for each finished image instead.

    Args:
        solves: How many times the method will run.
        iterations: Steps of each run, if known.
        std: Noise level, if known.
        images: Images of this process; None says no lines.
        process: Its number where several share the run.
        enabled: False keeps the bar silent also on a terminal.
    """

    def __init__(
        self,
        solves: int,
        iterations: int | None,
        std: float | None,
        images: int | None = None,
        process: int | None = None,
        enabled: bool = True,
    ) -> None:
        total = None if iterations is None else iterations * solves
        shown = enabled and is_terminal(sys.stderr)
        file: Any = Steady(sys.stderr) if shown else None
        self.bar: tqdm[Any] = tqdm(total=total, disable=not shown, leave=False, file=file)
        self.std, self.iterations, self.names = std, iterations, [""]
        self.base, self.latest, self.shown = 0, 0, 0.0
        self.images = None if is_terminal(sys.stdout) else images
        self.process = "" if process is None else f"process {process}: "
        self.done: set[str] = set()

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
        name = for_terminal(self.names[rows[0]])
        self.bar.set_description_str(name + more, refresh=False)
        self.bar.set_postfix_str(self._numbers(step, info), refresh=True)

    def finished(self, rows: Sequence[Row]) -> None:
        """Says that an image is done, in a line of its own where that is wanted."""
        self.done.add(rows[0].id)
        if not self.images:
            return
        count, every = len(self.done), -(-self.images // LINES)
        if count % every == 0 or count == self.images:
            say(for_terminal(f"{self.process}{count} of {self.images}  {_outcome(rows)}"))

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


def _outcome(rows: Sequence[Row]) -> str:
    """Returns an image's name, and its answer's score or what went wrong."""
    answer = rows[0]
    for row in rows:  # the stopping rule's pick comes after the last iterate
        answer = row if row.kind in ("last", "stopped") else answer
    if answer.status == "failed":
        return f"{answer.id}: failed: {answer.message}"
    psnr, ratio = answer.metrics.get("psnr"), answer.residual_to_noise
    said = [f"psnr {psnr:.2f}"] if psnr is not None else []
    said += [f"residual/noise {ratio:.2f}"] if psnr is None and ratio is not None else []
    said += [f"{answer.seconds:.1f} s"] if answer.seconds is not None else []
    return (
        f"{answer.id}: {', '.join([*said, *([] if answer.status == 'ok' else [answer.status])])}"
    )
