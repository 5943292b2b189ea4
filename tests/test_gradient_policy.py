"""Where a gradient is cut below a method, and that float64 is not asked of devices without it."""

import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from toys import normal

import plugip.linalg
import plugip.operators as ops
from plugip.linalg import wide, widened
from plugip.method import Info
from plugip.noise import GaussianNoise, ImpulseNoise, PoissonNoise, RicianNoise, residual_moments
from plugip.operators import Denoise
from plugip.path import DiscretePath
from plugip.priors import GaussianPrior
from plugip.problem import Problem
from plugip.stopping import ESEMV, ESWMV, Discrepancy

ROOT = Path(__file__).resolve().parents[1]
BELOW = ("operators", "plugip/noise", "plugip/priors")
FILES = ("prior", "reverse", "path", "operator", "composition", "folding", "spectral", "linalg")

# What is cut there is no function of x: no answer loses a gradient.
STATED = "the rule of the gradient is stated: straight through, or finite where a power has none"
CONSTANT = "a constant of the draw, of the geometry or of the weights"
CHECK = "a check, which gives no value"
ASIDE = "made once, when the prior is loaded, written or probed"
ALLOWED = {
    "operators/camera_blur.py:signed_power": STATED,
    "operators/pointwise.py:straight_through": STATED,
    "plugip/path.py:straight_through": STATED,
    "plugip/priors/runtime.py:enlarge": "powers of two that keep gradients of 16 bits in range",
    "operators/bkse.py:_fill": CONSTANT,
    "operators/ct.py:_norm": CONSTANT,
    "operators/dense_field.py:of": CONSTANT,
    "operators/frame_average.py:margins": CONSTANT,
    "plugip/operator.py:measurement_shape": "a pass over zeros for its shape",
    "plugip/linalg.py:conjugate_gradient": CHECK,
    "plugip/linalg.py:products_for": "a count of iterations",
    "plugip/noise/checks.py:_require_light": CHECK,
    "plugip/priors/autoencoder.py:_measure": ASIDE,
    "plugip/priors/generator.py:uncounted": ASIDE,
    "plugip/priors/low_rank_file.py:low_rank_bytes": ASIDE,
    "plugip/priors/probe.py:probe": ASIDE,
    "plugip/priors/text.py:_penultimate": ASIDE,
    "plugip/priors/text.py:_t5": ASIDE,
    "plugip/priors/text.py:clip_texts": ASIDE,
    "plugip/priors/text.py:flux_texts": ASIDE,
}


def cuts() -> set[str]:
    """All functions that call no_grad or detach, or carry no_grad, as file:function."""
    files = [f for folder in BELOW for f in sorted((ROOT / folder).rglob("*.py"))]
    files += [ROOT / "plugip" / f"{name}.py" for name in FILES]
    found = set()
    for file in files:
        tree = ast.parse(file.read_text("utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and any(map(_cuts, own(function))):
                found.add(f"{file.relative_to(ROOT).as_posix()}:{function.name}")
    return found


def own(function: ast.FunctionDef) -> list[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    nodes, todo = [], list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        if not isinstance(node, ast.FunctionDef):
            nodes.append(node)
            todo += ast.iter_child_nodes(node)
    return nodes


def _cuts(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute) and node.attr in ("no_grad", "detach", "detach_"):
        return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        on = [ast.unparse(a) for a in node.args] != ["False"]
        return on and node.func.attr in ("inference_mode", "set_grad_enabled")
    return False


def test_gradients_are_cut_below_a_method_only_where_it_is_written_down():
    assert cuts() == set(ALLOWED)


# -----------------------------------------------------------------------------------------------
# devices without float64, such as Apple's GPUs


class NoFloat64(TorchDispatchMode):
    """Refuses to make float64 of arrays that are not; masters made of plain numbers may be."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        arrays = any(isinstance(a, Tensor) and a.ndim and not is_wide(a) for a in args)
        assert not (arrays and is_wide(out)), f"{function} gives float64"
        return out


def is_wide(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.dtype == torch.float64


X = normal(2, 3, 8, 8).float().clamp(-0.9, 0.9)
PROBLEM = Problem(X, Denoise(), GaussianNoise(0.1), GaussianPrior(torch.zeros(3, 8, 8), 0.5))
MOVED = ops.ProjectiveBlur(torch.tensor([[[1, 0.1, 0.5], [-0.1, 1, 0.25], [0, 0, 1]]]))


def judged(rule):
    state, verdict = rule.init(PROBLEM), None
    for _ in range(3):
        info = Info(X, X[:, 0, 0, 0], X[:, 0, 0, 0] > 2, PROBLEM.residual(0 * X))
        state, verdict = rule.update(PROBLEM, state, info)
    assert verdict is not None
    return verdict.pick


def table_of(t: torch.Tensor) -> list[torch.Tensor]:
    path = DiscretePath.linear()
    return [path.alpha(t), path.sigma(t), path.index(t) / 1000, path.time_of(path.flow_time(t))]


WORK = {
    "discrepancy": lambda: judged(Discrepancy()),
    "discrepancy with tau": lambda: judged(Discrepancy(1.1)),
    "windowed variance": lambda: judged(ESWMV(window=2)),
    "moving variance": lambda: judged(ESEMV()),
    "Poisson noise": lambda: residual_moments(PoissonNoise(100), X, None),
    "impulse noise": lambda: residual_moments(ImpulseNoise(0.1), X, None),
    "moved frames": lambda: MOVED(X),
    "computed tomography": lambda: ops.ParallelBeamCT(5)(X),
    "l1 ball": lambda: plugip.linalg.project_l1(X.flatten(1), 1.0),
}


@pytest.mark.parametrize("name", WORK)
def test_no_float64_is_asked_of_a_device_without_it(monkeypatch, name: str):
    with_it = WORK[name]()
    monkeypatch.setattr(plugip.linalg, "has_float64", lambda device: False)
    with NoFloat64():
        without = WORK[name]()
    pairs = zip(with_it, without, strict=True)
    assert all(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5) for a, b in pairs)


def test_a_table_is_read_on_the_cpu_for_a_device_without_float64(monkeypatch):
    t = torch.tensor([0.0, 0.3, 0.7003, 1.0])
    wanted = table_of(t)
    monkeypatch.setattr(plugip.linalg, "has_float64", lambda device: False)
    for found, want in zip(table_of(t), wanted, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, want.float())


def test_masters_are_made_on_the_cpu_where_a_device_has_no_float64(monkeypatch):
    assert wide(X) == widened(X).dtype == torch.float64
    monkeypatch.setattr(plugip.linalg, "has_float64", lambda device: False)
    assert wide(X) == torch.float32
    assert widened(X).dtype == torch.float64 and widened(X).device.type == "cpu"
    moments = residual_moments(RicianNoise(0.1), X, None)  # differences of large powers
    assert moments is not None and moments.variance.dtype == torch.float32
