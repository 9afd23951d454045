"""The table of malformed inputs says what is really said."""

import re

import pytest

from tests.docs import malformed
from tests.docs.malformed import CASES, PAGE, Case, cell, message, page


@pytest.fixture(autouse=True)
def packages():
    pytest.importorskip("pyarrow")
    pytest.importorskip("zstandard")


def test_the_page_is_as_the_code_is():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "stale: run python -m tests.docs.malformed"


def test_there_are_many_cases_each_of_its_own():
    assert len(CASES) >= 45
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_message_can_be_read(case, tmp_path):
    said = message(case, tmp_path)
    assert any(place in said for place in (case.file.split("/")[-1] or "--dataset_dir", "DIR", "--"))
    assert all(line.isprintable() for line in said.splitlines())
    assert max(map(len, said.splitlines())) < 400
    assert str(tmp_path) not in said
    assert not re.search(r"Traceback|Errno|<class|object at 0x", said)


def test_a_case_of_which_nothing_is_said_is_an_error(tmp_path):
    with pytest.raises(AssertionError, match="nothing was said"):
        message(Case("good", "a.json", malformed.GOOD), tmp_path)


def test_a_cell_is_one_line_that_shows_its_text_as_it_is():
    assert cell("data (2 problems):\n  a|b\n  *c* <d>") == r"data (2 problems):<br>a\|b<br>\*c\* \<d\>"
