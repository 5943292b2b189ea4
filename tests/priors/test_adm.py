"""ADM networks: the converted UNet2DModel against the network written out from its description."""

from dataclasses import replace

import pytest
import torch
from adm_reference import TINY, RandomFile, Reference
from torch.testing import assert_close

from plugip.path import SIGNED, DiscretePath, FlowPath, Prediction
from plugip.priors import DiffusersUNet, adm_layout
from plugip.priors.adm import load_adm, open_adm
from plugip.priors.adm_layout import Architecture, tensor_map
from plugip.priors.adm_presets import LARGE, LARGE_CLASSES, PIXELS_64, PIXELS_128, SMALL
from plugip.priors.adm_weights import blank_state, misfits, split_qkv, to_unet
from plugip.priors.probe import probe
from plugip.testing import check_prior

INDEX = torch.tensor([5.0, 700.0])


def scaled_down(a, **changes):
    """The same blocks with 32 channels instead of 128 to 256, on images of 32 pixels."""
    small = {
        "image_size": 32,
        "num_channels": 32,
        "channel_mult": a.channel_mult or adm_layout.MULTIPLIERS[a.image_size],
        "attention_resolutions": tuple(s * 32 // a.image_size for s in a.attention_resolutions),
        "num_head_channels": a.num_head_channels and 16,
        "num_classes": a.num_classes and 7,
    }
    return replace(a, **(small | changes))


SETTINGS = {
    "ffhq and celebahq": scaled_down(SMALL),
    "lsun and imagenet256": scaled_down(LARGE),
    "imagenet256_cond": scaled_down(LARGE_CLASSES),
    "imagenet128, heads of three widths": scaled_down(PIXELS_128),
    "imagenet64, new order": scaled_down(PIXELS_64),
    "plain": replace(TINY, resblock_updown=False, use_scale_shift_norm=False, learn_sigma=False),
    "plain resampling beside attention": scaled_down(LARGE, resblock_updown=False),
    "one head": replace(TINY, num_head_channels=None, num_heads=1),
}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def saved(tmp_path):
    """A factory: saved(architecture, seed) writes a random checkpoint and returns its path."""

    def save(a, seed=0, name="net.pt"):
        torch.save(RandomFile(a, seed).state, tmp_path / name)
        return str(tmp_path / name)

    return save


@torch.no_grad()
@pytest.mark.parametrize("name", SETTINGS)
def test_the_whole_network_equals_its_description(name):
    a = SETTINGS[name]
    state, label = RandomFile(a).state, 3 if a.num_classes else None
    assert misfits(state, a) == []
    x = normal(2, 3, a.image_size, a.image_size)
    want = Reference(state, a)(x, INDEX, label)
    assert float(want.std()) > 0.3
    assert_close(to_unet(state, a, label)(x, INDEX).sample, want, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("new_order", [False, True])
def test_attention_alone_equals_attention_head_by_head(new_order):
    a = replace(TINY, use_new_attention_order=new_order)
    state, h = RandomFile(a).state, normal(2, 64, 8, 8)
    want = Reference(state, a).attend("middle_block.1", h)
    assert_close(to_unet(state, a).mid_block.attentions[0](h), want, rtol=0, atol=2e-6)
    other = replace(a, use_new_attention_order=not new_order)
    assert float((to_unet(state, other).mid_block.attentions[0](h) - want).abs().max()) > 0.01


def test_rows_of_the_joint_projection():
    # Two heads of two channels: q0 q0 k0 k0 v0 v0 q1 q1 k1 k1 v1 v1.
    a = replace(TINY, num_head_channels=2)
    rows = torch.arange(12)
    assert [p.tolist() for p in split_qkv(rows, a)] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    new = replace(a, use_new_attention_order=True)
    assert [p.tolist() for p in split_qkv(rows, new)] == rows.reshape(3, 4).tolist()


@pytest.mark.parametrize(
    ("a", "count"),
    [
        (SMALL, 93_563_910),  # counted with guided-diffusion's own code, as is the next
        (LARGE, 552_814_086),
        (LARGE_CLASSES, 552_814_086 + 1000 * 1024),
        (PIXELS_128, 421_529_606),
        (PIXELS_64, 295_904_454),
    ],
)
def test_full_sizes(a, count):
    assert sum(tensor.numel() for tensor in blank_state(a).values()) == count


def test_the_prior_uses_epsilon_the_table_and_the_training_index(saved):
    file = saved(TINY)
    prior = load_adm(file, architecture=TINY, probe=False)
    x, t = normal(2, 3, 16, 16), torch.tensor([0.001, 0.3], dtype=torch.float64)
    bars = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[[0, 299]]
    eps = Reference(torch.load(file), TINY)(x, torch.tensor([0.0, 299.0]))[:, :3]
    alpha, sigma = (v.sqrt().float()[:, None, None, None] for v in (bars, 1 - bars))
    assert_close(prior(x, t), (x - sigma * eps) / alpha, rtol=0, atol=2e-5)
    assert prior.shape == (3, 16, 16) and prior.value_range == SIGNED


def test_the_learned_variance_is_not_looked_at():
    state = RandomFile(TINY).state
    path, x, t = DiscretePath.linear(), normal(1, 3, 16, 16), torch.tensor(0.5)
    before = DiffusersUNet(to_unet(state, TINY), path, Prediction.EPS)(x, t)
    state["out.2.weight"][3:] = 100.0
    assert torch.equal(DiffusersUNet(to_unet(state, TINY), path, Prediction.EPS)(x, t), before)


def test_the_cosine_schedule_is_its_own(saved):
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    path = load_adm(saved(TINY), architecture=TINY, schedule="cosine", probe=False).path
    want = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    assert isinstance(path, DiscretePath)
    assert_close(path.table[1:].float(), want, rtol=1e-4, atol=0)
    assert_close(path.table[500], torch.tensor(0.4938, dtype=torch.float64), rtol=0, atol=1e-4)


def test_classes_are_told_apart_and_must_be_named(saved):
    a = replace(TINY, num_classes=7)
    file, x, t = saved(a), normal(1, 3, 16, 16), torch.tensor(0.5)
    answers = [load_adm(file, architecture=a, label=k, probe=False)(x, t) for k in (0, 6)]
    assert float((answers[0] - answers[1]).abs().max()) > 0.1
    for label in (None, 7, -1):
        with pytest.raises(ValueError, match=rf"from 0 to 6; got {label}$"):
            load_adm(file, architecture=a, label=label)
    with pytest.raises(ValueError, match="knows no classes, so give no label; got 3"):
        load_adm(file, architecture=TINY, label=3)


def test_gradients_reach_the_state_and_no_weight(saved):
    prior = load_adm(saved(TINY), architecture=TINY, probe=False)
    x = normal(1, 3, 16, 16).requires_grad_()
    prior(x, torch.tensor(0.5)).square().sum().backward()
    assert x.grad is not None and bool((x.grad != 0).all())
    assert all(not w.requires_grad and w.grad is None for w in prior.parameters())
    check_prior(prior, denoises=False).require()


def test_half_precision_files_compute_in_single_precision(tmp_path):
    state = {name: tensor.half() for name, tensor in RandomFile(TINY).state.items()}
    torch.save(state, tmp_path / "half.pt")
    prior = load_adm(str(tmp_path / "half.pt"), architecture=TINY, probe=False)
    assert {w.dtype for w in prior.parameters()} == {torch.float32}
    x = normal(1, 3, 16, 16)
    want = Reference({k: v.float() for k, v in state.items()}, TINY)(x, INDEX[1:])
    assert_close(prior.net(x, INDEX[1:]).sample, want, rtol=0, atol=1e-5)


# --- a trained network: the weights of faces64, in a file with ADM's names and orders of rows


def faces_as_adm_file(net, a):
    state, own = {}, net.state_dict()
    for old, new in tensor_map(a, own).items():
        if len(new) == 1:
            state[old] = own[new[0]]
            continue
        parts = [own[name].split(a.num_head_channels) for name in new]
        by_head = [part[head] for head in range(len(parts[0])) for part in parts]
        by_part = [piece for part in parts for piece in part]
        state[old] = torch.cat(by_part if a.use_new_attention_order else by_head)
    shapes = (".qkv.weight", ".proj_out.weight")
    return {k: v[..., None] if k.endswith(shapes) else v for k, v in state.items()}


@pytest.mark.parametrize("new_order", [False, True])
def test_trained_weights_pass_the_probe_after_the_way_through_a_file(
    faces, new_order, tmp_path, monkeypatch
):
    monkeypatch.setattr(adm_layout, "GROUPS", 16)  # those of faces64; 32 in every ADM file
    a = Architecture(
        image_size=32,
        num_channels=64,
        num_res_blocks=1,
        attention_resolutions=(8,),
        channel_mult=(1, 1.5, 2),
        num_head_channels=32,
        use_scale_shift_norm=False,
        use_new_attention_order=new_order,
        in_channels=12,
    )
    torch.save(faces_as_adm_file(faces.net, a), tmp_path / "faces.pt")
    net = open_adm(str(tmp_path / "faces.pt"), architecture=a).net
    x = normal(2, 12, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(x, INDEX).sample, faces.net(x, INDEX).sample)
    probe(DiffusersUNet(net, FlowPath(), Prediction.VELOCITY, space_to_depth=2))
