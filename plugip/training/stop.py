"""Ending early and cleanly: Ctrl-C, a termination signal, or the end of the time."""

from __future__ import annotations

import signal
import threading
import time
from enum import IntEnum
from types import FrameType, TracebackType
from typing import Any


class Reason(IntEnum):
    """Why a training ended; the highest one counts where processes differ."""

    NONE = 0
    MINUTES = 1
    INTERRUPTED = 2


class Stop:
    """Notes signals while it is entered, so that the step in progress can be finished.

    A second Ctrl-C ends at once.

    Args:
        minutes: Minutes after ``began``; None has no limit.
        began: Start, as of ``time.monotonic``.
    """

    def __init__(self, minutes: float | None, began: float) -> None:
        self.deadline = None if minutes is None else began + 60 * minutes
        self.interrupted = False
        self._old: dict[int, Any] = {}

    @property
    def reason(self) -> Reason:
        """Why to stop now; NONE to go on."""
        if self.interrupted:
            return Reason.INTERRUPTED
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return Reason.MINUTES if late else Reason.NONE

    def __enter__(self) -> Stop:
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
