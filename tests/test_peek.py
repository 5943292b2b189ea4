"""No method can look at the truth: neither y, streams, operator nor noise lead back to it."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from test_rng import held_by
from toys import normal

from plugip.data import ImageFolder, demo_image
from plugip.experiment import Experiment
from plugip.loop import solve
from plugip.method import Info
from plugip.noise import GaussianNoise, Hidden, UnknownNoise
from plugip.operator import BlindOperator, Operator
from plugip.operators import BlindBlur, BlindExposure, BlindTurbulence, Decimate, Denoise
from plugip.operators.turbulence import TiltSampler
from plugip.priors import GaussianPrior
from plugip.problem import Problem, measure
from plugip.record import Record
from plugip.rng import Rng, open_stream

SHAPE = (3, 16, 16)
PRIOR = GaussianPrior(torch.zeros(SHAPE), 0.5)


def images():
    return normal(2, *SHAPE).float().clamp(-1, 1)


@dataclass(frozen=True)
class Curious:
    """Keeps what it is given."""

    seen: list[Any] = field(default_factory=list)
    iterations: int = 1

    def init(self, problem, rng):
        self.seen.append((problem, rng))
        return problem.y.clone()

    def step(self, problem, state):
        done = torch.ones(len(state), dtype=torch.bool)
        return state, Info(torch.zeros(len(state), *SHAPE), problem.residual(problem.y), done)

    def finish(self, problem, state):
        return torch.zeros(len(state), *SHAPE)


def test_streams_do_not_draw_the_noise_again():
    x, ids = images(), ["a.png", "b.png"]
    y, method = measure(Denoise(), x, GaussianNoise(0.5), 7, ids), Curious()
    noise = (y - x) / 0.5
    solve(Problem(y, Denoise(), GaussianNoise(0.5), PRIOR), method, 7, ids=ids, rows=2)
    (_, rng), *_ = method.seen
    for make in (lambda r: r, lambda r: r.child("measure"), lambda r: r.branch(1), Rng.shared):
        for drawn in make(rng.select([0, 1])).normal(SHAPE):
            assert float((drawn - noise).abs().amax((1, 2, 3)).min()) > 1
    for name in ("rng_seed", "ids", "purpose", "seed"):
        assert not hasattr(rng, name)
    assert not any(isinstance(v, str) and ".png" in v for v in held_by(rng))


def test_streams_that_measured_do_not_draw_the_noise_again():
    rng, x = Rng(0, "both", ["a", "b"]), images()
    noise, method = measure(Denoise(), x, GaussianNoise(0.5), rng) - x, Curious()
    problem = Problem(x + noise, Denoise(), GaussianNoise(0.5), PRIOR)
    solve(problem, method, rng, rows=2)
    known = method.seen[0][1]
    keys = [key for key in held_by(known) if isinstance(key, bytes)]
    for key in keys:
        for again in (open_stream(key), Rng._of([key], key)._streams[0]):
            drawn = 0.5 * torch.randn(SHAPE, generator=again)
            assert float((drawn - noise).abs().amax((1, 2, 3)).min()) > 0.5
    assert keys


def test_a_measurement_without_noise_is_no_view_of_the_image():
    class View(Operator):
        def forward(self, x):
            return x[..., ::4, ::4]

    class Learnt(Operator):
        """A network, whose graph keeps its inputs."""

        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.gain * x

    for operator in (View(), Learnt(), Denoise()):
        y = operator(images())
        seen = Problem(y, operator, GaussianNoise(0.1), PRIOR).y
        assert torch.equal(seen, y)
        assert seen.grad_fn is None and not seen.requires_grad and seen._base is None
        assert seen.untyped_storage().nbytes() == 4 * seen.numel()
        assert seen.data_ptr() != y.data_ptr()


class Sampler:
    """Always the same kernel: to know it is to know the truth."""

    def draw(self, rng, x_shape):
        return torch.eye(3)[None].expand(x_shape[0], -1, -1) / 3


class Mine(BlindOperator):
    """Keeps its truth as a tensor and a network in places of its own."""

    told_by = ("truth", "net", "table")
    learning_rate_hint = 0.1

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 1)
        self.register_buffer("table", torch.ones(1))
        self.register_buffer("known", torch.ones(1))

    def init_theta(self, rng, like):
        return torch.ones(len(like), 1, 1, 1)

    def constrain(self, theta):
        return theta

    def at(self, theta):
        return BlindExposure().at(theta)


@pytest.mark.parametrize(
    ("operator", "left"),
    [
        (BlindBlur(3, truth=Sampler()), []),
        (BlindTurbulence(3, tilt=TiltSampler(patches=2), truth=Sampler()), ["tilt"]),
        (BlindExposure((1.3, 1.3)), ["between"]),
        (Decimate(2) @ BlindBlur(3, truth=Sampler()), []),
        (Mine(), ["net", "table"]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_problem_forgets_what_draws_the_unknown(operator: BlindOperator, left: list[str]):
    shape = (2, *operator.measurement_shape((2, *SHAPE))[1:])
    seen = Problem(torch.zeros(shape), operator, GaussianNoise(0.1), PRIOR).operator
    assert isinstance(seen, BlindOperator)
    with pytest.raises(TypeError, match="cannot simulate a measurement"):
        seen.draw(Rng(0, "operator", ["a", "b"]), (2, *SHAPE))
    for name in left:
        assert getattr(seen, name) is None and getattr(operator, name) is not None
    assert not any(isinstance(v, Sampler) for m in seen.modules() for v in vars(m).values())


def test_a_problem_forgets_hidden_noise():
    noise = Hidden(GaussianNoise(0.3))
    seen = Problem(images(), Denoise(), noise, PRIOR).noise
    assert type(seen) is UnknownNoise and seen.std is None
    assert not hasattr(seen, "noise")


@pytest.mark.parametrize(
    ("operator", "noise"),
    [(Decimate(4), GaussianNoise(1e-12)), (Denoise(), Hidden(GaussianNoise(0.2)))],
)
def test_nothing_that_a_run_hands_over_leads_to_the_image(tmp_path, operator, noise):
    method = Curious()
    data = ImageFolder(demo_image(), size=16)
    record = Record(tmp_path / "run", {})
    Experiment(data, operator, noise, PRIOR, method, [], record, progress=False).run()
    x, ids = data.load(data.items()[0]), [demo_image().name, demo_image().stem]
    problem, rng = method.seen[0]
    operators = [vars(m) for m in problem.operator.modules()]
    held = held_by([{"y": problem.y, "noise": problem.noise}, rng, operators])
    tensors = [v for v in held if isinstance(v, torch.Tensor)]
    assert tensors and all(v.untyped_storage().nbytes() <= 4 * v.numel() for v in tensors)
    assert not any(v.shape[-3:] == x.shape and torch.equal(v.reshape(x.shape), x) for v in tensors)
    assert not any(isinstance(v, str) and any(i in v for i in ids) for v in held)
    assert not any(isinstance(v, Hidden) for v in [problem.noise, *held])
