"""Every public operator keeps the rules, at every boundary, size and precision that it has.

By default any two of option, boundary, size and precision meet; with PLUGIP_SLOW=1 all
combinations are tried.
"""

import copy
import inspect
import os

import pytest
import torch
from operator_cases import Case, all_cases, pairwise_cases
from table_blurs import BLURS
from table_fields import FIELDS
from table_others import OTHERS

import plugip.operators as ops
from plugip.operator import BlindOperator, Operator
from plugip.rng import Rng
from plugip.testing import check_operator
from plugip.testing.bench import LIMITS, answers, cast, images, in_precision
from plugip.testing.moves import UNJUDGED, UNPICKLED
from plugip.testing.report import close

TABLE = BLURS | FIELDS | OTHERS
choose = all_cases if "PLUGIP_SLOW" in os.environ else pairwise_cases
CASES = [case for name, variants in TABLE.items() for case in choose(name, variants)]
MAKERS = {"stack", "per_channel", "on_frames"}  # functions that make operators
NETWORKS = {"BKSE", "Decoder", "LatentOperator"}  # weights of a precision of their own
# What the meta device cannot judge: frames look at their paths, kornia's codec at its images, and
# autocast, which decoders switch off, does not know that device.
NEED_VALUES = {"FrameAverageBlur", "HomographyBlur", "ProjectiveBlur", "JPEG", "Decoder"}


def first_cases(name: str) -> list[Case]:
    """One case of every option and boundary, in float64."""
    chosen = {
        (case.option, case.boundary): case for case in reversed(all_cases(name, TABLE[name]))
    }
    return list(chosen.values())


def known(case: Case, device: str = "cpu") -> Operator:
    """The operator with its random part, drawn on a device as an experiment does it."""
    rng = Rng(0, "operator", [f"image {i}" for i in range(case.shape[0])])
    made = case.build().to(device).realise(rng, case.shape)
    if not isinstance(made, BlindOperator):
        return made
    like = torch.empty(case.shape, device=device)
    return made.at(made.constrain(made.init_theta(rng, like)))


def exported_operators() -> set[str]:
    named = {name: getattr(ops, name) for name in ops.__all__}
    return {n for n, o in named.items() if inspect.isclass(o) and issubclass(o, Operator)} | MAKERS


def test_the_table_lists_every_exported_operator():
    assert set(TABLE) == exported_operators()


@pytest.mark.parametrize("name", TABLE)
def test_each_entry_builds_what_it_names(name):
    for case in all_cases(name, TABLE[name]):
        built = case.build()
        assert isinstance(built, Operator)
        assert name in MAKERS or isinstance(built, getattr(ops, name))


def test_the_selection_lets_any_two_values_meet():
    pairs = [("option", "boundary"), ("boundary", "size"), ("size", "dtype"), ("option", "size")]
    for name, variants in TABLE.items():
        every, chosen = all_cases(name, variants), pairwise_cases(name, variants)
        assert len(chosen) <= len(every)
        for pair in pairs:
            all_met, met = (
                {tuple(getattr(c, p) for p in pair) for c in s} for s in (every, chosen)
            )
            assert all_met == met


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rules(case: Case):
    report = check_operator(case.build(), case.shape, case.dtype)
    failed = {check.name for check in report.checks if not check.ok}
    # A surrogate's gradient is no derivative; in float32 it is only compared with float64.
    wrong = {"gradient"} if case.variant.surrogate and case.dtype == torch.float64 else set()
    assert failed == wrong, report.text()
    told = [check.detail for check in report.checks]
    assert not any(detail.startswith(UNPICKLED) for detail in told), report.text()
    if case.operator not in NEED_VALUES | {"LatentOperator"}:
        assert not any(detail.startswith(UNJUDGED) for detail in told), report.text()


@pytest.mark.parametrize("name", TABLE)
def test_an_operator_as_built_keeps_the_precision_of_the_images(name):
    for case in first_cases(name):
        a = known(case)
        for dtype in [torch.float32] if name in NETWORKS else LIMITS:
            x = cast(images(a, case.shape, "x"), dtype)
            found = {n: v.real.dtype for n, v in answers(a, x, a(x)).items()}
            assert found == dict.fromkeys(found, dtype), case


@pytest.mark.parametrize("name", TABLE)
def test_answers_are_new_tensors(name):
    for case in first_cases(name):
        a = in_precision(known(case), torch.float64)
        x = images(a, case.shape, "x")
        y = a(x)
        memory = {t.untyped_storage().data_ptr() for t in (x, y, *a.buffers(), *a.parameters())}
        assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr(), case
        for what, value in answers(a, x, y).items():
            assert value.untyped_storage().data_ptr() not in memory, (str(case), what)


@pytest.mark.parametrize("name", TABLE)
def test_a_loaded_state_counts_at_once(name):
    for case in first_cases(name):
        fresh = in_precision(known(case), torch.float64)
        used, x = copy.deepcopy(fresh), images(fresh, case.shape, "x")
        y = used(x)
        answers(used, x, y)  # whatever it remembers of the old state, it now holds
        state = {k: v / 2 if v.is_floating_point() else v for k, v in used.state_dict().items()}
        used.load_state_dict(state)
        fresh.load_state_dict(state)
        due = answers(fresh, x, y)
        for what, value in answers(used, x, y).items():
            ok, detail = close(value, due[what], 1e-8)
            assert ok, f"{case}, {what}: {detail}"


@pytest.mark.parametrize("name", TABLE)
def test_operators_say_what_they_are_in_words(name):
    for case in first_cases(name):
        for a in (case.build(), known(case)):
            told = repr(a)
            assert told.startswith(type(a).__name__)
            assert "object at 0x" not in told and "tensor(" not in told, told


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rules_on_a_gpu(case: Case):
    report = check_operator(case.build(), case.shape, case.dtype, "cuda")
    failed = {check.name for check in report.checks if not check.ok}
    wrong = {"gradient"} if case.variant.surrogate and case.dtype == torch.float64 else set()
    assert failed == wrong, report.text()


@pytest.mark.gpu
@pytest.mark.parametrize("name", TABLE)
def test_a_gpu_draws_and_answers_as_a_cpu_does(name):
    for case in first_cases(name):
        here = known(case)
        there = known(case, "cuda")
        x = cast(images(here, case.shape, "x"), torch.float32)
        found = answers(there, x.cuda(), there(x.cuda()))
        assert {v.device.type for v in found.values()} == {"cuda"}
        due = answers(here, x, here(x))
        for what, value in found.items():
            ok, detail = close(value.cpu(), due[what], 1e-3)
            assert ok, f"{case}, {what}: {detail}"
