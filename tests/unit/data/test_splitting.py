import pytest

from yangtuo.data.records import Record, Turn
from yangtuo.data.splitting import num_to_hold_out, split


def records(prompts):
    return [
        Record("rows.json", row, (Turn("user", prompt, trained=False), Turn("assistant", "答", trained=True)))
        for row, prompt in enumerate(prompts)
    ]


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
    rows = records(f"问{i}" for i in range(100))
    train, held_out = split(rows, 10, seed=1)
    assert len(held_out) == 10
    assert sorted(train + held_out, key=lambda record: record.row) == rows
    for part in (train, held_out):
        assert part == sorted(part, key=lambda record: record.row)


def test_the_seed_decides():
    rows = records(f"问{i}" for i in range(100))
    assert split(rows, 10, seed=1) == split(rows, 10, seed=1)
    assert split(rows, 10, seed=1) != split(rows, 10, seed=2)


@pytest.mark.parametrize("seed", range(5))
def test_no_prompt_is_on_both_sides(seed):
    rows = records(f"问{i % 20}" for i in range(100))
    train, held_out = split(rows, 12, seed)
    prompts = [{record.turns[0].text for record in part} for part in (train, held_out)]
    assert not prompts[0] & prompts[1]
    assert len(held_out) == 15  # three whole prompts of five rows, the least that holds 12


def test_one_prompt_alone_leaves_nothing_to_train_on():
    train, held_out = split(records(["问"] * 4), 25, seed=0)
    assert (len(train), len(held_out)) == (0, 4)
