"""The network: a diffusers ``UNet2DModel`` from the settings, with fresh or given weights."""

from __future__ import annotations

import json
from typing import Any

import torch

from plugip.priors.declaration import declare
from plugip.priors.weights import find_folder, load_unet
from plugip.rng import seed_torch, stream_key
from plugip.training.checks import TrainingError
from plugip.training.objective import Objective
from plugip.training.sections import Network

# These do not change the shape of any weight.
WEIGHTLESS = ("sample_size", "dropout")


def make_network(network: Network, channels: int, size: int, rng_seed: int) -> Any:
    """Returns a fresh ``UNet2DModel`` in float32 on the CPU; the same for the same seed.

    Args:
        network: Its architecture.
        channels: Channels of an image.
        size: Side of an image in pixels.
        rng_seed: Fixes the random weights.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel

    width = channels * network.patch**2
    down = [f"{'Attn' if here else ''}DownBlock2D" for here in network.attention]
    up = [f"{'Attn' if here else ''}UpBlock2D" for here in reversed(network.attention)]
    make: Any = UNet2DModel
    with torch.random.fork_rng():
        seed_torch(stream_key(rng_seed, "weights", ""))
        return make(
            sample_size=size // network.patch,
            in_channels=width,
            out_channels=width,
            block_out_channels=tuple(network.block_out_channels),
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            layers_per_block=network.layers_per_block,
            attention_head_dim=network.attention_head_dim,
            norm_num_groups=network.norm_num_groups,
            dropout=network.dropout,
        )


def warm_start(net: Any, source: str, objective: Objective, patch: int) -> None:
    """Loads the weights of another model of the same architecture and meaning into ``net``.

    Args:
        net: The network of this training.
        source: A diffusers folder or a hub id.
        objective: What this training learns.
        patch: Side of its pixel blocks.

    Raises:
        ValueError: If the folder cannot be read, or holds another architecture or prediction.
    """
    folder = find_folder(source)
    other = load_unet(folder)
    mine, theirs = _architecture(net), _architecture(other)
    for key in {**mine, **theirs}:
        if mine.get(key) != theirs.get(key):
            raise TrainingError(
                f"init={source} has another architecture: {key} is {theirs.get(key)} there and "
                f"{mine.get(key)} here; adapt network, or leave init out"
            )
    said = declare(folder, {})
    pairs = {
        "prediction": (str(said.prediction), str(objective.prediction)),
        "path": (type(said.path).__name__, type(objective.path).__name__),
        "space_to_depth": (said.space_to_depth, patch),
    }
    for key, (there, here) in pairs.items():
        if there != here:
            raise TrainingError(
                f"init={source} means something else: {key} is {there} there and {here} here"
            )
    net.load_state_dict(other.state_dict())


def _architecture(net: Any) -> dict[str, Any]:
    """Returns the settings that weights depend on, as JSON would hold them."""
    config = json.loads(json.dumps(dict(net.config)))
    names = (name for name in config if not name.startswith("_") and name not in WEIGHTLESS)
    return {name: config[name] for name in names}


def parameter_count(net: torch.nn.Module) -> int:
    """Returns the number of weights."""
    return sum(weight.numel() for weight in net.parameters())
