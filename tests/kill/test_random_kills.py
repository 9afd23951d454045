"""A few kills of what `python -m tests.kill.random_kills` does twenty times."""

import pytest

from tests.distributed.launch import needs
from tests.kill.random_kills import play


@pytest.mark.parametrize("name", ["ddp", "zero2"])
def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit(name, engines, inputs, tmp_path):
    needs(engines[name])
    lines = []
    play(tmp_path, inputs, engines[name], num_kills=3, seed=20231124, say=lines.append)
    assert len(lines) == 4
