"""Measures in groups, and of several runs beside each other; answers before and after."""

import pytest

from tests.run_folders import evaluations, record, results, samples, steps, write_run
from yangtuo.report import answers, compare, measures
from yangtuo.report.evaluation import evaluation_of
from yangtuo.report.facts import read_run
from yangtuo.report.run_log import log_of


def measure(name, tuned=0.5, better="higher", low=-0.1, high=0.1):
    difference = {"estimate": (low + high) / 2, "low": low, "high": high}
    return {"name": name, "better": better, "values": {"base": 0.1, "tuned": tuned}, "difference": difference}


@pytest.mark.parametrize(
    ("better", "low", "high", "found"),
    [
        ("lower", -2.0, -1.0, True),
        ("lower", 1.0, 2.0, False),
        ("higher", 1.0, 2.0, True),
        ("higher", -2.0, -1.0, False),
        ("lower", -1.0, 1.0, None),
        (None, 1.0, 2.0, None),
    ],
)
def test_better_by_more_than_chance(better, low, high, found):
    (one,) = evaluation_of({"measures": [measure("own/loss", better=better, low=low, high=high)]}).measures
    assert one.is_better is found


def test_groups_and_what_is_folded_away():
    subjects = [measure(f"choice/ceval/subject {i}") for i in range(12)]
    found = evaluation_of(
        {"measures": [measure("else/x"), *subjects, measure("choice/ceval/accuracy"), measure("own/a")]}
    )
    own, choice, other = measures.groups_of(found)
    assert (own.name, choice.name, other.name) == ("own", "choice", "")
    assert choice.shown[0].name == "choice/ceval/accuracy"
    assert (len(choice.shown), len(choice.more)) == (10, 3)
    assert measures.groups_of(None) == []


@pytest.mark.parametrize(
    "broken", [{}, {"measures": 3, "models": {}, "samples": [1], "verdict": "x"}, {"measures": [{}]}]
)
def test_an_evaluation_of_another_shape(broken):
    assert evaluation_of(broken).outcome == ""
    assert measures.groups_of(evaluation_of(broken)) is not None


def runs_of(tmp_path, **of_each):
    return [read_run(write_run(tmp_path / name, **changes)) for name, changes in of_each.items()]


def test_several_runs_beside_each_other(tmp_path):
    worse = results(measures=[measure("own/loss", 3.0, "lower"), measure("choice/ceval/law"), measure("own/new")])
    runs = runs_of(tmp_path, a={"evaluated": results()}, b={"evaluated": worse}, c={})
    loss, facts, new = measures.beside(runs)
    assert (loss.name, loss.values, loss.best) == ("own/loss", (2.1, 3.0, None), 2.1)
    assert (facts.values, facts.best) == ((0.4, None, None), None)
    assert new.values == (None, 0.5, None)


def test_options_and_versions_that_differ(tmp_path):
    changed = record(versions={"python": "3.12.0", "torch": "2.13.0"})
    changed["arguments"] = changed["arguments"] | {"lora_rank": {"value": 16, "from": "command line"}}
    changed["arguments"]["output_dir"] = {"value": "elsewhere", "from": "command line"}
    changed["arguments"]["max_steps"] = {"value": 60.0, "from": "default"}
    del changed["arguments"]["learning_rate"]
    runs = runs_of(tmp_path, a={}, b={"run": changed})
    rate, rank = compare.options_that_differ(runs)
    assert (rate.name, rate.values, rate.known) == ("learning_rate", (1e-4, None), (True, False))
    assert (rank.name, rank.values, rank.origins) == ("lora_rank", (8, 16), ("default", "command line"))
    assert [(one.name, one.values) for one in compare.versions_that_differ(runs)] == [("python", ("3.11.7", "3.12.0"))]


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = runs_of(tmp_path, **{"x/out": {}, "y/out": {}, "z/deep/out": {}})
    assert compare.names_of(runs) == ["x/out", "y/out", "deep/out"]
    assert compare.names_of(runs[:1]) == ["out"]


def test_the_same_prompt_to_several_runs(tmp_path):
    log = [*steps(3), *evaluations(3, 3)]
    runs = runs_of(
        tmp_path, a={"log": [*log, samples(3, "A")]}, b={"log": [*log, samples(3, "B", prompt="other")]}, c={"log": log}
    )
    (asked,) = compare.same_prompts(runs, ["a", "b", "c"]).prompts
    assert [(one.who, one.text) for one in asked.answers] == [("a", "A"), ("b", None), ("c", None)]


def test_answers_before_after_and_in_between():
    entries = [samples(0, "The wall"), *(samples(step, f"at {step}") for step in range(10, 80, 10))]
    found = answers.of_samples(log_of(entries))
    (one,) = found.prompts
    assert [(said.who, said.text) for said in one.answers] == [
        ("answers.before", "The wall"),
        ("answers.after", "at 70"),
    ]
    assert one.reference == "长城很长。"
    assert [step for step, _ in one.between] == [10, 20, 40, 60]
    assert (found.step, found.num_all) == (70, 1)


def test_only_the_start_has_one_answer():
    (one,) = answers.of_samples(log_of([samples(0, "The wall")])).prompts
    assert [said.text for said in one.answers] == ["The wall"]


def test_long_answers_and_many_prompts_are_cut():
    entry = {"step": 5, "samples": [{"prompt": f"{i}", "answer": "长" * 5000, "ended": False} for i in range(30)]}
    found = answers.of_samples(log_of([entry]))
    assert (len(found.prompts), found.num_all) == (20, 30)
    before, after = found.prompts[0].answers
    assert before.text is None
    assert (len(after.text), after.is_cut) == (1504, True)
