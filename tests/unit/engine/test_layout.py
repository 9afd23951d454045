import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engine.small import examples_of
from yangtuo.data.examples import Examples
from yangtuo.engine.layout import common_prefixes, pad, share, without_ends

EXAMPLES = examples_of(([1, 11, 12], [13, 2]), ([1], [21, 2]), ([1, 31, 32, 33], [2]))


def share_all(*rows, weights=None):
    """The layout of these rows, each with weight 1 where nothing else is said."""
    return share(examples_of(*rows), range(len(rows)), np.array(weights or [1.0] * len(rows)))


def predictions(layout):
    """(cell, target, weight) of each prediction of a tree."""
    return [
        (int(layout.keep[position]), target, pytest.approx(weight))
        for position, target, weight in zip(
            layout.positions.tolist(), layout.targets.tolist(), layout.weights.tolist(), strict=True
        )
    ]


def sequences(layout):
    return [row.tolist() for row in layout.sequences]


# ---- padded lines


def test_padded_to_the_longest_row():
    layout = pad(EXAMPLES, [0, 1], np.array([1.0, 0.5]))
    assert layout.input_ids.tolist() == [[1, 11, 12, 13, 2], [1, 21, 2, 0, 0]]
    assert layout.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert layout.row_lengths.tolist() == [[5] * 5, [3] * 5]
    assert layout.sequences is None
    # Columns that predict a supervised token: 2 and 3 in the first row, 0 and 1 in the second.
    assert layout.keep.tolist() == [0, 1, 2, 3]
    assert layout.positions.tolist() == [2, 3, 4, 5]
    assert layout.targets.tolist() == [13, 2, 21, 2]
    assert layout.weights.tolist() == [1.0, 1.0, 0.5, 0.5]
    assert layout.rows == (0, 1)
    assert (layout.num_tokens, layout.num_cells) == (8, 10)


def test_columns_that_nobody_needs_do_not_reach_the_head():
    layout = pad(EXAMPLES, [0, 2], np.ones(2))
    assert layout.keep.tolist() == [2, 3]
    assert layout.positions.tolist() == [0, 1, 3]
    assert layout.targets.tolist() == [13, 2, 2]


def test_the_mask_goes_by_length_not_by_id():
    # Id 0 may be a real token, as the end token is of some models.
    layout = pad(examples_of(([0, 5], [0]), ([0, 0, 0], [7, 0])), [0, 1], np.ones(2))
    assert layout.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert layout.targets.tolist() == [0, 7, 0]


def test_the_same_row_twice_on_lines_of_its_own():
    layout = pad(EXAMPLES, [1, 1], np.array([1.0, 0.5]))
    assert layout.input_ids.tolist() == [[1, 21, 2]] * 2
    assert layout.positions.tolist() == [0, 1, 2, 3]
    assert layout.weights.tolist() == [1.0, 1.0, 0.5, 0.5]


# ---- a prefix tree


def test_a_common_prefix_stands_once():
    layout = share_all(([1, 11], [12, 2]), ([1, 11], [13, 14, 2]), weights=[1.0, 0.5])
    assert layout.input_ids.tolist() == [[1, 11, 12, 2, 13, 14, 2]]
    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4]]
    assert layout.row_lengths.tolist() == [[4, 4, 4, 4, 5, 5, 5]]
    assert sequences(layout) == [[0, 1, 2, 3], [0, 1, 4, 5, 6]]
    assert layout.attention_mask is None
    assert layout.keep.tolist() == [1, 2, 4, 5]
    assert predictions(layout) == [(1, 12, 1.0), (1, 13, 0.5), (2, 2, 1.0), (4, 14, 0.5), (5, 2, 0.5)]
    assert (layout.num_tokens, layout.num_cells) == (9, 7)


def test_sequences_and_rows_are_in_the_order_given():
    examples = examples_of(([1], [12, 2]), ([1], [11, 2]))
    layout = share(examples, [0, 1], np.array([1.0, 0.5]))
    assert layout.input_ids.tolist() == [[1, 11, 2, 12, 2]]  # cells are in lexicographic order
    assert sequences(layout) == [[0, 3, 4], [0, 1, 2]]
    assert predictions(layout) == [(0, 11, 0.5), (0, 12, 1.0), (1, 2, 0.5), (3, 2, 1.0)]
    assert layout.rows == (0, 1)
    other = share(examples, [1, 0], np.array([0.5, 1.0]))
    assert other.input_ids.tolist() == layout.input_ids.tolist()
    assert sequences(other) == [[0, 1, 2], [0, 3, 4]]
    assert predictions(other) == predictions(layout)
    assert other.rows == (1, 0)


def test_duplicates_are_one_row_with_their_summed_weight():
    layout = share_all(([1, 11], [12, 2]), ([1, 11], [12, 2]), ([1, 11], [12, 2]), weights=[1.0, 0.5, 0.25])
    assert layout.input_ids.tolist() == [[1, 11, 12, 2]]
    assert layout.position_ids.tolist() == [[0, 1, 2, 3]]
    assert sequences(layout) == [[0, 1, 2, 3]] * 3
    assert predictions(layout) == [(1, 12, 1.75), (2, 2, 1.75)]
    assert (layout.num_tokens, layout.num_cells) == (12, 4)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_row_that_begins_another(order):
    rows = ([1, 11], [12]), ([1, 11, 12], [13, 2])
    layout = share(examples_of(*rows), order, np.array([1.0, 0.5])[order])
    assert layout.input_ids.tolist() == [[1, 11, 12, 13, 2]]
    assert layout.row_lengths.tolist() == [[3, 3, 3, 5, 5]]
    assert sequences(layout) == [[[0, 1, 2], [0, 1, 2, 3, 4]][i] for i in order]
    assert predictions(layout) == [(1, 12, 1.0), (2, 13, 0.5), (3, 2, 0.5)]


def test_the_same_tokens_supervised_in_one_row_only():
    layout = share_all(([1, 11, 12], [2]), ([1], [11, 12, 2]), weights=[1.0, 0.5])
    assert layout.num_cells == 4
    assert predictions(layout) == [(0, 11, 0.5), (1, 12, 0.5), (2, 2, 1.5)]


def test_rows_without_a_common_prefix_stand_one_after_the_other():
    layout = share_all(([1], [11, 2]), ([3], [11, 2]))
    assert layout.input_ids.tolist() == [[1, 11, 2, 3, 11, 2]]
    assert layout.position_ids.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert sequences(layout) == [[0, 1, 2], [3, 4, 5]]
    assert predictions(layout) == [(0, 11, 1.0), (1, 2, 1.0), (3, 11, 1.0), (4, 2, 1.0)]


def test_what_is_common_after_a_difference_is_not_shared():
    layout = share_all(([1, 5, 7, 8], [2]), ([1, 6, 7, 8], [2]))
    assert layout.num_cells == 9
    assert sequences(layout) == [[0, 1, 2, 3, 4], [0, 5, 6, 7, 8]]


def test_deeper_trees():
    layout = share_all(([1, 5, 7], [9, 2]), ([1, 6], [2]), ([1, 5, 7], [8, 2]), ([1, 5], [4, 2]), ([3], [2]))
    assert layout.input_ids.tolist() == [[1, 5, 4, 2, 7, 8, 2, 9, 2, 6, 2, 3, 2]]
    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 4, 3, 4, 1, 2, 0, 1]]
    assert sequences(layout) == [[0, 1, 4, 7, 8], [0, 9, 10], [0, 1, 4, 5, 6], [0, 1, 2, 3], [11, 12]]
    assert predictions(layout) == [
        *((1, 4, 1.0), (2, 2, 1.0), (4, 8, 1.0), (4, 9, 1.0), (5, 2, 1.0), (7, 2, 1.0), (9, 2, 1.0), (11, 2, 1.0))
    ]


def test_the_first_token_is_never_predicted():
    """Nothing stands before it, even where it is supervised."""
    for lay_out in (share, pad):
        layout = lay_out(examples_of(([], [5, 2])), [0], np.ones(1))
        assert layout.targets.tolist() == [2]


def test_one_row_looks_the_same_either_way():
    tree, line = share(EXAMPLES, [0], np.ones(1)), pad(EXAMPLES, [0], np.ones(1))
    for name in ("input_ids", "position_ids", "row_lengths", "keep", "positions", "targets", "weights"):
        assert getattr(tree, name).tolist() == getattr(line, name).tolist()


@pytest.mark.parametrize("lay_out", [share, pad])
def test_number_formats(lay_out):
    layout = lay_out(EXAMPLES, np.array([2, 0]), np.array([0.0, 1.0]))
    names = ("input_ids", "position_ids", "row_lengths", "keep", "positions", "targets")
    assert {getattr(layout, name).dtype for name in names} == {np.dtype(np.int64)}
    assert layout.weights.dtype == np.float32
    assert layout.weights.tolist().count(0.0) == 1
    assert all(type(row) is int for row in layout.rows)


# ---- what neighbours have in common


def test_prefixes_of_neighbours_in_order():
    rows = [np.array(row, dtype=np.int32) for row in ([1, 2, 3], [5], [1, 2], [1, 2, 4, 4], [1, 2, 3])]
    assert common_prefixes(rows) == [(2, 0), (0, 2), (4, 3), (3, 2), (1, 0)]


def test_ids_are_ordered_as_numbers_not_as_bytes():
    # Little-endian, 256 would come before 1.
    rows = [np.array(row, dtype=np.int32) for row in ([256], [1], [65536 + 1], [255], [2**31 - 1])]
    assert [i for i, _ in common_prefixes(rows)] == [1, 3, 0, 2, 4]
    assert [i for i, _ in common_prefixes([row.astype(np.int64) for row in rows])] == [1, 3, 0, 2, 4]


# ---- without the cells that no prediction needs


def test_a_tree_without_ends_keeps_what_predictions_look_back_at():
    # [1 2 3 4] predicts 4 at 3; [1 2 3 5] predicts 5 there; [1 6 7 8] predicts 7 alone, so 7 and 8 are not needed.
    tree = share_all(([1, 2, 3], [4]), ([1, 2, 3], [5]), ([1], [6]))
    assert tree.input_ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    cut = without_ends(tree)
    assert cut.input_ids.tolist() == [[1, 2, 3]]
    assert cut.position_ids.tolist() == [[0, 1, 2]]
    assert cut.row_lengths.shape == (1, 3)
    assert sequences(cut) == [[0, 1, 2], [0, 1, 2], [0]]
    assert cut.keep.tolist() == [0, 2]
    assert predictions(cut) == [(0, 6, 1.0), (2, 4, 1.0), (2, 5, 1.0)]
    assert (cut.num_cells, cut.num_tokens) == (3, 10)


def test_a_cell_that_another_row_needs_is_kept():
    tree = share_all(([1], [2]), ([1, 2], [3, 4]))
    cut = without_ends(tree)
    assert cut.input_ids.tolist() == [[1, 2, 3]]
    assert sequences(cut) == [[0, 1], [0, 1, 2]]  # the first row has the cell too at which the second predicts 3


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=6), min_size=1, max_size=6))
def test_without_ends_each_prediction_has_the_same_tokens_before_it(rows):
    ids = [[token for token, _ in row] for row in rows]
    supervised = [np.array([False, *(is_on for _, is_on in row[1:])]) for row in rows]
    supervised[0][-1] = True
    tree = share(Examples.of_rows(ids, supervised), range(len(ids)), np.ones(len(ids)))
    cut = without_ends(tree)
    needed = {tuple(row[:at]) for row, is_on in zip(ids, supervised, strict=True) for at in np.flatnonzero(is_on)}
    prefixes = {}
    for sequence, row, is_on in zip(cut.sequences, ids, supervised, strict=True):
        assert cut.input_ids[0, sequence].tolist() == row[: len(sequence)]
        assert cut.position_ids[0, sequence].tolist() == list(range(len(sequence)))
        assert len(sequence) >= max(1, int(np.flatnonzero(is_on).max(initial=1)))
        prefixes |= {int(cell): tuple(row[: place + 1]) for place, cell in enumerate(sequence)}
    assert sorted(prefixes) == list(range(cut.num_cells))
    for prefix in prefixes.values():
        assert len(prefix) == 1 or any(whole[: len(prefix)] == prefix for whole in needed)
    assert cut.targets.tolist() == tree.targets.tolist()
    assert cut.input_ids[0, cut.cells].tolist() == tree.input_ids[0, tree.cells].tolist()
