"""The rules of the house, read from the syntax tree: who may import whom, and more."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Imports run downwards: a room may import its own floor and the floors below it.
# A room that is on no floor (cli, building, testing, the package itself) stands above all of them.
FLOORS = (
    {"operator", "refusals", "composition", "folding", "spectral", "linalg", "texts"}
    | {"path", "rng", "options", "metrics", "data", "image_io", "places", "pictures", "terminal"}
    | {"arguments"},
    {"noise", "prior"},
    {"reverse", "problem", "priors", "untrained"},
    {"engine", "method", "diagnostics", "loop"},
    {"methods", "stopping"},
    {"record", "experiment", "training"},
)
BELOW_OPERATORS = {
    "operator",
    "composition",
    "folding",
    "spectral",
    "linalg",
    "rng",
    "options",
    "noise",
    "image_io",
}

# One door per dependency: the only rooms that may import it.
DOORS = {
    "hydra": {"cli", "building"},
    "omegaconf": {"cli", "building"},
    "diffusers": {"priors", "training"},
    "kornia": {"operators"},
    "piq": {"metrics"},
    "lpips": {"metrics"},
    "cv2": {"image_io", "record", "operators"},
    "accelerate": {"experiment", "training"},
    "deepinv": {"bridges"},
    "transformers": {"priors"},
    "pygranso": {"engine"},
}


def sources() -> dict[str, ast.Module]:
    """Syntax trees by module name, packages under the name of their folder."""
    trees = {}
    for folder, prefix in ((ROOT / "plugip", "plugip"), (ROOT / "operators", "plugip.operators")):
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            if folder.name == "plugip" and parts[0] in {"operators", "conf"}:
                continue  # the links: their files are read where they really are
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            trees[".".join((prefix, *parts))] = ast.parse(file.read_text("utf-8"), str(file))
    return trees


SOURCES = sources()
PACKAGES = {name.rpartition(".")[0] for name in SOURCES} | {"plugip.operators"}


def room(module: str) -> str:
    """plugip.methods.dps -> methods; the package itself -> ''."""
    return [*module.split("."), ""][1]


def floor(module: str) -> int:
    floors = [i for i, rooms in enumerate(FLOORS) if room(module) in rooms]
    return floors[0] if floors else len(FLOORS)


def imports(module: str, tree: ast.AST) -> list[str]:
    """Full names of all modules that are imported anywhere in a tree, inside functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = node.level - (module in PACKAGES)
            base = module.split(".")[: -up or None] if node.level else []
            start = ".".join([*base, *filter(None, [node.module])])
            names = [f"{start}.{alias.name}" for alias in node.names]
            found += [name if name in SOURCES else start for name in names]
    return found


def import_faults(module: str, tree: ast.AST) -> list[str]:
    return [
        f"{module} imports {name}: {fault}"
        for name in imports(module, tree)
        if (fault := import_fault(module, name))
    ]


def import_fault(module: str, name: str) -> str | None:
    """Why ``module`` may not import ``name``, or None."""
    top, here, there = name.split(".")[0], room(module), room(name)
    if top in DOORS and here not in DOORS[top]:
        return f"only {', '.join(sorted(DOORS[top]))} may"
    if top in {"operators", "conf"}:
        return f"write plugip.{name}: under the bare name every class exists twice"
    if top != "plugip":
        return None
    if here == "operators":
        allowed = there in BELOW_OPERATORS | {"operators"}
        return None if allowed else f"operators may import {', '.join(sorted(BELOW_OPERATORS))}"
    if there == "operators":
        return "the core does not import operators"
    if here == there == "methods" and module.count(".") == 2:
        return "methods do not import each other; move what they share to the core"
    return "imports run downwards" if floor(name) > floor(module) else None


def is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def code_faults(module: str, tree: ast.AST) -> list[str]:
    """Bare excepts, and public functions that swallow misspelt options."""
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            faults.append(f"{module}:{node.lineno}: bare except")
        if isinstance(node, ast.Module | ast.ClassDef) and is_public(getattr(node, "name", "")):
            for child in node.body:
                if (
                    isinstance(child, ast.FunctionDef)
                    and is_public(child.name)
                    and child.args.kwarg
                ):
                    faults.append(f"{module}:{child.lineno}: {child.name} takes **kwargs")
    return faults


def target_faults(text: str) -> list[str]:
    targets = re.findall(r"""_target_["']?\s*:\s*["']?([^\s"',}]+)""", text)
    return [target for target in targets if not target.startswith("plugip.")]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def loaded(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after a statement."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize("module", SOURCES)
def test_imports_follow_the_rules(module):
    assert import_faults(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", SOURCES)
def test_code_follows_the_rules(module):
    assert code_faults(module, SOURCES[module]) == []


def test_imports_make_no_circle():
    graph = {name: set(imports(name, tree)) & set(SOURCES) for name, tree in SOURCES.items()}
    assert cycle(graph) == []


def test_configs_name_their_targets_in_full():
    faults = {
        str(file): target_faults(file.read_text("utf-8")) for file in ROOT.glob("conf/**/*.yaml")
    }
    assert {file: targets for file, targets in faults.items() if targets} == {}


def test_cli_answers_without_torch():
    assert loaded("import plugip.cli").isdisjoint({"torch", "diffusers"})


def test_operators_load_neither_hydra_nor_diffusers():
    assert loaded("import plugip.operators").isdisjoint({"hydra", "omegaconf", "diffusers"})


# The checkers themselves: each planted fault is found, and its legal twin is not.


@pytest.mark.parametrize(
    ("module", "bad", "good"),
    [
        ("plugip.noise", "from plugip.method import Info", "from plugip.rng import Rng"),
        ("plugip.noise", "def f():\n    import plugip.cli", "def f():\n    import plugip.rng"),
        ("plugip.prior", "from plugip import Problem", "from plugip.path import Path"),
        ("plugip.prior", "from .reverse import ddim_step", "from .path import Path"),
        ("plugip.priors.flow", "from ..method import Info", "from ..prior import Prior"),
        ("plugip.problem", "import plugip.operators", "import plugip.operator"),
        ("plugip.methods.dps", "import plugip.methods.dmplug", "import plugip.reverse"),
        ("plugip.operators.blur", "import plugip.prior", "import plugip.operators.mask"),
        ("plugip.operators.blur", "import operators.mask", "import operator"),
        ("plugip.experiment", "import hydra.utils", "import accelerate"),
        ("plugip.prior", "from diffusers import UNet2DModel", "from torch import nn"),
        ("plugip.image_io", "import kornia", "import cv2"),
        ("plugip.record", "import piq, lpips", "import json"),
    ],
)
def test_import_checker(module, bad, good):
    assert import_faults(module, ast.parse(bad))
    assert import_faults(module, ast.parse(good)) == []


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ("try:\n    f()\nexcept:\n    pass", "try:\n    f()\nexcept OSError:\n    pass"),
        ("def f(**options): ...", "def _f(**options): ..."),
        (
            "class A:\n    def __init__(self, **kwargs): ...",
            "class A:\n    def _f(self, **kwargs): ...",
        ),
    ],
)
def test_code_checker(bad, good):
    assert code_faults("plugip.x", ast.parse(bad))
    assert code_faults("plugip.x", ast.parse(good)) == []


def test_target_checker():
    assert target_faults("_target_: operators.Denoise\nprior: {_target_: torch.load}") == [
        "operators.Denoise",
        "torch.load",
    ]
    assert target_faults("operator:\n  _target_: plugip.operators.Denoise") == []


def test_circle_checker():
    assert set(cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_load_checker():
    assert "json" in loaded("import json")
