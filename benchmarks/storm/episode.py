"""One episode: a job in a folder of its own, what befalls it, and what is found wrong."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

from benchmarks.storm.compare import broken, changes, contents, finished, hidden, reached
from benchmarks.storm.jobs import Job, Shop, gather
from benchmarks.storm.process import Ended, Process
from benchmarks.storm.traps import Trap


@dataclass
class Tally:
    """What is counted over episodes; all but the first three should stay 0.

    Attributes:
        episodes: How many there were.
        cut: Starts that were killed, interrupted or stopped by a full disk or folder.
        refused: Ends with a sentence that asks the user to act, where that is an answer.
        changed: Bytes that differ from the undisturbed folder in the end.
        lost: Finished images that an interruption cost, and steps back behind a checkpoint.
        halves: Visible files that were half written.
        left: Temporary files that are still there after the run that finished.
        unclear: Ends with a traceback, a wrong exit code, or never.
    """

    episodes: int = 0
    cut: int = 0
    refused: int = 0
    changed: int = 0
    lost: int = 0
    halves: int = 0
    left: int = 0
    unclear: int = 0

    def add(self, other: Tally) -> None:
        """Adds the counts of another one."""
        for count in fields(self):
            name = count.name
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def wrong(self) -> bool:
        """Whether anything happened that must not happen."""
        return any((self.changed, self.lost, self.halves, self.left, self.unclear))


@dataclass
class Episode:
    """A job in a fresh folder, with what was seen of it so far.

    Args:
        shop: Where the undisturbed runs are.
        job: The job.
        folder: Its working folder, empty.
        rng: Draws whatever is random.
        most: How often it is cut short, at most.
    """

    shop: Shop
    job: Job
    folder: Path
    rng: random.Random
    most: int = 5
    tally: Tally = field(default_factory=Tally)
    faults: list[str] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    step: int = 0

    @property
    def output(self) -> Path:
        """The folder that the job fills."""
        return self.folder / "o"

    def start(self, trap: Trap | None = None) -> list[Process]:
        """Starts the job."""
        return self.job.start(self.folder, trap or Trap())

    def cut_at_write(self, trap: Trap, codes: tuple[int, ...]) -> bool:
        """Starts the job with a trap; returns whether the trap caught it.

        Args:
            trap: What happens to the last of its processes.
            codes: Exit codes that are an answer to it.
        """
        return self._cut(self.start(trap), codes)

    def cut_at_moment(
        self, seconds: float, number: int, codes: tuple[int, ...], everyone: bool = False
    ) -> bool:
        """Starts the job and sends one of its processes a signal; returns whether it came in time.

        Args:
            seconds: Wait so long after the first write; of a real command, after its start.
            number: The signal.
            codes: Exit codes that are an answer to it.
            everyone: Send it to the children too.
        """
        processes = self.start()
        chosen = self.rng.choice(processes)
        if not self.job.real:
            chosen.await_first_write()
        time.sleep(seconds)
        chosen.signal(number, everyone)
        return self._cut(processes, codes)

    def pause(self, longest: float) -> None:
        """Waits for a random time."""
        time.sleep(self.rng.uniform(0, longest))

    def finish(self) -> None:
        """Starts the job undisturbed, and compares its folder with the one that must come out."""
        processes = self.start()
        ends = gather(processes)
        for ended in ends:
            self.judge(ended, (0,))
        self.look()
        self.compare()

    def compare(self, like: Job | None = None) -> None:
        """Compares the folder with the undisturbed one of this or another job."""
        reference = self.shop.reference(like or self.job.alike or self.job)
        for name, count in changes(reference.contents, contents(self.output)).items():
            self.tally.changed += count
            self.faults.append(f"{name}: {count} bytes differ")
        left = sorted(set(hidden(self.output)) - set(hidden(reference.folder)))
        self.tally.left += len(left)
        self.faults += [f"{name} is left over" for name in left]

    def judge(self, ended: Ended, codes: tuple[int, ...]) -> None:
        """Notes an end that leaves the user without a clear answer."""
        if ended.surprised or ended.code not in codes:
            self.tally.unclear += 1
            self.faults.append(
                f"exit code {ended.code} of {codes}, with the words:\n{ended.words}"
            )

    def look(self) -> None:
        """Notes what is half written or lost since the last look."""
        for name in broken(self.output):
            self.tally.halves += 1
            self.faults.append(f"{name} cannot be read")
        images, step = finished(self.output), reached(self.output)
        lost = [name for name, parts in self.images.items() if images.get(name) != parts]
        lost += [f"checkpoint {self.step}"] if step < self.step else []
        self.tally.lost += len(lost)
        self.faults += [f"{name} was finished, and is not any more, or changed" for name in lost]
        self.images, self.step = images, step

    def _cut(self, processes: list[Process], codes: tuple[int, ...]) -> bool:
        ends = gather(processes)
        if len(ends) == 1:  # whom a companion's end has torn along is not asked for clear words
            self.judge(ends[0], (0, *codes))
        if self.output.exists():
            self.look()
        caught = any(ended.code for ended in ends)
        self.tally.cut += caught
        return caught
