import json
import math

import pytest

from yangtuo.evaluation import measures


def test_a_loss_is_the_sum_of_all_tokens_by_their_number():
    sums, tokens = {"base": [2.0, 6.0], "tuned": [1.0, 2.0]}, dict.fromkeys(("base", "tuned"), (1.0, 3.0))
    found = measures.of_ratios("own/loss", "nats/token", sums, tokens, "lower")
    assert {name: one.value for name, one in found.estimates.items()} == {"base": 2.0, "tuned": 0.75}
    assert found.differences["tuned"].estimate == -1.25
    perplexity = found.exponential("own/perplexity")
    assert perplexity.estimates["tuned"].value == pytest.approx(math.exp(0.75))
    assert perplexity.differences == {}
    compared = found.compared("base", "tuned")
    assert (compared.base, compared.tuned, compared.difference.estimate) == (2.0, 0.75, -1.25)


def test_losses_of_other_tokens_have_no_difference():
    tokens = {"base": [1.0, 3.0], "tuned": [1.0, 2.0]}
    found = measures.of_ratios("own/loss", "nats/token", {"base": [1, 1], "tuned": [1, 1]}, tokens, "lower")
    assert found.differences == {}
    assert found.as_json()["difference"] is None


def test_three_models_are_compared_with_the_first():
    found = measures.of_shares("x", {"a": [1, 0, 0, 0], "b": [1, 1, 0, 0], "c": [1, 1, 1, 0]}, "higher")
    assert {name: one.estimate for name, one in found.differences.items()} == {"b": 0.25, "c": 0.5}
    told = found.as_json()
    assert told["values"] == {"a": 0.25, "b": 0.5, "c": 0.75}
    assert (told["difference"]["between"], told["difference"]["estimate"]) == (["a", "c"], 0.5)
    assert set(told["differences"]) == {"b", "c"}
    assert found.compared("a", "b").difference.estimate == 0.25


def test_clusters_are_counted():
    found = measures.of_means("x", "%", {"a": [1.0, 2.0, 4.0]}, "higher", ("p", "p", "q"))
    assert (found.as_json()["n"], found.as_json()["clusters"]) == (3, 2)


@pytest.mark.parametrize(
    "found",
    [
        measures.of_means("x", "%", {"a": [math.nan, 1.0], "b": [math.inf, 1.0]}, "higher"),
        measures.of_means("x", "%", {"a": [], "b": []}, "higher"),
        measures.of_shares("x", {"a": [], "b": []}, "higher"),
        measures.of_ratios("x", "", {"a": [1e9], "b": [1.0]}, {"a": [1.0], "b": [1.0]}, "lower").exponential("y"),
        measures.of_all("x", "%", {"a": math.nan, "b": 1.0}, None, 0),
    ],
)
def test_json_has_null_where_there_is_no_number(found):
    told = json.dumps(found.as_json(), allow_nan=False)
    assert None in json.loads(told)["values"].values() or None in json.loads(told)["intervals"].values()
