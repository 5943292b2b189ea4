"""A whole training: checks first, then images, the loop, and what is written at the end."""

from __future__ import annotations

import math
import os
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from plugip.experiment.team import choose_device
from plugip.priors.diffusers_unet import DiffusersUNet
from plugip.priors.probe import ProbeError, probe
from plugip.record.files import write_atomic
from plugip.record.provenance import describe
from plugip.texts import for_figure, for_terminal
from plugip.training.card import Facts, model_card, versions, warning
from plugip.training.checks import TrainingError
from plugip.training.curve import loss_curve
from plugip.training.folder import claim
from plugip.training.images import Images, load_images
from plugip.training.learner import Learner
from plugip.training.log import Log, read_table
from plugip.training.loop import Loop
from plugip.training.network import make_network, parameter_count, warm_start
from plugip.training.objective import OBJECTIVES
from plugip.training.reading import settings_name
from plugip.training.settings import Settings
from plugip.training.sources import open_source
from plugip.training.stop import Reason, Stop

SAMPLES, CURVE = "samples.png", "loss.png"
_WHY = {
    Reason.NONE: "",
    Reason.MINUTES: ", the time is over",
    Reason.INTERRUPTED: ", interrupted",
}


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes:
        folder: The model's folder.
        step: Finished steps.
        steps: Planned steps.
        reason: Why it stopped; NONE after the last step.
        held_out_loss: Of the averaged weights; NaN if it was never measured.
        probe: What plugip's probe says of the written folder, as a sentence.
    """

    folder: Path
    step: int
    steps: int
    reason: Reason
    held_out_loss: float
    probe: str

    @property
    def exit_code(self) -> int:
        """What a command should end with: 130 after Ctrl-C, else 0."""
        return 130 if self.reason is Reason.INTERRUPTED else 0

    def text(self) -> str:
        """Returns what came of it, in a few lines for the terminal."""
        lines = [f"{self.step} of {self.steps} steps{_WHY[self.reason]}"]
        if not math.isnan(self.held_out_loss):
            lines[0] += f"; held-out loss {self.held_out_loss:.4f}"
        if self.step < self.steps:
            lines.append("the same command goes on from here")
        lines += [f"plugip's probe: {self.probe}", f"model: {self.folder}"]
        lines = [for_terminal(line) for line in lines]
        return "\n".join(lines)


def train(settings: Settings) -> Outcome:
    """Trains an unconditional prior and writes it as a folder that plugip and diffusers read.

    The same settings and folder again go on where the last checkpoint stands.

    Args:
        settings: All options.

    Returns:
        What it came to; the same on every process.

    Raises:
        ValueError: If an option, the data or the folder is not usable; before any long work.
        OSError: If files cannot be written.
    """
    began = time.monotonic()
    with closing(open_source(settings.data.path)) as source:
        names = source.names()[: settings.data.limit]
    _require_batch(settings, len(names), "images")
    accelerator = _accelerator(settings)
    try:
        return _train(settings, accelerator, began)
    finally:
        _leave(accelerator)


def folder_of(settings: Settings) -> Path:
    """Returns the folder that the settings name, or one made from them below ``runs/``."""
    given = settings.output.folder
    return Path(given).expanduser() if given else Path("runs") / settings_name(settings)


def _train(settings: Settings, accelerator: Any, began: float) -> Outcome:
    data, folder = settings.data, folder_of(settings)
    net = make_network(settings.network, data.channels, data.size, settings.rng_seed)
    if settings.init is not None:
        objective = OBJECTIVES[settings.objective]
        warm_start(net, settings.init, objective, settings.network.patch)
    first, size = accelerator.is_main_process, parameter_count(net)
    with claim(folder, settings, size) if first else nullcontext():
        accelerator.wait_for_everyone()
        log = Log(folder, first)
        _announce(settings, size, folder, log)
        images = _images(settings, accelerator, log)
        return _learn(Loop(Learner(settings, images, net, accelerator), log, folder), began)


def _images(settings: Settings, accelerator: Any, log: Log) -> Images:
    # The first process of each machine fills the cache.
    images = load_images(
        settings.data,
        settings.rng_seed,
        log.say,
        accelerator.is_local_main_process,
        accelerator.wait_for_everyone,
    )
    _require_batch(settings, len(images.train), "images to train on")
    return images


def _learn(loop: Loop, began: float) -> Outcome:
    settings, log = loop.settings, loop.log
    step = loop.resume()
    if step:
        log.say(f"going on after step {step} of {settings.steps}")
    with Stop(settings.minutes, began) as stop:
        reason = loop.run(stop)
    outcome = _finish(loop, reason)
    log.say(outcome.text())
    log.end()
    return outcome


def _require_batch(settings: Settings, count: int, what: str) -> None:
    if settings.batch_size > count:
        raise TrainingError(
            f"batch_size={settings.batch_size} is more than the {count} {what}; choose a smaller "
            "one"
        )


def _accelerator(settings: Settings) -> Any:
    """Joins the processes that were started, with the device and precision of the settings."""
    device, size = choose_device(settings.device), int(os.environ.get("WORLD_SIZE", "1"))
    if device.type not in ("cpu", "cuda") or device.index is not None:
        raise TrainingError(
            f"device={settings.device} cannot train; use auto, cpu or cuda, and choose among "
            "GPUs with the environment variable CUDA_VISIBLE_DEVICES"
        )
    if settings.precision == "fp16" and device.type == "cpu":
        raise TrainingError("precision=fp16 needs a GPU; use bf16 or fp32")
    if settings.batch_size % size:
        raise TrainingError(
            f"batch_size={settings.batch_size} cannot be split over {size} processes; choose a "
            "multiple"
        )
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    from accelerate import Accelerator

    # Without cpu=True each process of a host without GPU believes that it is alone.
    precision = "no" if settings.precision == "fp32" else settings.precision
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    if accelerator.num_processes != size:
        raise TrainingError(
            f"{size} processes were started, but this one sees {accelerator.num_processes}; "
            "start them with torchrun (`accelerate launch --cpu` runs only one)"
        )
    return accelerator


def _leave(accelerator: Any) -> None:
    from accelerate.state import AcceleratorState, GradientState

    accelerator.end_training()
    # accelerate keeps the first precision of a process for good; a second training may have
    # another one.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _announce(settings: Settings, parameters: int, folder: Path, log: Log) -> None:
    network = f"UNet2DModel of {parameters / 1e6:.2f} million parameters"
    log.say(for_terminal(f"{network}, objective {settings.objective} -> {folder}"))
    if settings.init is not None:
        log.say(for_terminal(f"starting from the weights of {settings.init}"))
    missing = warning(settings.card)
    if missing:
        log.say(missing)


def _finish(loop: Loop, reason: Reason) -> Outcome:
    """Writes what belongs to the end: model, samples, curve, card; every process returns."""
    settings, learner, folder, said = loop.settings, loop.learner, loop.folder, ""
    images = learner.images
    if loop.accelerator.is_main_process:
        loop.write_model()
        # Who pressed Ctrl-C does not want to wait for a sheet.
        if reason is not Reason.INTERRUPTED:
            loop.draw_sheet(SAMPLES)
        rows = read_table(loop.log.table)
        if rows:
            title = f"{settings.objective}, {learner.step} of {settings.steps} steps"
            write_atomic(folder / CURVE, loss_curve(rows, for_figure(title)))
        said = probe_sentence(folder, images)
        write_atomic(folder / "README.md", _card(loop, images, said).encode())
    loop.accelerator.wait_for_everyone()
    return Outcome(folder, learner.step, settings.steps, reason, loop.held_out_loss, said)


def probe_sentence(folder: Path, images: Images) -> str:
    """Loads a written folder as users will, and says whether it passes plugip's probe.

    Args:
        folder: The model.
        images: One of them stands in for the probe's own picture, if that is refused.
    """
    prior = DiffusersUNet.from_pretrained(str(folder), probe=False)
    try:
        probe(prior)
        return "passes"
    except ProbeError as error:
        refusal = str(error)
    row = (images.held_out if len(images.held_out) else images.train)[:1]
    try:
        probe(prior, images.pixels[row].float() / 127.5 - 1)
    except ProbeError:
        return f"fails, with an image of its own kind too: {refusal}"
    return (
        "passes with an image of its own kind, not with the default picture: load it with "
        "prior.probe=false"
    )


def _card(loop: Loop, images: Images, said: str) -> str:
    settings, learner, folder = loop.settings, loop.learner, loop.folder
    captions = ((SAMPLES, "Samples"), (CURVE, "Loss"))
    loss = loop.held_out_loss
    machine = describe(learner.device, None)
    facts = Facts(
        parameters=parameter_count(learner.net),
        shape=learner.shape,
        step=learner.step,
        images=len(images.train),
        held_out=len(images.held_out),
        skipped=len(images.skipped),
        loss=None if math.isnan(loss) else loss,
        seconds=loop.seconds,
        device=machine["device"],
        probe=said,
        versions=versions({**machine["versions"], "plugip": machine["plugip"]}),
        pictures=[pair for pair in captions if (folder / pair[0]).is_file()],
    )
    return model_card(settings, facts)
