"""One run at a time in a folder: a lock that the kernel takes back when the run's process ends."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plugip.record.files import EXACTLY_HERE, RecordError, cannot_write, read_json

NAME = ".lock"  # in the folder while a run is at work there; it says whose it is
_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_this_thread = threading.current_thread
_log = logging.getLogger(__name__)


class FolderBusyError(RecordError):
    """Says whose run is at work in a folder, and what to do."""


@dataclass
class _Held:
    """A lock of this process."""

    path: Path
    handle: int
    made: bool  # the folder itself
    thread: threading.Thread = field(default_factory=_this_thread)
    users: int = 0


_held: dict[str, _Held] = {}
_guard = threading.Lock()


class FolderLock:
    """Keeps a folder for this run, until ``release`` or the end of the process, however it ends.

    Args:
        folder: Made where it is missing.
        what: What is at work in it, for the refusal.
        again: Whether this thread may take a folder that it has already, as a notebook does
            whose cell is run a second time.

    Raises:
        FolderBusyError: If another run is at work in the folder.
        RecordError: If it cannot be written.
    """

    def __init__(self, folder: Path, what: str = "run", again: bool = False) -> None:
        self._release = weakref.finalize(self, _release, _take(folder, what, again))

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Lets other runs in; a folder that was made for this run and is still empty goes."""
        self._release()


def _take(folder: Path, what: str, again: bool) -> str:
    key = os.path.realpath(folder)
    with _guard:
        held = _held.get(key)
        if held is None:
            made = _make(folder)
            held = _held[key] = _Held(folder / NAME, _locked(folder / NAME, what), made)
        elif not again or (held.thread is not _this_thread() and held.thread.is_alive()):
            raise _busy(folder, what, _me())
        held.thread = _this_thread()
        held.users += 1
    return key


def _release(key: str) -> None:
    with _guard:
        held = _held.get(key)
        if held is None:  # a fork of the run's process never had it
            return
        held.users -= 1
        if held.users:
            return
        del _held[key]
        _remove(held)


def _remove(held: _Held) -> None:
    """Removes the lock's file and lets go; the folder goes as well if it was made in vain."""
    try:
        if sys.platform != "win32":  # which cannot remove an open file
            _try(held.path.unlink)
    finally:
        os.close(held.handle)
    if sys.platform == "win32":
        _try(held.path.unlink)
    if held.made:
        _try(held.path.parent.rmdir)


def _try(action: Callable[[], None]) -> None:
    try:
        action()
    except OSError:  # the next run has the file already, or results are in the folder
        return


def _make(folder: Path) -> bool:
    """Makes a folder; returns whether it was missing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise cannot_write(folder / NAME, error) from error
    return True


def _locked(path: Path, what: str) -> int:
    """Returns a handle of the lock file, which holds the lock and says so."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | EXACTLY_HERE, 0o666)
        except FileNotFoundError as error:
            if os.path.lexists(path.parent):  # a link to nowhere
                raise cannot_write(path, error) from error
            _make(path.parent)  # the run before has removed the folder that it had made
            continue
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            if not _lock(handle, path):
                raise _busy(path.parent, what, read_json(path))
            if _is(handle, path):
                _sign(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the run before has removed the file in the meantime


def _lock(handle: int, path: Path) -> bool:
    """Locks a file; returns whether that was possible."""
    try:
        _lock_now(handle)
    except (BlockingIOError, PermissionError):
        return False
    except (OSError, ImportError) as error:
        if isinstance(error, OSError) and error.errno not in _UNKNOWN:
            raise cannot_write(path, error) from error
        _log.warning(
            "%s is on a disk or a system without locks: see that no second run writes there",
            path.parent,
        )
    return True


def _lock_now(handle: int) -> None:
    """Locks a file at once or raises; imports what this system has for it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, 1 << 20, os.SEEK_SET)  # far behind the owner's name, which stays readable
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot_write(path, error) from error


def _sign(handle: int) -> None:
    """Writes whose the lock is, for the words of a refusal; a full disk is told later."""
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(_me()).encode())


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _busy(folder: Path, what: str, owner: Any) -> FolderBusyError:
    known = isinstance(owner, dict) and {"host", "process"} <= owner.keys()
    who = f"process {owner['process']} on {owner['host']}" if known else "another process"
    return FolderBusyError(
        f"another {what} is at work in {folder}: {who}; wait for its end, or choose another "
        "output.folder"
    )


def _forget_all() -> None:
    """Closes a fork's copies: the lock belongs to the run's own process and ends with it."""
    for held in _held.values():
        os.close(held.handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
