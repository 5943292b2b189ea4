"""The jobs that the storm disturbs, and how each of them is started."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.storm.compare import broken, contents
from benchmarks.storm.process import Ended, Process, command, fork
from benchmarks.storm.traps import Trap

ROOT = Path(__file__).resolve().parents[2]
IMAGES, SIDE = 3, 16
PLUGIP = (
    "prior=gaussian", f"prior.shape=[3,{SIDE},{SIDE}]", "task=super_resolution", "metrics=fast",
    "data.path=../images", "device=cpu", "output.folder=o",
)  # fmt: skip
TRAIN = (
    "data.path=../photos", "data.size=8", "data.holdout=0.1", "batch_size=4", "steps=24",
    "network.block_out_channels=[8,16]", "network.attention=[false,true]",
    "network.attention_head_dim=8", "network.norm_num_groups=4", "log.every=2", "eval.every=8",
    "log.tensorboard=false", "sheet.every=null", "sheet.images=2", "sheet.steps=[2]",
    "checkpoint.every=6", "threads=1", "device=cpu", "output.folder=o",
)  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@dataclass(frozen=True)
class Job:
    """A command that fills the folder ``o`` in its working folder.

    Args:
        name: Names it, and its undisturbed folder.
        words: Its options.
        module: What ``python -m`` runs.
        processes: How many share the work.
        real: Whether real processes are started; otherwise this one is forked, which is cheap.
        alike: The job whose folder it must end up with, if not its own.
    """

    name: str
    words: tuple[str, ...]
    module: str = "plugip"
    processes: int = 1
    real: bool = False
    alike: Job | None = None

    def start(self, folder: Path, trap: Trap) -> list[Process]:
        """Starts its processes in a folder; the trap is set for one of them, the last."""
        if self.real:
            launcher = TORCHRUN if self.processes > 1 else ()
            words = [sys.executable, *launcher, "-m", self.module, *self.words]
            return [command(words, folder, _quiet())]
        environments, traps = _team(self.processes), [Trap()] * (self.processes - 1) + [trap]
        main, words = _main(self), [self.module, *self.words]
        pairs = zip(environments, traps, strict=True)
        return [fork(main, words, folder, trap, environment) for environment, trap in pairs]


SINGLE = Job("single", (*PLUGIP, "method=dps", "method.steps=24"))
PLUGIN = Job("plug-in", (*PLUGIP, "method=dmplug", "method.iterations=8"))
OTHER = Job("other settings", (*PLUGIP, "method=dps", "method.steps=18"))
GRID = Job("grid", (*PLUGIP, "method=dps", "method.steps=4,6", "noise.std=0.01,0.02", "-m"))
TEAM = Job("two processes", SINGLE.words, processes=2, alike=SINGLE)
COMMAND = Job("python -m plugip", SINGLE.words, real=True, alike=SINGLE)
LAUNCHED = Job("torchrun", SINGLE.words, processes=2, real=True, alike=SINGLE)
TRAINING = Job("plugip-train", TRAIN, "plugip.cli.train")
TRAINING_COMMAND = Job(
    "python -m plugip.cli.train", TRAIN, "plugip.cli.train", real=True, alike=TRAINING
)


@dataclass(frozen=True)
class Reference:
    """An undisturbed run.

    Attributes:
        folder: Its folder.
        contents: What another folder must hold.
        ended: How long it took, and how often it wrote.
    """

    folder: Path
    contents: dict[str, bytes]
    ended: Ended


@dataclass
class Shop:
    """A working folder with images, and the undisturbed run of each job, made once.

    Args:
        root: The folder.
    """

    root: Path
    references: dict[str, Reference] = field(default_factory=dict)

    def fill(self) -> None:
        """Draws the images."""
        for name, count in (("images", IMAGES), ("photos", 12)):
            (self.root / name).mkdir()
            for i in range(count):
                _picture(i).save(self.root / name / f"{i}.png")

    def warm(self) -> None:
        """Runs a job once in this process, so that its forks have imported everything."""
        folder = self.root / "warm"
        folder.mkdir()
        before, words = Path.cwd(), sys.argv
        os.chdir(folder)
        sys.argv = ["plugip", *SINGLE.words]
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                _main(SINGLE)()
        except SystemExit as end:
            raise RuntimeError(f"the undisturbed run fails:\n{said.getvalue()}") from end
        finally:
            os.chdir(before)
            sys.argv = words

    def reference(self, job: Job) -> Reference:
        """Returns the undisturbed run of a job."""
        if job.name not in self.references:
            self.references[job.name] = self._run(job)
        return self.references[job.name]

    def _run(self, job: Job) -> Reference:
        folder = self.root / f"undisturbed {job.name}"
        folder.mkdir()
        processes = job.start(folder, Trap())
        if not job.real:
            processes[-1].await_first_write()
        ends = gather(processes)
        faults = broken(folder / "o")
        if any(ended.code for ended in ends) or faults:
            said = "\n".join(ended.words for ended in ends)
            raise RuntimeError(f"the undisturbed run of {job.name} fails: {faults}\n{said}")
        return Reference(folder / "o", contents(folder / "o"), ends[-1])


def gather(processes: list[Process]) -> list[Ended]:
    """Waits for all processes of a job; when one fails, the others are ended, as torchrun does."""
    while all(process.alive() for process in processes):
        time.sleep(0.005)
    if any(process.code for process in processes):
        for process in processes:
            process.signal(signal.SIGTERM)
    return [process.wait() for process in processes]


def _main(job: Job) -> Callable[[], object]:
    """Returns what a job runs; what it imports later is imported here, once for all forks."""
    if job.processes > 1:
        importlib.import_module("accelerate")
    if job.module == "plugip":
        return importlib.import_module("plugip.cli").main
    for name in ("accelerate", "diffusers.models.unets.unet_2d", "plugip.training"):
        importlib.import_module(name)
    return importlib.import_module(job.module).main


def _picture(i: int) -> Image.Image:
    """Returns a smooth coloured picture, another one for each number."""
    coarse = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _quiet() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def _team(size: int) -> list[dict[str, str]]:
    """Returns the variables that torchrun would set for each process."""
    if size == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"LOCAL_WORLD_SIZE": str(size)}
    return [common | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(size)]
