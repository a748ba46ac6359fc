"""docs/semantics.md names tests that exist, and every guarantee and every rule has at least one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "semantics.md").read_text("utf-8")
TEST_ID = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")
IDS = sorted(set(TEST_ID.findall(PAGE)))


@cache
def named_in(path: str) -> frozenset[str]:
    """List the test functions of a file."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


@pytest.mark.parametrize(("path", "name"), IDS)
def test_each_test_it_names_exists(path: str, name: str) -> None:
    """A test that was renamed or removed must not go on standing for a promise."""
    assert name in named_in(path)


def test_each_guarantee_and_each_rule_has_a_test() -> None:
    """G1 to G9 and the eight rules are all there, in order, none without a test."""
    guarantees = re.split(r"^### (?=G\d )", PAGE.partition("\n## What becomes")[0], flags=re.MULTILINE)[1:]
    rules = re.findall(r"^\| \d .*$", PAGE, re.MULTILINE)
    assert [each[:2] for each in guarantees] == [f"G{n}" for n in range(1, 10)]
    assert [each[2] for each in rules] == [str(n) for n in range(1, 9)]
    assert all(TEST_ID.search(each) for each in [*guarantees, *rules])


def test_its_sections_are_where_its_links_point() -> None:
    """A link within the page, or to a section of the design, leads somewhere."""
    design = (ROOT / "docs" / "design.md").read_text("utf-8")
    for file, anchor in re.findall(r"\]\((design\.md)?#([\w-]+)\)", PAGE):
        headings = re.findall(r"^#+ (.*)$", design if file else PAGE, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}, anchor
