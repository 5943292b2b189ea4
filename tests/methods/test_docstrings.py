"""A method in Python is not always what the command line runs; its docstring says where."""

from dataclasses import fields
from pathlib import Path

import pytest

from plugip.building import build, resolved
from plugip.cli.compose import compose_config

FILES = Path(__file__).resolve().parents[2] / "conf" / "method"
# Presets stand beside these: they say in their own first lines what they are.
NAMES = [
    *("blind_dip", "constrained_misfit", "constrained_seed", "dflow", "dip", "dmilo"),
    *("dmilo_pgd", "dmplug", "double_dip", "dps", "fmplug", "ilo", "random_projector"),
    "self_deblur",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_names_what_the_command_line_changes(name: str):
    config = resolved(compose_config([f"method={name}"], None))
    method = build(config["method"])
    bare = type(method)()
    changed = [f.name for f in fields(method) if getattr(method, f.name) != getattr(bare, f.name)]
    rule = (config["stopping"] or {}).get("_target_", "").rpartition(".")[2]
    said = type(method).__doc__ or ""
    if changed or rule:
        assert f"method={name}" in said and f"{type(method).__name__}()" in said
    assert all(setting in said.partition("Args:")[0] for setting in changed)
    assert rule in said


def test_every_method_of_a_file_of_its_own_is_looked_at():
    assert all((FILES / f"{name}.yaml").is_file() for name in NAMES)
