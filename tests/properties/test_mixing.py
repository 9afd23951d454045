"""Mixing and splitting lose and invent nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from yangtuo.data.examples import Examples
from yangtuo.data.mixing import num_rows_of_epoch, rows_of_epoch
from yangtuo.data.splitting import num_shared_prompts, num_to_hold_out, split

WEIGHTS = st.lists(st.floats(0, 5), min_size=1, max_size=4)


@given(st.data(), WEIGHTS, st.integers(0, 1000), st.integers(0, 2**32))
def test_an_epoch_has_each_row_as_often_as_its_weight_says(data, weights, epoch, seed):
    sources = np.array(data.draw(st.lists(st.integers(0, len(weights) - 1), max_size=40)), dtype=np.int32)
    rows = rows_of_epoch(sources, weights, epoch, seed)
    assert rows.tolist() == sorted(rows.tolist())
    times = np.bincount(rows, minlength=len(sources))
    assert len(times) == len(sources)
    for row, number in enumerate(sources):
        assert int(weights[number]) <= times[row] <= int(weights[number]) + 1
    by_file = [int(times[sources == number].sum()) for number in range(len(weights))]
    assert by_file == num_rows_of_epoch(sources, weights)
    for number, weight in enumerate(weights):
        assert abs(by_file[number] - weight * (sources == number).sum()) <= 0.5 + 1e-9


PROMPTS = st.lists(st.integers(1, 3), min_size=1, max_size=3)
ANSWERS = st.lists(st.tuples(PROMPTS, PROMPTS), min_size=1, max_size=3)  # turns, each a prompt and an answer


@given(st.lists(ANSWERS, min_size=1, max_size=30), st.floats(0.001, 100), st.integers(0, 2**32))
def test_every_row_is_on_one_side_and_every_prompt_too(dialogues, percentage, seed):
    ids = [[token for prompt, answer in turns for token in (*prompt, 9, *answer)] for turns in dialogues]
    masks = [
        [one for prompt, answer in turns for one in [False] * (len(prompt) + 1) + [True] * len(answer)]
        for turns in dialogues
    ]
    examples = Examples.of_rows(ids, masks)
    aside, train = split(examples, percentage, seed)
    left = train.rows.tolist() if train is not None else []
    assert sorted(aside.rows.tolist() + left) == list(range(len(dialogues)))
    assert len(aside) >= min(len(dialogues), num_to_hold_out(len(dialogues), percentage))
    first = [dialogue[0][0] for dialogue in dialogues]
    assert not any(first[i] == first[j] for i in aside.rows for j in left)
    if train is not None:
        assert num_shared_prompts(train, aside) == 0
    hashes = examples.hashes[:, 1]
    assert all((hashes[i] == hashes[j]) == (first[i] == first[j]) for i in range(len(ids)) for j in range(len(ids)))
    assert num_shared_prompts(examples, aside) == len(aside)
