"""Changes one thing at a time in the engine and the stopping rules; a test should see it.

Run: ``python benchmarks/mutants.py``, on Linux; it takes hours. ``python benchmarks/mutants.py
plugip/stopping/variance.py`` looks at one file. A mutant that no test notices is named with its
line: either a test is missing, or the change makes no difference. Each mutant is tested in a fork
of this process, which has imported everything but plugip itself.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).resolve().parents[1]
_ENGINE = "tests/engine/test_"
_RULES = (f"{_ENGINE}solver_rules.py",)
# The files that are changed, and the tests that look at them.
TESTS = {
    "plugip/stopping/by_noise.py": ("tests/test_stopping.py",),
    "plugip/stopping/residual.py": ("tests/test_stopping.py",),
    "plugip/stopping/stopped.py": ("tests/test_stopping.py",),
    "plugip/stopping/variance.py": ("tests/test_stopping.py",),
    "plugip/engine/adam.py": (f"{_ENGINE}adam.py", f"{_ENGINE}schedule.py", *_RULES),
    "plugip/engine/nesterov.py": (f"{_ENGINE}nesterov.py", *_RULES),
    "plugip/engine/lbfgs.py": (*_RULES, f"{_ENGINE}lbfgs.py", f"{_ENGINE}endings.py"),
    "plugip/engine/line_search.py": (*_RULES, f"{_ENGINE}lbfgs.py", f"{_ENGINE}endings.py"),
    "plugip/engine/augmented_lagrangian.py": (*_RULES, "tests/methods/test_constrained.py"),
    "plugip/engine/penalties.py": (f"{_ENGINE}penalties.py", f"{_ENGINE}objective.py"),
    "plugip/engine/schedule.py": (f"{_ENGINE}schedule.py",),
    "plugip/engine/misfit.py": (f"{_ENGINE}objective.py", f"{_ENGINE}scene.py"),
    "plugip/engine/objective.py": (f"{_ENGINE}objective.py", f"{_ENGINE}shared.py"),
}
_OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.Mult,), ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
}  # fmt: skip
_NAMES = {
    "min": "max", "amin": "amax", "minimum": "maximum", "clamp_min": "clamp_max", "any": "all",
    "sum": "mean", "zeros_like": "ones_like", "argmin": "argmax",
}  # fmt: skip
_NAMES |= {new: old for old, new in _NAMES.items()}
_REMOVED = ("clamp", "clamp_min", "clamp_max", "abs", "sqrt", "square", "detach", "double")


# Plugins of pytest are imported here once, and too late to be rewritten.
_PYTEST = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
WORDS = ("killed", "timed out", "survived")


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        line: Where it is.
        old, new: The expression before and after.
        tree: The whole file with it.
    """

    line: int
    old: str
    new: str
    tree: ast.Module


@dataclass(frozen=True)
class Verdict:
    """What the tests say of a mutant, one of ``WORDS``, and how long they took."""

    word: str
    seconds: float


def mutants(source: str) -> Iterator[Mutant]:
    """Yields each single change of a file; what only words errors or types is left alone."""
    tree = ast.parse(source)
    nodes = list(_changeable(tree))
    for index, node in enumerate(nodes):
        for new in _variants(node):
            changed = copy.deepcopy(tree)
            place = list(_changeable(changed))[index]
            place.__class__, place.__dict__ = new.__class__, new.__dict__
            yield Mutant(
                getattr(node, "lineno", 0),
                ast.unparse(node),
                ast.unparse(new),
                ast.fix_missing_locations(changed),
            )


def _changeable(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.Raise, ast.JoinedStr)):
                continue
            if isinstance(child, (ast.expr, ast.AugAssign)):
                yield child
            yield from _changeable(child)


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[operator]):
            for new in _OPERATORS.get(type(operator), ()):
                yield _with(node, ops=[new()])
        case ast.BinOp(op=operator) | ast.BoolOp(op=operator) | ast.AugAssign(op=operator):
            for new in _OPERATORS.get(type(operator), ()):
                yield _with(node, op=new())
        case ast.UnaryOp(operand=operand):
            yield copy.deepcopy(operand)
        case ast.Constant(value=bool() as value):
            yield _with(node, value=not value)
        case ast.Constant(value=int() | float() as value):
            yield _with(node, value=value + 1 if isinstance(value, int) else 2 * value or 1.0)
        case ast.IfExp(body=body, orelse=orelse):
            yield _with(node, body=orelse, orelse=body)
        case ast.Call():
            yield from _calls(node)


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    function = node.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    if name == "where" and len(node.args) == 3:
        yield _with(node, args=[node.args[0], node.args[2], node.args[1]])
    if name in _NAMES:
        field = "attr" if isinstance(function, ast.Attribute) else "id"
        yield _with(node, func=_with(function, **{field: _NAMES[name]}))
    if name in _REMOVED and isinstance(function, ast.Attribute):
        yield copy.deepcopy(function.value)


def _with(node: ast.AST, **values: object) -> ast.AST:
    new = copy.deepcopy(node)
    for name, value in values.items():
        setattr(new, name, copy.deepcopy(value))
    return new


class Court:
    """Tests mutants of one file.

    Args:
        file: The file.
        tests: Test files and folders.
    """

    def __init__(self, file: Path, tests: tuple[str, ...]) -> None:
        self.file, self.tests, self.limit = file, tests, 600.0
        self._import_what_the_tests_import()
        innocent = self.judge(ast.parse(file.read_text("utf-8")))
        if innocent.word != "survived":
            raise RuntimeError(f"the tests of {file} fail without any change")
        self.seconds = innocent.seconds
        self.limit = 10 + 5 * innocent.seconds

    def judge(self, tree: ast.Module) -> Verdict:
        """Runs the tests against a changed file."""
        began, pid = time.monotonic(), os.fork()
        if not pid:
            _child(lambda: self._test(tree))
        return Verdict(self._wait(pid, began), time.monotonic() - began)

    def _wait(self, pid: int, began: float) -> str:
        while time.monotonic() < began + self.limit:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return "killed" if os.waitstatus_to_exitcode(status) else "survived"
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return "timed out"

    def _test(self, tree: ast.Module) -> int:
        import pytest

        code, original = compile(tree, str(self.file), "exec"), SourceFileLoader.get_code

        def get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
            same = Path(loader.path).resolve() == self.file
            return code if same else original(loader, name)

        SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
        return int(pytest.main([*_PYTEST, "-x", *self.tests]))

    def _import_what_the_tests_import(self) -> None:
        """Imports what a child of this process needs for the tests, but for plugip."""
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            _child(lambda: self._collect(write))
        os.close(write)
        with os.fdopen(read) as names:
            wanted = names.read().split()
        os.waitpid(pid, 0)
        for name in wanted:
            with contextlib.suppress(Exception):  # a module that only exists within its parent
                importlib.import_module(name)

    def _collect(self, pipe: int) -> int:
        import pytest

        before = set(sys.modules)
        code = pytest.main([*_PYTEST, *self.tests])
        new = [n for n in sys.modules if n not in before and _outside(n)]
        with os.fdopen(pipe, "w") as names:
            names.write("\n".join(new))
        return int(code)


def _child(work: Callable[[], int]) -> None:
    """Does the work of a fork, without a word, and ends it."""
    code = 1
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        code = work()
    finally:
        os._exit(code)


def _outside(name: str) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    return bool(file) and not Path(str(file)).resolve().is_relative_to(ROOT)


def main() -> None:
    """Prints a line for each survivor, and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=list(TESTS), help="all by default")
    parser.add_argument("--every", type=int, default=1, help="test only each n-th mutant")
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    lines = [_try_file(name, args.every) for name in args.files]
    head = (
        "| file | mutants | killed | timed out | survived | seconds |\n|---|---|---|---|---|---|"
    )
    print("\n".join(["", head, *lines]))


def _try_file(name: str, every: int) -> str:
    """Tests the mutants of a file, and returns its line of the table."""
    file, began, counts = ROOT / name, time.monotonic(), Counter[str]()
    court = Court(file, TESTS[name])
    found = list(mutants(file.read_text("utf-8")))[::every]
    print(f"{name}: {len(found)} mutants, {court.seconds:.1f} s for the tests", flush=True)
    for mutant in found:
        verdict = court.judge(mutant.tree)
        counts[verdict.word] += 1
        if verdict.word != "killed":
            print(f"{verdict.word} {name}:{mutant.line} {mutant.old} -> {mutant.new}", flush=True)
    numbers = " | ".join(str(counts[word]) for word in WORDS)
    return f"| {name} | {len(found)} | {numbers} | {time.monotonic() - began:.0f} |"


if __name__ == "__main__":
    main()
