"""Things of a wrong kind are refused at the door, in one sentence that says what to do."""

# Types are wrong on purpose here.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportCallIssue=false

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from plugip.building import build
from plugip.composition import stack
from plugip.data import ImageFolder, demo_image, load_image, to_uint
from plugip.experiment import Experiment
from plugip.folding import on_frames, per_channel
from plugip.loop import solve
from plugip.methods import DPS, DMPlug, MultiStart
from plugip.metrics import LPIPS, PSNR, SSIM, psnr, to_unit
from plugip.noise import GaussianNoise
from plugip.operators import Decimate
from plugip.priors import GaussianPrior
from plugip.problem import Problem, measure
from plugip.record import Record
from plugip.stopping import Discrepancy, Stopped

A, N, P, M = Decimate(2), GaussianNoise(0.1), GaussianPrior(torch.zeros(3, 8, 8), 0.5), DPS(2)
X, NET, PICTURE = torch.zeros(1, 3, 8, 8), nn.Conv2d(3, 3, 3), Image.new("RGB", (4, 4))
Y, FILE, CONFIG = A(X), Path("photo.png"), {"_target_": "plugip.methods.DPS"}
GOOD = Problem(Y, A, N, P)


def experiment(**parts):
    record = Record(Path("nowhere"), {})
    known = dict(data=ImageFolder(demo_image()), operator=A, noise=N, prior=P, method=M)
    return Experiment(**{**known, "metrics": [PSNR()], "record": record, **parts})


CASES = {
    "network as prior": (lambda: Problem(Y, A, N, NET), "prior .* Conv2d; wrap a network"),
    "class as prior": (lambda: Problem(Y, A, N, GaussianPrior), r"the class GaussianPrior; call"),
    "config as prior": (lambda: Problem(Y, A, N, CONFIG), "prior .* dict; build it"),
    "no prior": (lambda: Problem(Y, A, N, None), "prior .* NoneType"),
    "level as noise": (lambda: Problem(Y, A, 0.1, P), r"noise .* float 0.1; .*GaussianNoise\("),
    "class as noise": (lambda: Problem(Y, A, GaussianNoise, P), "the class GaussianNoise"),
    "function as operator": (lambda: Problem(Y, lambda x: x, N, P), "operator .* function; sub"),
    "network as operator": (lambda: Problem(Y, nn.AvgPool2d(2), N, P), "operator .* AvgPool2d"),
    "class as operator": (lambda: Problem(Y, Decimate, N, P), "the class Decimate; call"),
    "swapped": (lambda: Problem(A, Y, N, P), "operator .* Tensor"),
    "array as y": (lambda: Problem(Y.numpy(), A, N, P), "y .* ndarray; use torch.from_numpy"),
    "picture as y": (lambda: Problem(PICTURE, A, N, P), "y .* Image; .*load_image"),
    "file as y": (lambda: Problem(FILE, A, N, P), "y .*Path; read the file"),
    "list as y": (lambda: Problem([Y], A, N, P), "y .* list; .*torch.stack"),
    "function measures": (lambda: measure(lambda x: x, X, N), "operator .* function"),
    "array measured": (lambda: measure(A, X.numpy(), N), "images .* ndarray"),
    "file measured": (lambda: measure(A, FILE, N), "images .*Path"),
    "picture measured": (lambda: measure(A, PICTURE, N), "images .* Image; .*load_image"),
    "level measured": (lambda: measure(A, X, 0.1), "noise .* float 0.1"),
    "generator as rng": (lambda: measure(A, X, N, torch.Generator()), "rng .* Generator"),
    "fraction as rng": (lambda: measure(A, X, N, 1.5), "rng .* integer .* 1.5"),
    "text as ids": (lambda: measure(A, X, N, 0, "a"), r"ids .* 'a'"),
    "numbers as ids": (lambda: measure(A, X, N, 0, [3]), r"ids .* \[3\]"),
    "class as method": (lambda: solve(GOOD, DPS), r"the class DPS; call it, DPS\("),
    "name as method": (lambda: solve(GOOD, "dps"), "method .* str 'dps'"),
    "config as method": (lambda: solve(GOOD, CONFIG), "method .* dict; build it"),
    "y solved": (lambda: solve(Y, M), r"problem .* Tensor; .*Problem\(y"),
    "class solved": (lambda: solve(Problem, M), "the class Problem"),
    "solve swapped": (lambda: solve(M, GOOD), "problem .* DPS"),
    "fraction of rows": (lambda: solve(GOOD, M, rows=1.5), "rows .* float 1.5"),
    "number observes": (lambda: solve(GOOD, M, observer=3), "observer .* int 3"),
    "rule for rng": (lambda: solve(GOOD, M, Discrepancy()), "rng .* Discrepancy"),
    "number behind @": (lambda: A @ 3, "behind @ .* int 3"),
    "function behind @": (lambda: A @ (lambda x: x), "behind @ .* function"),
    "class behind @": (lambda: A @ Decimate, "behind @ .* the class Decimate"),
    "network before @": (lambda: NET @ A, "before @ .* Conv2d"),
    "images behind @": (lambda: A @ X, "behind @ .* Tensor"),
    "number in a stack": (lambda: stack(A, 3), "part of a stack .* int 3"),
    "list as a stack": (lambda: stack([A, A]), "part of a stack .* list"),
    "class in a stack": (lambda: stack(A, Decimate), "the class Decimate"),
    "number on frames": (lambda: on_frames(3), "on_frames .* int 3"),
    "class per channel": (lambda: per_channel(Decimate), "the class Decimate"),
    "class built": (lambda: build(Decimate), "build takes a config.* the class Decimate"),
    "name built": (lambda: build("plugip.operators.Decimate"), "build takes a config.* str"),
    "class stopped": (lambda: Stopped(DPS, Discrepancy()), "the class DPS"),
    "class as rule": (lambda: Stopped(M, Discrepancy), "the class Discrepancy"),
    "number as rule": (lambda: Stopped(M, 3), "rule .* int 3"),
    "class started": (lambda: MultiStart(DMPlug), "the class DMPlug"),
    "number as folder": (lambda: ImageFolder(3), "path .* int 3"),
    "tensor as folder": (lambda: ImageFolder(X), "path .* Tensor; images in memory"),
    "tensors as files": (lambda: ImageFolder([X]), "path .* Tensor; images in memory"),
    "no folder": (lambda: ImageFolder(None), "path .* NoneType"),
    "picture loaded": (lambda: load_image(PICTURE), "path .* Image"),
    "array loaded": (lambda: load_image(np.zeros((3, 3))), "path .* ndarray"),
    "array scored": (lambda: psnr(X.numpy(), X), "x_hat .* ndarray"),
    "nothing scored": (lambda: PSNR()(X, None), "x must be .* NoneType"),
    "file scored": (lambda: SSIM()(X, "a.png"), "x must be .* str 'a.png'"),
    "array compared": (lambda: LPIPS()(X.numpy(), X), "x_hat .* ndarray"),
    "array to unit": (lambda: to_unit(X.numpy()), "to_unit .* ndarray"),
    "array to file": (lambda: to_uint(X.numpy()), "to_uint .* ndarray"),
    "run: data": (lambda: experiment(data="a.png"), r"data .* str 'a.png'; .*ImageFolder\("),
    "run: operator": (lambda: experiment(operator=Decimate), "the class Decimate"),
    "run: noise": (lambda: experiment(noise=0.1), "noise .* float 0.1"),
    "run: prior": (lambda: experiment(prior=NET), "prior .* Conv2d"),
    "run: method": (lambda: experiment(method=DPS), "the class DPS"),
    "run: metrics": (lambda: experiment(metrics=PSNR()), r"metrics .* PSNR; .*\[PSNR"),
    "run: metric": (lambda: experiment(metrics=[psnr]), "a metric .* function"),
    "run: record": (lambda: experiment(record="runs"), "record .* str 'runs'"),
    "run: rng_seed": (lambda: experiment(rng_seed=1.5), "rng_seed .* 1.5"),
    "run: align": (lambda: experiment(align=3), "align .* int 3"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_kind_is_refused_in_one_sentence(name: str):
    attempt, words = CASES[name]
    with pytest.raises(TypeError, match=words) as refusal:
        attempt()
    assert "\n" not in str(refusal.value)
    assert type(refusal.value) is TypeError


def test_right_kinds_pass():
    assert GOOD.batch == 1
    assert experiment(rng_seed=np.int64(3), metrics=(PSNR(), SSIM())).title == "plugip"
    assert (A @ Decimate(2))(X).shape == (1, 3, 2, 2)
    assert ImageFolder([str(FILE), FILE]).path and ImageFolder(FILE).path
    assert solve(GOOD, M, np.int64(0), ids=("a",)).x_hat.shape == X.shape
