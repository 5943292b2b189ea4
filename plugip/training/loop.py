"""The training loop: steps, and what is due after them."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from tqdm import tqdm

from plugip.record.files import write_atomic
from plugip.training.checkpoint import Checkpoints, damaged
from plugip.training.checks import TrainingError
from plugip.training.folder import CHECKPOINTS, SHEETS, TENSORBOARD, write_model
from plugip.training.learner import Learner
from plugip.training.log import Log, table
from plugip.training.sheet import png, sheet
from plugip.training.stop import Reason, Stop

# Processes must agree to stop, and asking waits for the GPU; alone, it costs nothing.
STOP_EVERY = 10


class Loop:
    """Drives a learner and writes what is due: rows, sheets, checkpoints, the model.

    Args:
        learner: What is trained.
        log: Where rows and sentences go.
        folder: Of the model.

    Attributes:
        held_out_loss: The last one measured; NaN before.
        seconds: Time spent in this and earlier starts.
    """

    def __init__(self, learner: Learner, log: Log, folder: Path) -> None:
        self.learner, self.log, self.folder = learner, log, folder
        self.settings, self.accelerator = learner.settings, learner.accelerator
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, self.settings.checkpoint.keep)
        self.held_out_loss, self.seconds = math.nan, 0.0
        self.clock = time.perf_counter()  # since the last row
        self.tick = self.clock  # since seconds were last counted

    def resume(self) -> int:
        """Goes on from the newest checkpoint, if there is one; returns the finished steps.

        Raises:
            TrainingError: If it is damaged, or the images are not the same as before.
        """
        files, rows = self.checkpoints.files(), None
        if files:
            state = self.checkpoints.load(files[-1])
            if state.get("images") != self.learner.images.digest:
                raise TrainingError(
                    f"the images of data.path are not those of {files[-1]}; bring those back, or "
                    f"start from its weights with init={self.folder} and another output.folder"
                )
            try:
                self.learner.load(state)
                self.held_out_loss, self.seconds = state["held_out_loss"], state["seconds"]
                rows = table(state["rows"]) if "rows" in state else None
            # What it lacks, or holds in another shape, is told by half a dozen exception types.
            except (LookupError, RuntimeError, TypeError, ValueError) as error:
                raise damaged(files[-1]) from error
        self.log.begin(self.learner.step, self.settings.log.tensorboard, TENSORBOARD, rows)
        return self.learner.step

    def run(self, stop: Stop) -> Reason:
        """Trains until the last step, or until it is asked to stop; a checkpoint is saved then.

        Returns:
            Why it stopped; NONE after the last step.

        Raises:
            TrainingError: If the loss is no longer a number.
            RecordError: If the disk is full.
        """
        learner, total = self.learner, self.settings.steps
        self.clock = self.tick = time.perf_counter()
        saved, reason = learner.step, self._asked(stop)
        hidden = None if self.accelerator.is_main_process else True
        with tqdm(total=total, initial=saved, unit="step", disable=hidden) as bar:
            while learner.step < total and reason is Reason.NONE:
                learner.advance()
                bar.update()
                if self._due(self.settings.log.every) or self._due(self.settings.eval.every):
                    bar.set_postfix_str(self.report())
                if self._due(self.settings.sheet.every) and learner.step < total:
                    self.draw_sheet(f"{SHEETS}/step_{learner.step:08d}.png")
                if self._due(self.settings.checkpoint.every):
                    self.save()
                    saved = learner.step
                reason = self._asked(stop)
        if saved != learner.step:
            self.save()
        return reason if learner.step < total else Reason.NONE

    def report(self) -> str:
        """Writes a row of scalars; returns a short text for the progress bar."""
        learner, mean = self.learner, self._sound_loss()
        images = learner.loss_count * self.settings.batch_size
        speed = images / (time.perf_counter() - self.clock)
        row = {
            "step": float(learner.step),
            "loss": mean,
            "lr": learner.rate(learner.step - 1),
            "grad_norm": float(learner.grad_norm),
            "images_per_second": speed,
        }
        if self._due(self.settings.eval.every) and len(learner.images.held_out):
            self.held_out_loss = row["held_out_loss"] = learner.held_out_loss()
        self.log.row(row | {"seconds": self._count_seconds()})
        learner.forget_loss()
        self.clock = time.perf_counter()
        return f"loss {mean:.4f}, {speed:.0f} images/s"

    def draw_sheet(self, name: str) -> None:
        """Draws samples of the averaged weights into a file of the folder."""
        if not self.accelerator.is_main_process:
            return
        learner, what = self.learner, self.settings.sheet
        clip, rng_seed = learner.objective.clip, self.settings.rng_seed
        pixels = sheet(learner.prior(), what.images, what.steps, clip, rng_seed)
        write_atomic(self.folder / name, png(pixels))
        self.log.picture("samples", pixels, learner.step)
        self.clock = time.perf_counter()

    def save(self) -> None:
        """Writes a checkpoint, and the model as it is now."""
        self._sound_loss()
        if self.accelerator.is_main_process:
            books = {
                "held_out_loss": self.held_out_loss,
                "seconds": self._count_seconds(),
                "images": self.learner.images.digest,
                "rows": self.log.rows,
            }
            self.checkpoints.save(self.learner.step, self.learner.state() | books)
            self.write_model()
        self.accelerator.wait_for_everyone()

    def write_model(self) -> None:
        """Writes the averaged weights as a diffusers folder that plugip reads."""
        learner = self.learner
        declaration = learner.objective.declaration(learner.patch)
        write_model(self.folder, learner.ema.net, declaration, self.settings.output.half)

    def _due(self, every: int | None) -> bool:
        step = self.learner.step
        return every is not None and (step % every == 0 or step == self.settings.steps)

    def _asked(self, stop: Stop) -> Reason:
        if self.accelerator.num_processes == 1:
            return stop.reason
        if self.learner.step % STOP_EVERY:
            return Reason.NONE
        mine = torch.tensor([int(stop.reason)], device=self.learner.device)
        return Reason(int(self.accelerator.gather(mine).max()))

    def _sound_loss(self) -> float:
        mean = self.learner.mean_loss()
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss is {mean} at step {self.learner.step}: choose a smaller optimiser.lr, "
                "or precision=bf16 or fp32, and delete the folder or choose another output.folder"
            )
        return mean

    def _count_seconds(self) -> float:
        now = time.perf_counter()
        self.seconds, self.tick = self.seconds + now - self.tick, now
        return self.seconds
