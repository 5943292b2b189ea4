"""The command ``plugip-operators``: one sheet with all measurements of a photograph.

Nothing here imports torch at the top, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plugip.terminal import say
from plugip.texts import for_figure, for_terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from plugip.operator import Operator

# Heading, and the files in operators/ whose operators stand under it; blind and video ones are
# known by their types, and what is in no list stands under the last heading.
FAMILIES = {
    "photograph": (),
    "missing pixels": ("denoise", "inpaint", "packed_inpaint"),
    "blur": ("separable_blur", "blur", "varying_blur", "homography"),
    "camera": ("grayscale", "pointwise", "jpeg", "camera_blur", "frame_average", "bkse"),
    "phase retrieval": ("phase", "diffraction", "near_field", "ptychography", "dense_field"),
    "super-resolution": ("downsample", "average_pool", "blur_downsample", "decimate"),
    "blind: one draw of the unknown": (),
    "compressed sensing": ("hadamard", "matrix_sensing"),
    "medical": ("ct", "mri"),
    "video": (),
    "more": (),
}
PHOTO, BLIND, VIDEO, MORE = "photograph", "blind: one draw of the unknown", "video", "more"
GREY_FIRST = ("phase retrieval", "medical")  # one wave, one tissue: no colours
MADE_FOR = 64  # pixels; `size: 64` in a config is the side of the image
FRAMES = 8
COLUMNS = 8
_INK, _MUTED, _ACCENT = "#1a1a1a", "#6b6b6b", "#0b6e99"
_PITCH, _PICTURE, _TEXT, _HEADING = 1.72, 1.5, 0.7, 0.36  # inches


class NotShownError(ValueError):
    """Says why an operator has no panel."""


@dataclass(frozen=True)
class Panel:
    """One labelled picture of the sheet: (C, h, w) in [-1, 1], C is 1 or 3."""

    name: str
    family: str
    lines: tuple[str, ...]
    picture: Tensor


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command ``plugip-operators``; without ``words`` it reads the command line."""
    options = _parser().parse_args(words)
    try:
        skipped = write_sheet(options.photo, options.size, options.out)
    except (ValueError, OSError) as error:
        reason = str(error).replace("with output.folder=...", "with --out")
        say(f"plugip-operators: {for_terminal(reason)}", sys.stderr)
        sys.exit(1)
    for name, reason in skipped.items():
        say(for_terminal(f"not shown: {name}: {reason}"))
    say(for_terminal(f"sheet: {options.out}"))


def write_sheet(photo: Path | None, size: int, out: Path) -> dict[str, str]:
    """Measures a photograph by all operators and writes the sheet; returns who is not on it, why.

    Args:
        photo: Image file; None takes the packaged portrait.
        size: Side to which the largest centred square is resized.
        out: The PNG file.

    Raises:
        ValueError: If the photograph cannot be read, or size or out is not usable.
        OSError: If the sheet cannot be written.
    """
    from plugip.data import demo_image, load_image
    from plugip.record.files import write_atomic

    if out.suffix.lower() != ".png":
        raise ValueError(f"the sheet is a PNG file; --out {out} must end in .png")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; give a file in it, {out / 'operators.png'}")
    path = demo_image() if photo is None else photo
    x = load_image(path, size)[None]
    panels, skipped = measure_all(x, operator_configs())
    first = Panel(_short(path.name, 24), PHOTO, ("x", _sizes(x[0])), x[0])
    title = f"{_short(path.name, 60)}: y = A(x) of every operator, without noise"
    write_atomic(out, draw([first, *panels], title, skipped))
    return skipped


def operator_configs() -> dict[str, Any]:
    """Returns the packaged operator configs by name."""
    import yaml

    folder = files("plugip.conf") / "operator"
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {f.name.removesuffix(".yaml"): yaml.safe_load(f.read_text("utf-8")) for f in found}


def measure_all(x: Tensor, configs: Mapping[str, Any]) -> tuple[list[Panel], dict[str, str]]:
    """Measures one photograph, (1, 3, N, N), by every operator that its config alone describes.

    Returns:
        Panels in the order of the configs, and the reasons for those that are missing.
    """
    panels, skipped = [], {}
    for name, config in configs.items():
        try:
            panels.append(measure_one(x, name, config))
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            skipped[name] = " ".join(str(error).split())
    return panels, skipped


def measure_one(x: Tensor, name: str, config: Any) -> Panel:
    """Builds one operator, measures the photograph, and returns its panel.

    Raises:
        NotShownError: If the config needs something of the user's.
    """
    import torch

    from plugip.building import build
    from plugip.pictures import show

    missing = list(_missing(config))
    if missing:
        raise NotShownError(f"needs {', '.join(f'operator.{key}=...' for key in missing)}")
    operator: Operator = build(_fitted(config, x.shape[-1]))
    family = family_of(operator)
    with torch.no_grad():
        y, adapted = _measured(operator, _inputs(x, operator, family))
    picture, note = show(y[0], x.shape[-1])
    shape = _sizes(y[0]) + (" complex" if y.is_complex() else "")
    remarks = ", ".join(part for part in (note, adapted) if part)
    return Panel(name, family, (type(operator).__name__, shape, remarks), picture)


def family_of(operator: Operator) -> str:
    """Returns the heading under which an operator stands."""
    from plugip.operator import BlindOperator

    if isinstance(operator, BlindOperator):
        return BLIND
    if operator.domain_ndim == 5:
        return VIDEO
    home = type(operator).__module__.rpartition(".")[2]
    return next((heading for heading, homes in FAMILIES.items() if home in homes), MORE)


def draw(panels: Sequence[Panel], title: str, skipped: Mapping[str, str]) -> bytes:
    """Draws labelled panels under the headings of their families; returns a PNG file."""
    from matplotlib.figure import Figure

    lines = _layout(panels)
    foot = [f"not shown: {name}: {reason}" for name, reason in skipped.items()]
    line_height = _PICTURE + _TEXT + _HEADING
    width = COLUMNS * _PITCH + 0.3
    height = 0.55 + len(lines) * line_height + 0.19 * len(foot) + 0.2
    figure = Figure(figsize=(width, height), dpi=120, facecolor="white")
    _write(figure, 0.2, 0.38, title, size=14, weight="bold")
    for row, line in enumerate(lines):
        top = 0.55 + row * line_height
        for column, panel in enumerate(line):
            if column == 0 or line[column - 1].family != panel.family:
                span = sum(p.family == panel.family for p in line)
                _heading(figure, 0.2 + column * _PITCH, top, span, panel.family)
            _panel(figure, 0.2 + column * _PITCH, top + _HEADING, panel)
    for i, text in enumerate(foot):
        low = 0.55 + len(lines) * line_height + 0.19 * (i + 1)
        _write(figure, 0.2, low, _short(text, 190), size=8, color=_MUTED)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # File names may hold letters that the font lacks; they become boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plugip-operators",
        description="Writes one sheet with the measurements of a photograph by every operator.",
    )
    parser.add_argument("photo", nargs="?", type=Path, help="default: the packaged portrait")
    parser.add_argument(
        "--size", type=int, default=MADE_FOR, help="side of the square in pixels, %(default)s"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("operators.png"), help="PNG file, %(default)s"
    )
    return parser


def _missing(config: Any, where: str = "") -> Iterator[str]:
    """Yields the dotted places of values that only a user can give."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from _missing(value, f"{where}.{key}" if where else key)
    elif config == "???":
        yield where


def _fitted(config: Any, side: int) -> Any:
    """Returns the config for images of another side than the configs are made for."""
    if isinstance(config, list):
        return [_fitted(value, side) for value in config]
    if not isinstance(config, dict):
        return config
    return {
        key: side if key == "size" and value == MADE_FOR else _fitted(value, side)
        for key, value in config.items()
    }


def _inputs(x: Tensor, operator: Operator, family: str) -> list[tuple[Tensor, str]]:
    """Returns the photograph in the forms that an operator may take, the best one first."""
    import torch

    grey = torch.einsum("c,bchw->bhw", x.new_tensor((0.299, 0.587, 0.114)), x)[:, None]
    if operator.domain_ndim == 5:
        frames = [torch.roll(x, (t, 2 * t), (-2, -1)) for t in range(-FRAMES // 2, FRAMES // 2)]
        return [(torch.stack(frames, 2), "x moves")]
    colour, pair = (x, ""), (torch.cat([grey, 0 * grey], 1), "x grey + 0i")
    return [(grey, "x grey"), pair, colour] if family in GREY_FIRST else [colour, pair]


def _measured(operator: Operator, inputs: list[tuple[Tensor, str]]) -> tuple[Tensor, str]:
    """Measures the first form of the photograph that the operator takes."""
    reasons = []
    for x, adapted in inputs:
        try:
            return _known(operator, x)(x), adapted
        except ValueError as error:
            reasons.append(str(error))
    raise NotShownError(reasons[0])


def _known(operator: Operator, x: Tensor) -> Operator:
    from plugip.operator import BlindOperator
    from plugip.rng import Rng

    rng, x_shape = Rng(0, "operator", ["gallery"]), tuple(x.shape)
    known = operator.realise(rng, x_shape)
    return known.draw(rng, x_shape) if isinstance(known, BlindOperator) else known


def _sizes(y: Tensor) -> str:
    return " × ".join(str(n) for n in y.shape)


def _layout(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Fills lines of panels: each family stands together, in the first line with room."""
    lines: list[list[Panel]] = []
    for heading in FAMILIES:
        family = [panel for panel in panels if panel.family == heading]
        for i in range(0, len(family), COLUMNS):
            part = family[i : i + COLUMNS]
            room = (line for line in lines if len(line) + len(part) <= COLUMNS)
            line = next(room, None) if len(family) <= COLUMNS else None
            if line is None:
                lines.append(list(part))
            else:
                line.extend(part)
    return lines


def _heading(figure: Figure, left: float, top: float, span: int, text: str) -> None:
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    _write(figure, left, top + 0.2, text, size=11, weight="bold", color=_ACCENT)
    right, level = left + (span - 1) * _PITCH + _PICTURE, 1 - (top + 0.27) / height
    rule = Line2D([left / width, right / width], [level, level], color=_ACCENT, lw=0.8)
    figure.add_artist(rule)


def _panel(figure: Figure, left: float, top: float, panel: Panel) -> None:
    from plugip.data import to_uint

    width, height = figure.get_size_inches()
    box = (left / width, 1 - (top + _PICTURE) / height, _PICTURE / width, _PICTURE / height)
    ax = figure.add_axes(box)
    ax.set_axis_off()
    ax.set_anchor("SW")
    pixels = to_uint(panel.picture)
    shown = pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels
    ax.imshow(shown, interpolation="nearest")
    below = top + _PICTURE
    _write(figure, left, below + 0.15, panel.name, size=7.6, weight="bold")
    for i, text in enumerate(panel.lines):
        _write(figure, left, below + 0.285 + 0.125 * i, text, size=7, color=_MUTED)


def _write(
    figure: Figure,
    left: float,
    low: float,
    text: str,
    size: float,
    weight: str = "normal",
    color: str = _INK,
) -> None:
    """Writes a line of text at a place in inches from the upper left corner."""
    width, height = figure.get_size_inches()
    place = (left / width, 1 - low / height)
    figure.text(*place, for_figure(text), size=size, weight=weight, color=color)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
