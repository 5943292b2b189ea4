"""The model card: what a reader must know before using the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from plugip.texts import for_markdown
from plugip.training.sections import Card
from plugip.training.settings import Settings

ABSENT = "*Not stated.*"
# Heading, and the text of the card's settings below it.
SECTIONS = (
    ("Data", "data"),
    ("Licence", "licence"),
    ("Attribution", "attribution"),
    ("Intended use", "intended_use"),
    ("Limits", "limits"),
)


@dataclass(frozen=True)
class Facts:
    """What the training itself knows about the model.

    Attributes:
        parameters: Number of weights.
        shape: Shape of one state.
        step: Finished steps.
        images: Images that it was trained on.
        held_out: Images that were kept away.
        skipped: Files that could not be read.
        loss: Held-out loss of the averaged weights; None without held-out images.
        seconds: Time spent training.
        device: Where it was trained.
        probe: What plugip's probe says, as a sentence.
        versions: Versions of packages.
        pictures: Names of picture files beside the card, with their captions.
    """

    parameters: int
    shape: tuple[int, ...]
    step: int
    images: int
    held_out: int
    skipped: int
    loss: float | None
    seconds: float
    device: str
    probe: str
    versions: dict[str, str] = field(default_factory=dict)
    pictures: Sequence[tuple[str, str]] = ()


def model_card(settings: Settings, facts: Facts) -> str:
    """Returns the README.md of a model folder."""
    card = settings.card
    title = for_markdown(card.title.strip() or "An unconditional image prior")
    parts = [
        "---\nlibrary_name: diffusers\npipeline_tag: unconditional-image-generation\n"
        "tags: [plugip, inverse-problems]\n---",
        f"# {title}",
        _table(settings, facts),
        *(f"## {head}\n\n{_text(card, name, settings, facts)}" for head, name in SECTIONS),
        f"## Use\n\n{_use(settings)}",
        *(f"## {caption}\n\n![{caption}]({name})" for name, caption in facts.pictures),
    ]
    return "\n\n".join(parts) + "\n"


def _table(settings: Settings, facts: Facts) -> str:
    rows = {
        "what": _what(settings),
        "network": f"diffusers `UNet2DModel`, {facts.parameters / 1e6:.2f} million parameters, "
        f"{'float16' if settings.output.half else 'float32'} safetensors",
        "state": _state(settings, facts.shape),
        "objective": _objective(settings),
        "training": _training(settings, facts),
        "held-out loss": _loss(facts),
        "probe": for_markdown(facts.probe),
        "files": "`config.json`, `diffusion_pytorch_model.safetensors`, `plugip_prior.json` (how "
        "to read them), `train.yaml` (all settings), `train.csv` (the curve)",
        "versions": ", ".join(f"{name} {number}" for name, number in facts.versions.items()),
    }
    lines = [f"| {name} | {text} |" for name, text in rows.items() if text]
    return "\n".join(["| | |", "|---|---|", *lines])


def _what(settings: Settings) -> str:
    size, kind = settings.data.size, "RGB" if settings.data.channels == 3 else "grey"
    name = "flow" if settings.objective == "velocity" else "diffusion"
    return f"an unconditional {name} model of {kind} images, {size} × {size} pixels"


def _state(settings: Settings, shape: tuple[int, ...]) -> str:
    patch = settings.network.patch
    sizes = ", ".join(map(str, shape))
    if patch == 1:
        return f"the image x in [−1, 1], ({sizes})"
    return f"h = pixel_unshuffle(x, {patch}), ({sizes}), for x in [−1, 1]"


def _objective(settings: Settings) -> str:
    if settings.objective == "velocity":
        return "h_t = (1 − t) h + t ε; the output is the velocity ε − h; time input 1000 t"
    return "DDPM with 1000 steps and linear betas; the output is ε; time input 0 to 999"


def _training(settings: Settings, facts: Facts) -> str:
    rate = f"{settings.optimiser.schedule} learning rate {settings.optimiser.lr:g}"
    planned = "" if facts.step == settings.steps else f" of {settings.steps} planned"
    source = for_markdown(PurePath(settings.init).name) if settings.init else ""
    start = f", from the weights of {source}" if source else ""
    return (
        f"{facts.step}{planned} steps{start}, {settings.batch_size} images each, AdamW, {rate}, "
        f"averaged "
        f"weights (decay {settings.ema_decay:g}), {settings.precision}, "
        f"{_duration(facts.seconds)} on {for_markdown(facts.device)}"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 7200 else f"{seconds / 60:.1f} minutes"


def _loss(facts: Facts) -> str:
    if facts.loss is None:
        return ""
    return f"{facts.loss:.4f}, mean squared error of the output, {facts.held_out} images"


def _text(card: Card, name: str, settings: Settings, facts: Facts) -> str:
    text = getattr(card, name).strip() or ABSENT
    if name != "data":
        return text
    mirrored = ", mirrored at random" if settings.data.flip else ""
    counted = (
        f"{facts.images} images were trained on and {facts.held_out} held out, cropped and "
        f"resized to {settings.data.size} × {settings.data.size}{mirrored}."
    )
    if facts.skipped:
        one = facts.skipped == 1
        counted += f" {facts.skipped} {'file was' if one else 'files were'} damaged and left out."
    return f"{text}\n\n{counted}"


def _use(settings: Settings) -> str:
    code = (
        "```python\nfrom plugip.priors import DiffusersUNet\n\n"
        'prior = DiffusersUNet.from_pretrained("path/to/this/folder")\n```'
    )
    shell = "```sh\nplugip prior=diffusers prior.source=path/to/this/folder data.path=my_photos/"
    return f"{code}\n\n{shell} data.size={settings.data.size}\n```"


def warning(card: Card) -> str | None:
    """Returns a sentence about texts that are missing, or None."""
    missing = card.missing()
    if not missing:
        return None
    names = ", ".join(f"card.{name}" for name in missing)
    return f"the model card lacks {names}: fill them in before you publish the model"


def versions(packages: dict[str, Any]) -> dict[str, str]:
    """Returns the versions that matter for reading the weights again."""
    wanted = ("plugip", "torch", "diffusers", "accelerate")
    return {name: str(packages[name]) for name in wanted if name in packages}
