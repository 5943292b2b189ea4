"""check_operator: each of its checks finds a planted fault, and only that one."""

import copy
import random

import pytest
import torch
from torch import Tensor
from toys import normal

from plugip.operator import BlindOperator, LinearOperator, Operator, SpectralOperator
from plugip.rng import Rng
from plugip.spectral import DiagonalSpectrum
from plugip.testing import check_operator
from plugip.testing.moves import bare_tensors

SHAPE = (3, 2, 6, 5)


def failures(operator: Operator, dtype: torch.dtype = torch.float64) -> set[str]:
    report = check_operator(operator, SHAPE, dtype)
    return {check.name for check in report.checks if not check.ok}


class Weigh(LinearOperator):
    """Sound: y = w x, with one row of weights."""

    w: Tensor

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("w", 1 + torch.arange(5.0) / 5, persistent)

    def forward(self, x: Tensor) -> Tensor:
        return self.w.to(x) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.w.to(y) * y


class Drawn(Weigh):
    """Sound: one weight per image, drawn for it."""

    per_image = ("w",)

    def realise(self, rng: Rng, x_shape: tuple[int, ...]) -> Operator:
        made = copy.copy(self)
        made._buffers = {"w": 1 + rng.uniform((1, 1, 1))}
        return made


class Forgotten(Drawn):
    """Does not save what was drawn."""

    def __init__(self) -> None:
        super().__init__(persistent=False)


class SharedDraw(Drawn):
    """Draws all weights from the stream of the first image."""

    def realise(self, rng: Rng, x_shape: tuple[int, ...]) -> Operator:
        made = copy.copy(self)
        one = rng.select([0])
        made._buffers = {"w": torch.cat([1 + one.uniform((1, 1, 1)) for _ in range(len(rng))])}
        return made


class Forgetful(Weigh):
    """Keeps its weights where .to() does not see them."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [{"weights": self.w.clone()}]

    def forward(self, x: Tensor) -> Tensor:
        return self.parts[0]["weights"].to(x) * x


class LeftBehind(Weigh):
    """Makes its weights on the CPU at each call."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("w,bchw->bchw", torch.arange(5, dtype=x.dtype), x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)


class LeftInAdjoint(Weigh):
    """Makes its weights on the CPU in the adjoint only."""

    def adjoint(self, y: Tensor) -> Tensor:
        return (1 + torch.arange(5) / 5).to(y.dtype) * y


class ComesHome(Weigh):
    """Answers on the CPU, wherever the images are."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape, dtype=x.dtype) if x.is_meta else super().forward(x)


class Widens(Weigh):
    """Answers in float64, whatever it is asked in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class Halves(Weigh):
    """Computes float32 images in sixteen bits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.dtype == torch.float64 else x.half().to(x.dtype))


class Stale(Weigh):
    """Remembers what it made of weights that may have changed since."""

    made: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.made is None or self.made.dtype != x.dtype or self.made.device != x.device:
            with torch.inference_mode(False):
                self.made = self.w.to(x, copy=True)
        return self.made * x


class HalfCopied(Weigh):
    """Copies of copies lose half of the weights."""

    generation = 0

    def __deepcopy__(self, memo: dict) -> Operator:
        made = type(self)()
        made.generation = self.generation + 1
        made.w = self.w.clone() if made.generation < 4 else self.w / 2
        return made


class HalfPickled(Weigh):
    """Loses half of its weights on disk."""

    def __reduce__(self) -> tuple:
        return _half, ()

    def __deepcopy__(self, memo: dict) -> Operator:
        made = type(self)()
        made.w = self.w.clone()
        return made


def _half() -> Weigh:
    made = Weigh().double()
    made.w = made.w / 2
    return made


class Lambda(Weigh):
    """Sound, but holds what cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = lambda x: 2 * x


class Viewing(Weigh):
    """Takes contiguous images only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(x.shape[0], -1).view(x.shape))


class PythonDice(Weigh):
    """Draws from Python's stream, though nothing comes of it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * random.random()


class AdjointDice(Weigh):
    """Draws in the adjoint."""

    def adjoint(self, y: Tensor) -> Tensor:
        return super().adjoint(y) * (1 + 1e-3 * torch.rand(()))


class EatsMeasurements(Weigh):
    """Writes into y."""

    def adjoint(self, y: Tensor) -> Tensor:
        return y.mul_(self.w.to(y))


class LeakyAdjoint(Weigh):
    """Lets other images into the adjoint of one."""

    def adjoint(self, y: Tensor) -> Tensor:
        return super().adjoint(y) + 1e-3 * y.flip(0)


class SharedDamping(Weigh):
    """Solves all images with the first one's damping."""

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        first = lam.flatten()[0] if isinstance(lam, Tensor) else lam
        return b / (self.w.to(b).square() + first)


class WrongMask(Weigh):
    """Says something about entries that y does not have."""

    @property
    def observed(self) -> Tensor | None:
        return torch.ones(1, 1, 7, 5)


class Announces(Weigh):
    """Promises another shape."""

    def measurement_shape(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*x_shape[:-1], 1)


class KeepsInference(Weigh):
    """Keeps a tensor that was made in inference mode for calls outside of it."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None or self.kept.dtype != x.dtype or self.kept.device != x.device:
            self.kept = self.w.to(x, copy=True)
        return self.kept * x


class Diagonal(SpectralOperator):
    """Sound: weights 1 and 0."""

    def spectrum(self, x_shape: tuple[int, ...]) -> DiagonalSpectrum:
        return DiagonalSpectrum((torch.arange(x_shape[-1]) % 2).double())


class HalfInverse(Diagonal):
    """Inverts by half."""

    def pinv(self, y: Tensor) -> Tensor:
        return super().pinv(y) / 2


class Turned(DiagonalSpectrum):
    """Forgets that U* belongs to U."""

    def Ut(self, y: Tensor) -> Tensor:
        return -y

    def to(self, like: Tensor) -> DiagonalSpectrum:
        return Turned(self.s.to(like.real))


class WrongBasis(Diagonal):
    """Its adjoint is right, but its spectrum is no decomposition."""

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def spectrum(self, x_shape: tuple[int, ...]) -> DiagonalSpectrum:
        return Turned(super().spectrum(x_shape).s)


@pytest.mark.parametrize("operator", [Weigh(), Weigh(False), Drawn(), Diagonal(), Lambda()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sound_operators_pass(operator: Operator, dtype: torch.dtype):
    check_operator(operator, SHAPE, dtype).require()


@pytest.mark.parametrize(
    ("operator", "faults"),
    [
        (SharedDraw(), {"one image, one draw"}),
        (Forgetful(), {"moves with .to(device)"}),
        (LeftBehind(), {"moves with .to(device)"}),
        (LeftInAdjoint(), {"moves with .to(device)"}),
        (HalfCopied(), {"copies and pickles"}),
        (HalfPickled(), {"copies and pickles"}),
        (Forgotten(), {"state_dict holds it"}),
        (Stale(), {"state_dict holds it"}),
        (Viewing(), {"takes any memory layout"}),
        (PythonDice(), {"no hidden randomness"}),
        (LeakyAdjoint(), {"one image, one answer", "adjoint (dot product)", "solve_normal"}),
        (SharedDamping(), {"solve_normal"}),
        (WrongMask(), {"observed fits y"}),
        (Announces(), {"announces its shape"}),
        (Halves(), {"agrees in the other precision"}),
        (KeepsInference(), {"gradient", "never detaches", "state_dict holds it"}),
        (
            HalfInverse(),
            {
                "A+ = V s^-1 U*",
                "Penrose: A A+ A = A (kept values)",
                "Penrose: A+ A A+ = A+",
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_fault_is_found_and_no_other(operator: Operator, faults: set[str]):
    assert failures(operator) == faults


@pytest.mark.parametrize(
    ("operator", "fault"),
    [
        (ComesHome(), "moves with .to(device)"),
        (Widens(), "keeps dtype"),
        (AdjointDice(), "no hidden randomness"),
        (AdjointDice(), "deterministic"),
        (EatsMeasurements(), "leaves x alone"),
        (WrongBasis(), "U keeps lengths"),
        (WrongBasis(), "A* = V s U*"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_fault_is_found_among_others(operator: Operator, fault: str):
    assert fault in failures(operator)


def test_float32_finds_what_is_lost_in_sixteen_bits():
    assert "agrees in the other precision" in failures(Halves(), torch.float32)


# --- blind operators


class Gain(BlindOperator[Tensor]):
    """Sound: one unknown gain per image."""

    learning_rate_hint = 0.1

    def init_theta(self, rng: Rng, like: Tensor) -> Tensor:
        return 0.1 * rng.normal((1, 1, 1), like=like)

    def constrain(self, theta: Tensor) -> Tensor:
        return theta.exp()

    def at(self, theta: Tensor) -> Operator:
        return Times(theta)


class Times(LinearOperator):
    """y = g x."""

    per_image = ("g",)
    g: Tensor

    def __init__(self, g: Tensor) -> None:
        super().__init__()
        self.register_buffer("g", g)

    def forward(self, x: Tensor) -> Tensor:
        return self.g.to(x) * x


class BatchGain(Gain):
    """Guesses by the mean of the batch."""

    def init_theta(self, rng: Rng, like: Tensor) -> Tensor:
        guess = super().init_theta(rng, like)
        return guess - guess.mean()


class CutGain(Gain):
    """Cuts the gradient of the unknown."""

    def constrain(self, theta: Tensor) -> Tensor:
        return theta.exp().detach() + 0 * theta


class Endless(Gain):
    """Admits what is not finite."""

    def constrain(self, theta: Tensor) -> Tensor:
        return theta / 0


class Telling(Gain):
    """Shows the truth to the method."""

    def unknown(self) -> BlindOperator[Tensor]:
        return self


def test_a_sound_blind_operator_passes():
    for dtype in (torch.float64, torch.float32):
        check_operator(Gain(), SHAPE, dtype).require()


@pytest.mark.parametrize(
    ("operator", "fault"),
    [
        (BatchGain(), "theta: one image, one guess"),
        (CutGain(), "theta: gradient"),
        (Endless(), "theta: constrained ones are admissible"),
        (Telling(truth=1), "theta: the truth is hidden"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_faulty_blind_operators_are_caught(operator: Operator, fault: str):
    assert fault in failures(operator)


# --- the tools


def test_tensors_are_found_wherever_they_hide():
    nested = Weigh()
    nested.inner = torch.nn.Module()  # type: ignore[assignment]
    nested.inner.deep = ([{"a": normal(2)}],)  # type: ignore[union-attr]
    nested.plain = normal(2)  # type: ignore[assignment]
    nested.spectrum_is_cast = DiagonalSpectrum(normal(2))  # type: ignore[assignment]
    assert sorted(bare_tensors(nested)) == ["inner.deep['a']", "plain"]


def test_bad_questions():
    with pytest.raises(ValueError, match="float32 or float64 and a shape"):
        check_operator(Weigh(), SHAPE, torch.float16)
    with pytest.raises(ValueError, match=r"two or more images, got .* \(1, 2, 6, 5\)"):
        check_operator(Weigh(), (1, *SHAPE[1:]))
