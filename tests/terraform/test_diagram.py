"""The drawing of the deployment: what its source says, and nothing that cannot be seen."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import draw_diagram
import pytest

SVG = "{http://www.w3.org/2000/svg}"


def test_the_kept_drawing_is_what_its_source_says() -> None:
    """`make docs` has been run, and what it wrote is XML."""
    drawn = draw_diagram.drawing(draw_diagram.SOURCE.read_text())
    assert draw_diagram.DRAWING.read_text() == drawn
    assert ET.fromstring(drawn).tag == f"{SVG}svg"  # noqa: S314 - ditto


def test_every_thing_of_the_source_is_drawn() -> None:
    """Boxes with their lines, frames with their titles, arrows with their labels, words escaped."""
    root = ET.fromstring(  # noqa: S314 - ditto
        draw_diagram.drawing(
            'size 300 200\narea 0 0 300 200 "all"\nbox ours 10 10 100 60 "a" "b & c"\n# no\n'
            'arrow both 110,40 200,40 200,90 150,30 "to"'
        )
    )
    assert [text.text for text in root.iter(f"{SVG}text")] == ["all", "a", "b & c", "to"]
    assert [line.get("points") for line in root.iter(f"{SVG}polyline")] == ["110,40 200,40 200,90"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('box ours 10 10 30 60 "far too long"', "does not fit"),
        ('box theirs 10 10 100 60 "a"', "no kind of box"),
        ('box ours 250 10 100 60 "a"', "outside"),
        ("arrow flow 1,1 400,1", "within the picture"),
        ("arrow flow 1,1", "two points"),
        ("arrow curve 1,1 2,2", "no kind of arrow"),
        ("circle 1 1 1", "circle"),
    ],
)
def test_what_would_not_be_seen_is_an_error_that_names_its_line(line: str, fault: str) -> None:
    """No word runs out of its box, nothing stands outside, nothing is of an unknown kind."""
    with pytest.raises(ValueError, match=f"line 2: .*{fault}"):
        draw_diagram.drawing(f"size 300 200\n{line}")
