import json

import pytest

from yangtuo.errors import WriteError
from yangtuo.evaluation.records import Records

MODEL = {"base": "x", "dtype": "float32"}


def test_what_was_added_is_there_again(tmp_path):
    path = tmp_path / "tuned.jsonl"
    records = Records(path, MODEL)
    assert not records.knows("own", "1")
    records.add("own", [{"key": "1", "nll": 0.1}, {"key": "2", "nll": 2.0}])
    records.add("probe", [{"key": "1", "answer": "长\u2028城"}])
    again = Records(path, MODEL)
    assert again.get("own", "1") == {"task": "own", "key": "1", "nll": 0.1}
    assert again.get("probe", "1")["answer"] == "长\u2028城"
    assert (again.knows("own", "2"), again.knows("probe", "2")) == (True, False)
    assert len(path.read_text(encoding="utf-8").split("\n")) == 5  # header, three lines, and the end of the last


@pytest.mark.parametrize("cut", ['{"task": "own", "key": "2"', '{"task": "own"}\n', "null\n", "\x00\x00", "\n"])
def test_a_line_that_was_cut_is_left_out(tmp_path, cut):
    path = tmp_path / "tuned.jsonl"
    Records(path, MODEL).add("own", [{"key": "1", "nll": 0.5}])
    whole = path.read_text()
    path.write_text(whole + cut)
    again = Records(path, MODEL)
    assert (again.knows("own", "1"), again.knows("own", "2")) == (True, False)
    assert path.read_text() == whole
    again.add("own", [{"key": "2", "nll": 1.0}])
    assert Records(path, MODEL).knows("own", "2")


def test_those_of_another_model_are_renamed_and_never_taken(tmp_path, caplog):
    path = tmp_path / "tuned.jsonl"
    Records(path, MODEL).add("own", [{"key": "1", "nll": 0.5}])
    before = path.read_text()
    other = Records(path, {**MODEL, "dtype": "bfloat16"})
    assert not other.knows("own", "1")
    assert (tmp_path / "tuned.former.jsonl").read_text() == before
    assert "float32" in caplog.text
    assert "bfloat16" in caplog.text
    assert json.loads(path.read_text()) == {"model": {**MODEL, "dtype": "bfloat16"}}


def test_another_file_of_that_name_is_renamed(tmp_path):
    path = tmp_path / "tuned.jsonl"
    path.write_text("mine\n")
    Records(path, MODEL)
    assert (tmp_path / "tuned.former.jsonl").read_text() == "mine\n"


def test_a_place_that_cannot_be_read_or_written_is_named(tmp_path):
    (tmp_path / "tuned.jsonl").mkdir()
    with pytest.raises(WriteError, match=r"tuned\.jsonl"):
        Records(tmp_path / "tuned.jsonl", MODEL)
    with pytest.raises(WriteError, match=r"base\.jsonl"):
        Records(tmp_path / "missing" / "base.jsonl", MODEL)
