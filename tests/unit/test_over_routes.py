"""The words of verify's and sync's options: routes, objects, moments, and what part of a route they leave."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from s3nsync.cli.commands import app
from s3nsync.cli.over_routes import Asked, Shown, choose, outcome_words, progress_words, ref_of
from s3nsync.cli.sync import _moment_s
from s3nsync.errors import ConfigError
from s3nsync.model import ObjectRef, Route
from s3nsync.reconcile.sides import Selection

ROUTES = (Route("media", "1"), Route("soft", "2", prefix="public/"), Route("soft", "3", prefix="beta/"))


@pytest.mark.parametrize(
    ("names", "prefix", "expected"),
    [
        ([], "", [0, 1, 2]),
        (["2"], "", [1]),
        (["soft"], "", [1, 2]),
        (["soft/beta/", "media/"], "", [2, 0]),
        (["soft", "2"], "", [1, 2]),
        ([], "public/2026/", [0, 1]),
        ([], "pub", [0, 1]),
        (["soft"], "beta/x", [2]),
    ],
)
def test_routes_are_named_by_number_bucket_or_prefix(names: list[str], prefix: str, expected: list[int]) -> None:
    """Those that the prefix leaves nothing of are left out."""
    assert choose(ROUTES, names, Selection(prefix)) == tuple(ROUTES[number] for number in expected)


def test_a_name_that_is_none_is_refused_with_the_names_there_are() -> None:
    """Nothing is looked at by mistake."""
    with pytest.raises(ConfigError, match="no route '4'") as caught:
        choose(ROUTES, ["4"], Selection())
    assert "2  soft/public/" in caught.value.hint
    with pytest.raises(ConfigError, match="begin with 'x'"):
        choose(ROUTES[1:], [], Selection("x"))


def test_an_inventory_is_of_one_bucket() -> None:
    """Else the first route would be done before the second one's bucket is found not to be in it."""
    ref = ObjectRef("inventories", "manifest.json")
    for selection in (Selection(inventory=ref), Selection(checksums=ref)):
        with pytest.raises(ConfigError, match="of several: media, soft") as caught:
            choose(ROUTES, [], selection)
        assert "--route media" in caught.value.hint
        assert choose(ROUTES, ["soft"], selection) == ROUTES[1:]
        assert choose(ROUTES, [], replace(selection, prefix="nothing")) == ROUTES[:1]


def test_what_was_asked_for_is_worded_as_it_was_typed() -> None:
    """In the state of a sync, and to whoever goes on with another one."""
    asked = Asked(routes=["1"], prefix="a b/", include=["*.jpg", "*.png"], exclude=None, inventory="")
    assert asked.words(newer_than="7d") == "--prefix 'a b/' --include '*.jpg' --include '*.png' --newer-than 7d"
    assert Asked(routes=None, prefix="", include=None, exclude=None, inventory="").words(newer_than="") == ""


def test_a_selection_narrows_prefix_and_patterns() -> None:
    """The longer prefix counts; exclude wins over include."""
    assert Selection("public/a/").prefix_in(ROUTES[1]) == "public/a/"
    assert Selection("pub").prefix_in(ROUTES[1]) == "public/"
    selection = Selection(include=("*.jpg", "*.png"), exclude=("tmp/*",))
    assert [key for key in ("a.jpg", "tmp/a.jpg", "a.txt", "b/c.png") if selection.takes(key)] == ["a.jpg", "b/c.png"]


@pytest.mark.parametrize("text", ["bucket/key", "s3://bucket", "s3://bucket/", "s3:///key"])
def test_what_names_no_object_is_refused(text: str) -> None:
    """An object is s3://bucket/key."""
    with pytest.raises(ConfigError, match="no object"):
        ref_of(text)


def test_objects_are_named_by_url() -> None:
    """Nothing is none."""
    assert ref_of("s3://b/k/manifest.json") == ObjectRef("b", "k/manifest.json")
    assert ref_of("") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC).timestamp()),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC).timestamp()),
        ("36h", 1_000_000 - 36 * 3600),
        ("1.5d", 1_000_000 - 36 * 3600),
    ],
)
def test_a_moment_is_a_date_or_how_long_ago(text: str, expected: float) -> None:
    """UTC unless it says otherwise."""
    assert _moment_s(text, 1_000_000) == expected


@pytest.mark.parametrize("text", ["yesterday", "d", "12", "31.1.2026", "-5d", "nand", "infh", "1e9w", "0001-01-01x"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    """With examples."""
    with pytest.raises(ConfigError, match="no time"):
        _moment_s(text, 0)


@pytest.mark.parametrize(
    ("now", "seconds", "words"),
    [
        (Shown(0, 0, "0 sent"), 0.0, "0 objects, 0 B, 0 sent"),
        (Shown(12_000, 3 << 30, "5 sent"), 10.0, "12,000 objects, 3.0 GiB, 1,200/s, 5 sent"),
        (Shown(5, 10, "9 looked at", 65), 10.0, "5 of 65 objects, 10 B, 0.5/s, 2 min left, 9 looked at"),
    ],
)
def test_progress_is_told_in_units_of_people(now: Shown, seconds: float, words: str) -> None:
    """Objects, bytes, rate, and the time left as soon as anybody knows the end."""
    assert progress_words(now, seconds) == words


def test_outcomes_are_told_in_words() -> None:
    """What did not happen is not told."""
    counts = {"trashed": 2, "copied": 1200, "set_aside": 1, "buried": 0}
    assert outcome_words(counts) == "1,200 copied, 1 set aside, 2 moved to the trash"


@pytest.mark.parametrize("words", ["verify --max-delete-percent nan", "verify --tolerance inf", "sync --rate inf"])
def test_what_is_no_number_is_wrong_usage(words: str) -> None:
    """`nan` is within every bound: a cap of it would be none."""
    result = CliRunner().invoke(app, words.split(), env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "Invalid value" in result.output
