"""Runtime options: the same answers and gradients within stated tolerances, at lower cost."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from nets import TinyGAN, TinyNet, normal
from torch import Tensor, nn

from plugip.building import build
from plugip.cli.compose import compose_config
from plugip.engine.linearize import JVPS, linearize
from plugip.engine.misfit import seed_misfit
from plugip.loop import solve
from plugip.methods import DMPlug
from plugip.noise import GaussianNoise
from plugip.operators import Denoise
from plugip.path import FlowPath, Prediction
from plugip.priors import (
    ConsistencyPrior,
    DiffusersUNet,
    EDMPrior,
    GeneratorPrior,
    Runtime,
    VelocityPrior,
)
from plugip.priors.runtime import with_scaled_gradients
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.testing import check_prior

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "conf/prior").glob("*.yaml"))
SHAPE = (3, 8, 8)
Answer = tuple[Tensor, Tensor]


def prior_with(runtime: Runtime | None = None, dropout: float = 0.0) -> DiffusersUNet:
    """A small random UNet with attention, always the same."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            dropout=dropout,
        )
    return DiffusersUNet(net, FlowPath(), Prediction.VELOCITY).equip(runtime)


def answer(
    prior: DiffusersUNet, steps: int = 3, checkpoint: bool = False, batch: int = 2
) -> Answer:
    """R(z), and the gradient of a weighted sum of it with respect to z."""
    z = normal(batch, *SHAPE, dtype=torch.float32).requires_grad_()
    x = Generator(steps, checkpoint=checkpoint)(prior, z)
    weights = normal(batch, *SHAPE, seed=1, dtype=torch.float32)
    return x.detach(), torch.autograd.grad((weights * x).sum(), z)[0]


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def kept(prior: DiffusersUNet, steps: int, checkpoint: bool = False) -> int:
    """Bytes that autograd keeps for the backward pass, weights left out."""
    weights = {w.untyped_storage().data_ptr() for w in prior.parameters()}
    held: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return t

    z = normal(1, *SHAPE, dtype=torch.float32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        x = Generator(steps, checkpoint=checkpoint)(prior, z)
        total = sum(held.values())
    assert x.requires_grad
    return total


@pytest.fixture(scope="module")
def plain() -> Answer:
    return answer(prior_with())


# values and gradients


@pytest.mark.parametrize("steps_too", [False, True])
def test_recomputing_blocks_changes_no_bit(plain: Answer, steps_too: bool):
    x, grad = answer(prior_with(Runtime(checkpoint="blocks")), checkpoint=steps_too)
    assert torch.equal(x, plain[0])
    assert torch.equal(grad, plain[1])


@pytest.mark.parametrize(
    "runtime",
    [
        Runtime(channels_last=True),
        Runtime(attention="math"),
        Runtime(checkpoint="blocks", channels_last=True, attention="math"),
    ],
    ids=str,
)
def test_float32_options_agree_to_rounding(plain: Answer, runtime: Runtime):
    prior = prior_with(runtime)
    x, grad = answer(prior)
    assert gap(x, plain[0]) < 1e-5
    assert gap(grad, plain[1]) < 1e-5
    assert not any(w.requires_grad for w in prior.parameters())


def test_channels_last_moves_the_weights():
    weight = prior_with(Runtime(channels_last=True)).net.get_submodule("conv_in").weight
    assert isinstance(weight, Tensor)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_attention_is_pytorchs_own(plain: Answer):
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

    prior = prior_with()
    layers = [m for m in prior.modules() if isinstance(m, Attention)]
    assert layers
    for layer in layers:
        assert isinstance(layer.processor, AttnProcessor2_0)
        layer.set_processor(AttnProcessor())
    x, grad = answer(prior)
    assert gap(x, plain[0]) < 1e-5
    assert gap(grad, plain[1]) < 1e-5


# On this network: 0.0026 and 0.0041. On the embedded prior, two steps: 0.0082 and 0.018.
@pytest.mark.parametrize("checkpoint", ["none", "blocks"])
def test_bfloat16_agrees_to_its_own_rounding(plain: Answer, checkpoint: str):
    x, grad = answer(prior_with(Runtime("bf16", checkpoint)))
    assert x.dtype == grad.dtype == torch.float32
    assert 1e-4 < gap(x, plain[0]) < 0.02
    assert 1e-4 < gap(grad, plain[1]) < 0.04


def test_weights_rounded_once_are_autocasts_own():
    x_t, t = normal(2, *SHAPE, dtype=torch.float32), torch.tensor([0.7, 0.999])
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        want = prior_with()(x_t, t)
    assert torch.equal(prior_with(Runtime("bf16"))(x_t, t), want)


def test_autocast_ends_with_the_call():
    prior = prior_with(Runtime("bf16"))
    prior(torch.zeros(1, *SHAPE), torch.tensor(0.5))
    with pytest.raises(RuntimeError, match="channels"):
        prior(torch.zeros(1, 5, 8, 8), torch.tensor(0.5))
    assert not torch.is_autocast_enabled("cpu")


def test_recomputation_draws_nothing():
    # A frozen network has no dropout, in the first pass or in the repeated one.
    before = torch.get_rng_state()
    lean, full = prior_with(Runtime(checkpoint="blocks"), 0.5), prior_with(None, 0.5)
    for steps_too in (False, True):
        for a, b in zip(answer(lean, checkpoint=steps_too), answer(full), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("runtime", [Runtime("bf16"), Runtime("bf16", "blocks", True)], ids=str)
def test_one_image_one_answer(runtime: Runtime):
    y = normal(2, *SHAPE, dtype=torch.float32)
    method = DMPlug(2, Generator(2))
    both = solve(Problem(y, Denoise(), GaussianNoise(0.1), prior_with(runtime)), method)
    last = Problem(y[1:], Denoise(), GaussianNoise(0.1), prior_with(runtime))
    assert torch.equal(solve(last, method, ids=["1"]).x_hat[0], both.x_hat[1])


# costs


def test_what_is_kept_for_the_backward_pass():
    full, lean = prior_with(), prior_with(Runtime(checkpoint="blocks"))
    assert kept(lean, 2) < 0.5 * kept(full, 2)
    # Half, with room for float32 states; a rounded copy of the weights per call would be more.
    assert kept(prior_with(Runtime("bf16")), 2) < 0.6 * kept(full, 2)
    state = 4 * torch.Size(SHAPE).numel()
    for prior in (full, lean):
        assert kept(prior, 8, checkpoint=True) - kept(prior, 2, checkpoint=True) <= 6 * 3 * state


@pytest.mark.parametrize(("steps_too", "nfe"), [(False, 3), (True, 6)])
def test_calls_are_counted_at_the_door(steps_too: bool, nfe: int):
    prior = prior_with(Runtime(checkpoint="blocks"))
    answer(prior, checkpoint=steps_too)
    assert (prior.counter.nfe, prior.counter.vjps) == (nfe, 3)


# derivatives beyond the gradient


@pytest.mark.parametrize("backend", JVPS)
@pytest.mark.parametrize("checkpoint", ["none", "blocks"])
def test_plain_attention_has_jacobian_products(backend: str, checkpoint: str):
    prior = prior_with(Runtime(attention="math", checkpoint=checkpoint))
    y, z, v = (normal(1, *SHAPE, seed=i, dtype=torch.float32) for i in range(3))
    objective = seed_misfit(Problem(y, Denoise(), GaussianNoise(1.0), prior), Generator(1))
    want: Any = torch.autograd.functional.jvp(objective.image, z, v, strict=True)[1]
    found = linearize(objective, z, backend).jvp(v)
    assert gap(found, want) < (0.03 if backend == "finite_difference" else 1e-5)


class AttentionNet(TinyNet):
    """A network whose one block is attention, and that knows its blocks as diffusers' do."""

    _supports_gradient_checkpointing = True

    def __init__(self) -> None:
        super().__init__(3)
        self.through: Callable[..., Tensor] | None = None

    def enable_gradient_checkpointing(self, through: Callable[..., Tensor]) -> None:
        self.through = through

    def block(self, x: Tensor) -> Tensor:
        q = x.flatten(2).mT[:, None].contiguous()  # fast kernels refuse others
        return F.scaled_dot_product_attention(q, 2 * q, q.sin())[:, 0].mT.reshape(x.shape)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = super().forward(x, time)
        return self.block(x) if self.through is None else self.through(self.block, x)


def test_plain_attention_is_recomputed_as_such():
    jacobians = []
    for checkpoint in ("none", "blocks"):
        runtime = Runtime(attention="math", checkpoint=checkpoint)
        prior = VelocityPrior(AttentionNet(), SHAPE, probe=False, runtime=runtime)
        z = normal(1, *SHAPE, dtype=torch.float32).requires_grad_()
        x0 = prior(z, torch.tensor(0.5))
        (pulled,) = torch.autograd.grad(x0, z, x0.detach().sin(), create_graph=True)
        jacobians.append(torch.autograd.grad(pulled.square().sum(), z)[0])
    assert jacobians[0].abs().max() > 0
    assert torch.equal(*jacobians)


def halved(x: Tensor) -> Tensor:
    """A map whose backward pass goes through float16, (B, 3) -> (B, 3)."""
    return (x.half() * torch.tensor([1.0, -2.0, 4.0]).half()).float()


def test_scaled_gradients_neither_vanish_nor_overflow():
    x = torch.ones(4, 3, requires_grad=True)
    sizes = torch.tensor([[3e-9], [1.0], [7e6], [0.0]])
    (lost,) = torch.autograd.grad(halved(x), x, sizes.expand(4, 3))
    assert lost[0].abs().max() == 0
    assert lost[2].isinf().all()
    output = with_scaled_gradients(halved)(x)
    assert torch.equal(output, halved(x))
    for _ in range(2):  # a kept graph may be asked again
        (grad,) = torch.autograd.grad(output, x, sizes.expand(4, 3), retain_graph=True)
        torch.testing.assert_close(grad, sizes * torch.tensor([1.0, -2.0, 4.0]), rtol=1e-3, atol=0)


def test_scaled_gradients_scale_the_network_only():
    x = torch.ones(2, 3, requires_grad=True)
    output = x + with_scaled_gradients(halved)(x)
    (grad,) = torch.autograd.grad(output.sum(), x)
    assert torch.equal(grad, torch.tensor([2.0, -1.0, 5.0]).expand(2, 3))


# other networks


def test_times_are_not_rounded_before_the_network():
    seen = []

    class Watcher(TinyNet):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            seen.append((x.dtype, time))
            return super().forward(x, time)

    settings = {"data_at": 0, "noise_at": 999, "probe": False, "runtime": Runtime("bf16")}
    prior = VelocityPrior(Watcher(3), SHAPE, **settings)
    assert prior(torch.zeros(2, *SHAPE), torch.tensor(1.0)).dtype == torch.float32
    ((kind, time),) = seen
    assert kind == time.dtype == torch.float32
    assert time.tolist() == [999.0, 999.0]


@pytest.mark.parametrize("kind", [VelocityPrior, EDMPrior, ConsistencyPrior, GeneratorPrior])
def test_every_network_prior_runs_so(kind: type):
    gan = kind is GeneratorPrior
    network, shape = (TinyGAN(), [6, 1, 1]) if gan else (TinyNet(3), SHAPE)
    images = []
    for runtime in (None, Runtime("bf16", channels_last=True)):
        prior = kind(copy.deepcopy(network), shape, probe=False, runtime=runtime)
        z = normal(2, *shape, dtype=torch.float32)
        x = prior(z, torch.tensor(0.5)) if prior.denoises else prior.decode(z)
        assert x.dtype == torch.float32
        images.append(x)
        assert prior.counter.nfe == 1
    assert 1e-5 < gap(images[1], images[0]) < 0.02


def test_an_equipped_prior_obeys_the_rules_of_priors():
    runtime = Runtime("bf16", "blocks", channels_last=True, attention="math")
    report = check_prior(prior_with(runtime), denoises=False)
    assert report.ok, report.text()


def test_a_compiled_network_agrees(monkeypatch: pytest.MonkeyPatch):
    # Tracing and the joint graph are PyTorch's own; no C++ compiler is needed here.
    graphs = []

    def trace(self: nn.Module, dynamic: bool) -> None:
        from torch._dynamo.testing import CompileCounterWithBackend

        graphs.append(CompileCounterWithBackend("aot_eager"))
        nn.Module.compile(self, backend=graphs[0], fullgraph=True, dynamic=dynamic)

    monkeypatch.setattr(TinyNet, "compile", trace)
    prior = VelocityPrior(TinyNet(3), SHAPE, probe=False, runtime=Runtime(compile=True))
    eager = VelocityPrior(TinyNet(3), SHAPE, probe=False)
    for batch in (2, 3, 5):
        z = normal(batch, *SHAPE, dtype=torch.float32).requires_grad_()
        x, want = prior(z, torch.tensor(0.5)), eager(z, torch.tensor(0.5))
        assert gap(x.detach(), want.detach()) < 1e-5
        grads = [torch.autograd.grad(v.square().sum(), z)[0] for v in (x, want)]
        assert gap(*grads) < 1e-5
    assert graphs[0].frame_count == 1
    torch._dynamo.reset()


# settings and refusals


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_configs_offer_what_their_priors_take(file: Path):
    config = yaml.safe_load(file.read_text("utf-8"))
    parts = config["_target_"].split(".")
    names = [i for i, part in enumerate(parts) if part[0].isupper()]
    cut = names[0] if names else len(parts) - 1
    target: Any = importlib.import_module(".".join(parts[:cut]))
    for part in parts[cut:]:
        target = getattr(target, part)
    takes = "runtime" in inspect.signature(target).parameters
    assert ({"runtime": "default"} in config.get("defaults", [])) == takes


def test_settings_reach_the_prior():
    words = ["prior=as_flow", "prior.base.runtime.precision=bf16", "prior.base.probe=false"]
    prior = build(compose_config(words, None).prior)
    assert prior.runtime == Runtime("bf16")


def test_the_default_config_is_the_default():
    config = compose_config(["prior.probe=false"], None).prior.runtime
    assert build(config) == Runtime()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "bf61"}, "did you mean 'bf16'"),
        ({"checkpoint": "steps"}, "generator.checkpoint=true"),
        ({"attention": "flash"}, "choose from auto, math"),
        ({"compile": "inductor"}, "true or false, got 'inductor'"),
    ],
)
def test_unknown_settings(settings: dict, words: str):
    with pytest.raises(ValueError, match=words):
        Runtime(**settings)


def test_float16_needs_a_gpu():
    prior = prior_with(Runtime("fp16"))
    with pytest.raises(ValueError, match="needs a GPU, and this prior is on the CPU"):
        prior(torch.zeros(1, *SHAPE), torch.tensor(0.5))


def test_a_network_that_does_not_know_its_blocks():
    with pytest.raises(ValueError, match="TinyNet is not; method"):
        VelocityPrior(TinyNet(3), SHAPE, probe=False, runtime=Runtime(checkpoint="blocks"))


def test_a_prior_is_equipped_once():
    prior = prior_with(Runtime("bf16"))
    assert prior.equip(Runtime("bf16")) is prior
    with pytest.raises(ValueError, match="load it again"):
        prior.equip(Runtime(channels_last=True))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("runtime", "limit"),
    [
        (Runtime("fp16"), 0.01),
        (Runtime("fp16", "blocks", True), 0.01),
        (Runtime("bf16", compile=True), 0.04),
        (Runtime(compile=True), 1e-3),  # convolutions in TF32
    ],
    ids=str,
)
def test_on_a_gpu(runtime: Runtime, limit: float):
    found = []
    for prior in (prior_with(), prior_with(runtime)):
        z = normal(2, *SHAPE, dtype=torch.float32).cuda().requires_grad_()
        x = Generator(2)(prior.cuda(), z)
        found.append((x.detach(), torch.autograd.grad(1e-8 * x.square().sum(), z)[0]))
    for plain, other in zip(*found, strict=True):
        assert gap(other, plain) < limit
