import numpy as np
import pytest

from tests.unit.engine.small import examples_of
from yangtuo.engine.calibration import _longest_rows, cells_that_fit
from yangtuo.engine.steps import Planner


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (10_000_000, 7100),  # 7.2 MB may be used; 100 kB are there anyway, 1,000 bytes a cell
        (1_000_000, 620),
        (0, 0),
    ],
)
def test_the_line_is_followed_to_the_free_memory(free, expected):
    assert cells_that_fit([(200, 300_000), (1000, 1_100_000)], free) == pytest.approx(expected, abs=1)


def test_two_measurements_of_one_size_do_not_promise_the_world():
    """Rows so long that both had one: half of the mean cost a cell is the least that is believed."""
    assert cells_that_fit([(512, 512_000), (512, 512_000)], 7_200_000) <= 512 + (7_200_000 - 512_000) / 500


@pytest.mark.parametrize(("cells", "rows", "size"), [(1, [2], 7), (10, [2], 7), (12, [2, 0], 12), (99, [2, 0, 1], 15)])
def test_the_longest_rows(cells, rows, size):
    planner = Planner(examples_of(([1, 2, 3], [4, 5]), ([1, 2], [3]), ([1, 2, 3, 4], [5, 6, 7])))
    assert np.array_equal(planner.num_tokens, [5, 3, 7])
    assert _longest_rows(planner, cells) == (rows, size)
