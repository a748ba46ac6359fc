"""Where keys go, which are refused, and what is said about mistaken routes."""

from __future__ import annotations

import itertools
import json
import posixpath
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from s3nsync import mapping
from s3nsync.errors import ConfigError
from s3nsync.mapping import FolderMarker, OutOfScope, Placed, Refused
from s3nsync.model import ObjectRef, Route

steady = settings(deadline=None, derandomize=True)  # the same examples on every run, however busy the machine

PLAIN = Route("b", "123456")
SITE = Route("b", "123456", directory="site", prefix="media/", strip_prefix="media/")


def place(key: str, *routes: Route) -> mapping.Placement:
    """Place a key of bucket b."""
    return mapping.place(ObjectRef("b", key), routes or (PLAIN,))


# --- paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "key", "path"),
    [
        (PLAIN, "a.txt", "/123456/a.txt"),
        (PLAIN, "a/b c/+%2B.txt", "/123456/a/b c/+%2B.txt"),
        (PLAIN, "Ü/☃", "/123456/Ü/☃"),
        (PLAIN, "...", "/123456/..."),
        (PLAIN, "a/.b/c.", "/123456/a/.b/c."),
        (PLAIN, "\x80\x9b", "/123456/\x80\x9b"),
        (PLAIN, " ", "/123456/ "),
        (replace(PLAIN, directory="a/b"), "c", "/123456/a/b/c"),
        (SITE, "media/x", "/123456/site/x"),
        (replace(SITE, strip_prefix=""), "media/x", "/123456/site/media/x"),
        (replace(SITE, strip_prefix="me"), "media/x", "/123456/site/dia/x"),
        (Route("b", "1", prefix="/", strip_prefix="/"), "/x", "/1/x"),
    ],
)
def test_the_path_is_cpcode_directory_and_the_rest_of_the_key(route: Route, key: str, path: str) -> None:
    """The stripped prefix goes, everything else of the key stays as it is."""
    assert place(key, route) == Placed(route, path)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("..", "has the part `..`"),
        ("a/../b", "has the part `..`"),
        ("a/.", "has the part `.`"),
        ("./a", "has the part `.`"),
        ("a//b", "has an empty part"),
        ("/a", "has an empty part"),
        ("/", "nothing is left"),
        ("a//", "has an empty part"),
        ("../", "has the part `..`"),
        ("a\nb", "control character U+000A"),
        ("a\x00", "control character U+0000"),
        ("a\x7f", "control character U+007F"),
        ("a\ufffe", "control character U+FFFE"),
        ("a\ud800", "is not Unicode text"),
        ("x" * 256, "has a part longer than 255 bytes"),
        ("é" * 128, "has a part longer than 255 bytes"),
        ("d/" * 1022 + "f", "the path is longer than 2048 bytes"),
    ],
)
def test_keys_that_no_path_can_hold_are_refused_with_reason_and_hint(key: str, reason: str) -> None:
    """Nothing is rewritten: the key is refused, and the reason says which part of it is at fault."""
    refused = place(key)
    assert isinstance(refused, Refused)
    assert reason in refused.reason
    assert "exclude" in refused.hint


PIECES = [".", "..", "a", "/", "/", "...", " ", "~", "\n", "\x7f", "é", "\ud800", "x" * 254]


@steady
@given(st.lists(st.sampled_from(PIECES), max_size=6))
def test_a_key_is_refused_just_for_its_parts(pieces: list[str]) -> None:
    """Whatever stands beside a part, it is refused by its own rules alone, and no other key is."""
    key = "".join([*pieces, "k"])

    def is_bad(part: str) -> bool:
        uncarriable = any(each in part for each in ("\n", "\x7f", "\ud800"))
        return part in {"", ".", ".."} or uncarriable or len(part.encode("utf-8", "surrogatepass")) > 255

    assert isinstance(place(key), Refused) == any(map(is_bad, key.split("/")))


def test_the_limits_themselves_are_allowed() -> None:
    """255 bytes of name and 2,048 bytes of path pass; one more does not."""
    assert isinstance(place("é" * 127 + "e"), Placed)
    room = mapping.MAX_PATH_BYTES - len("/123456/")
    assert isinstance(place(("d/" * room)[: room - 1] + "f"), Placed)
    assert isinstance(place(("d/" * room)[:room] + "f"), Refused)


def test_a_key_equal_to_the_stripped_prefix_is_refused() -> None:
    """Where nothing is left of the key there is no name to write to, and the hint says what to change."""
    refused = place("media", replace(SITE, prefix="media", strip_prefix="media"))
    assert isinstance(refused, Refused)
    assert "end strip_prefix with a slash" in refused.hint


@pytest.mark.parametrize(
    ("key", "path"), [("media/a/", "/123456/site/a"), ("media/a/b/", "/123456/site/a/b"), ("media/", "/123456/site")]
)
def test_a_trailing_slash_is_a_folder_marker(key: str, path: str) -> None:
    """The marker names its directory without the slash; that of the stripped prefix names the route's own."""
    assert place(key, SITE) == FolderMarker(SITE, path)


# --- scope -----------------------------------------------------------------------------------------------------


def test_the_longest_prefix_decides_whatever_the_order() -> None:
    """Among the routes of a bucket the most specific one takes the key."""
    for routes in ((PLAIN, SITE), (SITE, PLAIN)):
        assert place("media/x", *routes) == Placed(SITE, "/123456/site/x")
        assert place("medial", *routes) == Placed(PLAIN, "/123456/medial")


def test_a_key_its_route_leaves_out_does_not_fall_to_a_shorter_prefix() -> None:
    """Excluded by the route that decides means out of scope."""
    assert place("media/x.tmp", PLAIN, replace(SITE, exclude=("*.tmp",))) == OutOfScope("excluded by pattern *.tmp")


def test_keys_without_a_route_are_out_of_scope() -> None:
    """Another bucket, or a prefix that no route has, is nobody's, and the reason tells the two apart."""
    assert mapping.place(ObjectRef("c", "x"), (PLAIN,)) == OutOfScope("no route for bucket")
    assert isinstance(place("other/x", SITE), OutOfScope)
    assert place("other/x", SITE) != OutOfScope("no route for bucket")


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("*.jpg", "a/b/c.jpg", True),
        ("*.jpg", "a.JPG", False),
        ("a/?", "a/b", True),
        ("a/?", "a/bc", False),
        ("[ab]*", "b/c", True),
        ("[!ab]*", "b/c", False),
        ("media/*", "media/a/b", True),
        ("b", "a/b", False),
    ],
)
def test_patterns_are_shell_style_over_the_whole_key(pattern: str, key: str, matches: bool) -> None:
    """`*` crosses `/`, case counts, and the pattern must match from the key's first to its last character."""
    assert isinstance(place(key, replace(PLAIN, include=(pattern,))), Placed) is matches
    assert isinstance(place(key, replace(PLAIN, exclude=(pattern,))), OutOfScope) is matches


def test_exclude_wins_over_include() -> None:
    """A key that both name is left out."""
    assert isinstance(place("a", replace(PLAIN, include=("a", "b"), exclude=("a",))), OutOfScope)
    assert isinstance(place("b", replace(PLAIN, include=("a", "b"), exclude=("a",))), Placed)
    assert place("c", replace(PLAIN, include=("a", "b"))) == OutOfScope("matches no include pattern")


# --- G6: containment -------------------------------------------------------------------------------------------

NASTY = st.lists(st.sampled_from(["a", "b", "/", ".", "..", "%2e", "%2F", "\\", "é", "\0", "\n", ":", "?"]), max_size=9)
KEYS = NASTY.map("".join).filter(bool) | st.text(min_size=1, max_size=20)
DIRECTORIES = st.sampled_from(["", "site", "a/b"])
STRIPS = st.integers(0, 6)


def routed(directory: str, strip: int, prefix: str = "a/b/") -> Route:
    """Make a route with a stripped prefix of some length."""
    return Route("b", "7", directory=directory, prefix=prefix, strip_prefix=prefix[:strip])


@steady
@given(directory=DIRECTORIES, strip=STRIPS, rest=KEYS)
def test_g6_no_key_leaves_its_routes_directory(directory: str, strip: int, rest: str) -> None:
    """G6: resolved as any web server or file system would, a placed path stays below /cpcode/directory."""
    where = place("a/b/" + rest, routed(directory, strip))
    assert not isinstance(where, OutOfScope)
    if isinstance(where, Refused):
        return
    base = f"/7/{directory}".rstrip("/")
    assert posixpath.normpath(where.path) == where.path
    assert where.path.startswith(base + "/") or (where == FolderMarker(where.route, base))
    assert where.path.isprintable() or not any(char < " " or char == "\x7f" for char in where.path)


@steady
@given(directory=DIRECTORIES, strip=STRIPS, one=KEYS, other=KEYS)
def test_g6_no_two_keys_of_a_route_meet(directory: str, strip: int, one: str, other: str) -> None:
    """G6: two keys that one route places have two paths, byte for byte."""
    assume(one != other)
    route = routed(directory, strip)
    paths = [where.path for key in (one, other) if isinstance(where := place("a/b/" + key, route), Placed)]
    assert len(set(paths)) == len(paths)


def small_routes(bucket: str) -> list[Route]:
    """Give every route that can be made of a few directories, prefixes and stripped prefixes."""
    return [
        Route(bucket, "7", directory, prefix, strip_prefix=prefix[:cut])
        for directory in ("", "a", "a/b")
        for prefix in ("", "a", "a/", "b/", "a/b/")
        for cut in range(len(prefix) + 1)
    ]


def passes(pair: tuple[Route, Route]) -> bool:
    """Say whether check_routes lets a pair pass."""
    try:
        mapping.check_routes(pair)
    except ConfigError:
        return False
    return True


def test_g6_routes_that_pass_the_checks_never_share_a_path() -> None:
    """G6: of all pairs of small routes, those that check_routes lets pass place no two objects at one path."""
    keys = ["".join(parts) for length in range(1, 6) for parts in itertools.product("ab/", repeat=length)]
    keys = [key for key in keys if "//" not in key and key[0] != "/" and key[-1] != "/"]
    refs = [ObjectRef(bucket, key) for bucket in "bc" for key in keys]
    pairs = [*itertools.product(small_routes("b"), small_routes("c")), *itertools.combinations(small_routes("b"), 2)]
    passing = [pair for pair in pairs if passes(pair)]
    for pair in passing:
        paths = [where.path for ref in refs if isinstance(where := mapping.place(ref, pair), Placed)]
        assert len(set(paths)) == len(paths), pair
    assert len(passing) > 100


# --- reading routes --------------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "bucket": "my-bucket",
    "cpcode": "123456",
    "directory": "site",
    "prefix": "media/",
    "strip_prefix": "media/",
    "include": ["*.jpg"],
    "exclude": ["*.tmp", "x/*"],
    "account": "other",
    "deletes": "trash",
    "trash": "bin",
    "folder_markers": "mkdir",
    "content_encoding": "reject",
    "settle_s": 2.5,
}


def test_every_field_of_a_route_can_be_written() -> None:
    """The schema is the Route's own fields, under their own names."""
    route = mapping.route_from_mapping(FULL, "routes[0]")
    assert set(FULL) == {each.name for each in fields(Route)}
    assert {name: getattr(route, name) for name in FULL} == FULL | {
        "include": ("*.jpg",),
        "exclude": ("*.tmp", "x/*"),
    }


def test_a_route_is_at_least_bucket_and_cpcode() -> None:
    """Everything else has the default of the model; a CP code may be a number and a directory have outer slashes."""
    assert mapping.route_from_mapping({"bucket": "b", "cpcode": 123456}, "r") == PLAIN
    assert mapping.route_from_mapping({"bucket": "b", "cpcode": "1", "directory": "/a/b/"}, "r").directory == "a/b"


def mistakes(text: str) -> list[str]:
    """Read routes that are wrong and give the lines of what is said about them."""
    with pytest.raises(ConfigError) as caught:
        mapping.routes_from_json(text)
    return caught.value.message.splitlines()


def _trashing(directory: str, trash: str) -> str:
    return json.dumps([{"bucket": "b", "cpcode": "1", "directory": directory, "deletes": "trash", "trash": trash}])


def test_the_lambda_minds_no_key_that_it_does_not_know() -> None:
    """A policy of a newer worker must not stop the events; mistakes in what is known still do."""
    text = '[{"bucket":"b","cpcode":"123456","shelf_life_s":7}]'
    assert mapping.routes_from_json(text, unknown="ignore") == (PLAIN,)
    with pytest.raises(ConfigError, match="cpcode: 'x' is not"):
        mapping.routes_from_json(text.replace("123456", "x"), unknown="ignore")


# --- the trash -------------------------------------------------------------------------------------------------

TRASHING = Route("b", "1", "web", deletes="trash")


@pytest.mark.parametrize(
    ("path", "trash"),
    [
        ("/1/web/a.txt", "/1/.s3nsync-trash/web/a.txt.20270115T080000.250Z"),
        ("/1/web/d/é", "/1/.s3nsync-trash/web/d/é.20270115T080000.250Z"),
        ("/1/web/" + "é" * 127, "/1/.s3nsync-trash/web/" + "é" * 117 + ".20270115T080000.250Z"),
    ],
)
def test_what_is_deleted_keeps_its_path_with_the_time_behind_it(path: str, trash: str) -> None:
    """No two deletes share a name, none is longer than names may be, and none is cut within a character."""
    assert mapping.trash_path(TRASHING, path, 1_800_000_000.25) == trash
    assert len(trash.rpartition("/")[2].encode()) <= mapping.MAX_SEGMENT_BYTES


@steady
@given(
    key=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1), min_size=1).map("/".join),
    now_s=st.floats(0, 4e9),
)
def test_g6_the_trash_lies_within_its_directory_and_outside_of_the_routes_own(key: str, now_s: float) -> None:
    """G6: a deleted file leaves the route's directory for its trash, and for nowhere else."""
    where = place(key, TRASHING)
    if isinstance(where, Placed):
        trash = mapping.trash_path(TRASHING, where.path, now_s)
        assert trash.startswith("/1/.s3nsync-trash/web/")
        assert trash.count("/") == where.path.count("/") + 1
        assert not {"", ".", ".."} & set(trash[1:].split("/"))


@pytest.mark.parametrize("trash", ["other", "other/x", "o"])
def test_a_trash_may_not_lie_among_another_routes_files(trash: str) -> None:
    """Or verify would find deleted files in that route, and remove them."""
    other = Route("c", "1", "other" if trash != "o" else "o/x")
    for pair in ((replace(TRASHING, trash=trash), other), (other, replace(TRASHING, trash=trash))):
        with pytest.raises(ConfigError, match=r"the trash /1/o.* meets the files of s3://c"):
            mapping.check_routes(pair)
    mapping.check_routes((replace(TRASHING, trash="elsewhere"), other, Route("d", "2", trash)))
    mapping.check_routes((TRASHING, Route("c", "1", "images", deletes="trash")))


def test_all_mistakes_are_told_at_once_with_their_places() -> None:
    """Each wrong value, missing key and unknown key of every route has a line; a near miss is suggested."""
    wrong = {
        "buckt": "b",
        "cpcode": "12x",
        "directory": "a/../b",
        "prefix": "p",
        "strip_prefix": "q",
        "include": "*.jpg",
        "account": "a b",
        "deletes": "mirorr",
        "settle_s": -1,
    }
    assert mistakes(json.dumps([wrong, 3, {"bucket": "b", "cpcode": True, "exclude": [""]}])) == [
        "routes[0].buckt: unknown key; did you mean bucket?",
        "routes[0].bucket: missing; a bucket name is wanted",
        "routes[0].cpcode: '12x' is not a CP code (digits only)",
        "routes[0].include: '*.jpg' is not a list of patterns",
        "routes[0].account: 'a b' is not an account name (letters, digits, _ and -)",
        "routes[0].deletes: 'mirorr' is none of mirror, ignore, trash",
        "routes[0].settle_s: -1 is not a number of seconds from 0 to 43200",
        "routes[0].directory: has the part `..`, which would be resolved on the way",
        "routes[0].strip_prefix: 'q' is no leading part of prefix 'p'",
        "routes[1]: 3 is not a route",
        "routes[2].cpcode: True is not a CP code (digits only)",
        "routes[2].exclude: [''] is not a list of patterns",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "routes: not JSON (line 1, column 1)"),
        ("[\n{]", "routes: not JSON (line 2, column 2)"),
        ("[" * 200_000, "routes: not JSON"),
        ("{}", "routes: a JSON list is wanted"),
        ("[]", "routes: at least one is wanted"),
        ('[{"bucket":"a/b","cpcode":"1"}]', "routes[0].bucket: 'a/b' is not a bucket name"),
        ('[{"bucket":"b","cpcode":"1","prefix":7}]', "routes[0].prefix: 7 is not a text"),
        ('[{"bucket":"b","cpcode":"1","settle_s":1e999}]', "routes[0].settle_s: inf is not a number of seconds"),
        ('[{"bucket":"b","cpcode":"1","directory":"a//b"}]', "routes[0].directory: has an empty part"),
        ('[{"bucket":"b","cpcode":"1","prefix":"/media/"}]', "routes[0].prefix: no key under it can be placed"),
        ('[{"bucket":"b","cpcode":"1","zzz":1}]', "routes[0].zzz: unknown key"),
        ('[{"bucket":"b","cpcode":"1","deletes":"trash"}]', "routes[0].trash: /1/.s3nsync-trash and the route's own"),
        (_trashing("a", "a"), "routes[0].trash: /1/a and the route's own files would lie in one another"),
        (_trashing("a", "a/b"), "routes[0].trash: /1/a/b and the route's own"),
        (_trashing("a/b", "/a/"), "routes[0].trash: /1/a and the route's own"),
        (_trashing("a", ""), "routes[0].trash: must name a directory below the CP code"),
        (_trashing("a", "../2"), "routes[0].trash: has the part `..`"),
        ('[{"bucket":"b","cpcode":"1","trash":"x"}]', "routes[0].trash: has no effect without deletes = 'trash'"),
    ],
)
def test_a_mistake_is_said_in_words(text: str, says: str) -> None:
    """The message names the place and what is wrong there."""
    assert mistakes(text)[0].startswith(says)


@steady
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_values_are_read_or_raise_config_error(value: object) -> None:
    """A route of arbitrary values raises nothing but ConfigError, one line or more."""
    for name in FULL:
        try:
            mapping.route_from_mapping({"bucket": "b", "cpcode": "1", name: value}, "r")
        except ConfigError as error:
            assert error.message.startswith("r.")  # noqa: PT017 both ways are right; only another exception is not


SOUND = st.builds(
    Route,
    bucket=st.sampled_from(["b", "my.bucket-1"]),
    cpcode=st.integers(0, 10**9).map(str),
    directory=st.sampled_from(["", "a", "ü/b"]),
    prefix=st.sampled_from(["", "p/"]),
    include=st.lists(st.text(st.characters(codec="utf-8"), min_size=1)).map(tuple),
    exclude=st.lists(st.text(st.characters(codec="utf-8"), min_size=1)).map(tuple),
    account=st.sampled_from(["default", "x_1"]),
    deletes=st.sampled_from(["mirror", "ignore"]),
    folder_markers=st.sampled_from(["ignore", "mkdir"]),
    content_encoding=st.sampled_from(["warn", "reject"]),
    settle_s=st.floats(0, 43_200),
)


@steady
@given(route=SOUND)
def test_routes_survive_json(route: Route) -> None:
    """routes_from_json(routes_to_json(routes)) gives the same routes; the text is ASCII."""
    for each in (route, replace(TRASHING, prefix=route.prefix, trash="bin")):
        text = mapping.routes_to_json([each])
        assert mapping.routes_from_json(text) == (each,)
        assert text.isascii()


def test_the_json_of_routes_leaves_defaults_out() -> None:
    """A Lambda's environment is small, so only what was said travels."""
    assert mapping.routes_to_json([PLAIN]) == '[{"bucket":"b","cpcode":"123456"}]'


# --- routes together -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (PLAIN, replace(PLAIN, directory="x"), "two routes take s3://b/*"),
        (PLAIN, Route("c", "123456"), "write to the same place"),
        (PLAIN, Route("c", "123456", directory="x"), "write to the same place"),
        (PLAIN, SITE, "write to the same place"),
        (Route("b", "1", "x", "p/", "p/"), Route("b", "1", "x", "q/", "q/"), "write to the same place"),
        (Route("b", "1", "x", "ab", "ab"), Route("b", "1", "x/y", "q/", "q/"), "write to the same place"),
        (Route("b", "1", "", "a", ""), Route("c", "1", "ab", "", ""), "write to the same place"),
    ],
)
def test_routes_whose_targets_meet_are_refused(one: Route, other: Route, says: str) -> None:
    """Two routes that could write to one path, or of which one lies inside the other, are a mistake."""
    for pair in ((one, other), (other, one)):
        with pytest.raises(ConfigError, match=says) as caught:
            mapping.check_routes(pair)
        assert "s3://" in caught.value.message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PLAIN, Route("c", "77")),
        (Route("b", "1", "x"), Route("c", "1", "y")),
        (Route("b", "1", "x"), Route("c", "1", "xy")),
        (PLAIN, replace(PLAIN, prefix="media/", deletes="ignore")),
        (Route("b", "1", "", "a/"), Route("b", "1", "a/b", "a/b/", "a/b/")),
        (Route("b", "1", "x", "p/"), Route("b", "1", "x", "q/")),
    ],
)
def test_routes_that_stay_apart_or_agree_pass(one: Route, other: Route) -> None:
    """Separate targets pass; so do nested routes of one bucket that give every key the same path."""
    mapping.check_routes((one, other))
    mapping.check_routes((other, one))


def test_routes_built_in_code_are_checked_as_well() -> None:
    """check_routes does not trust that somebody read the routes: all their parts are looked at."""
    bad = Route("", "12x", directory="/a/", account="a b")
    with pytest.raises(ConfigError) as caught:
        mapping.check_routes([bad])
    text = caught.value.message
    assert all(
        word in text for word in ("bucket: ''", "cpcode: '12x'", "account: 'a b'", "directory: has an empty part")
    )
