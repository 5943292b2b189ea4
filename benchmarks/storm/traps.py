"""What befalls a process at one of its writes: a signal, a torn file, no more room."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Names of Python's audit events that change the file system, and which of their arguments name it.
EVENTS = {
    "open": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.remove": 1, "os.mkdir": 1,
    "os.rmdir": 1, "os.truncate": 1,
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Trap:
    """Something that happens just before a process's n-th write below a folder.

    Args:
        at: The number of the write, from 1; 0 is never reached.
        number: A signal that the process sends to itself.
        room: Bytes that any file may still take from then on, beyond this one's present size.
        torn: Whether the process dies at once where the room ends, with the file half written;
            otherwise the write fails, as on a full disk.
        ballast: A file that grows until the disk that it is on has only ``room`` bytes left; then
            the disk is full, and no limit is set.
    """

    at: int = 0
    number: int | None = None
    room: int | None = None
    torn: bool = False
    ballast: Path | None = None

    def spring(self, size: int) -> None:
        """Does it.

        Args:
            size: Present size of the file that is about to be written.
        """
        if self.ballast is not None:
            fill(self.ballast, self.room or 0)
        elif self.room is not None:
            limit(size + self.room, self.torn)
        if self.number is not None:
            os.kill(os.getpid(), self.number)


def limit(size: int, torn: bool) -> None:
    """Lets no file of this process grow beyond a size."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if torn else signal.SIG_IGN)


def fill(ballast: Path, room: int) -> None:
    """Fills the disk that a file is on, but for some bytes."""
    with ballast.open("ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            file.truncate(max(0, file.tell() - room))


def watch(folder: Path, trap: Trap, first: Callable[[], None]) -> Callable[[], int]:
    """Counts this process's writes below a folder, for the rest of its life, and sets a trap.

    Args:
        folder: The folder; whatever lies elsewhere is not counted.
        trap: What happens at one of them.
        first: Is called just before the first one.

    Returns:
        Asks for the count.
    """
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in EVENTS or not _writes(event, arguments, str(folder)):
            return
        count += 1
        if count == 1:
            first()
        if count == trap.at:
            trap.spring(_size(arguments[0]))

    sys.addaudithook(hook)
    return lambda: count


def _writes(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
        return False
    named = arguments[: EVENTS[event]]
    return any(_below(path, folder) for path in named if isinstance(path, (str, bytes, Path)))


def _below(path: str | bytes | Path, folder: str) -> bool:
    return os.path.abspath(os.fsdecode(path)).startswith(folder)


def _size(path: Any) -> int:
    named = isinstance(path, (str, bytes, Path)) and os.path.isfile(path)
    return os.path.getsize(path) if named else 0
