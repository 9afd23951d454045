import pytest

from tests import tiny
from yangtuo.config.choices import ChoicesBy
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import DataError
from yangtuo.evaluation import benchmarks
from yangtuo.evaluation.benchmarks import benchmark_of
from yangtuo.evaluation.choice_files import LETTERS, ChoiceFolder, ChoiceQuestion
from yangtuo.evaluation.records import Records


def question(subject, number, answer="A"):
    return ChoiceQuestion("ceval", subject, "STEM", number, f"{subject}{number}？", ("甲", "乙", "丙", "丁"), answer)


def folder(**splits):
    return ChoiceFolder("ceval", {name: tuple(questions) for name, questions in splits.items()}, ())


DEV = [question("law", i, "BCD"[i % 3]) for i in range(3)]
VAL = [question("law", i, LETTERS[i % 4]) for i in range(4)] + [question("high_school_physics", i, "A") for i in (0, 1)]


def test_the_first_split_with_answers_is_asked_behind_exemplars_of_its_subject():
    found = benchmark_of(folder(dev=DEV, val=VAL, test=[question("law", 9)]), ChoicesBy.LIKELIHOOD, 2, None)
    assert found.questions == tuple(VAL)
    assert found.prompts[0].count("答案：") == 3
    assert found.prompts[0].index("law0？") < found.prompts[0].index("law1？")
    assert found.prompts[0].endswith("答案：")
    assert found.prompts[4].count("答案：") == 1  # physics has no exemplars
    without = benchmark_of(folder(dev=DEV, val=[question("law", 0, None)], test=[question("law", 9)]), "both", 0, None)
    assert [one.number for one in without.questions] == [9]
    assert without.prompts[0].count("答案：") == 1


def test_so_many_of_each_subject_its_first():
    found = benchmark_of(folder(dev=DEV, val=VAL), ChoicesBy.LIKELIHOOD, 5, 1)
    assert [(one.subject, one.number) for one in found.questions] == [("law", 0), ("high_school_physics", 0)]


@pytest.mark.parametrize("splits", [{"dev": DEV}, {"dev": DEV, "test": [question("law", 9, None)]}, {}])
def test_nothing_to_ask_is_refused(splits):
    with pytest.raises(DataError, match="--shots 0"):
        benchmark_of(folder(**splits), ChoicesBy.LIKELIHOOD, 5, None)


def test_exemplars_alone_are_asked_without_shots():
    assert len(benchmark_of(folder(dev=DEV), ChoicesBy.LIKELIHOOD, 0, None).questions) == 3


def test_scores_by_hand(tmp_path):
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path / "tokenizer"))
    asked = benchmark_of(folder(dev=DEV, val=VAL), ChoicesBy.BOTH, 1, None)
    own = benchmarks.task_of(tokenizer, ALPACA_ZH, asked)
    assert [task.name for task in own.tasks] == ["ceval", "ceval"]
    records = Records(tmp_path / "m.jsonl", {})
    # Always B, but for the last question, of which two letters are equally likely.
    likely = [{"key": key, "nll": 1.0 if key.endswith("/B") else 2.0} for key in own.read.keys]
    likely[-4] |= {"nll": 1.0}
    records.add(own.read.identity, likely)
    answers = ["A", "答案是B", "我不知道", "A", "A", "AB"]
    said = [{"key": key, "answer": text} for key, text in zip(own.answered.keys, answers, strict=True)]
    records.add(own.answered.identity, said)
    found = {one.name: one for one in benchmarks.compare({"m": own}, {"m": records})}
    values = {name: one.estimates["m"].value for name, one in found.items()}
    assert values["choice/ceval/accuracy"] == pytest.approx(1 / 6)
    assert values["choice/ceval/law"] == 0.25
    assert values["choice/ceval/STEM"] == 0
    assert values["choice/ceval/generated/accuracy"] == 0.5  # law 0 and 1, physics 0
    assert values["choice/ceval/generated/named"] == pytest.approx(4 / 6)
    assert found["choice/ceval/law"].is_detail
    assert not found["choice/ceval/STEM"].is_detail


@pytest.mark.parametrize(
    ("by", "kinds"), [(ChoicesBy.LIKELIHOOD, (True, False)), (ChoicesBy.GENERATION, (False, True))]
)
def test_one_way_alone(tmp_path, by, kinds):
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path / "tokenizer"))
    own = benchmarks.task_of(tokenizer, ALPACA_ZH, benchmark_of(folder(dev=DEV, val=VAL), by, 1, 1))
    assert (own.read is not None, own.answered is not None) == kinds
