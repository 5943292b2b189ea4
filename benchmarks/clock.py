"""Times two sides in turn, in one process, so that the state of the machine hits both."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable

from torch import Tensor

Call = Callable[[], object]
Timer = Callable[[], float]
CHUNK = 1e-3  # seconds: calls of microseconds are timed by the hundred, as the clock takes one too
MOST = 400  # rounds of one run, however short they are


class Duel:
    """The times of two sides, found in rounds that hold one of both.

    Args:
        ours: One call of our side.
        ways: The ways of the other side; those that are clearly slower than another are left out.
        timer: ``time.process_time``, or ``time.perf_counter`` for several threads.
    """

    def __init__(self, ours: Call, ways: list[Call], timer: Timer) -> None:
        looks = [glance(way, timer) for way in ways]
        self.timer, self.calls = timer, [ours]
        self.calls += [w for w, t in zip(ways, looks, strict=True) if t < 1.5 * min(looks)]
        self.times: list[list[float]] = [[] for _ in self.calls]
        self.loops = max(1, int(CHUNK / max(min(looks), glance(ours, timer))))

    def run(self, seconds: float, least: int) -> Duel:
        """Adds rounds, for so many seconds, but so many at least."""
        sides = list(zip(self.calls, self.times, strict=True))
        began, rounds = time.perf_counter(), 0
        gc.disable()
        while rounds < least or (rounds < MOST and time.perf_counter() - began < seconds):
            # The order alternates: who comes second may find its data in the caches.
            for call, times in sides if rounds % 2 else sides[::-1]:
                times.append(clocked(call, self.timer, self.loops))
            rounds += 1
        gc.enable()
        return self

    @property
    def ms(self) -> tuple[float, float]:
        """Our shortest time and theirs: what disturbs a machine only ever adds."""
        ours, *theirs = (1e3 * min(times) for times in self.times)
        return ours, min(theirs)

    @property
    def ratio(self) -> float:
        """Our time divided by theirs."""
        return self.ms[0] / self.ms[1]


def alone(call: Call, seconds: float, timer: Timer) -> float:
    """Times one side; returns its shortest time in ms."""
    look = glance(call, timer)
    loops = max(1, int(CHUNK / look))
    rounds = int(min(MOST, max(5, seconds / (loops * look))))
    return 1e3 * min(clocked(call, timer, loops) for _ in range(rounds))


def glance(call: Call, timer: Timer) -> float:
    """Looks at the time of a call; also fills caches, as the first step of any loop does."""
    call()
    times = [clocked(call, timer, 1)]
    if times[0] < 0.05:
        times += [clocked(call, timer, 1) for _ in range(4)]
    return max(1e-6, statistics.median(times))


def clocked(call: Call, timer: Timer, loops: int) -> float:
    """Returns the time of one call in seconds, the mean of some."""
    began = timer()
    for _ in range(loops):
        call()
    return (timer() - began) / loops


def owned(call: Callable[[], Tensor], given: Tensor) -> Call:
    """Returns a call whose result has memory of its own, as a measurement that is kept needs it.

    A side that returns its argument, or a view of it, has put the work off: it is copied.
    """
    result = call()
    if not isinstance(result, Tensor):  # deepinv stacks lists
        return call
    shared = result.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()
    return (lambda: call().clone()) if shared else call


def keep_memory() -> bool:
    """Tells the C library to keep memory that is freed; returns whether it could.

    Else it gives large pieces back to the system and asks for them again, at whichever side's turn
    it is: the page faults double some times at random.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_max = -1, -4  # names and numbers of glibc
    return mallopt is not None and all((mallopt(trim_threshold, 2**31 - 1), mallopt(mmap_max, 0)))
