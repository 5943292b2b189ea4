"""Names, titles and messages are data: how each medium shows them as they are, and nothing else.

A file name may hold line breaks, escape sequences of terminals, HTML, formulas, or bytes that are
no text. One function per medium makes it harmless there.
"""

from __future__ import annotations

import re

# What Markdown reads as emphasis, code, links, tables, headings, formulas or HTML; an underscore
# inside a word and a bracket that begins no link stay as they are.
_MARKUP = re.compile(r"[\\`*|#~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\](?=[(\[:])|^[-+=]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def for_terminal(text: str) -> str:
    r"""Returns a text as one line of printable characters; any other one as \n, \x1b, \udcff."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def for_markdown(text: str) -> str:
    """Returns a text as one line that Markdown renders as it is; no HTML, table or heading."""
    marked = _MARKUP.sub(r"\\\g<0>", for_terminal(text))
    numbered = re.sub(r"^(\d+)([.)])", r"\1\\\2", marked)
    return re.sub("[&<>]", lambda found: _HTML[found[0]], numbered)


def for_figure(text: str) -> str:
    """Returns a text as one line in which matplotlib finds no formula."""
    return for_terminal(text).replace("$", r"\$")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
