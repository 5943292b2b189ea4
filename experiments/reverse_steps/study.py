"""What the study of reverse steps consists of: its settings, sizes and jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.reverse_steps.measures import BATCH, DEFAULT, Setting, Times
from plugip.data import Item

SWEEP = tuple(Setting(k) for k in (1, 2, 3, 4, 6, 10))
NAMED = tuple(Setting(grid=g) for g in ("leading", "trailing", "quadratic", "poly7"))
HEUN = tuple(Setting(k, solver="heun") for k in (2, 3, 4))
MIDPOINT = tuple(Setting(k, solver="midpoint") for k in (1, 2, 3))
CLIPS = tuple(Setting(clip=clip) for clip in ("hard", "straight_through"))
LEARNED = (4, 3, 2)


@dataclass(frozen=True)
class Study:
    """Where the study takes its images and leaves its results, and how large it is.

    Attributes:
        out: Folder of rows.jsonl and of what the processes share.
        train: Folder or zip of real images; only statistics of them are kept.
        tuning: Faces to restore, which decisions may look at.
        reporting: Faces that the range is reported on.
        budgets: Network passes at which fits are scored, rising.
        samples: Samples of each setting.
        judged: How many of them are compared with the fine solution.
        fitted: Other seeds, which times are learned on.
        fine: Heun steps of the fine solution.
        real: Real images read.
    """

    out: Path
    train: Path
    tuning: tuple[Item, ...]
    reporting: tuple[Item, ...]
    budgets: tuple[int, ...] = (300, 900)
    samples: int = 256
    judged: int = 64
    fitted: int = 8
    fine: int = 64
    real: int = 6000


@dataclass(frozen=True)
class Job:
    """One row to be: what is measured, of which setting, on which face or first seed."""

    kind: str
    setting: Setting = DEFAULT
    face: Item | None = None
    seed: int = 0

    def __str__(self) -> str:
        s, of = self.setting, self.face.id if self.face else self.seed
        return f"{self.kind} K={s.steps} {s.grid_name} {s.solver} {s.clip} {of}"


def shared_jobs(study: Study) -> list[Job]:
    """Returns the jobs whose results all others use: fine solutions, statistics of real images."""
    judged = [Job("judged", seed=i) for i in range(0, study.judged, BATCH)]
    return [*judged, *(Job("fitted", seed=i) for i in range(0, study.fitted, BATCH)), Job("look")]


def learning_jobs() -> list[Job]:
    """Returns the jobs that learn times, the longest first; the setting says for how many."""
    return [Job("learned", Setting(k)) for k in LEARNED]


def sampled(learned: dict[int, Times]) -> list[Setting]:
    """Returns all settings, each of which is sampled from."""
    own = [Setting(k, learned[k]) for k in sorted(learned)]
    return [*SWEEP, *NAMED, *own, *HEUN, *MIDPOINT, *CLIPS]


def fit_settings(learned: dict[int, Times]) -> dict[str, list[Setting]]:
    """Returns the settings of each kind of fit; fits take most of the time."""
    # Without training steps of the path "trailing" is "uniform", rounded to three decimals.
    leading, _, quadratic, poly7 = NAMED
    own = Setting(3, learned[3])
    few = [s for s in SWEEP if s.steps <= 6]
    return {
        "restoration": [*few, leading, quadratic, own, HEUN[0]],
        "range": [*SWEEP, leading, quadratic, poly7, own, HEUN[0], MIDPOINT[1], *CLIPS],
    }


def sheet_columns(learned: Times) -> list[Setting]:
    """Returns the settings of the sheet of samples."""
    few, many = [Setting(k) for k in (1, 2, 3)], [Setting(k) for k in (5, 10, 50)]
    return [*few, Setting(len(learned), learned), *many]


def main_jobs(study: Study, learned: dict[int, Times]) -> list[Job]:
    """Returns what is left; fits face by face, so that a part of them compares all settings."""
    costly = sorted(sampled(learned), key=lambda s: -s.nfe)
    jobs = [Job("sheet", Setting(3, learned[3])), *(Job("samples", s) for s in costly)]
    faces = {"restoration": study.tuning, "range": study.reporting}
    settings = fit_settings(learned)
    return jobs + [Job(k, s, face) for k in settings for face in faces[k] for s in settings[k]]
