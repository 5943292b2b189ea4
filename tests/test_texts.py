"""Names are data: on terminals, in Markdown, in figures, in JSON, YAML and file names."""

import html
import json
import re

import pytest
import yaml
from PIL import Image
from test_record import CONFIG, CPU, parts

from plugip.cli.text import _table, closing
from plugip.experiment import Summary
from plugip.gallery import Panel, draw
from plugip.record import Parts, Record, Row, figures
from plugip.record.figures import Strip, comparison, curves
from plugip.record.files import json_bytes, safe_name
from plugip.record.folder import LARGEST_FIGURE
from plugip.texts import for_figure, for_markdown, for_terminal

HOSTILE = [
    "p$x_{$.png", "a$b_c_d$.png", "$", "$$", r"\$x$", r"$\frac{$.png", r"\alpha$_$", "a^b_c",
    "%$&#", "_DSC0001.png", "__x__.png", "_", "a\nb.png", "a\r\nb.png", "\x1b[31mred.png",
    "\x1b]0;title\x07", "tab\t.png", "bell\a", "nul\0", "\x7f", "\x9b31m", "\u202egnp.exe",
    "\u2028", "\u200b", "\ufeff", "a\udcff.png", "\ud800", "漢字.png", "ไทย.png", "😀.png",
    "\U000e0001", "é.png", "e\u0301.png", "<script>alert(1)<.png", "a&amp;b", "<!-- x", "|a|b|",
    "# Result: 40 dB", "`code`", "``", "[x](http://y)", "![x](y)", "[a]: http://b", "**bold**",
    "~~gone~~", "- x", "1. x", "+ x", "a\n# Result: 40 dB\n| psnr |\n|---|\n| 40 |\n.png", "\\",
    "a\\", "x" * 300, " ", "a" * 27 + "$b", "CON", "con.png", "nul.", "a.", "{0}", "%s", "{x:g}",
    "{[bold]}",
]  # fmt: skip
HARMLESS = ["img_01.png", "é 漢 😀.png", "GaussianNoise(std=0.1 on [-1, 1] = 0.05)", "a-b+c.d"]


@pytest.mark.parametrize("name", HOSTILE)
def test_each_medium_gets_one_printable_line_that_it_can_encode(name):
    for shown in (for_terminal(name), for_markdown(name), for_figure(name)):
        assert shown.isprintable()
        shown.encode()


def test_what_is_harmless_stays_as_it_is():
    for name in (
        "img_01.png",
        "é 漢 😀.png",
        "GaussianNoise(std=0.1 on [-1, 1] = 0.05)",
        "a-b+c.d",
    ):
        assert for_terminal(name) == for_markdown(name) == for_figure(name) == name


def rendered(text):
    """What a Markdown reader shows of escaped text: escapes and entities undone."""
    return html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text))


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_holds_no_markup_and_shows_the_name(name):
    shown = for_markdown(name)
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", shown)
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*|#~$]", re.sub(r"\\.", "", shown))
    assert not re.search(r"(?<!\\)\](?=[(\[:])", re.sub(r"\\\\", "", shown))
    assert not re.match(r"\s*([-+=>]|\d+[.)])", shown)
    assert rendered(shown) == for_terminal(name)


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


@pytest.fixture
def strip(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    (tmp_path / "t.csv").write_text("step,loss,residual,residual_to_noise\n1,2,1,1\n2,1,1,1\n")

    def build(name):
        pictures = {"measurement": tmp_path / "x.png"}
        return Strip(name, pictures, {}, name, tmp_path / "t.csv")

    return build


def test_the_legend_shows_every_name_as_it_is(strip, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_png", lambda figure: drawn.append(figure) or b"")
    curves([strip(name) for name in HOSTILE], "title")
    legend = drawn[0].axes[0].get_legend().get_texts()
    shown = [name if len(name) <= 28 else f"…{name[-27:]}" for name in HOSTILE]
    assert [text.get_text() for text in legend] == [for_figure(name) for name in shown]
    for text in legend:  # what matplotlib makes of it: no mathematics, and dollars again
        plain, math = text._preprocess_math(text.get_text())
        assert math is False and plain == text.get_text().replace(r"\$", "$")


@pytest.mark.parametrize("first", [0, HOSTILE.index("a\udcff.png")])
def test_figures_are_drawn_without_a_warning(strip, first):
    """pytest makes errors of warnings."""
    names = HOSTILE[first : first + LARGEST_FIGURE]
    assert curves([strip(name) for name in names], " ".join(names))[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["p$x_{$.png", "a\nb$c$", "漢\udcff", "long " * 200])
def test_the_comparison_draws_names_and_titles_as_they_are(strip, monkeypatch, name):
    drawn, png = [], figures._png
    monkeypatch.setattr(figures, "_png", lambda figure: drawn.append(figure) or png(figure))
    comparison([strip(name)], name)
    shown = texts(drawn[0])
    assert f"measurement ({for_figure(name)})" in shown
    assert any(text.startswith(for_figure(name)[:200]) for text in shown)


def test_the_operator_sheet_draws_names_as_they_are():
    import torch

    panel = Panel("p$x_{$\n.png", "photograph", ("$a_{$",), torch.zeros(3, 2, 2))
    assert draw([panel], "漢 $x_{$", {"$a_{$": "$b_{$"})[:4] == b"\x89PNG"


def test_json_and_yaml_keep_names_that_are_no_text():
    for name in HOSTILE:
        assert json.loads(json_bytes({name: [name]})) == {name: [name]}
        text = yaml.safe_dump({"data": {"x": name}}, allow_unicode=True).encode()
        assert yaml.safe_load(text) == {"data": {"x": name}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of an image of every name, failed where the name has a line break."""
    for name in ("comparison", "curves"):
        monkeypatch.setattr(figures, name, lambda *_: b"figure")
    with Record(tmp_path / "run", CONFIG) as record:
        record.begin(CPU, None)
        for name in HOSTILE:
            bad = Row(name, "", "failed", f"{name} cannot be read")
            record.write_parts(Parts(name, "d", [bad]) if "\n" in name else parts(name))
        record.end(HOSTILE, {"x": HOSTILE[2]}, HOSTILE[12])
    return record


def test_a_run_of_hostile_names_is_recorded_and_read_back(run):
    rows = run.rows(HOSTILE)
    assert {row.id for row in rows} == set(HOSTILE)
    lines = (run.folder / "scores.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [row.id for row in rows]
    assert all(run.finished(name, "d1") == ("\n" not in name) for name in HOSTILE)
    markdown = (run.folder / "summary.md").read_text("utf-8")
    assert len([line for line in markdown.splitlines() if line.startswith("#")]) == 1
    assert sum(line.startswith("|") for line in markdown.splitlines()) == 4
    assert "<script" not in markdown and "\x1b" not in markdown


def test_the_terminal_gets_no_escape_sequence(run):
    summary = Summary(run.folder, run.rows(HOSTILE), [], {"x": "\x1b[2J not available"}, False)
    said = closing(summary)
    assert all(line.isprintable() for line in said.split("\n"))
    table = _table([Row(name, "last", "ok") for name in HOSTILE])
    assert len(table) == 1 + len(HOSTILE) and all(line.isprintable() for line in table)


def test_file_names_are_distinct_and_fit_every_system():
    ids = [*HOSTILE, "A.png", "a.png", "aUx", "COM1.txt", "lpt9", "x" * 101, "y/" * 60 + "1"]
    ids += ["y/" * 60 + "2", "", "-", safe_name("a b.png"), "é.png".upper(), "A b.png", "a B.png"]
    names = [safe_name(i) for i in dict.fromkeys(ids)]
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name) and not name.endswith(".")
        assert len(name) < 120 and not re.match(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)", name)
    assert safe_name("a.png") == "a.png" and safe_name("img_01.png") == "img_01.png"
