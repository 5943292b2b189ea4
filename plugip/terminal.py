"""Lines for people, which never cost a result: odd names and broken outputs are no errors."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO


def is_terminal(stream: TextIO | None) -> bool:
    """Tells whether a stream is a terminal; one that is missing or closed is none."""
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a line; what cannot be encoded is replaced, and a reader that left is no error.

    Args:
        text: The line.
        stream: Where to; standard output by default.
    """
    stream = sys.stdout if stream is None else stream
    if stream is None:  # a program without a console has no output at all
        return
    try:
        print(encodable(text, getattr(stream, "encoding", None)), file=stream, flush=True)
    except OSError:
        _give_up(stream)
    except ValueError:  # closed by the caller
        return


class Steady:
    """A stream whose failures are no errors: what cannot be written any more is dropped.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        """Writes, if that is still possible."""
        try:
            self.stream.write(text)
        except (OSError, ValueError):
            return

    def flush(self) -> None:
        """Sends what is written, if that is still possible."""
        try:
            self.stream.flush()
        except (OSError, ValueError):
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def encodable(text: str, encoding: str | None) -> str:
    """Returns a text that an encoding can hold; "?" stands for what it lacks."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _give_up(stream: TextIO) -> None:
    """Sends what else is written to nowhere, so that the end of the program is not an error."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # a stream without a file has nothing to be sent elsewhere
        return
