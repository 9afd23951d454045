"""A table with columns of its own: `--columns` in every verb that reads data, from the command line and from a file."""

import json

import pytest

from tests.tables import write_table

ROWS = [[f"问题{i}是什么？", f"答案是第{i}个。"] for i in range(6)]
OWN = '{"客户问题": "instruction", "客服回答": "output"}'
SAID = "客户问题 as instruction, 客服回答 as output"


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "train.csv", ["客户问题", "客服回答"], ROWS)


def asked(inputs, verb, table, **more):
    words = {"output_dir": None, "max_steps": None} if verb != "train" else {"max_steps": 1}
    return [verb, *inputs.options(more.pop("out", None), dataset_dir=table, **words, **more)]


def ids_of(run, inputs, place, *words):
    said = run(
        "encode", *inputs.options(None, output_dir=None, max_steps=None, dataset_dir=place), *words, "--out", "-"
    )
    return [json.loads(line)["input_ids"] for line in said.splitlines() if line.startswith("{")], said


def test_the_ids_are_those_of_known_names(run, inputs, table, tmp_path):
    plain = write_table(tmp_path / "plain.csv", ["instruction", "output"], ROWS)
    expected, _ = ids_of(run, inputs, plain)
    assert len(expected) == 6
    found, said = ids_of(run, inputs, table, "--columns", OWN)
    assert found == expected
    assert f"  {table}: {SAID}" in said
    (tmp_path / "run.yaml").write_text("columns:\n  客户问题: instruction\n  客服回答: output\n", encoding="utf-8")
    assert ids_of(run, inputs, table, tmp_path / "run.yaml")[0] == expected
    bare = write_table(tmp_path / "bare.csv", *[ROWS[0], ROWS[1:]])
    (tmp_path / "run.yaml").write_text("columns: {0: instruction, 1: output}\n", encoding="utf-8")
    assert ids_of(run, inputs, bare, tmp_path / "run.yaml")[0] == expected
    known = write_table(tmp_path / "known.csv", ["问题", "回答"], ROWS)
    found, said = ids_of(run, inputs, known)
    assert found == expected
    assert f"  {known}: 问题 as instruction, 回答 as output" in said


@pytest.mark.parametrize("verb", ["check", "preview"])
def test_verbs_that_look_at_data(verb, run, inputs, table):
    said = run(*asked(inputs, verb, table, columns=OWN, template="alpaca_zh"))
    assert SAID in said
    assert "问题" in said or verb == "check"


def test_training_and_validation_files_alike(run, inputs, table, tmp_path):
    held = write_table(tmp_path / "held.csv", ["客户问题", "客服回答"], [["别的？", "别的。"]])
    options = {"columns": OWN, "validation_file": held, "eval_strategy": "steps", "eval_steps": 1}
    said = run(*asked(inputs, "train", table, out=tmp_path / "out", **options))
    for path in (table, held):
        assert f"  {path}: {SAID}" in said
    known = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert known["recipe"]["columns"] == json.loads(OWN)
    again = '{"客服回答":"output","客户问题":"instruction"}'  # the same, spelled otherwise
    assert "holds this very run, finished" in run(
        *asked(inputs, "train", table, out=tmp_path / "out", **{**options, "columns": again})
    )


@pytest.mark.parametrize("verb", ["check", "preview", "train"])
def test_what_is_wrong_with_it_is_said_before_anything_is_read(verb, run, inputs, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    said = run(*asked(inputs, verb, broken, out=tmp_path / "out", columns='{"a": "answer"}'), expect=2)
    assert "--columns (1 problems)" not in said
    assert "--columns: 'a': no format has a field 'answer'; here it is 'output'" in said
    assert "broken JSON" not in said


def test_columns_that_no_file_has_are_an_error(run, inputs, tmp_path):
    plain = write_table(tmp_path / "plain.csv", ["instruction", "output"], ROWS)
    for verb in ("check", "preview"):
        said = run(*asked(inputs, verb, plain, columns=OWN), expect=2)
        assert (
            f"--columns: {plain}: it has none of the columns that --columns names (it has instruction, output)" in said
        )
    own = write_table(tmp_path / "own.csv", ["客户问题", "客服回答"], ROWS)
    said = run(*asked(inputs, "check", f"{plain},{own}", columns=OWN))  # one is enough
    assert f"  {plain}: it has none of the columns that --columns names" in said


def test_empty_answers(run, inputs, tmp_path):
    table = write_table(tmp_path / "a.csv", ["instruction", "output"], [*ROWS, ["问", ""]])
    said = run(*asked(inputs, "check", table), expect=2)
    assert "a.csv:8 row 6: the answer is empty; write it, or leave the row out (--bad_rows drop)" in said
    run(*asked(inputs, "check", table, bad_rows="drop", out=None), "--out", tmp_path / "report")
    dropped = [json.loads(line) for line in (tmp_path / "report" / "dropped_rows.jsonl").read_text().splitlines()]
    assert [(one["row"], one["reason"].split(";")[0]) for one in dropped] == [(6, "the answer is empty")]
    found, said = ids_of(run, inputs, table, "--allow_empty_answers")
    assert len(found) == 7
    assert "1 empty answers: the model learns to say nothing to them" in said
