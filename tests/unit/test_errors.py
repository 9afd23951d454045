import re

import pytest

from yangtuo import errors
from yangtuo.errors import DataError, RunFailure, UserError, YangtuoError

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, YangtuoError)]


def test_the_tree_in_the_docstring_is_the_tree_of_classes():
    drawn = re.findall(r"^    ([│ ├└─]*)([A-Z]\w+) ", errors.__doc__ or "", flags=re.MULTILINE)
    parents: list[str] = []
    for indent, name in drawn:
        depth = len(indent) // 4
        parents[depth:] = [name]
        assert [c.__name__ for c in getattr(errors, name).__mro__[depth::-1]] == parents
    assert [name for _, name in drawn] == [c.__name__ for c in CLASSES]


@pytest.mark.parametrize("kind", CLASSES)
def test_exit_codes(kind):
    assert kind.exit_code == (2 if issubclass(kind, UserError) else 1)
    assert kind is YangtuoError or issubclass(kind, UserError) != issubclass(kind, RunFailure)


def test_one_problem_is_one_line():
    error = DataError.of_problems("data", ["a.json row 3: bad"])
    assert type(error) is DataError
    assert str(error) == "data: a.json row 3: bad"


@pytest.mark.parametrize(("num", "last"), [(20, "  p19"), (21, "  ... and 1 more"), (500, "  ... and 480 more")])
def test_many_problems_are_counted_and_the_first_twenty_shown(num, last):
    lines = str(DataError.of_problems("data", [f"p{i}" for i in range(num)])).splitlines()
    assert lines[0] == f"data ({num} problems):"
    assert lines[1:21] == [f"  p{i}" for i in range(20)]
    assert lines[-1] == last
    assert len(lines) == 21 + (num > 20)
