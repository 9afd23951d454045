"""Equal and nearly equal rows, against comparing all with all."""

from dataclasses import replace

import numpy as np
import pytest

from yangtuo.data import dedup
from yangtuo.data.dedup import exact_repeats, near_repeats, tokens_of
from yangtuo.data.examples import Examples


def rows(*given):
    """Rows as (prompt, answer) lists of ids."""
    return Examples.of_rows(
        [[*prompt, *answer] for prompt, answer in given],
        [[False] * len(prompt) + [True] * len(answer) for prompt, answer in given],
    )


def masked(*given):
    return Examples.of_rows([ids for ids, _ in given], [[bool(one) for one in mask] for _, mask in given])


def flags(found):
    return np.flatnonzero(found).tolist()


@pytest.fixture(params=[2, 3, 8192])
def chunk(request, monkeypatch):
    monkeypatch.setattr(dedup, "_CHUNK_ROWS", request.param)


# ---- equal


@pytest.mark.usefixtures("chunk")
def test_exact_repeats_are_the_later_ones():
    examples = rows(([1, 2], [3]), ([9], [3]), ([1, 2], [3]), ([9], [3]), ([1, 2], [3]))
    assert flags(exact_repeats(examples)) == [2, 3, 4]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (([1, 2], [3]), ([1, 2], [4])),
        (([1, 2], [3]), ([1], [2, 3])),  # the same ids, another answer
        (([1, 2], [3]), ([2, 1], [3])),
        (([1, 2], [3]), ([1, 2], [3, 3])),
        (([0, 1], [0]), ([1], [0])),
        (([1, 1], [1]), ([1], [1])),
    ],
)
def test_what_is_no_exact_repeat(one, other):
    assert flags(exact_repeats(rows(one, other))) == []


@pytest.mark.usefixtures("chunk")
def test_exact_repeats_are_those_found_one_by_one():
    rng = np.random.default_rng(3)
    examples = rows(
        *((rng.integers(0, 2, rng.integers(1, 4)), rng.integers(0, 2, rng.integers(1, 3))) for _ in range(300))
    )
    seen, expected = set(), []
    for i in range(len(examples)):
        ids, supervised = examples.row(i)
        key = (ids.tobytes(), supervised.tobytes())
        expected += [i] if key in seen else []
        seen.add(key)
    assert flags(exact_repeats(examples)) == expected
    assert len(set(examples.hashes[:, 0].tolist())) == len(seen)


# ---- prompts


@pytest.mark.usefixtures("chunk")
def test_rows_have_the_same_prompt_when_their_tokens_before_the_first_answer_are_equal():
    hashes = rows(([1, 2], [3]), ([1, 2], [4, 5]), ([1], [2, 3]), ([2, 1], [3])).hashes[:, 1]
    assert hashes[0] == hashes[1]
    assert len(set(hashes.tolist())) == 3


@pytest.mark.usefixtures("chunk")
def test_a_dialogue_shares_its_first_prompt_with_rows_that_stop_there():
    examples = masked(
        ([1, 2, 3], [0, 0, 1]),
        ([1, 2, 3, 4, 5], [0, 0, 1, 0, 1]),
        ([1, 2, 9, 7, 5], [0, 0, 1, 0, 1]),
        ([1, 2, 3, 4, 5], [0, 0, 0, 0, 1]),  # an untrained answer is part of the prompt
    )
    hashes = examples.hashes[:, 1]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]


def test_a_row_that_is_all_answer_has_the_empty_prompt():
    hashes = rows(([], [3]), ([], [4]), ([3], [4])).hashes[:, 1]
    assert hashes[0] == hashes[1] != hashes[2]


# ---- nearly equal


def triples(ids):
    return {tuple(ids[k : k + 3]) for k in range(len(ids) - 2)}


def similarity(a, b):
    return len(triples(a) & triples(b)) / len(triples(a) | triples(b))


@pytest.mark.usefixtures("chunk")
def test_near_repeats_are_those_found_by_comparing_all_with_all():
    rng = np.random.default_rng(5)
    frame = [7, 7, 8, 9]
    bodies = []
    for _ in range(60):
        body = rng.integers(10, 40, 60).tolist()
        bodies.append(body)
        for num_changed in (0, 1, 3, 12):
            changed = list(body)
            for place in rng.permutation(60)[:num_changed]:
                changed[place] = 50 + int(rng.integers(0, 9))
            bodies.append(changed)
    order = rng.permutation(len(bodies))
    bodies = [bodies[i] for i in order]
    found = near_repeats(rows(*(([*frame, *body[:30]], body[30:]) for body in bodies)))
    kept = []
    for i, body in enumerate(bodies):
        nearest = max((similarity(body, bodies[j]) for j in kept), default=0.0)
        assert nearest < 0.9 or found[i], (i, nearest)
        assert nearest >= dedup._ALIKE or not found[i], (i, nearest)
        if not found[i]:
            kept.append(i)
    assert 100 < found.sum() < 240


def test_the_tokens_that_all_rows_begin_with_make_none_alike():
    frame = list(range(100, 200))
    assert flags(near_repeats(rows((frame, [1, 2, 3, 4]), (frame, [5, 6, 7, 8]), ([*frame, 9], [1, 2, 3, 4])))) == []


def test_every_exact_repeat_is_a_near_one():
    examples = rows(*(([1, 2], [3]), ([1, 2], [3]), ([1], [2]), ([1], [2])))
    assert flags(near_repeats(examples)) == [1, 3]


def test_short_rows_have_no_part_of_their_neighbours():
    # One token each behind what all have in common: too few for a triple, whatever follows in the column.
    examples = rows(([1, 1], [2]), ([1, 1], [3]), ([1, 1], [4]), ([1, 1], [2, 5, 6, 7]), ([1, 1], [2]))
    assert flags(near_repeats(examples)) == [4]


def test_rows_of_the_same_ids_with_another_mask_are_alike():
    assert flags(near_repeats(masked(([1, 2, 3], [0, 0, 1]), ([1, 2, 3], [0, 1, 1])))) == [1]


def test_many_rows_alike_in_a_few_triples_only_end_soon(monkeypatch):
    compared = []
    similarity = dedup._similarity
    monkeypatch.setattr(dedup, "_similarity", lambda a, b: compared.append(1) or similarity(a, b))
    monkeypatch.setattr(dedup, "_signatures", lambda examples, _: np.zeros((len(examples), 18), dtype=np.uint64))
    near_repeats(rows(*(([i, i + 1, i + 2], [i + 3, i + 4]) for i in range(0, 3000, 10))))
    assert len(compared) < 2000 < 300 * 299 / 2


# ---- columns


def test_common_prefix():
    assert rows(([1, 2, 3], [4]), ([1, 2], [5])).common_prefix() == 2
    assert rows(([1, 2], [3]), ([1, 2], [3, 4])).common_prefix() == 3
    assert rows(([1], [3]), ([2], [3])).common_prefix() == 0
    assert rows(([1, 2], [3])).common_prefix() == 3


def test_chosen_rows_are_compared_where_they_lie():
    examples = rows(([1, 2], [3]), ([4], [5, 6]), ([1, 2], [3]), ([4], [5, 6])).take([3, 0, 1])
    assert flags(exact_repeats(examples)) == [2]
    places, firsts = tokens_of(examples, slice(0, 3))
    assert examples.input_ids[places].tolist() == [4, 5, 6, 1, 2, 3, 4, 5, 6]
    assert firsts.tolist() == [0, 3, 6]


def test_a_row_of_several_examples_is_a_repeat_where_all_of_them_are():
    long = list(range(100, 160))
    several = rows(([1], [2]), ([1, 2, 3], [4]), ([1], [2]), ([1, 2, 3], [5]), ([1], [2]), ([1, 2, 3], [4]))
    several = replace(several, rows=np.array([0, 0, 1, 1, 2, 2]))
    assert flags(exact_repeats(several)) == [4, 5]
    # The examples of one row are nearly equal, and no repeats of each other.
    near = rows(([7], [8]), (long, [1]), ([*long, 1], [2]), (long, [1]), ([*long, 1], [3]))
    assert flags(near_repeats(near)) == [2, 3, 4]
    assert flags(near_repeats(replace(near, rows=np.array([0, 1, 1, 2, 2])))) == [3, 4]
