"""Draws docs/deployment.svg from docs/deployment.diagram; `generate_docs.py` writes or checks it with the other pages.

The source says its own form. Everything is placed by hand, so a drawing never moves by itself; what is here is only the
look: one style sheet, with a light and a dark set of colours that the reader's system chooses between. A word that runs
out of its box, or a thing that stands outside the picture, is an error.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "docs" / "deployment.diagram"
DRAWING = SOURCE.with_suffix(".svg")

STYLE = """\
  svg { --paper: #ffffff; --ink: #1c2733; --soft: #5b6b7b; --frame: #b9c4cf;
        --ours: #e3effc; --ours-line: #2f6db5; --yours: #f1f3f5; --yours-line: #7b8894;
        --akamai: #fdeedd; --akamai-line: #c8741a; }
  @media (prefers-color-scheme: dark) {
    svg { --paper: #12181f; --ink: #e6edf3; --soft: #9fb0c0; --frame: #3b4856;
          --ours: #16304d; --ours-line: #6aa7ea; --yours: #232c35; --yours-line: #8d9aa6;
          --akamai: #452c12; --akamai-line: #e59a45; }
  }
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; text-anchor: middle;
         fill: var(--soft); }
  .title { font-weight: 600; font-size: 15px; fill: var(--ink); }
  .paper { fill: var(--paper); }
  .area { fill: none; stroke: var(--frame); stroke-dasharray: 6 4; }
  .name { text-anchor: start; font-size: 12px; }
  .ours { fill: var(--ours); stroke: var(--ours-line); }
  .yours { fill: var(--yours); stroke: var(--yours-line); }
  .akamai { fill: var(--akamai); stroke: var(--akamai-line); }
  .flow, .both, .aside { fill: none; stroke: var(--ink); stroke-width: 1.6; marker-end: url(#tip); }
  .both { marker-start: url(#tip); }
  .aside { stroke: var(--soft); stroke-dasharray: 4 3; }
  .label { font-size: 12px; stroke: var(--paper); stroke-width: 5px; paint-order: stroke; }
  #tip { fill: var(--ink); }"""

WIDEST_LETTER_PX = {"title": 8.6, "line": 7.1}
"""About the mean width of a letter by class, generously: enough to see a line that cannot fit."""


def drawing(source: str) -> str:
    """Draw it; raises ValueError that names the line."""
    size, body = (0, 0), list[str]()
    for number, line in enumerate(source.splitlines(), 1):
        try:
            match shlex.split(line, comments=True):
                case []:
                    continue
                case ["size", wide, high]:
                    size = int(wide), int(high)
                case [thing, *given]:
                    body += DRAWN[thing](given, size)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{SOURCE.name}, line {number}: {error}: {line}") from error
    return FRAME.format(width=size[0], height=size[1], style=STYLE, body="\n".join(body))


FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<!-- Drawn by tools/draw_diagram.py from deployment.diagram: do not edit. -->
<title>s3nsync on AWS: from the bucket by function, queues and worker to NetStorage</title>
<style>
{style}
</style>
<defs>
<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">
<path d="M0 0 8 4 0 8z"/>
</marker>
</defs>
<rect class="paper" width="{width}" height="{height}" rx="12"/>
{body}
</svg>
"""


def _area(given: Sequence[str], size: tuple[int, int]) -> Iterator[str]:
    *place, title = given
    x, y, width, height = _within(place, size)
    yield f'<rect class="area" x="{x}" y="{y}" width="{width}" height="{height}" rx="10"/>'
    yield f'<text class="name label" x="{x + 10}" y="{y + 4}">{escape(title)}</text>'


def _box(given: Sequence[str], size: tuple[int, int]) -> Iterator[str]:
    kind, lines = given[0], given[5:]
    if kind not in {"ours", "yours", "akamai"}:
        raise ValueError(f"no kind of box is called {kind}")
    x, y, width, height = _within(given[1:5], size)
    yield f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
    first = y + height / 2 - 9 * (len(lines) - 1) + 5
    for number, line in enumerate(lines):
        name = "line" if number else "title"
        if len(line) * WIDEST_LETTER_PX[name] > width:
            raise ValueError(f"{line!r} does not fit into {width} pixels")
        yield f'<text class="{name}" x="{x + width // 2}" y="{first + 18 * number:g}">{escape(line)}</text>'


def _within(place: Sequence[str], size: tuple[int, int]) -> tuple[int, int, int, int]:
    x, y, width, height = map(int, place)
    if not (0 <= x < x + width <= size[0] and 0 <= y < y + height <= size[1]):
        raise ValueError("it stands outside the picture")
    return x, y, width, height


def _arrow(given: Sequence[str], size: tuple[int, int]) -> Iterator[str]:
    """Draw a line through the points; a point that a word follows is that word's place."""
    kind, *points = given
    if kind not in {"flow", "both", "aside"}:
        raise ValueError(f"no kind of arrow is called {kind}")
    path, labels = list[tuple[int, int]](), list[tuple[int, int, str]]()
    for each in points:
        x, comma, y = each.partition(",")
        if comma and x.isdigit() and y.isdigit():
            path.append((int(x), int(y)))
        else:
            labels.append((*path.pop(), each))
    if len(path) < 2 or not all(right <= size[0] and down <= size[1] for right, down in path):
        raise ValueError("an arrow needs two points at least, within the picture")
    yield f'<polyline class="{kind}" points="{" ".join(f"{right},{down}" for right, down in path)}"/>'
    for right, down, text in labels:
        yield f'<text class="label" x="{right}" y="{down}">{escape(text)}</text>'


DRAWN = {"area": _area, "box": _box, "arrow": _arrow}
