"""Every public sampler draws for each image what it would draw for it alone."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import plugip.operators as ops
from plugip.operator import Operator
from plugip.rng import Rng
from plugip.testing.report import keeps_global_stream

few = settings(max_examples=12)
Check = Callable[[Tensor, int, int], None]


def kernels(drawn: Tensor, h: int, w: int) -> None:
    assert drawn.ndim == 3 and drawn.dtype == torch.float64
    torch.testing.assert_close(drawn.sum((-2, -1)), torch.ones(len(drawn)).double())


def masks(drawn: Tensor, h: int, w: int) -> None:
    assert drawn.shape[1:] == (1, h, w)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0} and bool(drawn.flatten(1).any(1).all())


def rows(drawn: Tensor, h: int, w: int) -> None:
    assert drawn.dtype == torch.int64 and drawn.shape[1] == h * w // 2
    assert 0 <= int(drawn.min()) and int(drawn.max()) < h * w
    assert all(len(row.unique()) == len(row) for row in drawn)


def signs(drawn: Tensor, h: int, w: int) -> None:
    assert drawn.shape[1:] == (h * w,) and bool((drawn.abs() == 1).all())


def matrices(drawn: Tensor, h: int, w: int) -> None:
    assert drawn.shape[1:] == (h * w // 2, h * w)


def orthonormal(drawn: Tensor, h: int, w: int) -> None:
    matrices(drawn, h, w)
    eye = torch.eye(h * w // 2).double().expand(len(drawn), -1, -1)
    torch.testing.assert_close(drawn @ drawn.mT, eye)


def finite(drawn: Tensor, h: int, w: int) -> None:
    assert bool(drawn.isfinite().all())


@dataclass(frozen=True)
class Sampled:
    """A sampler, how it is asked for h x w images, what its draws are, and for whom.

    Attributes:
        sampler: The sampler.
        check: Looks at a draw.
        ask: Arguments of ``draw`` after the stream.
        each: Whether each image has its own draw; else one draw serves all.
        random: Whether draws depend on the seed.
    """

    sampler: Any
    check: Check
    ask: Callable[[int, int, int], tuple] = lambda b, h, w: ((b, 3, h, w),)
    each: bool = True
    random: bool = True

    def draw(self, rng: Rng, h: int, w: int) -> Tensor:
        """Draws for images of h x w pixels."""
        return self.sampler.draw(rng, *self.ask(len(rng), h, w))


def pixels(b: int, h: int, w: int) -> tuple:
    return (h * w,)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> dict[str, list[Sampled]]:
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "kernel.npy", np.arange(1.0, 13.0).reshape(3, 4))
    np.save(folder / "mask.npy", np.arange(12).reshape(3, 4) % 3 > 0)
    kernel, mask = str(folder / "kernel.npy"), str(folder / "mask.npy")
    return {
        "BernoulliMask": [Sampled(ops.BernoulliMask(0.5), masks)],
        "BicubicKernel": [Sampled(ops.BicubicKernel(2), kernels, random=False)],
        "BoxMask": [Sampled(ops.BoxMask(3, 1), masks), Sampled(ops.BoxMask(), masks)],
        "BrushMask": [Sampled(ops.BrushMask((0.1, 0.6), width=(0.1, 0.2)), masks)],
        "CameraRotations": [Sampled(ops.CameraRotations(4, 7), finite)],
        "DefocusKernel": [Sampled(ops.DefocusKernel(2.0), kernels, random=False)],
        "EquispacedLines": [
            Sampled(ops.EquispacedLines(2, 0.1), masks),
            Sampled(ops.EquispacedLines(3, 0.1, False), masks),
        ],
        "ExactLines": [Sampled(ops.ExactLines(2, 0.1), masks)],
        "ExtremeMask": [Sampled(ops.ExtremeMask(3, 1), masks)],
        "FileKernel": [Sampled(ops.FileKernel(kernel), kernels, random=False)],
        "FileMask": [
            Sampled(ops.FileMask(mask, "white", "nearest"), masks, random=False),
            Sampled(ops.FileMask(mask, "black", "nearest"), masks, random=False),
        ],
        "GaussianKernel": [Sampled(ops.GaussianKernel(1.0, 5), kernels, random=False)],
        "GaussianMatrix": [
            Sampled(ops.GaussianMatrix(0.5), matrices, pixels, False),
            Sampled(ops.GaussianMatrix(0.5, False), matrices, pixels),
        ],
        "GaussianPoints": [Sampled(ops.GaussianPoints(2, 0.2), masks)],
        "GaussianProjections": [
            Sampled(ops.GaussianProjections(0.5), finite, each=False),
            Sampled(ops.GaussianProjections(0.5, False), finite, each=False),
        ],
        "LatentSampler": [
            Sampled(ops.LatentSampler(), finite, lambda b, h, w: ((b, 3, 128 * h, 128 * w), 2))
        ],
        "MotionKernel": [
            Sampled(ops.MotionKernel(7), kernels),
            Sampled(ops.MotionKernel(12, 0.9), kernels),
        ],
        "OctanaryCodes": [Sampled(ops.OctanaryCodes(2), finite)],
        "OrthonormalRows": [
            Sampled(ops.OrthonormalRows(0.5), orthonormal, pixels, False),
            Sampled(ops.OrthonormalRows(0.5, False), orthonormal, pixels),
        ],
        "PathShifts": [Sampled(ops.PathShifts(4, 7), finite)],
        "PupilAberrations": [
            Sampled(ops.PupilAberrations(), finite, lambda b, h, w: (h + 2, w / 2))
        ],
        "RandomBoxMask": [Sampled(ops.RandomBoxMask((2, 4), 1), masks)],
        "RandomLines": [Sampled(ops.RandomLines(2, 0.1), masks)],
        "RandomMask": [Sampled(ops.RandomMask(0.7), masks)],
        "RandomRows": [
            Sampled(ops.RandomRows(0.5), rows, pixels, False),
            Sampled(ops.RandomRows(0.5, False), rows, pixels),
        ],
        "RandomSigns": [
            Sampled(ops.RandomSigns(), signs, pixels, False),
            Sampled(ops.RandomSigns(False), signs, pixels),
        ],
        "TiltSampler": [Sampled(ops.TiltSampler(9, 2), finite)],
        "UniformKernel": [Sampled(ops.UniformKernel((3, 2)), kernels, random=False)],
        "UniformPhaseCodes": [Sampled(ops.UniformPhaseCodes(2), finite)],
    }


def exported_samplers() -> set[str]:
    named = {n: getattr(ops, n) for n in ops.__all__}
    drawing = {n: c for n, c in named.items() if inspect.isclass(c) and hasattr(c, "draw")}
    return {
        n
        for n, c in drawing.items()
        if not (
            issubclass(c, Operator) or getattr(c, "_is_protocol", False) or inspect.isabstract(c)
        )
    }


NAMES = sorted(exported_samplers())


def test_the_table_lists_every_exported_sampler(table):
    assert sorted(table) == NAMES


@pytest.mark.parametrize("name", NAMES)
@few
@given(
    h=st.integers(6, 16),
    w=st.integers(12, 20),
    seed=st.integers(0, 2**31),
    ids=st.lists(st.text("abc01", min_size=1), min_size=1, max_size=3, unique=True),
)
def test_an_image_has_its_draw_in_any_batch(table, name, h, w, seed, ids):
    for case in table[name]:
        drawn = case.draw(Rng(seed, "draw", ids), h, w)
        case.check(drawn, h, w)
        assert torch.equal(case.draw(Rng(seed, "draw", ids), h, w), drawn)
        backwards = case.draw(Rng(seed, "draw", ids[::-1]), h, w)
        alone = case.draw(Rng(seed, "draw", ids[-1:]), h, w)
        if case.each:
            assert len(drawn) == len(ids)
            assert torch.equal(backwards.flip(0), drawn) and torch.equal(alone[0], drawn[-1])
        else:
            assert torch.equal(backwards, drawn) and torch.equal(alone, drawn)


@pytest.mark.parametrize("name", NAMES)
def test_draws_depend_on_seed_purpose_and_image_only(table, name):
    for case in table[name]:
        ok, detail = keeps_global_stream(lambda case=case: case.draw(Rng(0, "d", "ab"), 12, 16))
        assert ok, detail
        torch.manual_seed(7)
        first = case.draw(Rng(0, "d", "ab"), 12, 16)
        torch.manual_seed(8)
        assert torch.equal(case.draw(Rng(0, "d", "ab"), 12, 16), first)
        # Several, for some masks have few forms.
        seeds = [case.draw(Rng(seed, "d", "ab"), 12, 16) for seed in range(1, 9)]
        purposes = [case.draw(Rng(0, purpose, "ab"), 12, 16) for purpose in "efghijkl"]
        for others in (seeds, purposes):
            assert any(not torch.equal(other, first) for other in others) == case.random
        if case.each:
            assert any(not torch.equal(other[0], other[1]) for other in seeds) == case.random
