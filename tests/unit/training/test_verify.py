"""Which runs have taught nothing, or the wrong thing: where the bar lies."""

import pytest
import torch

from yangtuo.engine.tolerance import mean_loss_limit
from yangtuo.training.verify import Gain, no_gain

LIMIT = 1e-4


def problems(at_start, at_end, *, num_steps=100, limit=LIMIT, is_continued=False):
    return list(no_gain(Gain(at_start, at_end, num_steps, limit, is_continued)))


@pytest.mark.parametrize(
    ("at_start", "at_end"),
    [(2.3, 0.3), (2.3, 2.299), (0.02, 0.019), (2.3, 2.3 - 2 * LIMIT)],
    ids=["well taught", "a little", "knew it before", "tiny but real"],
)
def test_rows_that_fare_better(at_start, at_end):
    assert problems(at_start, at_end) == []
    assert problems(at_start, at_end, num_steps=1) == []
    assert problems(at_start, at_end, is_continued=True) == []


@pytest.mark.parametrize("at_end", [15.5, 2.31, 2.3 + 2 * LIMIT, float("nan"), float("inf")])
@pytest.mark.parametrize("num_steps", [1, 100])
def test_rows_that_fare_worse(at_end, num_steps):
    (text,) = problems(2.3, at_end, num_steps=num_steps)
    assert text.startswith(f"the loss of rows that were trained on went from 2.3000 to {at_end:.4f}: the run made the")
    assert "--learning_rate" in text


@pytest.mark.parametrize("at_end", [2.3, 2.3 - LIMIT / 2, 2.3 + LIMIT / 2])
def test_a_run_of_many_steps_that_changes_nothing(at_end, caplog):
    (text,) = problems(2.3, at_end)
    assert "in 100 steps, no more than rounding does: the run taught the model nothing" in text
    assert problems(2.3, at_end, num_steps=3) == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("at_end", [0.05, 0.049, 0.051, 0.14])
def test_an_adapter_that_had_converged_may_wander(at_end):
    assert problems(0.05, at_end, is_continued=True) == []


@pytest.mark.parametrize(("at_start", "at_end"), [(0.05, 0.16), (2.0, 2.21), (2.0, 9.0), (2.0, float("nan"))])
def test_a_continued_adapter_that_was_ruined(at_start, at_end):
    assert len(problems(at_start, at_end, is_continued=True)) == 1


def test_what_rounding_explains_falls_with_the_tokens_and_grows_with_the_loss():
    few, many = (mean_loss_limit(torch.bfloat16, 2.0, tokens) for tokens in (16, 1600))
    assert few == pytest.approx(0.05)
    assert many == pytest.approx(0.005)
    assert mean_loss_limit(torch.bfloat16, 4.0, 1600) == pytest.approx(0.01)
    assert mean_loss_limit(torch.float16, 2.0, 1600) == pytest.approx(0.000625)
    assert mean_loss_limit(torch.float32, 2.0, 1600) == pytest.approx(0.0002)
