"""One kill of what `python -m tests.kill.random_kills` does twenty times."""

from tests.distributed.launch import needs
from tests.kill.random_kills import play


def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit(engines, inputs, tmp_path):
    """With DeepSpeed; kills under DDP are among the crash points."""
    needs(engines["zero2"])
    lines = []
    play(tmp_path, inputs, engines["zero2"], num_kills=1, seed=20231124, say=lines.append, num_steps=20)
    assert len(lines) == 2
