"""What holds for every set of rows, shape of a step, number of ranks and reduction."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from yangtuo.config.choices import DataOrder, LossReduction
from yangtuo.data.examples import Examples
from yangtuo.engine.layout import common_prefixes, pad
from yangtuo.engine.planning import (
    StepShape,
    Unit,
    balance,
    epoch_order,
    make_units,
    plan_evaluation,
    plan_step,
    step_rows,
)

NUM_SUPERVISED = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(np.array)
SHAPES = st.builds(StepShape, st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))
REDUCTIONS = st.sampled_from(LossReduction)
SEEDS = st.integers(0, 2**32 - 1)


def one_by_one(rows):
    """Loads from 1 to 7, in no order."""
    return [Unit((i,), int(row) * 5 % 7 + 1) for i, row in enumerate(rows)]


def plan_of(order, step, shape, num_supervised, reduction, max_load=9):
    return plan_step(step_rows(order, step, shape), shape, num_supervised, reduction, one_by_one, max_load)


def weighed(plan, num_supervised):
    """Sum over ranks, micro-batches and rows of weight x supervised tokens, one by one."""
    return math.fsum(
        weight * int(num_supervised[row])
        for rank in plan.micro_batches
        for batch in rank
        for row, weight in zip(batch.rows, batch.weights, strict=True)
    )


def working(plan):
    """Rows of the micro-batches that carry a weight; the weightless ones are checked to be idle throughout."""
    rows = []
    for rank in plan.micro_batches:
        for batch in rank:
            assert len(batch.rows) == len(batch.weights) > 0
            if batch.weights.any():
                assert (batch.weights > 0).all()
                rows += batch.rows.tolist()
    return rows


def check(plan, num_supervised, world_size):
    assert len(plan.micro_batches) == world_size
    assert len({len(rank) for rank in plan.micro_batches}) == 1
    assert sorted(working(plan)) == sorted(plan.rows.tolist())
    assert math.isclose(weighed(plan, num_supervised), plan.total_weight, rel_tol=1e-12)


@given(num_supervised=NUM_SUPERVISED, shape=SHAPES, reduction=REDUCTIONS, seed=SEEDS)
def test_an_epoch_has_each_row_in_one_step(num_supervised, shape, reduction, seed):
    order = epoch_order(np.arange(len(num_supervised)), 0, seed, DataOrder.SHUFFLED)
    num_steps = shape.num_steps(len(order))
    plans = [plan_of(order, step, shape, num_supervised, reduction) for step in range(num_steps)]
    assert [row for plan in plans for row in plan.rows.tolist()] == order.tolist()
    for plan in plans:
        check(plan, num_supervised, shape.world_size)
    whole = shape.num_steps(len(order), drop_last=True)
    assert [len(plan.rows) == shape.rows_per_step for plan in plans] == [True] * whole + [False] * (num_steps - whole)


@given(num_supervised=NUM_SUPERVISED, shape=SHAPES)
def test_total_weights(num_supervised, shape):
    order = np.arange(len(num_supervised))
    by_token = plan_of(order, 0, shape, num_supervised, LossReduction.TOKEN)
    assert by_token.total_weight == num_supervised[by_token.rows].sum()
    by_group = plan_of(order, 0, shape, num_supervised, LossReduction.DEVICE_BATCH)
    assert math.isclose(by_group.total_weight, math.ceil(len(by_group.rows) / shape.rows_per_group))


@given(num_supervised=NUM_SUPERVISED, size=st.integers(1, 9), ranks=st.integers(1, 6), reduction=REDUCTIONS)
def test_an_evaluation_has_each_row_once_whatever_the_ranks(num_supervised, size, ranks, reduction):
    plan = plan_evaluation(num_supervised, size, ranks, reduction, one_by_one, 9)
    assert plan.rows.tolist() == list(range(len(num_supervised)))
    check(plan, num_supervised, ranks)
    assert plan.total_weight == plan_evaluation(num_supervised, size, 1, reduction, one_by_one, 9).total_weight


@given(
    num_supervised=NUM_SUPERVISED,
    group=st.integers(1, 3),
    groups=st.integers(1, 3),
    ranks=st.integers(1, 4),
    seed=SEEDS,
    reduction=REDUCTIONS,
)
def test_ranks_change_nothing_but_who_computes(num_supervised, group, groups, ranks, seed, reduction):
    order = epoch_order(np.arange(len(num_supervised)), 0, seed, DataOrder.SHUFFLED)
    shared, alone = StepShape(group, groups, ranks), StepShape(group, groups * ranks, 1)
    for step in range(shared.num_steps(len(order))):
        a, b = (plan_of(order, step, shape, num_supervised, reduction) for shape in (shared, alone))
        assert a.rows.tolist() == b.rows.tolist()
        assert a.total_weight == b.total_weight
        assert sorted(working(a)) == sorted(working(b))
        assert weights_by_row(a) == weights_by_row(b)


def weights_by_row(plan):
    batches = [batch for rank in plan.micro_batches for batch in rank if batch.weights.any()]
    return {
        row: weight
        for batch in batches
        for row, weight in zip(batch.rows.tolist(), batch.weights.tolist(), strict=True)
    }


@given(num_rows=st.integers(0, 500), epoch=st.integers(0, 100), seed=SEEDS)
def test_an_order_is_a_permutation_that_can_be_drawn_again(num_rows, epoch, seed):
    order = epoch_order(np.arange(num_rows), epoch, seed, DataOrder.SHUFFLED)
    assert sorted(order.tolist()) == list(range(num_rows))
    assert order.tolist() == epoch_order(np.arange(num_rows), epoch, seed, DataOrder.SHUFFLED).tolist()


@given(num_rows=st.integers(20, 500), epoch=st.integers(0, 100), seed=SEEDS)  # of 20 rows, 20! orders: none by chance
def test_orders_differ_between_epochs_and_seeds(num_rows, epoch, seed):
    order = epoch_order(np.arange(num_rows), epoch, seed, DataOrder.SHUFFLED).tolist()
    assert order != epoch_order(np.arange(num_rows), epoch + 1, seed, DataOrder.SHUFFLED).tolist()
    assert order != epoch_order(np.arange(num_rows), epoch, seed + 1, DataOrder.SHUFFLED).tolist()
    assert order != list(range(num_rows))


# ---- loads

LOADS = st.lists(st.integers(1, 30), min_size=1, max_size=12)


@st.composite
def dealt_units(draw):
    """Units of several rows each, and how many rows they have."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    members = iter(draw(st.permutations(range(sum(sizes)))))
    return [Unit(tuple(next(members) for _ in range(size)), draw(st.integers(1, 30))) for size in sizes], sum(sizes)


def load_of(units):
    return sum(unit.load for unit in units)


@given(loads=LOADS, num_bins=st.integers(1, 6))
def test_loads_are_as_even_as_promised(loads, num_bins):
    units = [Unit((i,), load) for i, load in enumerate(loads)]
    bins = balance(units, num_bins)
    assert len(bins) == num_bins
    assert sorted(unit.members for bin in bins for unit in bin) == sorted(unit.members for unit in units)
    # No bin can be below the mean, the largest unit, or two of the largest that have to meet.
    falling = sorted(loads, reverse=True)
    meeting = falling[num_bins - 1] + falling[num_bins] if len(loads) > num_bins else 0
    least = max(math.ceil(sum(loads) / num_bins), falling[0], meeting)
    assert max(map(load_of, bins)) <= 2 * least
    lightest = min(map(load_of, bins))
    assert all(load_of(bin) - min(unit.load for unit in bin) <= lightest for bin in bins if bin)


@given(loads=st.lists(st.integers(1, 30), min_size=1, max_size=7), num_bins=st.integers(1, 3))
def test_the_largest_bin_is_at_most_a_third_above_the_best(loads, num_bins):
    bins = balance([Unit((i,), load) for i, load in enumerate(loads)], num_bins)
    assert 3 * max(map(load_of, bins)) <= 4 * best_of(tuple(sorted(loads, reverse=True)), (0,) * num_bins)


def best_of(loads, bins):
    """Largest bin of the best of all deals."""
    if not loads:
        return max(bins)
    choices = {tuple(sorted((*bins[:i], bins[i] + loads[0], *bins[i + 1 :]))) for i in range(len(bins))}
    return min(best_of(loads[1:], choice) for choice in choices)


@given(case=dealt_units(), ranks=st.integers(1, 4), max_load=st.integers(1, 60))
def test_micro_batches_are_whole_units_within_the_largest_load(case, ranks, max_load):
    units, num_rows = case
    rows = np.arange(100, 100 + num_rows)
    shape = StepShape(num_rows, 1, ranks)
    plan = plan_step(rows, shape, np.ones(200, dtype=np.int64), LossReduction.TOKEN, lambda rows: units, max_load)
    assert len(plan.micro_batches) == ranks
    assert len({len(of_rank) for of_rank in plan.micro_batches}) == 1
    left = list(units)
    for of_rank in plan.micro_batches:
        found = []
        for batch in of_rank:
            if not batch.weights.any():
                found.append([])
                continue
            members = {int(row) - 100 for row in batch.rows}
            own = [unit for unit in left if set(unit.members) <= members]
            assert sorted(members) == sorted(i for unit in own for i in unit.members)
            assert len(own) == 1 or load_of(own) <= max_load
            left = [unit for unit in left if unit not in own]
            found.append(own)
        falling = [load_of(own) for own in found]
        assert falling == sorted(falling, reverse=True)
    assert not left


@given(case=dealt_units(), ranks=st.integers(1, 4), max_load=st.integers(1, 60))
def test_no_more_micro_batches_than_units_or_than_a_plain_filling_needs(case, ranks, max_load):
    units, num_rows = case
    shape = StepShape(num_rows, 1, ranks)
    plan = plan_step(
        np.arange(num_rows), shape, np.ones(num_rows, dtype=np.int64), LossReduction.TOKEN, lambda rows: units, max_load
    )
    assert len(plan.micro_batches[0]) <= max(len(of_rank) for of_rank in balance(units, ranks))
    if load_of(units) <= max_load:
        assert len(plan.micro_batches[0]) == 1


# Long common beginnings, and few different ones.
FAMILY = st.tuples(st.integers(0, 1), st.integers(0, 40), st.integers(0, 2), st.integers(1, 12))


@given(families=st.lists(FAMILY, min_size=1, max_size=8), common=st.integers(0, 9), max_load=st.integers(1, 120))
def test_units_have_each_row_once_and_their_load_is_what_they_cost(families, common, max_load):
    rows = [[9] * common + [kind] * same + [2 + end] * rest for kind, same, end, rest in families]
    ids = [np.array(row, dtype=np.int32) for row in rows]
    lengths = np.array([len(row) for row in rows])
    units = make_units(common_prefixes(ids), lengths, common, max_load)
    assert sorted(i for unit in units for i in unit.members) == list(range(len(rows)))
    for unit in units:
        cells = {tuple(rows[i][: t + 1]) for i in unit.members for t in range(len(rows[i]))}
        assert unit.load == len(cells) - common
        assert unit.load <= max_load or len(unit.members) == 1
    assert load_of(units) >= len({tuple(row[: t + 1]) for row in rows for t in range(len(row))}) - common


# ---- the layout of a micro-batch, against a loop over its rows

ROW = st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=2, max_size=12).filter(
    lambda row: any(supervised for _, supervised in row[1:])
)


def examples_of(rows):
    return Examples.of_rows([[i for i, _ in row] for row in rows], [[trained for _, trained in row] for row in rows])


@settings(deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=6), data=st.data())
def test_a_padded_batch_agrees_with_a_loop(rows, data):
    weights = np.array(data.draw(st.lists(st.floats(0, 2, width=32), min_size=len(rows), max_size=len(rows))))
    chosen = np.array(data.draw(st.permutations(range(len(rows)))))
    batch = pad(examples_of(rows), chosen, weights)
    expected = [
        (b, t, rows[row][t + 1][0], weights[b])
        for b, row in enumerate(chosen)
        for t in range(len(rows[row]) - 1)
        if rows[row][t + 1][1]
    ]
    num_kept = len(batch.keep)
    got = [
        (position // num_kept, int(batch.keep[position % num_kept]), target, weight)
        for position, target, weight in zip(
            batch.positions.tolist(), batch.targets.tolist(), batch.weights.tolist(), strict=True
        )
    ]
    assert got == expected
    assert batch.keep.tolist() == sorted({t for _, t, _, _ in expected})
    for b, row in enumerate(chosen):
        num_real = len(rows[row])
        assert batch.input_ids[b, :num_real].tolist() == [i for i, _ in rows[row]]
        assert batch.attention_mask[b].tolist() == [1] * num_real + [0] * (batch.input_ids.shape[1] - num_real)
    assert batch.num_tokens == sum(map(len, rows))
