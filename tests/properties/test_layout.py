"""What holds for every set of rows: a tree and padded lines say the same, and the tree has each prefix once."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from yangtuo.data.examples import Examples
from yangtuo.engine.layout import common_prefixes, pad, share

# Few ids, so that prefixes meet; a row has a supervised token after its first, as encoding sees to.
ROW = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=8).filter(
    lambda row: any(supervised for _, supervised in row[1:])
)
ROWS = st.lists(ROW, min_size=1, max_size=7)
WEIGHT = st.integers(0, 8).map(lambda n: n / 4)  # their sums are exact


def examples_of(rows):
    return Examples.of_rows([[i for i, _ in row] for row in rows], [[trained for _, trained in row] for row in rows])


@st.composite
def chosen(draw):
    """Rows, an order of some of them, and their weights."""
    rows = draw(ROWS)
    order = draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9))  # with repetitions
    weights = draw(st.lists(WEIGHT, min_size=len(order), max_size=len(order)))
    return rows, order, np.array(weights, dtype=np.float64)


def ids_of(row):
    return tuple(i for i, _ in row)


def expected(rows, order, weights):
    """What each context predicts, with which weight: a loop over rows."""
    result = Counter()
    for row, weight in zip(order, weights, strict=True):
        for t, (target, supervised) in enumerate(rows[row]):
            if t and supervised:
                result[ids_of(rows[row][:t]), target] += weight
    return result


def contexts_of_tree(layout):
    """For each cell, the tokens that lead to it, itself included."""
    contexts = {}
    ids = layout.input_ids[0]
    for row in layout.sequences:
        for t, cell in enumerate(row.tolist()):
            context = tuple(ids[row[: t + 1]].tolist())
            assert contexts.setdefault(cell, context) == context
            assert layout.position_ids[0, cell] == t
    return contexts


def contexts_of_lines(layout):
    num_columns = layout.input_ids.shape[1]
    return {
        b * num_columns + t: tuple(line[: t + 1].tolist())
        for b, line in enumerate(layout.input_ids)
        for t in range(num_columns)
        if layout.attention_mask[b, t]
    }


def said(layout, contexts):
    """What each context predicts, with which weight, as a layout says it."""
    num_columns, num_kept = layout.input_ids.shape[1], len(layout.keep)
    result = Counter()
    for position, target, weight in zip(
        layout.positions.tolist(), layout.targets.tolist(), layout.weights.tolist(), strict=True
    ):
        line, column = divmod(position, num_kept)
        result[contexts[line * num_columns + int(layout.keep[column])], target] += weight
    return result


@settings(deadline=None)
@given(chosen())
def test_each_row_comes_back_through_its_sequence(case):
    rows, order, weights = case
    layout = share(examples_of(rows), order, weights)
    assert len(layout.sequences) == len(order)
    for row, sequence in zip(order, layout.sequences, strict=True):
        assert tuple(layout.input_ids[0, sequence].tolist()) == ids_of(rows[row])
        assert layout.position_ids[0, sequence].tolist() == list(range(len(rows[row])))
    assert layout.rows == tuple(order)
    assert layout.num_tokens == sum(len(rows[row]) for row in order)


@settings(deadline=None)
@given(chosen())
def test_one_cell_for_each_distinct_prefix(case):
    rows, order, weights = case
    layout = share(examples_of(rows), order, weights)
    prefixes = {ids_of(rows[row][: t + 1]) for row in order for t in range(len(rows[row]))}
    contexts = contexts_of_tree(layout)
    assert layout.num_cells == len(prefixes) == len(contexts)
    assert set(contexts.values()) == prefixes
    ids = [np.array(ids_of(rows[row]), dtype=np.int32) for row in order]
    assert layout.num_cells == layout.num_tokens - sum(shared for _, shared in common_prefixes(ids))


@settings(deadline=None)
@given(chosen())
def test_tree_and_lines_predict_what_a_loop_over_rows_says(case):
    rows, order, weights = case
    examples = examples_of(rows)
    tree, lines = share(examples, order, weights), pad(examples, order, weights)
    loop = expected(rows, order, weights)
    assert said(tree, contexts_of_tree(tree)) == loop
    assert said(lines, contexts_of_lines(lines)) == loop
    assert tree.weights.sum() == lines.weights.sum() == sum(loop.values())
    assert len(tree.targets) == len(loop)  # the same prediction once
    assert tree.keep.tolist() == sorted(set(tree.keep.tolist()))
    assert tree.num_tokens == lines.num_tokens


@settings(deadline=None)
@given(chosen(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(case, random):
    rows, order, weights = case
    examples = examples_of(rows)
    shuffled = list(range(len(order)))
    random.shuffle(shuffled)
    one = share(examples, order, weights)
    other = share(examples, [order[i] for i in shuffled], weights[shuffled])
    for name in ("input_ids", "position_ids", "row_lengths", "keep", "positions", "targets", "weights"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert [one.sequences[i].tolist() for i in shuffled] == [row.tolist() for row in other.sequences]


@settings(deadline=None)
@given(chosen())
def test_a_cell_has_the_length_of_one_of_its_rows(case):
    rows, order, weights = case
    layout = share(examples_of(rows), order, weights)
    lengths = {cell: set() for cell in range(layout.num_cells)}
    for row, sequence in zip(order, layout.sequences, strict=True):
        for cell in sequence.tolist():
            lengths[cell].add(len(rows[row]))
    assert all(int(layout.row_lengths[0, cell]) in of_cell for cell, of_cell in lengths.items())
