import numpy as np
import pytest

from yangtuo.config.choices import DataOrder, LossReduction
from yangtuo.engine.planning import (
    StepShape,
    Unit,
    balance,
    describe,
    epoch_order,
    make_units,
    plan_evaluation,
    plan_step,
    step_rows,
    token_weights,
)

TOKEN, DEVICE_BATCH = LossReduction.TOKEN, LossReduction.DEVICE_BATCH
NUM_SUPERVISED = np.array([1, 2, 3, 4, 5, 6, 7])


def laid_out(plan):
    """For each rank, its micro-batches as (rows, weights)."""
    return [[(b.rows.tolist(), b.weights.tolist()) for b in rank] for rank in plan.micro_batches]


def one_by_one(rows):
    """Each row a unit of load 1, so that `max_load` is a number of rows."""
    return [Unit((i,), 1) for i in range(len(rows))]


def plan(step, shape, reduction=TOKEN):
    rows = step_rows(np.arange(7), step, shape)
    return plan_step(rows, shape, NUM_SUPERVISED, reduction, one_by_one, shape.rows_per_group)


def test_rows_of_a_step():
    shape = StepShape(rows_per_group=2, groups_per_rank=3, world_size=4)
    assert shape.rows_per_step == 24
    assert [shape.num_steps(n) for n in (0, 1, 24, 25)] == [0, 1, 1, 2]
    assert [shape.num_steps(n, drop_last=True) for n in (23, 24, 25, 48)] == [0, 1, 1, 2]


def test_rows_of_equal_load_are_dealt_to_the_ranks_in_turn():
    step = plan(0, StepShape(1, 2, 2))
    assert step.rows.tolist() == [0, 1, 2, 3]
    assert laid_out(step) == [[([0], [1.0]), ([2], [1.0])], [([1], [1.0]), ([3], [1.0])]]
    assert step.total_weight == 1 + 2 + 3 + 4


def test_a_short_last_step_and_a_rank_without_rows():
    step = plan(1, StepShape(2, 1, 3))
    assert step.rows.tolist() == [6]
    assert laid_out(step) == [[([6], [1.0])], [([6], [0.0])], [([6], [0.0])]]
    assert step.total_weight == 7


def test_device_batch_is_the_mean_of_the_means_of_groups():
    step = plan(0, StepShape(2, 1, 2), DEVICE_BATCH)
    assert laid_out(step) == [[([0, 2], [1 / 3, 1 / 7])], [([1, 3], [1 / 3, 1 / 7])]]
    assert step.total_weight == pytest.approx(2)
    # Its negative control: by token, the same rows weigh otherwise.
    assert laid_out(plan(0, StepShape(2, 1, 2))) == [[([0, 2], [1.0, 1.0])], [([1, 3], [1.0, 1.0])]]


def test_a_short_group_is_a_whole_group_of_the_mean():
    rows = np.array([0, 1, 2])
    assert token_weights(rows, NUM_SUPERVISED, 2, DEVICE_BATCH).tolist() == [1 / 3, 1 / 3, 1 / 3]
    assert token_weights(rows[:2], NUM_SUPERVISED, 2, TOKEN).tolist() == [1, 1]


def test_evaluation_has_every_row_once():
    evaluation = plan_evaluation(NUM_SUPERVISED, 3, 2, TOKEN, one_by_one, 3)
    assert laid_out(evaluation) == [
        [([0, 4], [1.0] * 2), ([2, 6], [1.0] * 2)],
        [([1, 5], [1.0] * 2), ([3], [1.0])],
    ]
    assert evaluation.total_weight == 28


def test_evaluation_by_device_batch_weighs_a_group_by_its_rows():
    evaluation = plan_evaluation(NUM_SUPERVISED, 3, 1, DEVICE_BATCH, one_by_one, 7)
    assert laid_out(evaluation) == [[(list(range(7)), [3 / 6] * 3 + [3 / 15] * 3 + [1 / 7])]]
    assert evaluation.total_weight == pytest.approx(7)


def loads(bins):
    return [[unit.load for unit in units] for units in bins]


def units_of_loads(*loads):
    return [Unit((i,), load) for i, load in enumerate(loads)]


def test_the_largest_unit_first_to_the_bin_with_the_least():
    assert loads(balance(units_of_loads(1, 7, 3, 5), 2)) == [[7, 1], [5, 3]]
    assert loads(balance(units_of_loads(3, 3, 2, 2, 2), 2)) == [[3, 2, 2], [3, 2]]
    assert loads(balance(units_of_loads(4, 4), 3)) == [[4], [4], []]
    assert loads(balance([], 2)) == [[], []]


def test_units_of_equal_load_are_dealt_by_their_rows_whatever_their_order():
    units = units_of_loads(2, 2, 2, 2)
    dealt = [[(0,), (2,)], [(1,), (3,)]]
    for order in (units, units[::-1], [units[i] for i in (2, 0, 3, 1)]):
        assert [[unit.members for unit in units] for units in balance(order, 2)] == dealt


def test_rows_with_a_long_common_prefix_are_one_unit():
    # Rows 2, 0 and 1 in lexicographic order; 10 tokens are common to all data, 30 to two rows.
    prefixes, lengths = [(2, 0), (0, 10), (1, 30)], np.array([40, 35, 25])
    assert make_units(prefixes, lengths, 10, 100) == [Unit((2,), 15), Unit((0, 1), 30 + 5)]
    assert make_units(prefixes, lengths, 10, 35) == [Unit((2,), 15), Unit((0, 1), 35)]
    assert make_units(prefixes, lengths, 10, 34) == [Unit((2,), 15), Unit((0,), 30), Unit((1,), 25)]


@pytest.mark.parametrize(("shared", "is_one"), [(25, False), (26, True)])
def test_what_is_worth_sharing_is_beyond_the_common_prefix(shared, is_one):
    units = make_units([(0, 0), (1, shared)], np.array([40, 40]), 10, 1000)
    assert [unit.members for unit in units] == ([(0, 1)] if is_one else [(0,), (1,)])


def test_duplicates_and_prefixes_cost_nothing_more():
    assert make_units([(0, 0), (1, 40), (2, 40)], np.array([40, 40, 50]), 10, 1000) == [Unit((0, 1, 2), 30 + 0 + 10)]


def test_a_row_that_is_all_common_prefix_still_costs_a_cell():
    assert make_units([(0, 0)], np.array([10]), 10, 1000) == [Unit((0,), 1)]
    assert make_units([(0, 0), (1, 10)], np.array([10, 30]), 10, 1000) == [Unit((0,), 1), Unit((1,), 20)]


def test_a_unit_stays_in_one_micro_batch_and_the_largest_comes_first():
    def units(rows):
        return [Unit((0, 2), 5), Unit((1,), 9), Unit((3, 4, 5), 4)]

    rows = np.array([10, 11, 12, 13, 14, 15])
    step = plan_step(rows, StepShape(6, 1, 1), np.arange(20), TOKEN, units, 9)
    assert [batch.rows.tolist() for batch in step.micro_batches[0]] == [[11], [10, 12, 13, 14, 15]]
    assert [batch.rows.tolist() for batch in plan_of_units(rows, units, 8)] == [[11], [10, 12], [13, 14, 15]]
    assert [batch.rows.tolist() for batch in plan_of_units(rows, units, 18)] == [[11, 10, 12, 13, 14, 15]]


def plan_of_units(rows, units, max_load):
    return plan_step(rows, StepShape(6, 1, 1), np.arange(20), TOKEN, units, max_load).micro_batches[0]


def test_weights_follow_their_rows_into_units():
    def units(rows):
        return [Unit((3, 0), 2), Unit((2, 1), 2)]

    step = plan_step(np.arange(4), StepShape(2, 2, 1), NUM_SUPERVISED, DEVICE_BATCH, units, 2)
    assert laid_out(step) == [[([2, 1], [1 / 7, 1 / 3]), ([3, 0], [1 / 7, 1 / 3])]]


def test_a_rank_with_little_runs_weightless_micro_batches():
    def units(rows):
        return [Unit((0,), 9), Unit((1,), 4), Unit((2,), 4)]

    step = plan_step(np.array([5, 6, 4]), StepShape(1, 1, 2), NUM_SUPERVISED, TOKEN, units, 4)
    assert laid_out(step) == [[([5], [1.0]), ([5], [0.0])], [([6], [1.0]), ([4], [1.0])]]


def test_orders():
    assert epoch_order(np.arange(5), epoch=3, seed=1, order=DataOrder.SEQUENTIAL).tolist() == [0, 1, 2, 3, 4]
    # Written down, so that a run's order of rows stays the same from version to version.
    assert epoch_order(np.arange(8), epoch=0, seed=42, order=DataOrder.SHUFFLED).tolist() == [3, 4, 2, 7, 6, 1, 5, 0]
    assert epoch_order(np.arange(8), epoch=1, seed=42, order=DataOrder.SHUFFLED).tolist() == [0, 4, 6, 1, 2, 7, 3, 5]


def test_examples_of_one_row_stay_together_in_their_order():
    numbers = np.array([0, 1, 1, 1, 2, 3, 3])
    order = epoch_order(np.arange(7), 0, 42, DataOrder.SHUFFLED, numbers).tolist()
    assert sorted(order) == list(range(7))
    assert order != list(range(7))
    for together in ([1, 2, 3], [5, 6]):
        begin = order.index(together[0])
        assert order[begin : begin + len(together)] == together
    # As many rows as examples: the order that it always was.
    assert epoch_order(np.arange(8), 0, 42, DataOrder.SHUFFLED, np.arange(8)).tolist() == [3, 4, 2, 7, 6, 1, 5, 0]
    # A row that an epoch has twice is drawn twice.
    twice = epoch_order(np.array([0, 0, 1, 1]), 1, 42, DataOrder.SHUFFLED, np.array([0, 1])).tolist()
    assert sorted(twice) == [0, 0, 1, 1]
    assert epoch_order(np.arange(0), 0, 42, DataOrder.SHUFFLED, np.arange(0)).tolist() == []


@pytest.mark.parametrize(
    ("num_rows", "num_epochs", "max_steps", "drop_last", "lines"),
    [
        (
            2500,
            3,
            -1,
            False,
            [
                "steps: 939 of 8 rows (2 a device x 4 accumulated x 1 process(es)); 313 steps an epoch, 3.00 epochs",
            ],
        ),
        (
            2500,
            3,
            100,
            True,
            [
                "steps: 100 of 8 rows (2 a device x 4 accumulated x 1 process(es)); 312 steps an epoch, 0.32 epochs",
                "  --dataloader_drop_last leaves out 4 of 2500 rows each epoch",
            ],
        ),
        (
            16,
            0.5,
            -1,
            True,
            ["steps: 1 of 8 rows (2 a device x 4 accumulated x 1 process(es)); 2 steps an epoch, 0.50 epochs"],
        ),
    ],
)
def test_what_is_said_before_the_start(num_rows, num_epochs, max_steps, drop_last, lines):
    assert describe(StepShape(2, 4, 1), num_rows, num_epochs, max_steps, drop_last=drop_last) == lines
