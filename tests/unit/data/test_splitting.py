from dataclasses import replace

import numpy as np
import pytest

from tests import tiny
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.examples import Examples
from yangtuo.data.records import Record, Turn
from yangtuo.data.splitting import num_to_hold_out, split
from yangtuo.data.templates import FrameTemplate


def examples(prompts):
    rows = [
        Record("rows.json", row, (Turn("user", prompt, trained=False), Turn("assistant", f"答{row}", trained=True)))
        for row, prompt in enumerate(prompts)
    ]
    return encode(rows, tiny.characters(), EncodingOptions(FrameTemplate("plain", "", "", "", ""), 64))[0]


def rows_of(part):
    return part.rows.tolist()


@pytest.mark.parametrize(
    ("num_rows", "percentage", "expected"),
    [
        (1000, 0.001, 1),  # the value of 2023's run_sft.sh: one row in a thousand
        (5000, 0.001, 5),
        (10, 0.001, 1),  # never none
        (200, 0.5, 100),  # below 1 a fraction
        (200, 1, 2),  # from 1 up a percentage
        (200, 10, 20),
        (3, 99, 3),
    ],
)
def test_how_many(num_rows, percentage, expected):
    assert num_to_hold_out(num_rows, percentage) == expected


def test_each_row_is_on_one_side_in_the_order_of_the_files():
    held_out, train = split(examples(f"问{i}" for i in range(100)), 10, seed=1)
    assert len(held_out) == 10
    assert sorted(rows_of(train) + rows_of(held_out)) == list(range(100))
    for part in (train, held_out):
        assert rows_of(part) == sorted(rows_of(part))


def test_the_seed_decides():
    rows = examples(f"问{i}" for i in range(100))
    first, again, other = (rows_of(split(rows, 10, seed)[0]) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("seed", range(5))
def test_no_prompt_is_on_both_sides(seed):
    held_out, train = split(examples(f"问{i % 20}" for i in range(100)), 12, seed)
    prompts = [{row % 20 for row in rows_of(part)} for part in (train, held_out)]
    assert not prompts[0] & prompts[1]
    assert len(held_out) == 15  # three whole prompts of five rows, the least that holds 12


def test_one_prompt_alone_leaves_nothing_to_train_on():
    held_out, train = split(examples(["问"] * 4), 25, seed=0)
    assert len(held_out) == 4
    assert train is None


@pytest.mark.parametrize("seed", range(5))
def test_the_examples_of_a_row_stay_on_one_side(seed):
    several = Examples.of_rows([[row, 1] for row in range(60)], [[False, True]] * 60)
    several = replace(several, rows=np.arange(60) // 3)
    held_out, train = split(several, 20, seed)
    assert not set(rows_of(train)) & set(rows_of(held_out))
    assert all(rows_of(part).count(row) == 3 for part in (train, held_out) for row in rows_of(part))
