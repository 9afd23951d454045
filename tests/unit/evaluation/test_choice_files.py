"""Folders of questions, made up, in every layout that users have."""

import json
from collections import Counter

import pytest

from tests.unit.evaluation import choices
from yangtuo.errors import DataError, UsageError
from yangtuo.evaluation.choice_files import ChoiceQuestion, licence, read_choice_folder
from yangtuo.evaluation.choice_subjects import subject_of, tables

HEAD = "id,question,A,B,C,D,answer\n"


def law(folder, text, name="val/law_val.csv", encoding="utf-8"):
    choices.write(folder / name, text, encoding)
    return folder


def only(folder, benchmark=None):
    (question,) = [one for found in read_choice_folder(folder, benchmark).questions.values() for one in found]
    return question


def test_a_folder_of_ceval(tmp_path):
    found = read_choice_folder(choices.ceval_folder(tmp_path))
    assert (found.benchmark, found.notes) == ("ceval", ())
    assert {split: len(questions) for split, questions in found.questions.items()} == {"dev": 8, "val": 40, "test": 12}
    assert found.answered() == found.questions["val"]
    assert {one.answer for one in found.questions["test"]} == {None}
    assert [one.number for one in found.exemplars("law")] == [1, 2]
    fourth = next(one for one in found.answered() if one.subject == "law" and one.number == 4)
    # 3 x 7 + 1 = 22, so C; 30 + 3.
    options = ("等于34", "等于35", "等于33", "等于37")
    assert fourth == ChoiceQuestion("ceval", "law", "Humanities", 4, "30加3等于", options, "C")
    # By hand: (7i + i // 3) mod 4 of 0 to 9 is 0 3 2 2 1 0 0 3 2 2.
    assert Counter(one.answer for one in found.answered()) == {"A": 12, "B": 4, "C": 16, "D": 8}


def test_a_folder_of_cmmlu(tmp_path):
    found = read_choice_folder(choices.cmmlu_folder(tmp_path))
    assert found.benchmark == "cmmlu"
    assert {split: len(questions) for split, questions in found.questions.items()} == {"dev": 8, "test": 40}
    groups = {one.subject: one.group for one in found.answered()}
    assert groups == {
        "anatomy": "STEM",
        "chinese_history": "Humanities",
        "economics": "Social Sciences",
        "nutrition": "Other",
    }


def test_flat_folders_and_other_files_hold_the_same(tmp_path):
    wanted = read_choice_folder(choices.ceval_folder(tmp_path / "a")).questions["val"]
    for subject in choices.SUBJECTS["ceval"]:
        rows = choices.ceval_rows(subject, range(choices.NUM_EACH))
        choices.write(tmp_path / "b" / f"{subject}_val.csv", choices.as_csv(rows))
        objects = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
        lines = "\n".join(json.dumps(one, ensure_ascii=False) for one in objects)
        choices.write(tmp_path / "c" / "val" / f"{subject}_val.jsonl", lines)
        choices.write(tmp_path / "d" / subject / "val-00000-of-00001.json", json.dumps(objects))
    for name in "bcd":
        found = read_choice_folder(tmp_path / name)
        assert found.benchmark == "ceval"
        assert found.questions == {"val": wanted}


def test_parquet_in_numbered_parts(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra data)")
    from pyarrow import parquet

    names = ["question", "A", "B", "C", "D", "answer"]
    rows = [dict(zip(names, choices.row_of("law", i), strict=True)) for i in range(4)]
    rows[0]["A"] = 7  # no text
    for part in (0, 1):
        table = pyarrow.Table.from_pylist([{**row, "A": str(row["A"])} for row in rows[part * 2 : part * 2 + 2]])
        (tmp_path / "law").mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / "law" / f"val-0000{part}-of-00002.parquet")
    found = read_choice_folder(tmp_path)
    assert (found.benchmark, len(found.questions["val"])) == ("ceval", 4)
    assert found.answered()[0].options[0] == "7"


def test_texts_as_they_come(tmp_path):
    text = f'{HEAD}0,"第一行\n第二行",  甲 ,"乙, ""丙""",丁,4, ｃ \n'
    for encoding in ("utf-8-sig", "gb18030"):
        found = only(law(tmp_path / encoding, text, encoding=encoding))
        assert found.question == "第一行\n第二行"
        assert found.options == ("甲", '乙, "丙"', "丁", "4")
        assert found.answer == "C"


def test_columns_as_they_come(tmp_path):
    text = "\ufeff Question ,Ａ,B,C,D,Ａnswer\n问,1,2,3,4,Ｄ.\n"
    assert only(law(tmp_path, text)).answer == "D"
    other = only(
        law(tmp_path / "x", '{"question": "问", "A": 1, "B": 2.5, "C": "3", "D": "4", "answer": "b"}', "val/law.jsonl")
    )
    assert (other.options, other.answer) == (("1", "2.5", "3", "4"), "B")


def test_all_faults_are_named_at_once(tmp_path):
    law(tmp_path, f"{HEAD}0,问,1,2,3,4,E\n1,,1,,3,4,A\n2,问,1,2,3\n3,问,1,2,3,4,A\n")
    law(tmp_path, "question,A,B,C\n问,1,2,3\n", "val/logic_val.csv")
    law(tmp_path, "", "dev/law_dev.csv")
    law(tmp_path, HEAD, "dev/logic_dev.csv")
    law(tmp_path, '["a"]\n', "val/marxism_val.jsonl")
    with pytest.raises(DataError) as raised:
        read_choice_folder(tmp_path)
    said = str(raised.value)
    for part in (
        "law_val.csv:2 row 1: column answer: E; A, B, C or D is allowed",
        'law_val.csv:3 row 2: column question: ""; a text is needed',
        "law_val.csv:3 row 2: column B",
        "law_val.csv:4 row 3: 5 value(s) for the 7 columns of the header",
        "logic_val.csv: no column D, answer; columns there: question, a, b, c",
        "law_dev.csv: the file is empty",
        "logic_dev.csv: no questions in it",
        "marxism_val.jsonl:1 row 1: no object",
    ):
        assert part in said, said
    assert "row 4" not in said


@pytest.mark.parametrize("split", ["dev", "val"])
def test_only_a_test_set_may_lack_answers(tmp_path, split):
    law(tmp_path, f"{HEAD}0,问,1,2,3,4,\n", f"{split}/law_{split}.csv")
    with pytest.raises(DataError, match="column answer"):
        read_choice_folder(tmp_path)


def test_a_test_set_has_all_answers_or_none(tmp_path):
    law(tmp_path, f"{HEAD}0,问,1,2,3,4,\n", "test/law_test.csv")
    assert only(tmp_path).answer is None
    law(tmp_path, f"{HEAD}0,问,1,2,3,4,\n1,问,1,2,3,4,A\n", "test/law_test.csv")
    with pytest.raises(DataError, match=r"row 1: column answer"):
        read_choice_folder(tmp_path)


def test_the_split_is_the_largest_with_answers(tmp_path):
    found = read_choice_folder(choices.ceval_folder(tmp_path))
    assert found.answered("dev") == found.questions["dev"]
    for split in ("test", "train"):
        with pytest.raises(UsageError, match=f"'{split}'.*dev, val"):
            found.answered(split)
    law(tmp_path / "x", f"{HEAD}0,问,1,2,3,4,A\n", "dev/law_dev.csv")
    with pytest.raises(UsageError, match="besides dev"):
        read_choice_folder(tmp_path / "x").answered()


def test_one_question_is_not_read_twice(tmp_path):
    for name in ("val/law_val.csv", "law_val.csv"):
        law(tmp_path, f"{HEAD}0,问,1,2,3,4,A\n", name)
    with pytest.raises(DataError, match="keep one of them"):
        read_choice_folder(tmp_path)


def test_what_is_unknown_is_said(tmp_path):
    choices.cmmlu_folder(tmp_path)
    law(tmp_path, ",Question,A,B,C,D,Answer\n0,问,1,2,3,4,A\n", "test/my_firm.csv")
    law(tmp_path, "a,b\n", "notes.csv")
    law(tmp_path, "no table", "README.md")
    law(tmp_path, "junk", "test/._law.csv")
    found = read_choice_folder(tmp_path)
    assert len(found.questions["test"]) == 41
    (own,) = [one for one in found.questions["test"] if one.subject == "my_firm"]
    assert own.group == "Other"
    assert any("my_firm" in note for note in found.notes)
    assert any("notes.csv" in note for note in found.notes)
    assert len(found.notes) == 2


def test_a_benchmark_can_be_named(tmp_path):
    folder = law(tmp_path, f"{HEAD}0,问,1,2,3,4,A\n", "val/high_school_biology.csv")
    assert only(folder).benchmark == "cmmlu"
    assert only(folder, "ceval").benchmark == "ceval"


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_no_questions_there(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=name):
        read_choice_folder(tmp_path / name)


def test_the_subjects_are_those_published():
    known = tables()
    assert {group: len(found) for group, found in known["ceval"].items()} == {
        "STEM": 20,
        "Social Science": 10,
        "Humanities": 11,
        "Other": 11,
    }
    assert sum(map(len, known["cmmlu"].values())) == 67
    of_both = {
        name: Counter(g for found in known[name].values() for s in found for g in subject_of(name, s).groups)
        for name in known
    }
    assert (of_both["ceval"]["Hard"], of_both["cmmlu"]["China specific"]) == (8, 15)
    assert subject_of("ceval", "college_physics").groups == ("STEM", "Hard")
    assert subject_of("ceval", "clinical_medicine").chinese == "临床医学"
    assert subject_of("cmmlu", "modern_chinese").groups == ("Social Sciences", "China specific")
    assert not subject_of("cmmlu", "law").is_known


@pytest.mark.parametrize("benchmark", ["ceval", "cmmlu"])
def test_the_licence_is_told(benchmark):
    assert "CC BY-NC-SA 4.0" in licence(benchmark)
