"""Why something failed, kept without the tensors that an exception holds on to."""

from __future__ import annotations

import gc
import traceback
from dataclasses import dataclass

import torch

from plugip.data import ImageError

LONGEST = 400  # characters of one reason; errors of compilers and drivers fill pages
_NO_MEMORY = (
    "out of memory",
    "allocate memory",
    "not enough memory",
    "insufficient memory",
    "alloc_failed",
)


@dataclass(frozen=True)
class Failure:
    """One exception in words.

    Attributes:
        reason: Its type and its sentence.
        trace: Its traceback.
        memory: Whether memory ran out.
        refusal: Whether it may be that the parts of the run do not fit each other.
    """

    reason: str
    trace: str
    memory: bool = False
    refusal: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describes an exception; its frames, and the tensors in them, are let go."""
        trace = "".join(traceback.format_exception(error))
        refusal = isinstance(error, (ValueError, TypeError)) and not isinstance(error, ImageError)
        described = cls(reason(error), trace, _is_full(error), refusal)
        traceback.clear_frames(error.__traceback__)
        return described

    @property
    def advice(self) -> str:
        """The reason, and what to do where one image alone does not fit."""
        if not self.memory:
            return self.reason
        return (
            f"{self.reason}; one image alone does not fit into memory: take a smaller image "
            "(data.size), recomputation (prior.runtime.checkpoint=blocks or "
            "method.generator.checkpoint=true), fewer reverse steps or fewer starts"
        )


def reason(error: BaseException) -> str:
    """Returns an exception's type and sentence on one line; an ImageError needs no type."""
    text = " ".join(_words(error).split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    if isinstance(error, ImageError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as worse:
        return f"its text cannot be made ({type(worse).__name__})"


def free_memory() -> None:
    """Gives back what a failed attempt has left on the accelerator."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _is_full(error: BaseException | None) -> bool:
    """Tells whether memory ran out, also where another exception has been raised from that one."""
    if error is None:
        return False
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = isinstance(error, Exception) and any(w in _words(error).lower() for w in _NO_MEMORY)
    return said or _is_full(error.__cause__ or error.__context__)
