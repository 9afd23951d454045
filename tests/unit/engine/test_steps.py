import numpy as np
import pytest

from tests.unit.engine.small import examples_of
from yangtuo.config.choices import DataOrder, LossReduction
from yangtuo.engine.planning import StepShape
from yangtuo.engine.steps import Execution, Planner, Recipe, Steps

TEMPLATE = [1, *range(10, 18)]  # what all rows begin with
LONG = list(range(20, 40))  # what two rows go on with
EXAMPLES = examples_of(
    ([*TEMPLATE, *LONG, 41], [51, 2]),
    ([*TEMPLATE, 42], [52, 53, 2]),
    ([*TEMPLATE, *LONG, 43], [54, 2]),
    ([*TEMPLATE, 44], [55, 2]),
    ([*TEMPLATE, 44], [56, 57, 58, 59, 2]),
)
SHARED, PADDED = Execution(True, 1000), Execution(False, 1000)


def recipe_of(*, rows=5, ranks=1, order=DataOrder.SEQUENTIAL, reduction=LossReduction.TOKEN, drop_last=False):
    return Recipe(StepShape(rows, 1, ranks), reduction, order, 7, drop_last, 0.0, None, 5)


def rows_of(step):
    return [layout.rows for layout in step.layouts]


def said(steps):
    """Sum of weights by what is predicted, over all layouts of these steps."""
    result = {}
    for step in steps:
        for layout in step.layouts:
            for target, weight in zip(layout.targets.tolist(), layout.weights.tolist(), strict=True):
                result[target] = result.get(target, 0) + weight
    return {target: pytest.approx(weight) for target, weight in result.items() if weight}


def test_a_step_is_one_tree_or_one_block_of_lines_where_it_fits():
    (tree,) = Steps(EXAMPLES, recipe_of(), SHARED, 0)[0].layouts
    assert tree.num_cells == len(TEMPLATE) + len(LONG) + 3 + 4 + 3 + 3 + 5
    assert sorted(tree.rows) == [0, 1, 2, 3, 4]
    (lines,) = Steps(EXAMPLES, recipe_of(), PADDED, 0)[0].layouts
    assert lines.num_cells == 5 * 32
    assert lines.sequences is None


def test_the_common_prefix_is_that_of_all_rows():
    assert Planner(EXAMPLES).common == len(TEMPLATE)
    assert Planner(examples_of(([1, 2], [3]))).common == 3
    assert Planner(examples_of(([1, 2], [3]), ([1, 2, 3], [4]))).common == 3
    assert Planner(examples_of(([1, 2], [3]), ([4], [2, 3]))).common == 0


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("max_cells", [1, 20, 40, 64, 100, 1000])
@pytest.mark.parametrize("reduction", LossReduction)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_executions_change_nothing_but_the_cut(shares, max_cells, reduction, ranks):
    expected = said([Steps(EXAMPLES, recipe_of(rows=6, reduction=reduction), PADDED, 0)[0]])
    # 6 rows a rank: a step holds all, and a group too, however many ranks.
    recipe = recipe_of(rows=6, ranks=ranks, reduction=reduction)
    steps = [Steps(EXAMPLES, recipe, Execution(shares, max_cells), rank)[0] for rank in range(ranks)]
    assert said(steps) == expected
    assert len({len(step.layouts) for step in steps}) == 1
    assert len({step.plan.total_weight for step in steps}) == 1
    assert sum(sum(layout.weights) for step in steps for layout in step.layouts) == pytest.approx(
        steps[0].plan.total_weight
    )


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("max_cells", [32, 40, 64, 100])
def test_no_micro_batch_has_more_cells_than_allowed(shares, max_cells):
    step = Steps(EXAMPLES, recipe_of(), Execution(shares, max_cells), 0)[0]
    assert all(layout.num_cells <= max_cells for layout in step.layouts)


def test_one_row_by_itself_where_nothing_fits():
    for shares in (True, False):
        step = Steps(EXAMPLES, recipe_of(), Execution(shares, 1), 0)[0]
        assert sorted(rows_of(step)) == [(0,), (1,), (2,), (3,), (4,)]


def test_rows_with_a_long_common_prefix_are_computed_together():
    step = Steps(EXAMPLES, recipe_of(), Execution(True, 40), 0)[0]
    assert [rows for rows in rows_of(step) if 0 in rows] == [rows for rows in rows_of(step) if 2 in rows]


def test_an_epoch_has_every_row_once_and_the_next_in_another_order():
    steps = Steps(EXAMPLES, recipe_of(rows=2, order=DataOrder.SHUFFLED), SHARED, 0)
    assert len(steps) == 3
    epochs = []
    for steps.epoch in (0, 1, 0):
        epochs.append([steps[i].plan.rows.tolist() for i in range(3)])
    assert sorted(row for rows in epochs[0] for row in rows) == [0, 1, 2, 3, 4]
    assert epochs[0] == epochs[2] != epochs[1]
    assert len(Steps(EXAMPLES, recipe_of(rows=2, drop_last=True), SHARED, 0)) == 2


def test_the_same_step_again_under_another_execution():
    steps = Steps(EXAMPLES, recipe_of(), Execution(True, 80), 0)
    step = steps[0]
    assert steps.again(step) is step
    steps.execution = Execution(False, 40)
    again = steps.again(step)
    assert again.execution == steps.execution
    assert again.plan.rows.tolist() == step.plan.rows.tolist()
    assert again.plan.total_weight == step.plan.total_weight
    assert said([again]) == said([step])
    assert len(again.layouts) > len(step.layouts)
    assert all(layout.sequences is None for layout in again.layouts)


def test_halving_ends_at_one():
    execution, seen = Execution(True, 5), []
    for _ in range(4):
        seen.append(execution.max_cells)
        execution = execution.halved()
    assert seen == [5, 2, 1, 1]
    assert execution.shares_prefixes


@pytest.mark.parametrize("execution", [SHARED, PADDED, Execution(True, 40)])
def test_an_evaluation_has_every_row_once(execution):
    planner = Planner(EXAMPLES)
    plan = planner.evaluation(recipe_of(ranks=2), execution)
    batches = [batch for rank in plan.micro_batches for batch in rank if batch.weights.any()]
    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == [0, 1, 2, 3, 4]
    assert plan.total_weight == 2 + 3 + 2 + 2 + 5
    layouts = [layout for rank in (0, 1) for layout in planner.lay_out(plan, rank, execution)]
    by_rank = [[layout.most_predictions for layout in planner.lay_out(plan, rank, execution)] for rank in (0, 1)]
    assert by_rank[0] == by_rank[1]
    assert all(layout.most_predictions >= len(layout.targets) for layout in layouts)
    assert all((layout.sequences is not None) is execution.shares_prefixes for layout in layouts)
