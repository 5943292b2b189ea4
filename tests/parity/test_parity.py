"""The parity net: every method's answers are those recorded, bit for bit.

Where processor or torch differ from the recording's, kernels round differently, and answers are
compared to three digits instead.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from parity.answers import FILE, answer, machine
from parity.cases import cases

from plugip.method import Method
from plugip.problem import Problem

RECORDED = json.loads(FILE.read_text())
CASES = list(cases())


def test_every_case_is_recorded():
    assert [name for name, _, _ in CASES] == list(RECORDED["answers"])


@pytest.mark.parametrize(("name", "problem", "method"), CASES, ids=[c[0] for c in CASES])
def test_answers_are_as_recorded(name: str, problem: Problem, method: Method[Any]):
    found, wanted = answer(problem, method), RECORDED["answers"][name]
    if machine() == RECORDED["machine"] or "refused" in wanted:
        assert found == wanted
    else:
        assert found["pixels"] == pytest.approx(wanted["pixels"], rel=1e-3, abs=1e-3)
