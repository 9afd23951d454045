import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yangtuo.evaluation.forgetting import PassageLoss, Probed, compare
from yangtuo.evaluation.probe_checks import Check
from yangtuo.evaluation.probe_items import CheckedItem, ChoiceItem, Passage


@dataclass(frozen=True)
class Change:
    """Stands in for a difference of the statistics."""

    estimate: float
    low: float = -math.inf
    high: float = math.inf
    smallest: float = math.inf


def share(base, tuned):
    return Change((sum(tuned) - sum(base)) / len(base))


def ratio(base, tuned, weights):
    return Change((sum(tuned) - sum(base)) / sum(weights))


def choice(name, language, kind="facts"):
    return ChoiceItem(name, language, kind, "?", ("1", "2", "3", "4"), 0)


ITEMS = (
    choice("z1", "zh"),
    choice("z2", "zh"),
    Passage("p1", "zh", "山"),
    CheckedItem("z3", "zh", "safety", "?", Check("refuses")),
    choice("e1", "en"),
    Passage("p2", "zh", "水"),
)
BASE = Probed({"z1": True, "z2": True, "z3": False, "e1": True}, {"p1": PassageLoss(30, 10), "p2": PassageLoss(10, 10)})
TUNED = Probed(
    {"z1": True, "z2": False, "z3": True, "e1": False}, {"p1": PassageLoss(35, 10), "p2": PassageLoss(9, 10)}
)


def test_measures_of_all_of_languages_and_of_kinds():
    found = compare(ITEMS, BASE, TUNED, share, ratio)
    values = [(m.name, m.unit, m.better, m.n, m.base, m.tuned, m.difference.estimate) for m in found.measures]
    assert values == [
        ("probe/accuracy", "share", "higher", 4, 3 / 4, 2 / 4, -1 / 4),
        ("probe/zh/accuracy", "share", "higher", 3, 2 / 3, 2 / 3, 0),
        ("probe/en/accuracy", "share", "higher", 1, 1, 0, -1),
        ("probe/zh/facts", "share", "higher", 2, 1, 1 / 2, -1 / 2),
        ("probe/zh/safety", "share", "higher", 1, 0, 1, 1),
        ("probe/en/facts", "share", "higher", 1, 1, 0, -1),
        ("probe/loss", "nats/token", "lower", 2, 2, 2.2, pytest.approx(0.2)),
        ("probe/zh/loss", "nats/token", "lower", 2, 2, 2.2, pytest.approx(0.2)),
    ]


def test_what_was_lost_and_gained_in_the_order_of_the_set():
    found = compare(ITEMS, BASE, TUNED, share, ratio)
    assert found.lost == ("z2", "e1")
    assert found.gained == ("z3",)


def test_a_passage_counts_by_its_tokens():
    base = Probed({}, {"p1": PassageLoss(30, 10), "p2": PassageLoss(10, 90)})
    found = compare([item for item in ITEMS if isinstance(item, Passage)], base, base, share, ratio)
    assert found.measures[0].base == 0.4  # not the mean of 3 and 1 / 9


def test_one_model_alone_has_no_difference():
    found = compare(ITEMS, BASE, None, share, ratio)
    assert [m.base for m in found.measures][:2] == [3 / 4, 2 / 3]
    assert {m.tuned for m in found.measures} == {m.difference for m in found.measures} == {None}
    assert found.lost == found.gained == ()


@pytest.mark.parametrize("total", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_value_without_a_difference(total):
    tuned = Probed(TUNED.passed, TUNED.losses | {"p2": PassageLoss(total, 10)})
    loss = next(m for m in compare(ITEMS, BASE, tuned, share, ratio).measures if m.name == "probe/loss")
    assert not math.isfinite(loss.tuned)
    assert loss.difference is None
    assert loss.base == 2


def test_an_item_that_was_not_asked_is_named():
    for broken in (
        Probed({"z1": True, "z2": True, "e1": True}, BASE.losses),
        Probed(BASE.passed, {"p1": BASE.losses["p1"]}),
    ):
        for pair in ((BASE, broken), (broken, BASE), (broken, None)):
            with pytest.raises(ValueError, match=r"not measured: (z3|p2)"):
                compare(ITEMS, *pair, share, ratio)


def test_losses_of_other_tokens_are_not_compared():
    tuned = Probed(TUNED.passed, TUNED.losses | {"p2": PassageLoss(9, 8)})
    with pytest.raises(ValueError, match="p2"):
        compare(ITEMS, BASE, tuned, share, ratio)


def test_no_items_make_no_measures():
    assert compare((), Probed({}, {}), Probed({}, {}), share, ratio).measures == ()


@given(
    st.lists(st.tuples(st.sampled_from(["zh", "en"]), st.sampled_from("ab"), st.booleans(), st.booleans()), min_size=1)
)
def test_parts_make_the_whole(rows):
    items = [choice(str(i), language, kind) for i, (language, kind, _, _) in enumerate(rows)]
    base, tuned = (Probed({str(i): row[at] for i, row in enumerate(rows)}, {}) for at in (2, 3))
    found = compare(items, base, tuned, share, ratio)
    whole, parts = found.measures[0], [m for m in found.measures if m.name.count("/") == 2]
    for kept in (lambda name: name.endswith("accuracy"), lambda name: not name.endswith("accuracy")):
        chosen = [part for part in parts if kept(part.name)]
        assert sum(part.n for part in chosen) == whole.n
        assert sum(part.n * part.tuned for part in chosen) == pytest.approx(whole.n * whole.tuned)
    assert len(found.gained) - len(found.lost) == pytest.approx(whole.n * (whole.tuned - whole.base))
