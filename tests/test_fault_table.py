"""`docs/faults.md` names a test for every fault, and the tests are there and run."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "faults.md"
PROMISED = [*range(1, 34), 36, 37, 38, *range(41, 64)]


def rows(text):
    """`(number, fault, what happens, tests)` of every line of a table that begins with a number."""
    for line in text.splitlines():
        if re.match(r"\| *\d+ *\|", line):
            number, *cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            yield int(number), *cells


ROWS = list(rows(PAGE.read_text(encoding="utf-8")))


@cache
def functions(path):
    """The test functions of a file, with the text of their decorators."""
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return {
        node.name: " ".join(map(ast.unparse, node.decorator_list))
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def problems(tests):
    """What is wrong with a cell that names tests."""
    if re.sub(r"`[^`]*`|\s", "", tests) or not tests:
        return [f"expected `file::test` in backticks, found {tests!r}"]
    found = []
    for test in re.findall(r"`([^`]*)`", tests):
        path, _, name = test.partition("::")
        if not (TESTS / path).is_file() or name not in functions(path):
            found.append(f"{test} is no test")
        elif re.search(r"skip|xfail", functions(path)[name]):
            found.append(f"{test} does not run")
    return found


def test_every_fault_has_one_row():
    assert sorted(row[0] for row in ROWS) == PROMISED
    for number, *cells in ROWS:
        assert len(cells) == 3, number
        assert all(cells), number


@pytest.mark.parametrize(("number", "tests"), [(row[0], row[3]) for row in ROWS], ids=[str(row[0]) for row in ROWS])
def test_the_tests_of_a_fault_exist(number, tests):
    assert problems(tests) == [], number


def test_the_numbered_tests_stand_in_their_rows():
    cells = {number: tests for number, _, _, tests in ROWS}
    for name in functions("test_faults.py"):
        numbers = [int(number) for number in re.findall(r"_(\d\d)(?=_)", name)]
        assert set(numbers) <= set(PROMISED), name
        places = [number for number, tests in cells.items() if f"::{name}`" in tests]
        assert places in ([], numbers), name


@pytest.mark.parametrize(
    "tests",
    ["", "TODO", "`test_faults.py`", "`test_faults.py::test_that_is_not_there`", "`test_absent.py::test_a`",
     "`test_faults.py::Oracle`", "test_faults.py::test_13_a_score_of_ones_own_that_is_no_number"],
)  # fmt: skip
def test_a_row_without_a_test_is_found(tests):
    assert len(problems(tests)) == 1


def test_a_row_with_tests_is_read():
    ((number, fault, _, tests),) = rows("| # | a |\n|---|---|\n| 7 | torn | mended | `test_pool.py::test_under_jit` |")
    assert (number, fault) == (7, "torn")
    assert problems(tests) == []
