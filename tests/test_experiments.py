"""The experiments' own arithmetic: tuning, savings, tables, picks."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from toys import normal

from experiments.ledger import Ledger, work_off, workers
from experiments.plugin_family import __main__ as family
from experiments.plugin_family.findings import Findings as FamilyFindings
from experiments.plugin_family.findings import table as family_table
from experiments.robustness.courses import WAYS as WATCHED
from experiments.robustness.courses import Way
from experiments.robustness.courses import run as run_robust
from experiments.robustness.findings import Findings as RobustFindings
from experiments.robustness.findings import table as robust_table
from experiments.solver_baseline import courses
from experiments.solver_baseline.courses import Setting, at, course, passes_to, stopped
from experiments.solver_baseline.findings import Findings, table
from experiments.warm_start.findings import Findings as WarmFindings
from experiments.warm_start.findings import draw as draw_warm
from experiments.warm_start.findings import table as warm_table
from experiments.warm_start.ways import WAYS
from plugip.engine.lbfgs import LBFGS
from plugip.methods import DMPlug
from plugip.noise import UnknownNoise
from plugip.problem import Problem
from plugip.stopping import Budget
from plugip.testing.methods import toy_problem

ENTRIES = [
    {"passes": p, "psnr": v, "chi_square": c, "ssim": 0.5, "seed_rms": 1.0, "seconds": 1.0}
    for p, v, c in ((6, 10.0, 9.0), (12, 20.0, 2.0), (18, 25.0, 1.05), (24, 24.0, 0.5))
]


def test_a_course_is_read_at_passes_levels_and_the_noise():
    assert at(ENTRIES, 17)["psnr"] == 20.0
    assert at(ENTRIES, 1)["psnr"] == 10.0
    assert stopped(ENTRIES)["psnr"] == 25.0
    assert stopped(ENTRIES[:2])["psnr"] == 20.0
    assert passes_to(ENTRIES, 19.0) == 12
    assert passes_to(ENTRIES, 30.0) == torch.inf


def row(setting: Setting, passes: int, psnr: list[float], face: str = "a") -> dict:
    entries = [ENTRIES[0] | {"passes": 6 * (i + 1), "psnr": v} for i, v in enumerate(psnr)]
    key = f"inpainting | {face} | {setting} | {passes}"
    return {"key": key, "task": "inpainting", "face": face, "setting": vars(setting)} | {
        "course": entries
    }


def test_tuning_and_savings_by_hand(tmp_path):
    slow, fast = Setting("Adam", 0.01, "zero", 1.0), Setting("Adam", 0.1, "zero", 1.0)
    newton = Setting("L-BFGS", 20, "zero", 1.0)
    ledger = Ledger(tmp_path / "rows.jsonl")
    for setting, psnr in ((slow, [10.0, 11.0]), (fast, [10.0, 19.0]), (newton, [18.0, 20.0])):
        ledger.append(row(setting, 12, psnr))
    assert set(Findings(ledger, 24).tuned().values()) == {fast, newton}
    ledger.append(row(fast, 24, [10.0, 15.0, 18.0, 20.0]))
    ledger.append(row(newton, 24, [19.95, 21.0]))
    ledger.append(row(fast, 24, [10.0, 30.0], "b"))
    ledger.append(row(newton, 24, [12.0, 13.0], "b"))
    findings = Findings(Ledger(tmp_path / "rows.jsonl"), 24)
    # Adam reaches 19.9 dB after 24 passes, L-BFGS after 6; face b's level is never reached.
    assert findings.savings(newton, fast, "inpainting") == [4.0, 0.0]
    text = table(findings, "command")
    assert (
        "| L-BFGS 20 | z = 0 | 1 |" in text
        and "| Adam 0.1 | z = 0 | 1 | – | 2.0 | – | – |" in text
    )


def test_a_course_counts_what_it_spends():
    p = toy_problem().select([0])
    big = Problem(
        normal(1, 3, 16, 16), courses.Inpaint(torch.ones(1, 1, 16, 16)).double(), p.noise, prior()
    )
    entries = course(big, DMPlug(100), normal(1, 3, 16, 16, seed=2).clamp(-1, 1), "a", 40)
    assert entries[0]["passes"] == 6 and entries[-1]["passes"] <= 40
    spent = [e["passes"] for e in entries]
    assert spent == sorted(spent)


def test_warm_starts_are_compared_at_equal_calls(tmp_path):
    ledger = Ledger(tmp_path / "rows.jsonl")
    courses_of = {"FMPlug": [20.0, 24.0, 30.0], "D-Flow": [21.0, 22.0, 40.0]}
    for face, shift in (("a", 0.0), ("b", 3.0)):
        for way, psnr in courses_of.items():
            lift = shift if way == "D-Flow" else 0.0
            entries = [
                ENTRIES[0] | {"nfe": 50 * (i + 1), "psnr": v + lift} for i, v in enumerate(psnr)
            ]
            key = f"inpainting | {face} | {way} | 100"
            place = {"task": "inpainting", "face": face, "way": way}
            ledger.append({"key": key, "course": entries} | place)
    findings = WarmFindings(ledger, 100)
    # After 100 calls, not 150: 24 against 22 dB on face a, against 25 dB on face b.
    assert findings.gains("inpainting", "FMPlug", "D-Flow") == [2.0, -1.0]
    text = warm_table(findings, "command")
    assert "| FMPlug | D-Flow | – | +0.50 ± 2.12 (1 of 2) | – | – |" in text
    assert "| FMPlug | 2 | 20.00 | 20.00 | 24.00 ± 0.00 |" in text
    draw_warm(findings, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


@pytest.mark.parametrize("way", WAYS)
def test_every_way_comes_closer_to_y_within_its_calls(way):
    p = toy_problem().select([0])
    small = Problem(
        normal(1, 3, 16, 16), courses.Inpaint(torch.ones(1, 1, 16, 16)).double(), p.noise, prior()
    )
    entries = course(small, WAYS[way], normal(1, 3, 16, 16, seed=2).clamp(-1, 1), "a", 160)
    assert entries[-1]["passes"] <= 160
    assert entries[-1]["chi_square"] < 0.9 * entries[0]["chi_square"]


def prior():
    from plugip.path import FlowPath
    from plugip.testing.methods import WitnessPrior

    return WitnessPrior(torch.zeros(3, 16, 16), 0.3, FlowPath()).double()


def test_work_goes_on_where_it_ended(tmp_path):
    done: list[int] = []

    def bench(job: int) -> dict:
        done.append(job)
        return {"square": job**2}

    for jobs in ([1, 2], [1, 2, 3]):
        with workers(lambda: bench, 1) as hands:
            work_off(jobs, str, Ledger(tmp_path / "rows.jsonl"), hands)
    assert done == [1, 2, 3]
    assert Ledger(tmp_path / "rows.jsonl").rows["3"]["square"] == 9


def test_family_runs_leave_out_what_a_method_cannot_solve(tmp_path):
    for i in range(7):
        (tmp_path / f"{i:02}.png").touch()
    options = Namespace(
        faces=tmp_path, out=Path("out"), prior="p", count=1, batch=1, tasks=None, methods=None
    )
    planned = {(r.method, r.task): r for r in family.runs(options)}
    assert ("DPS", "blind motion blur") not in planned
    assert ("FMPlug", "phase retrieval") not in planned
    guides = ",".join(f"{tmp_path}/{i:02}.png" for i in range(5))
    assert f"method.guide.files=[{guides}]" in planned["FMPlug, few-shot", "phase retrieval"].words
    words = planned["DIP", "super-resolution"].words
    assert "prior=untrained" in words and "prior=diffusers" not in words
    assert f"data.path=[{tmp_path}/05.png]" in words  # the first five are for tuning
    options.count, calls = 2, len(planned)
    folders = [run.folder.parts[1] for run in family.runs(options)]
    assert folders == ["05_to_05"] * calls + ["06_to_06"] * calls  # whole faces first
    options.batch = 0
    with pytest.raises(SystemExit, match="--batch must be at least 1, got 0"):
        family.runs(options)


@pytest.mark.parametrize("method", family.METHODS)
def test_family_words_compose(method):
    from plugip.cli.compose import compose_config

    entry = family.METHODS[method]
    task = next(name for title, name in family.TASKS.items() if title not in entry.without)
    said = [word.format(guides="a.png") for word in entry.words]
    words = [f"task={task}", *said, f"stopping={entry.stopping}"]
    assert compose_config(words, None)["method"] is not None


def test_family_table_keeps_the_kinds_apart_and_pairs_the_images(tmp_path):
    for method, lift in (("DMPlug", 0.0), ("A", 1.0)):
        lines = [
            {"kind": kind, "metrics": {"psnr": v, "ssim": 0.5}, "residual_to_noise": 1.0}
            | {"id": image, "nfe": 30, "vjps": 30, "seconds": 1.0}
            for image, v0 in (("a", 20.0 + lift), ("b", 22.0 - 3 * lift))
            for kind, v in (("last", v0), ("oracle", v0 + 1), ("input", 15.0))
        ]
        (tmp_path / method).mkdir()
        text = "\n".join(map(json.dumps, lines)) + "\n"
        (tmp_path / method / "scores.jsonl").write_text(text, "utf-8")
    found = FamilyFindings([(m, "task", tmp_path / m) for m in ("A", "DMPlug", "none")])
    assert found.methods("task") == ["DMPlug", "A"]
    text = family_table(found, "c")
    assert "| DMPlug | 2 | 21.00 ± 1.41 | – | 22.00 ± 1.41 | – | 0.500 ± 0.000 |" in text
    assert "| A | 2 | 20.00 ± 1.41 | – | 21.00 ± 1.41 | -1.00 ± 2.83 (1 of 2) |" in text
    assert "| *the measurement* | 2 | 15.00 | – | – | – | 0.500 | – | – | – | – |" in text


def test_picks_after_a_rule_has_stopped_do_not_count():
    p = toy_problem().select([0])
    unknown = Problem(p.y, p.operator, UnknownNoise(), p.prior)
    way = Way(LBFGS, 12, {"three": Budget(3)})
    psnr, picks = run_robust(unknown, way, p.y.clamp(-1, 1), "a")
    assert picks == {"three": 3} and len(psnr) <= 12


def test_settings_of_rules_are_chosen_on_tuning_faces_only(tmp_path):
    ledger = Ledger(tmp_path / "rows.jsonl")
    names = [n for n in WATCHED["L-BFGS"].rules if n.startswith("ES-WMV")]
    for face, best in (("tune", 2), ("told", 3)):  # the best step of each face
        psnr = [10.0 + (k == best) for k in (1, 2, 3)]
        picks = dict.fromkeys(WATCHED["L-BFGS"].rules, 1) | {names[2]: 2, names[3]: 3}
        row = {"noise": "impulse, low", "way": "L-BFGS", "face": face, "psnr": psnr}
        ledger.append(row | {"key": face, "picks": picks})
    findings = RobustFindings(ledger, {"tune"})
    assert findings.chosen["L-BFGS", "ES-WMV"] == names[2]
    text = robust_table(findings, "command")
    assert "| impulse, low | L-BFGS | 1 | 11.00 | 10.00 | 10.00 | 11.00 | 2 | 1 | 3 |" in text
