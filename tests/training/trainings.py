"""A training that takes seconds, and how to compare two of them."""

from pathlib import Path

COUNT = 24
SMALL = {
    "data": {"size": 8, "holdout": 0.1, "workers": 2},
    "network": {
        "patch": 2,
        "block_out_channels": [8, 16],
        "attention": [False, True],
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    },
    "optimiser": {"lr": 2e-2, "warmup": 5},
    "log": {"every": 5},
    "eval": {"every": 15},
    "sheet": {"every": None, "images": 2, "steps": [2]},
    "checkpoint": {"every": 10},
    "steps": 30,
    "ema_decay": 0.9,
    "batch_size": 8,
    "threads": 1,
}


def merged(base, changes):
    """Nested dicts, the second over the first."""
    both = dict(base)
    for key, value in changes.items():
        both[key] = merged(both.get(key, {}), value) if isinstance(value, dict) else value
    return both


def curve(folder, without=("images_per_second", "seconds")):
    """Rows of train.csv as text, without what a clock says."""
    names, *lines = [line.split(",") for line in (Path(folder) / "train.csv").read_text().split()]
    kept = [i for i, name in enumerate(names) if name not in without]
    return [[line[i] for i in kept] for line in [names, *lines]]
