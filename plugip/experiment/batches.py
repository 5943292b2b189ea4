"""Solving in batches such that one image's failure stays its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plugip.experiment.failure import Failure, free_memory
from plugip.experiment.scribe import Case
from plugip.record import RecordError

Work = Callable[[Sequence[Case]], None]


@dataclass
class Batches:
    """Solves images together, and those of a batch that fails in smaller ones, down to one.

    Where memory runs out, batches are halved, and stay so for the images to come. After any other
    exception the images are solved one by one, so that only the guilty ones fail. No answer
    depends on it.

    Args:
        solve: Solves and records some images together.
        fail: Records an image that cannot be solved.
        width: Images of a batch at most.
        debug: Let exceptions through.
    """

    solve: Work
    fail: Callable[[Case, Failure], None]
    width: int
    debug: bool = False

    def __call__(self, cases: Sequence[Case]) -> None:
        """Solves and records these images, each of them as solved or as failed."""
        left = list(cases)
        while left:
            batch, left = left[: self.width], left[self.width :]
            failure = self._try(batch)
            if failure is None:
                continue
            if len(batch) == 1:
                self.fail(batch[0], failure)
            elif failure.memory:
                self.width = len(batch) // 2
                left = batch + left
            else:
                for case in batch:
                    self._alone(case)

    def _alone(self, case: Case) -> None:
        failure = self._try([case])
        if failure is not None:
            self.fail(case, failure)

    def _try(self, batch: Sequence[Case]) -> Failure | None:
        try:
            self.solve(batch)
            return None
        except (RecordError, KeyboardInterrupt):  # what cannot be kept need not be solved
            raise
        except BaseException as error:  # sys.exit() of a library is no end of the run
            if self.debug:
                raise
            failure = Failure.of(error)
        if failure.memory:  # only now: while an exception lives, it holds what it was raised among
            free_memory()
        return failure
