"""Processes of the storm: forked from this warm one, or real commands; their ends and words."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.storm.traps import Trap, watch

LONGEST = 300.0  # seconds until a process counts as stuck
_PIPE = 1 << 20  # bytes of words that fit before a process would wait for its reader
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ of Linux


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; minus the signal that killed it.
        words: What it printed.
        writes: How often it wrote into the job's folder; 0 if it did not live to tell.
        seconds: From its first write to its end.
    """

    code: int
    words: str
    writes: int = 0
    seconds: float = 0.0

    @property
    def surprised(self) -> bool:
        """Whether its words are a traceback, or of an error that plugip itself did not foresee.

        What Python says of a Ctrl-C that falls into a callback of its own, and is ignored there,
        is no end.
        """
        words = re.sub(r"Exception ignored in.*\nTraceback", "", self.words)
        return "Traceback (most recent call last)" in words or "debug=true shows where" in words


class Process:
    """A process that was started here, the head of its own group.

    Args:
        pid: Of the process.
        words: Pipe with all that it prints.
        news: Pipe that tells of its first write, and at its end of their number.
    """

    def __init__(self, pid: int, words: int, news: int) -> None:
        self.pid, self.words, self.news = pid, words, news
        self.began = time.monotonic()
        self._status: int | None = None

    def await_first_write(self) -> None:
        """Waits until the process is about to write into the job's folder, or has ended."""
        select.select([self.news], [], [], LONGEST)
        self.began = time.monotonic()

    def alive(self) -> bool:
        """Tells whether it still runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is None

    @property
    def code(self) -> int | None:
        """Its exit code, minus the signal that killed it; None while it runs."""
        return None if self._status is None else os.waitstatus_to_exitcode(self._status)

    def signal(self, number: int, everyone: bool = False) -> bool:
        """Sends a signal, if the process still runs; returns whether it does.

        Args:
            number: The signal.
            everyone: To its children too.
        """
        if not self.alive():
            return False
        if not everyone:
            os.kill(self.pid, number)
            return True
        below = psutil.Process(self.pid).children(recursive=True)
        os.killpg(self.pid, number)
        for child in below:  # torchrun's workers have groups of their own
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        psutil.wait_procs(below, timeout=LONGEST)
        return True

    def wait(self, longest: float = LONGEST) -> Ended:
        """Waits for the end; a process that is stuck is killed, and its code says so."""
        deadline = time.monotonic() + longest
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        self.signal(signal.SIGKILL, everyone=True)
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
        seconds, news = time.monotonic() - self.began, _drain(self.news)
        code = os.waitstatus_to_exitcode(self._status)
        words = _drain(self.words).decode(errors="replace")
        return Ended(code, words, int(news.split()[1]) if len(news.split()) > 1 else 0, seconds)


def fork(
    main: Callable[[], object],
    words: Sequence[str],
    folder: Path,
    trap: Trap,
    environment: Mapping[str, str],
) -> Process:
    """Runs a command's main function in a copy of this process.

    Args:
        main: The function.
        words: The command line.
        folder: Where it works; what it writes below ``o`` there is counted.
        trap: What happens at one of its writes.
        environment: Variables that are set for it.
    """

    def child(news: int) -> int:
        os.environ.update(environment)
        sys.argv = list(words)
        told = watch(folder / "o", trap, lambda: _tell(news, "begins"))
        code = _exit_code(main)
        _tell(news, str(told()))
        return code

    return _start(child, folder)


def command(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Process:
    """Runs a real command."""
    everything = os.environ | dict(environment)
    return _start(lambda news: os.execvpe(words[0], list(words), everything), folder)


def _start(child: Callable[[int], int], folder: Path) -> Process:
    said, says = os.pipe()
    news, tells = os.pipe()
    fcntl.fcntl(says, _SET_PIPE_SIZE, _PIPE)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(says)
        os.close(tells)
        return Process(pid, said, news)
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(says, 1)
        os.dup2(says, 2)
        # A shell starts background jobs with Ctrl-C ignored, and so would this one be.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = child(tells)
        sys.stdout.flush()
    finally:
        os._exit(code)


def _exit_code(main: Callable[[], object]) -> int:
    """Runs a function as the interpreter runs a program."""
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _tell(pipe: int, word: str) -> None:
    os.write(pipe, f"{word}\n".encode())


def _drain(pipe: int) -> bytes:
    """Reads what is there; a grandchild that lives on does not hold this up."""
    os.set_blocking(pipe, False)
    found = b""
    try:
        while piece := os.read(pipe, 1 << 16):
            found += piece
    except BlockingIOError:
        pass
    os.close(pipe)
    return found
