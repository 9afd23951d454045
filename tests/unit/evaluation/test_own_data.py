import json

import numpy as np
import pytest

from tests import tiny
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.records import Record, Turn
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.evaluation import own_data
from yangtuo.evaluation.records import Records
from yangtuo.evaluation.results import verdict_of


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return open_tokenizer(tiny.tiny_sentencepiece(tmp_path_factory.mktemp("tokenizer")))


def record(row, *said, source="a.json"):
    turns = [Turn("assistant" if i % 2 else "user", text, trained=bool(i % 2)) for i, text in enumerate(said)]
    return Record(source, row, tuple(turns))


def examples_of(tokenizer, *records):
    return encode(list(records), tokenizer, EncodingOptions(ALPACA_ZH, max_seq_length=512))[0]


def asked(tokenizer, examples, num_answers=9):
    return own_data.own_data(tokenizer, ALPACA_ZH, examples, num_answers, 8)


def of_sums(path, own, nll, tokens=2, answers=None):
    """Records of a model with these losses a row, by key."""
    records = Records(path, {})
    rows = [
        {"key": key, "nll": nll[key], "tokens": tokens, "hits": 1, "weighted_nll": nll[key], "weight": tokens}
        for key in own.rows.keys
    ]
    records.add(own.rows.identity, rows)
    if own.answers:
        said = [{"key": key, "answer": answers[key], "ended": True, "tokens": 3} for key in own.answers.keys]
        records.add(own.answers.identity, said)
    return records


def test_keys_say_file_and_row_and_equal_prompts_are_a_cluster(tokenizer):
    examples = examples_of(
        tokenizer,
        record(0, "一", "甲"),
        record(4, "二", "乙"),
        record(5, "一", "丙"),
        record(0, "三", "丁", "四", "戊", source="b.json"),
    )
    own = asked(tokenizer, examples)
    assert own.rows.keys == ("0:0", "0:4", "0:5", "1:0")
    numbers = [own.clusters[key] for key in own.rows.keys]
    assert numbers[0] == numbers[2]
    assert len(set(numbers)) == 3
    assert [own.characters[key] for key in own.rows.keys] == [1, 1, 1, 3]  # a blank stands between two answers


def test_examples_of_one_dialogue_are_a_cluster_and_its_last_answer_is_asked(tokenizer):
    examples = examples_of(tokenizer, record(0, "一", "甲"), record(1, "一，二", "乙"), record(2, "三", "丙"))
    # As a dialogue whose history is served otherwise: row 1 is two examples.
    examples = examples.take([0, 1, 2])
    examples.rows[:] = [0, 0, 1]
    own = asked(tokenizer, examples)
    assert own.rows.keys == ("0:0", "0:0.1", "0:1")
    assert own.clusters["0:0"] == own.clusters["0:0.1"] != own.clusters["0:1"]
    assert own.answers.keys == ("0:0.1", "0:1")
    assert [prompt.reference for prompt in own.answers.prompts] == ["乙", "丙"]


def test_answers_are_spread_over_all_rows(tokenizer):
    examples = examples_of(tokenizer, *(record(i, f"问{i}", "答") for i in range(11)))
    assert asked(tokenizer, examples, 3).answers.keys == ("0:0", "0:5", "0:10")
    assert asked(tokenizer, examples, 1).answers.keys == ("0:0",)
    assert len(asked(tokenizer, examples, 99).answers.keys) == 11
    assert asked(tokenizer, examples, 0).answers is None


def test_measures_by_hand(tokenizer, tmp_path):
    examples = examples_of(tokenizer, record(0, "一", "长城"), record(1, "二", "月亮"))
    own = asked(tokenizer, examples)
    models = {"base": own, "tuned": own}
    records = {
        "base": of_sums(tmp_path / "b", own, {"0:0": 4.0, "0:1": 6.0}, answers={"0:0": "山", "0:1": "月亮。"}),
        "tuned": of_sums(tmp_path / "t", own, {"0:0": 2.0, "0:1": 4.0}, answers={"0:0": "长城", "0:1": "月亮"}),
    }
    found = {one.name: one for one in own_data.compare(models, records)}
    values = {name: [e.value for e in one.estimates.values()] for name, one in found.items()}
    assert values["own/loss"] == [2.5, 1.5]
    assert values["own/token_accuracy"] == [0.5, 0.5]
    assert values["own/exact_match"] == [0.5, 1.0]
    assert values["own/length"] == [2.0, 2.0]
    assert values["own/ended"] == [1.0, 1.0]
    assert values["own/rougeL"][1] == 100
    assert "own/loss_by_character" not in found
    assert own_data.samples(models, records)[0] == {
        "prompt": "一",
        "reference": "长城",
        "answers": {"base": "山", "tuned": "长城"},
    }


def test_an_empty_answer_leaves_the_scores_out_and_says_so(tokenizer, tmp_path, caplog):
    examples = examples_of(tokenizer, record(0, "一", "甲"), record(1, "二", "乙"))
    own = asked(tokenizer, examples)
    object.__setattr__(own.answers.prompts[1], "reference", "")
    records = {"model": of_sums(tmp_path / "m", own, {"0:0": 1.0, "0:1": 1.0}, answers={"0:0": "甲", "0:1": ""})}
    names = {one.name for one in own_data.compare({"model": own}, records)}
    assert "own/ended" in names
    assert "own/exact_match" not in names
    assert "no scores" in caplog.text


def test_models_that_cut_text_otherwise_are_compared_by_character(tokenizer, tmp_path, caplog):
    rows = [record(i, f"问{i}", "长城" * (i + 1)) for i in range(4)]
    of_base = asked(tokenizer, examples_of(tokenizer, *rows), 0)
    of_tuned = asked(tokenizer, examples_of(tokenizer, *rows[1:], record(9, "九", "九")), 0)
    nll = {f"0:{i}": float(i + 1) * 4 for i in range(10)}
    half = {key: value / 2 + 0.1 * len(key + str(value)) for key, value in nll.items()}
    records = {
        "base": of_sums(tmp_path / "b", of_base, nll, tokens=2),
        "tuned": of_sums(tmp_path / "t", of_tuned, half, tokens=1),
    }
    found = own_data.compare({"base": of_base, "tuned": of_tuned}, records)
    by_name = {one.name: one for one in found}
    assert by_name["own/loss"].differences == {}
    loss = by_name["own/loss_by_character"]
    assert loss.n == 3  # rows 1 to 3, which both have
    assert loss.estimates["base"].value == pytest.approx((8 + 12 + 16) / (4 + 6 + 8))
    assert "1 rows that not all models can read" in caplog.text
    verdict = verdict_of(found, ["base", "tuned"])
    assert (verdict.rules[0].name, verdict.rules[0].passed) == ("own_data", True)
    assert "nats/character" in verdict.rules[0].text


def test_three_models_are_sampled_alike(tokenizer, tmp_path):
    own = asked(tokenizer, examples_of(tokenizer, record(0, "一", "甲"), record(1, "二", "乙")))
    nll = dict.fromkeys(own.rows.keys, 1.0)
    records = {name: of_sums(tmp_path / name, own, nll, answers=dict.fromkeys(own.rows.keys, name)) for name in "abc"}
    found = own_data.samples(dict.fromkeys("abc", own), records)
    assert [one["answers"] for one in found] == [{"a": "a", "b": "b", "c": "c"}] * 2
    told = [one.as_json() for one in own_data.compare(dict.fromkeys("abc", own), records)]
    assert json.dumps(told, allow_nan=False)
    assert np.isfinite(told[0]["values"]["c"])
