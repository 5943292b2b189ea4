"""A grid of jobs: each one runs, whatever becomes of the others; the exit code tells of all."""

from __future__ import annotations

import math
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

Job = Callable[[DictConfig], tuple[int, float]]
NOWHERE = "."  # the sweep folder of plugip's own configs


class JobFailedError(RuntimeError):
    """Says that a job has failed; the job itself has said why."""


def run_grid(hydra: Hydra, name: str, words: list[str], job: Job) -> int:
    """Runs all jobs, and returns 0 if each of them succeeded, else 1 (130 after Ctrl-C)."""
    cfg = hydra.compose_config(name, words, RunMode.MULTIRUN, with_log_configuration=True)
    with tempfile.TemporaryDirectory(prefix="plugip-grid-") as scratch:
        _place_sweep(cfg, scratch)
        callbacks = Callbacks(cfg)
        callbacks.on_multirun_start(config=cfg, config_name=name)
        sweeper: Any = Plugins.instance().instantiate_sweeper(
            config=cfg,
            hydra_context=HydraContext(hydra.config_loader, callbacks),
            task_function=partial(_run_one, job),
        )
        holder = getattr(sweeper, "sweeper", sweeper)  # plugins keep the launcher one level down
        counted = CountedLauncher(holder.launcher, goes_on=_is_plain(sweeper))
        holder.launcher = counted
        try:
            sweeper.sweep(OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False))
        except JobFailedError:  # a sweeper that gives up where a job fails
            return 1
        callbacks.on_multirun_end(config=cfg, config_name=name)
    return int(counted.failed > 0)


def _is_plain(sweeper: Any) -> bool:
    """Tells whether this is Hydra's own sweeper, whose module Hydra loads a second time."""
    return type(sweeper).__module__ == "hydra._internal.core_plugins.basic_sweeper"


def _place_sweep(cfg: DictConfig, scratch: str) -> None:
    """Keeps Hydra's record of a grid out of the user's folders, unless asked for.

    Clusters need a folder that all machines see, and which stays.
    """
    if cfg.hydra.sweep.dir == NOWHERE:
        queued = "submitit_folder" in cfg.hydra.launcher
        cfg.hydra.sweep.dir = "runs/multirun" if queued else scratch


def _run_one(job: Job, cfg: DictConfig) -> float:
    """Runs one job, here or in a worker, and returns its number for sweepers.

    A failure must be raised: what a worker keeps in its own memory never comes back.
    """
    code, objective = job(cfg)
    if code == 130:
        raise SystemExit(code)  # Ctrl-C ends the whole grid
    if code:
        raise JobFailedError("this job failed; the reason stands above")
    return objective


@dataclass
class CountedLauncher(Launcher):
    """Another launcher, whose failed jobs are counted here, where the exit code is known.

    Args:
        inner: The launcher.
        goes_on: Whether a failed job's number becomes NaN, so that a plain grid goes on with its
            next batch. Other sweepers are told of failures, and have rules of their own for them.
    """

    inner: Launcher
    goes_on: bool
    failed: int = field(default=0, init=False)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        returns = self.inner.launch(job_overrides, initial_job_idx)
        for job in returns:
            if job.status == JobStatus.FAILED:
                self.failed += 1
                _tell_surprise(job._return_value)
                if self.goes_on:
                    job.status, job.return_value = JobStatus.COMPLETED, math.nan
        return returns

    def setup(
        self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig
    ) -> None:
        raise NotImplementedError("the launcher inside was set up before")


def _tell_surprise(reason: BaseException) -> None:
    """Shows what a job has not told itself in words."""
    if not isinstance(reason, JobFailedError):
        traceback.print_exception(reason)
