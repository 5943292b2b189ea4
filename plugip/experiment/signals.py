"""Ctrl-C and termination signals: one orderly end, whichever comes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

# What ends a program politely; not every system has each of them.
_POLITE = ("SIGTERM", "SIGHUP")


class Signals:
    """Ends a run in order on Ctrl-C, and on termination signals as on Ctrl-C, while it is entered.

    The first signal raises KeyboardInterrupt; where results are being written it is held back
    until they are whole. A second Ctrl-C ends at once. A further termination signal, which
    torchrun and job schedulers send after the first, changes nothing. Signals that somebody else
    handles already, such as a launcher, are left to him.

    Attributes:
        received: Whether a signal has come.
    """

    def __init__(self) -> None:
        self.received = False
        self._held = self._owed = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            self._take(signal.SIGINT, signal.default_int_handler)
            for name in _POLITE:
                if hasattr(signal, name):
                    self._take(getattr(signal, name), signal.SIG_DFL)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the first signal back until the end of the block, and raises it there."""
        self.hold()
        try:
            yield
        finally:
            self._held = False
        if self._owed:
            self._owed = False
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal has come: nothing new is begun then."""
        if self.received:
            raise KeyboardInterrupt

    def hold(self) -> None:
        """Holds the first signal back for good: it is only noted."""
        self._held = True

    def _take(self, number: int, default: Any) -> None:
        if signal.getsignal(number) == default:
            self._old[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first, self.received = not self.received, True
        if not first:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
        elif self._held:
            self._owed = True
        else:
            raise KeyboardInterrupt
