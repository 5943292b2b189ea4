"""The kinds of episodes: what happens to which job, and how often."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.storm import jobs, mounts
from benchmarks.storm.compare import contents, visible
from benchmarks.storm.episode import Episode
from benchmarks.storm.jobs import Job
from benchmarks.storm.traps import Trap

KILLED, TORN = -signal.SIGKILL, -signal.SIGXFSZ
INTERRUPTED = 130
Way = Callable[[Episode], bool]


@dataclass(frozen=True)
class Kind:
    """One line of the table.

    Args:
        what: Says it.
        run: Runs an episode.
        jobs: What is disturbed; one of them is drawn, in a short storm the first is taken.
        full, short: Episodes of the whole and of the short storm.
        mounts: Whether it needs the right to mount a file system.
        beside: Another job whose undisturbed run is looked at.
    """

    what: str
    run: Callable[[Episode], None]
    jobs: tuple[Job, ...]
    full: int
    short: int = 0
    mounts: bool = False
    beside: tuple[Job, ...] = ()


# ways to cut a start short


def kill(episode: Episode) -> bool:
    """Kills at a random moment."""
    return _at_moment(episode, signal.SIGKILL, (KILLED,))


def kill_at_write(episode: Episode) -> bool:
    """Kills just before a random write."""
    return episode.cut_at_write(Trap(_write(episode), signal.SIGKILL), (KILLED,))


def tear(episode: Episode) -> bool:
    """Kills in the middle of a random write."""
    room = episode.rng.choice((0, 1, 100, 300, 3000))
    # A line that is added in one piece is cut short by the limit, before its signal: a full disk.
    return episode.cut_at_write(Trap(_write(episode), room=room, torn=True), (TORN, 1))


def terminate(episode: Episode) -> bool:
    """Asks the process to end, at a random moment."""
    number = episode.rng.choice((signal.SIGTERM, signal.SIGHUP))
    return _at_moment(episode, number, (-number, 128 + number, INTERRUPTED))


def interrupt(episode: Episode) -> bool:
    """Presses Ctrl-C at a random moment."""
    return _at_moment(episode, signal.SIGINT, (INTERRUPTED,))


def interrupt_at_write(episode: Episode) -> bool:
    """Presses Ctrl-C just before a random write."""
    return episode.cut_at_write(Trap(_write(episode), signal.SIGINT), (INTERRUPTED,))


def limit(episode: Episode) -> bool:
    """Lets no file grow from a random write on, as a quota does."""
    room = episode.rng.choice((0, 1, 100, 3000))
    return episode.cut_at_write(Trap(_write(episode), room=room), (1,))


def fill_disk(episode: Episode) -> bool:
    """Fills the disk at a random write; the next start finds it empty again."""
    ballast = episode.folder / "ballast"
    room = 4096 * episode.rng.randint(0, 8)
    caught = episode.cut_at_write(Trap(_write(episode), room=room, ballast=ballast), (1,))
    ballast.unlink(missing_ok=True)
    return caught


def kill_all(episode: Episode) -> bool:
    """Kills a real command with its children."""
    return _at_moment(episode, signal.SIGKILL, (KILLED,), everyone=True)


# whole episodes


def cuts(*ways: Way) -> Callable[[Episode], None]:
    """Returns an episode of several cuts, each in one of these ways, and a quiet end."""

    def run(episode: Episode) -> None:
        for _ in range(episode.rng.randint(2, episode.most)):
            if not episode.rng.choice(ways)(episode):
                break
        episode.finish()

    return run


def full_disk(episode: Episode) -> None:
    """Runs a job on a small disk that fills up, once or twice."""
    with mounts.small_disk(episode.folder):
        for _ in range(episode.rng.randint(1, 2)):
            fill_disk(episode)
        episode.finish()


def read_only(episode: Episode) -> None:
    """Starts in a folder that may only be read, with nothing in it or half a run."""
    episode.output.mkdir()
    if episode.rng.random() < 0.7:
        kill_at_write(episode)
    before = contents(episode.output)
    with mounts.read_only(episode.output):
        ended = episode.start()[0].wait()
    episode.judge(ended, (1,))
    episode.tally.cut += 1
    if contents(episode.output) != before:
        episode.faults.append("a folder that is read-only has changed")
        episode.tally.lost += 1
    episode.finish()


def two_writers(other: Job) -> Callable[[Episode], None]:
    """Returns an episode of two starts in one folder; the second runs this job."""

    def run(episode: Episode) -> None:
        first = episode.start()[0]
        first_job, seconds = episode.job, episode.shop.reference(episode.job).ended.seconds
        episode.pause(seconds * episode.rng.choice((0.0, 0.1, 0.7)))
        second = other.start(episode.folder, Trap())[0]
        ends = [(first_job, first.wait()), (other, second.wait())]
        for _, ended in ends:
            episode.judge(ended, (0, 1))
            episode.tally.refused += ended.code == 1
        winners = [job for job, ended in ends if ended.code == 0]
        if not winners or len(set(winners)) > 1:
            episode.tally.unclear += 1
            episode.faults.append(f"{len(winners)} of two writers ended well")
        episode.job = winners[0] if winners else first_job
        episode.look()
        episode.compare()

    return run


def damaged(harm: Callable[[Episode, Path], str]) -> Callable[[Episode], None]:
    """Returns an episode in which one file of a finished run is harmed, and the job started."""

    def run(episode: Episode) -> None:
        shutil.copytree(episode.shop.reference(episode.job).folder, episode.output)
        name = episode.rng.choice(visible(episode.output))
        done = f"{name} was {harm(episode, episode.output / name)}"
        ended = episode.start()[0].wait()
        episode.judge(ended, (0, 1))
        if ended.code == 0:
            episode.look()
            episode.compare()
        episode.tally.refused += ended.code == 1
        if episode.faults:
            episode.faults.insert(0, done)

    return run


def spoil(episode: Episode, file: Path) -> str:
    """Cuts, empties, removes or overwrites a file, or puts a folder in its place."""
    data, rng = file.read_bytes(), episode.rng
    done = rng.choice(("cut", "emptied", "removed", "overwritten", "replaced by a folder"))
    file.unlink()
    if done == "cut":
        file.write_bytes(data[: rng.randrange(max(1, len(data)))])
    elif done == "emptied":
        file.touch()
    elif done == "overwritten":
        file.write_bytes(rng.randbytes(max(1, len(data))))
    elif done == "replaced by a folder":
        file.mkdir()
    return done


def flip(episode: Episode, file: Path) -> str:
    """Flips one bit."""
    data = bytearray(file.read_bytes())
    at = episode.rng.randrange(len(data))
    data[at] ^= 1 << episode.rng.randrange(8)
    file.write_bytes(data)
    return f"changed by a bit at byte {at} of {len(data)}"


def _write(episode: Episode) -> int:
    """Draws one of the writes that are still to come; each file takes at least two."""
    done = 2 * len(visible(episode.output))
    return episode.rng.randint(1, max(4, episode.shop.reference(episode.job).ended.writes - done))


def _at_moment(
    episode: Episode, number: int, codes: tuple[int, ...], everyone: bool = False
) -> bool:
    seconds = episode.rng.uniform(0, 0.9 * episode.shop.reference(episode.job).ended.seconds)
    return episode.cut_at_moment(seconds, number, codes, everyone)


RUNS, RUN, TRAINING = (jobs.SINGLE, jobs.PLUGIN), (jobs.SINGLE,), (jobs.TRAINING,)
KINDS = {
    "kill": Kind("SIGKILL at a random moment", cuts(kill), RUNS, 24),
    "write": Kind("SIGKILL just before a write", cuts(kill_at_write), RUNS, 40, 1),
    "torn": Kind("killed in the middle of a write", cuts(tear), RUNS, 20, 1),
    "term": Kind("SIGTERM or SIGHUP", cuts(terminate), RUNS, 16, 1),
    "ctrl-c": Kind("Ctrl-C", cuts(interrupt, interrupt_at_write), RUNS, 16, 1),
    "disk": Kind("full disk", full_disk, RUNS, 20, mounts=True),
    "quota": Kind("no file may grow any more", cuts(limit), RUN, 12, 1),
    "read-only": Kind("read-only folder", read_only, RUN, 8, 1, mounts=True),
    "two": Kind("two writers, same settings", two_writers(jobs.SINGLE), RUN, 12),
    "two-other": Kind(
        "two writers, other settings", two_writers(jobs.OTHER), RUN, 12, 1, beside=(jobs.OTHER,)
    ),
    "damage": Kind("a damaged file", damaged(spoil), RUNS, 40, 2),
    "flip": Kind("a flipped bit", damaged(flip), RUNS, 20),
    "grid": Kind("a grid of four jobs", cuts(kill, kill_at_write, terminate), (jobs.GRID,), 12),
    "team": Kind("two processes", cuts(kill, kill_at_write, tear), (jobs.TEAM,), 12),
    "train": Kind("plugip-train, killed", cuts(kill, kill_at_write, tear), TRAINING, 16),
    "train-stop": Kind("plugip-train, stopped", cuts(terminate, interrupt), TRAINING, 8),
    "train-disk": Kind("plugip-train, full disk", cuts(limit), TRAINING, 8),
    "train-damage": Kind("plugip-train, a damaged file", damaged(spoil), TRAINING, 12),
    "command": Kind("python -m plugip, killed", cuts(kill_all), (jobs.COMMAND,), 6),
    "torchrun": Kind("torchrun, killed", cuts(kill_all), (jobs.LAUNCHED,), 4),
    "train-command": Kind(
        "python -m plugip.cli.train, killed", cuts(kill_all), (jobs.TRAINING_COMMAND,), 4
    ),
}
