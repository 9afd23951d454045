import math
import re

import pytest

from yangtuo.evaluation import measures
from yangtuo.evaluation.results import Evaluation, as_json, lines, number, verdict_of
from yangtuo.i18n import tr


def loss(name, base, tuned):
    tokens = dict.fromkeys(("base", "tuned"), [1.0] * len(base))
    return measures.of_ratios(name, "nats/token", {"base": base, "tuned": tuned}, tokens, "lower")


def share(name, base, tuned, better="higher", *, is_detail=False):
    return measures.of_shares(name, {"base": base, "tuned": tuned}, better, is_detail=is_detail)


def test_a_line_has_all_values_and_the_change_with_its_interval():
    (line,) = lines([loss("own/loss", [2.0, 2.0, 2.2], [1.0, 1.1, 1.0])], ["base", "tuned"])
    assert line.values == ("2.0667", "1.0333")
    assert line.change.startswith("-1.0333 [-1.")
    assert line.is_good is True
    (line,) = lines([loss("own/loss", [1.0, 1.1, 1.0], [2.0, 2.0, 2.2])], ["base", "tuned"])
    assert line.change.startswith("+1.0333 [+0.")
    assert line.is_good is False


def test_what_is_not_shown_has_no_colour():
    (line,) = lines([share("own/ended", [0, 1, 0, 1], [1, 0, 1, 1])], ["base", "tuned"])
    assert (line.values, line.change.split()[0], line.is_good) == (("50.0%", "75.0%"), "+25.0", None)
    (line,) = lines([share("own/ended", [0] * 40, [1] * 40, None)], ["base", "tuned"])
    assert line.is_good is None  # neither value is the better one


def test_order_and_what_is_left_out():
    found = [
        share("choice/ceval/law", [1], [1], is_detail=True),
        share("choice/ceval/accuracy", [1], [1]),
        share("probe/accuracy", [1], [1]),
        share("own/ended", [1], [1]),
        loss("own/loss", [1.0, 2.0], [1.0, 2.0]),
        share("own/unknown", [1], [1]),
    ]
    names = [line.name for line in lines(found, ["base", "tuned"])]
    assert names == ["own/loss", "own/ended", "probe/accuracy", "choice/ceval/accuracy"]


def test_one_model_has_no_change():
    one = measures.of_shares("own/ended", {"model": [1, 0]}, "higher")
    (line,) = lines([one], ["model"])
    assert (line.values, line.change, line.is_good) == (("50.0%",), "", None)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.1234, "share", "12.3%"),
        (1.23456, "nats/token", "1.2346"),
        (1.23456, "nats/character", "1.2346"),
        (1234.5, "", "1,234.5"),
        (1e9, "", "1.00e+09"),
        (math.inf, "", "infinite"),
        (math.nan, "share", "not a number"),
    ],
)
def test_numbers(value, unit, text):
    assert number(value, unit) == text


def test_a_verdict_is_there_in_both_languages_whatever_is_spoken():
    own = loss("own/loss", [3.0, 2.8, 3.1], [1.0, 0.7, 0.9])
    names = ["base", "tuned"]
    models = [{"name": name} for name in names]
    found = Evaluation(models, "x", [], [own], verdict_of([own], names), {}, [], {})
    verdict = as_json(found, {}, 1.0)["verdict"]
    for told in (verdict, *verdict["rules"]):
        assert told["text"].isascii()
        assert re.search(r"[\u4e00-\u9fff]", told["text_zh"])
    assert tr("The loss on your data") == "The loss on your data"  # English is spoken again
