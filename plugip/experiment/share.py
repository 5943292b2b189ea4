"""One process's share of a run: its images are loaded, measured, solved and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from plugip.data import ImageError, ImageFolder, Item
from plugip.experiment.batches import Batches
from plugip.experiment.failure import Failure
from plugip.experiment.fit import require_method
from plugip.experiment.observers import Align, Oracle, Progress
from plugip.experiment.problems import Problems
from plugip.experiment.scribe import Case, Scribe
from plugip.experiment.signals import Signals
from plugip.loop import Interrupted, solve
from plugip.method import Info, Method, Solution


@dataclass
class Share:
    """Brings images from their files to their rows; whatever happens to one of them is its own.

    Args:
        data: Loads the images.
        real: Whether they are measurements.
        problems: Makes their problems.
        method: The method.
        scribe: Records them.
        progress: Is told of each step and each row.
        signals: Holds signals back while something is recorded.
        device: Where to compute.
        width: Images of a batch at most.
        oracle: Keep the best iterate by true PSNR.
        align: Resolves symmetries of the answer.
        debug: Let exceptions through.
    """

    data: ImageFolder
    real: bool
    problems: Problems
    method: Method[Any]
    scribe: Scribe
    progress: Progress
    signals: Signals
    device: torch.device
    width: int
    oracle: bool
    align: Align | None
    debug: bool
    _fits: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._batches = Batches(self._solve, self._fail, self.width, self.debug)

    def work(self, batch: Sequence[tuple[Item, str]]) -> None:
        """Solves and records some images, given with the digests of their files."""
        self._batches([c for c in (self._prepared(*one) for one in batch) if c is not None])

    def _prepared(self, item: Item, digest: str) -> Case | None:
        """Loads and measures one image, alone, so that y depends on nothing else."""
        try:
            return self._case(item, digest)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if self.debug and not isinstance(error, ImageError):
                raise
            failure = Failure.of(error)
        self._record_failure(item.id, digest, failure)
        return None

    def _case(self, item: Item, digest: str) -> Case:
        loaded = self.data.load(item).to(self.device)[None]
        y, theta = (loaded, None) if self.real else self.problems.measured(item.id, loaded)
        self.problems.of([item.id], y)
        return Case(item.id, digest, None if self.real else loaded, y, theta)

    def _solve(self, cases: Sequence[Case]) -> None:
        """Solves images together and records them."""
        self.signals.check()
        ids = [case.id for case in cases]
        problem = self.problems.of(ids, torch.cat([case.y for case in cases]))
        oracle = self._oracle(cases)
        self.progress.begin(ids)

        def observe(step: int, rows: list[int], info: Info) -> None:
            self.progress(step, rows, info)
            if oracle is not None:
                oracle(step, rows, info)

        def keep(parts: Sequence[tuple[int, Solution]], status: str) -> None:
            with self.signals.held():  # what is solved is written, however many there are
                for i, solution in parts:
                    best, notes = (None, []) if oracle is None else (oracle.of(i), oracle.notes(i))
                    part = problem.select([i])
                    rows = self.scribe.keep(cases[i], part, solution, status, best, notes)
                    self.progress.finished(rows)

        try:
            streams = self.problems.streams(ids)
            solution = solve(problem, self.method, streams, observer=observe)
        except Interrupted as stop:
            keep(stop.finished, "ok")
            keep(stop.partial, "interrupted")
            raise
        self._fits = True
        keep([(i, solution.select(i)) for i in range(len(cases))], "ok")

    def _oracle(self, cases: Sequence[Case]) -> Oracle | None:
        truths = [case.x for case in cases if case.x is not None]
        if not truths or not self.oracle:
            return None
        return Oracle(torch.cat(truths), self.align, self.debug)

    def _fail(self, case: Case, failure: Failure) -> None:
        self._record_failure(case.id, case.digest, failure)

    def _record_failure(self, image_id: str, digest: str, failure: Failure) -> None:
        if failure.refusal and not self._fits:
            self._require_fit()
        with self.signals.held():
            self.progress.finished(self.scribe.fail(image_id, digest, failure))

    def _require_fit(self) -> None:
        """Refuses parts that fit no image, once, where none has been solved yet.

        Raises:
            ValueError, TypeError: What the method says to a problem that is no image's.
        """
        self._fits = True
        try:
            problem = self.problems.probe(self.real, self.device)
        except TypeError:  # such as a noise that cannot be simulated
            raise
        except KeyboardInterrupt:
            raise
        except BaseException:  # the picture's fault, for all that is known
            return
        require_method(problem, self.method)
