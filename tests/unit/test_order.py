"""Long test files have their turn first; each place that the list names is there."""

import pytest

from tests.command import REPOSITORY
from tests.conftest import LONG, turn


def test_every_file_that_is_to_be_first_is_there():
    for begin in LONG:
        assert list(REPOSITORY.glob(f"{begin}*")), begin


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tests/cli/test_demo.py::test_a", "tests/cli/test_check.py::test_a"),
        ("tests/fake_cuda/test_memory.py::test_a", "tests/fake_cuda/test_order.py::test_a"),
        ("tests/kill/test_random_kills.py::test_a", "tests/unit/test_errors.py::test_a"),
        ("tests/invariants/test_models_float32.py::test_a", "tests/invariants/test_data.py::test_a"),
    ],
)
def test_what_is_long_comes_first(first, second):
    assert turn(first) < turn(second)


def test_all_else_keeps_its_order():
    assert turn("tests/unit/test_errors.py::test_a") == turn("tests/properties/test_layout.py::test_a") == len(LONG)
