"""An ADM network written out from its published description: its tensors, and its function.

It knows nothing of plugip's key map: blocks and channels are counted here once more.
Source: Dhariwal and Nichol 2021 (Diffusion Models Beat GANs), and the released model flags.
"""

import torch
import torch.nn.functional as F

from plugip.priors.adm_layout import Architecture

TINY = Architecture(
    image_size=16,
    num_channels=32,
    num_res_blocks=1,
    attention_resolutions=(8,),
    channel_mult=(1, 2),
    num_head_channels=16,
    learn_sigma=True,
    resblock_updown=True,
)


class RandomFile:
    """Random weights, all of them large enough to matter, named as in the released files."""

    def __init__(self, a, seed=0):
        self.a, self.state = a, {}
        self.generator = torch.Generator().manual_seed(seed)
        self.emb = 4 * a.num_channels
        self.linear("time_embed.0", self.emb, a.num_channels)
        self.linear("time_embed.2", self.emb, self.emb)
        if a.num_classes:
            self.state["label_emb.weight"] = self.normal(a.num_classes, self.emb)
        self.side = a.image_size
        self.up(*self.middle(*self.down()))

    def down(self):
        a, n, now = self.a, 1, self.a.num_channels
        self.linear("input_blocks.0.0", now, a.in_channels, 3, 3)
        kept = [now]
        for level, mult in enumerate(a.channel_mult):
            for _ in range(a.num_res_blocks):
                now = self.res_and_attention(f"input_blocks.{n}", now, mult * a.num_channels)
                kept, n = [*kept, now], n + 1
            if level < len(a.channel_mult) - 1:
                self.resample(f"input_blocks.{n}.0", now, "op")
                kept, n, self.side = [*kept, now], n + 1, self.side // 2
        return kept, now

    def middle(self, kept, now):
        self.res("middle_block.0", now, now)
        self.attention("middle_block.1", now)
        self.res("middle_block.2", now, now)
        return kept, now

    def up(self, kept, now):
        a, n = self.a, 0
        for level, mult in reversed(list(enumerate(a.channel_mult))):
            for i in range(a.num_res_blocks + 1):
                block, come = f"output_blocks.{n}", now + kept.pop()
                now, n = self.res_and_attention(block, come, mult * a.num_channels), n + 1
                if level > 0 and i == a.num_res_blocks:
                    part = 2 if self.side in a.attention_resolutions else 1
                    self.resample(f"{block}.{part}", now, "conv")
                    self.side *= 2
        self.norm("out.0", now)
        self.linear("out.2", a.in_channels * (2 if a.learn_sigma else 1), now, 3, 3)

    def res_and_attention(self, block, come, go):
        self.res(f"{block}.0", come, go)
        if self.side in self.a.attention_resolutions:
            self.attention(f"{block}.1", go)
        return go

    def res(self, name, come, go):
        self.norm(f"{name}.in_layers.0", come)
        self.linear(f"{name}.in_layers.2", go, come, 3, 3)
        self.linear(f"{name}.emb_layers.1", go * (1 + self.a.use_scale_shift_norm), self.emb)
        self.norm(f"{name}.out_layers.0", go)
        self.linear(f"{name}.out_layers.3", go, go, 3, 3)
        if come != go:
            self.linear(f"{name}.skip_connection", go, come, 1, 1)

    def attention(self, name, width):
        self.norm(f"{name}.norm", width)
        self.linear(f"{name}.qkv", 3 * width, width, 1)
        self.linear(f"{name}.proj_out", width, width, 1)

    def resample(self, name, width, plain):
        if self.a.resblock_updown:
            self.res(name, width, width)
        else:
            self.linear(f"{name}.{plain}", width, width, 3, 3)

    def norm(self, name, width):
        self.state[f"{name}.weight"] = 1 + 0.3 * self.normal(width)
        self.state[f"{name}.bias"] = 0.3 * self.normal(width)

    def linear(self, name, *shape):
        self.state[f"{name}.weight"] = self.normal(*shape) * torch.Size(shape[1:]).numel() ** -0.5
        self.state[f"{name}.bias"] = 0.3 * self.normal(shape[0])

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator)


class Reference:
    """The network's function, straight from the tensors of a file."""

    def __init__(self, state, a):
        self.w, self.a = state, a

    def __call__(self, x, index, label=None):
        """Answers states (B, C, H, W) at the training's noise levels ``index``, (B,), from 0."""
        emb, h, kept = self.embed(index, label), self.conv("input_blocks.0.0", x), []
        a, last = self.a, len(self.a.channel_mult) - 1
        kept, n = [h], 1
        for level in range(last + 1):
            for _ in range(a.num_res_blocks):
                h = self.pair(f"input_blocks.{n}", h, emb)
                kept, n = [*kept, h], n + 1
            if level < last:
                h = self.halve(f"input_blocks.{n}.0", h, emb)
                kept, n = [*kept, h], n + 1
        h = self.res("middle_block.2", self.pair("middle_block", h, emb), emb)
        for n in range((last + 1) * (a.num_res_blocks + 1)):
            h = self.pair(f"output_blocks.{n}", torch.cat([h, kept.pop()], dim=1), emb)
            level_ends = n % (a.num_res_blocks + 1) == a.num_res_blocks
            if level_ends and kept:
                part = 2 if f"output_blocks.{n}.1.qkv.weight" in self.w else 1
                h = self.double(f"output_blocks.{n}.{part}", h, emb)
        return self.conv("out.2", F.silu(self.norm("out.0", h)))

    def embed(self, index, label):
        half = self.a.num_channels // 2
        angles = index[:, None] * 10000 ** (-torch.arange(half) / half)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        emb = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", waves)))
        return emb if label is None else emb + self.w["label_emb.weight"][label]

    def pair(self, block, h, emb):
        """A residual block, and attention where the file has it."""
        h = self.res(f"{block}.0", h, emb)
        return self.attend(f"{block}.1", h) if f"{block}.1.qkv.weight" in self.w else h

    def res(self, name, h, emb, move=lambda h: h):
        inner = self.conv(f"{name}.in_layers.2", move(F.silu(self.norm(f"{name}.in_layers.0", h))))
        time = self.linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        if self.a.use_scale_shift_norm:
            scale, shift = time.chunk(2, dim=1)
            inner = self.norm(f"{name}.out_layers.0", inner) * (1 + scale) + shift
        else:
            inner = self.norm(f"{name}.out_layers.0", inner + time)
        inner = self.conv(f"{name}.out_layers.3", F.silu(inner))
        skip, h = f"{name}.skip_connection", move(h)
        return inner + (self.conv(skip, h) if f"{skip}.weight" in self.w else h)

    def halve(self, name, h, emb):
        if self.a.resblock_updown:
            return self.res(name, h, emb, lambda h: F.avg_pool2d(h, 2))
        return self.conv(f"{name}.op", h, stride=2)

    def double(self, name, h, emb):
        if self.a.resblock_updown:
            return self.res(name, h, emb, enlarge)
        return self.conv(f"{name}.conv", enlarge(h))

    def attend(self, name, h):
        """Attention head by head: each has its own rows of q, k and v in the joint projection."""
        width, tokens = h.shape[1], self.norm(f"{name}.norm", h).flatten(2)
        rows = self.w[f"{name}.qkv.weight"][..., 0] @ tokens + self.w[f"{name}.qkv.bias"][:, None]
        heads = width // self.a.num_head_channels if self.a.num_head_channels else self.a.num_heads
        d, answers = width // heads, []
        for head in range(heads):
            if self.a.use_new_attention_order:
                starts = [part * width + head * d for part in range(3)]
            else:
                starts = [head * 3 * d + part * d for part in range(3)]
            q, k, v = (rows[:, start : start + d] for start in starts)
            share = (q.transpose(1, 2) @ k / d**0.5).softmax(dim=-1)  # (B, asking, answering)
            answers.append(v @ share.transpose(1, 2))
        out = self.w[f"{name}.proj_out.weight"][..., 0] @ torch.cat(answers, dim=1)
        return h + (out + self.w[f"{name}.proj_out.bias"][:, None]).reshape(h.shape)

    def norm(self, name, h):
        return F.group_norm(h, 32, self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps=1e-5)

    def conv(self, name, h, stride=1):
        weight = self.w[f"{name}.weight"]
        side = weight.shape[-1] // 2
        return F.conv2d(h, weight, self.w[f"{name}.bias"], stride=stride, padding=side)

    def linear(self, name, v):
        return v @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]


def enlarge(h):
    return h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
