import numpy as np
import torch

from yangtuo.data.encoding import Examples
from yangtuo.engine.padding import pad
from yangtuo.engine.planning import MicroBatch


def examples_of(*rows):
    """Examples from (prompt ids, supervised ids) pairs."""
    ids = [np.array([*prompt, *answer], dtype=np.int32) for prompt, answer in rows]
    masks = [np.array([False] * len(prompt) + [True] * len(answer)) for prompt, answer in rows]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    numbers = np.arange(len(rows))
    return Examples(np.concatenate(ids), np.concatenate(masks), offsets, ["rows.json"] * len(rows), numbers)


EXAMPLES = examples_of(([1, 11, 12], [13, 2]), ([1], [21, 2]), ([1, 31, 32, 33], [2]))


def test_padded_to_the_longest_row():
    batch = pad(EXAMPLES, MicroBatch(np.array([0, 1]), np.array([1.0, 0.5])))
    assert batch.input_ids.tolist() == [[1, 11, 12, 13, 2], [1, 21, 2, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    # Columns that predict a supervised token: 2 and 3 in the first row, 0 and 1 in the second.
    assert batch.keep.tolist() == [0, 1, 2, 3]
    assert batch.positions.tolist() == [2, 3, 4, 5]
    assert batch.targets.tolist() == [13, 2, 21, 2]
    assert batch.weights.tolist() == [1.0, 1.0, 0.5, 0.5]
    assert batch.rows == (0, 1)
    assert batch.num_tokens == 8


def test_columns_that_nobody_needs_do_not_reach_the_head():
    batch = pad(EXAMPLES, MicroBatch(np.array([0, 2]), np.ones(2)))
    assert batch.keep.tolist() == [2, 3]
    assert batch.positions.tolist() == [0, 1, 3]
    assert batch.targets.tolist() == [13, 2, 2]


def test_the_mask_goes_by_length_not_by_id():
    # Id 0 may be a real token, as the end token is of some models.
    batch = pad(examples_of(([0, 5], [0]), ([0, 0, 0], [7, 0])), MicroBatch(np.array([0, 1]), np.ones(2)))
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.targets.tolist() == [0, 7, 0]


def test_dtypes_and_moving():
    batch = pad(EXAMPLES, MicroBatch(np.array([2]), np.array([0.0])))
    names = ("input_ids", "attention_mask", "keep", "positions", "targets")
    assert {getattr(batch, name).dtype for name in names} == {torch.int64}
    assert batch.weights.dtype == torch.float32
    moved = batch.to(torch.device("meta"))
    assert {value.device.type for value in vars(moved).values() if isinstance(value, torch.Tensor)} == {"meta"}
    assert (moved.rows, moved.num_tokens) == ((2,), 5)
