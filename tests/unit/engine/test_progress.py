import pytest

from yangtuo.engine.progress import Logging


@pytest.mark.parametrize(
    ("logging", "due"),
    [
        (Logging("steps", 4, first_step=False), [4, 8]),
        (Logging("steps", 4, first_step=True), [1, 4, 8]),
        (Logging("steps", 0.25, first_step=False), [3, 6, 9]),  # a quarter of 10 steps, rounded up
        (Logging("epoch", 500, first_step=False), [6, 10]),
        (Logging("no", 500, first_step=False), []),
    ],
)
def test_when_the_screen_is_told_and_when_it_was_before(logging, due):
    """10 steps, 6 an epoch."""
    assert [step for step in range(1, 11) if logging.is_due(step, 6, 10)] == due
    assert [logging.last_due(step, 6, 10) for step in due] == [0, *due][: len(due)]
    assert logging.last_due(10, 6, 10) == max([step for step in due if step < 10], default=0)
