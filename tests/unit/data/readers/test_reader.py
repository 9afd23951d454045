"""Files -> records: order, formats, everything that is wrong in one report."""

import hashlib
import json

import pytest

from tests import tiny
from yangtuo.config.choices import BadRows, DataFormat, TrainTurns
from yangtuo.data.readers import reader as records
from yangtuo.data.readers.reader import Dropped, Reader, ReadOptions
from yangtuo.data.records import Record, Source, Turn
from yangtuo.errors import DataError

GOOD = {"instruction": "问", "output": "答"}
DROP = ReadOptions(bad_rows=BadRows.DROP)


def lines(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fault_of(paths, how=ReadOptions()):  # noqa: B008  # immutable
    with pytest.raises(DataError) as caught:
        records.read(paths, how)
    return str(caught.value).replace(f"{paths[0].parent}/", "")


def test_records_and_sources_are_in_the_order_of_the_files(tmp_path):
    rows = tiny.rows(5)
    a, b = tiny.write_rows(tmp_path / "a.json", rows[:2]), tiny.write_rows(tmp_path / "b.json", rows[2:])
    read, sources = records.read([b, a])
    assert [(record.source, record.row) for record in read] == [
        *((str(b), row) for row in range(3)),
        *((str(a), row) for row in range(2)),
    ]
    assert [record.turns[1].text for record in read] == [row["output"] for row in rows[2:] + rows[:2]]
    assert sources == [
        Source(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), num) for path, num in ((b, 3), (a, 2))
    ]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([GOOD]).encode())
    assert records.read([path])[0] == [
        Record(str(path), 0, (Turn("user", "问", trained=False), Turn("assistant", "答", trained=True)))
    ]


def test_each_file_has_its_own_format(tmp_path):
    messages = {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}
    a, b = lines(tmp_path / "a.jsonl", [GOOD]), lines(tmp_path / "b.jsonl", [messages])
    read, sources = records.read([a, b])
    assert read[0].turns == read[1].turns
    assert [source.data_format for source in sources] == ["alpaca", "messages"]


def test_a_first_row_that_is_no_object_decides_no_format(tmp_path):
    prompt = {"prompt": "问", "completion": "答"}
    path = lines(tmp_path / "a.jsonl", ['"text"\n', "{broken\n", prompt])
    reader = Reader([path], DROP)
    (record,) = reader.records()
    assert record.row == 2
    assert reader.num_dropped == 2
    assert reader.sources[0].data_format == "prompt_completion"


def test_a_format_that_was_named_is_not_detected(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{**GOOD, "messages": []}])
    assert "its keys fit messages and alpaca; name one with --format" in fault_of([path])
    assert len(records.read([path], ReadOptions(DataFormat.ALPACA))[0]) == 1
    assert "no 'prompt'" in fault_of([path], ReadOptions(DataFormat.PROMPT_COMPLETION))


def test_all_faults_of_all_files_at_once(tmp_path):
    first = tiny.write_rows(tmp_path / "1.json", [{"instruction": 1}, *tiny.rows(1), "text"])
    second = tmp_path / "2.json"
    second.write_text("{")
    good = tiny.write_rows(tmp_path / "3.json", tiny.rows(2))
    assert fault_of([first, second, good, tmp_path / "4.json"]).splitlines() == [
        "data (5 problems):",
        "  2.json:1:2: broken JSON: Expecting property name enclosed in double quotes, found the end of the file",
        "  4.json: cannot be read: No such file or directory",
        "  1.json:2 row 0: 'instruction' is a number, 1; expected a text that is not empty",
        "  1.json:2 row 0: no 'output' (keys: instruction); expected a text",
        '  1.json:10 row 2: expected an object, found a text, "text"',
    ]
    assert len(records.read([good])[0]) == 2


def test_an_empty_question_says_what_to_do_as_an_empty_answer_does(tmp_path):
    remedy = "write it, or leave the row out (--bad_rows drop)"
    dialogue = [{"role": "user", "content": " "}, {"role": "assistant", "content": "答"}]
    bad = ({"instruction": "", "output": "答"}, {"instruction": "问", "output": ""}, {"messages": dialogue})
    for number, row in enumerate(bad):
        assert fault_of([lines(tmp_path / f"{number}.jsonl", [row])]).endswith(remedy)
    asked = Reader([tmp_path / "0.jsonl"], ReadOptions(bad_rows=BadRows.DROP))
    assert list(asked.records()) == []
    assert remedy not in asked.dropped[0].told  # it is done
    assert remedy not in fault_of([lines(tmp_path / "null.jsonl", [{"instruction": None, "output": "答"}])])


def test_one_row_with_two_faults_is_no_more_bad_rows_than_it_is(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"instruction": 1}])
    assert fault_of([path]).splitlines()[0] == "data (2 problems):"
    assert "more bad rows" not in fault_of([path])


def test_bad_rows_beyond_the_list_are_counted_as_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MOST_LISTED", 2)
    path = lines(tmp_path / "a.jsonl", [{"instruction": 1}] * 5)
    said = fault_of([path]).splitlines()
    assert len(said) == 1 + 4 + 1
    assert said[-1] == "  and 3 more bad rows"


def test_dropped_rows_are_left_out_and_listed(tmp_path):
    path = lines(tmp_path / "a.jsonl", [GOOD, {"instruction": 1}, GOOD, "{broken\n", GOOD])
    reader = Reader([path], DROP)
    assert [record.row for record in reader.records()] == [0, 2, 4]
    assert reader.num_dropped == 2
    assert [(one.row, one.line) for one in reader.dropped] == [(1, 2), (1, 2), (3, 4)]
    assert str(reader.dropped[1]) == f"{path}:2 row 1: no 'output' (keys: instruction); expected a text"
    assert (reader.sources[0].num_rows, reader.sources[0].num_bad) == (5, 2)


def test_a_file_that_cannot_be_read_is_an_error_also_where_bad_rows_are_dropped(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"instruction": "a", "output": "b"}, {"instr')
    assert "a.json:1:40: broken JSON after 1 whole row(s)" in fault_of([path], DROP)


def test_a_dropped_row_can_be_saved_whatever_it_holds(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"instruction": ["\ud800"], "\ud800": 1}, {**GOOD, "\ud801": 2}])
    reader = Reader([path], DROP)
    assert len(list(reader.records())) == 1
    assert all(json.dumps(records.as_json(one), ensure_ascii=False).encode() for one in reader.dropped)
    assert reader.sources[0].unused == ("\\ud801",)


def test_rows_of_a_file_may_be_bounded(tmp_path):
    path = lines(tmp_path / "a.jsonl", [GOOD, GOOD, "{broken\n"])
    read, (source,) = records.read([path], ReadOptions(max_rows=2))
    assert (len(read), source.num_rows) == (2, 2)


def test_a_file_with_names_of_columns_alone_has_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text("instruction,output\n")
    assert fault_of([tmp_path / "a.csv"]) == "data: a.csv: no rows in it"


def test_the_last_answer_alone_is_trained_when_asked(tmp_path):
    row = {**GOOD, "history": [["一", "1"]]}
    last = ReadOptions(train_turns=TrainTurns.LAST)
    (record,), _ = records.read([lines(tmp_path / "a.jsonl", [row])], last)
    assert [turn.trained for turn in record.turns] == [False, False, False, True]


def test_a_last_answer_that_is_not_trained_is_a_fault_where_no_other_is(tmp_path):
    turns = [{"role": role, "content": role} for role in ("user", "assistant") * 2]
    turns[3]["train"] = False
    path = lines(tmp_path / "a.jsonl", [{"messages": turns}])
    assert len(records.read([path])[0]) == 1
    said = "a.jsonl:1 row 0: its last answer is not trained, and no other is with --train_turns last; remove the row"
    assert fault_of([path], ReadOptions(train_turns=TrainTurns.LAST)) == f"data: {said}"


def test_parquet_rows_have_a_number_and_no_line(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {
            "messages": [
                {"role": "user", "content": "问", "train": None},
                {"role": "assistant", "content": "答", "train": True},
            ]
        },
        {"messages": []},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    said = "a.parquet row 1: 'messages' is a list, []; expected a list of turns that is not empty"
    assert fault_of([tmp_path / "a.parquet"]) == f"data: {said}"
    assert len(Reader([tmp_path / "a.parquet"], DROP).paths) == 1
    assert len(list(Reader([tmp_path / "a.parquet"], DROP).records())) == 1


def test_a_user_is_told_of_encodings_and_of_columns_not_used(tmp_path):
    raw = json.dumps([{**GOOD, "source": "web", "id": 1}], ensure_ascii=False).encode("gbk")
    (tmp_path / "a.json").write_bytes(raw)
    _, sources = records.read([tmp_path / "a.json"])
    assert list(records.told(sources)) == [
        f"{tmp_path}/a.json: read as gb18030, since it is not UTF-8",
        f"{tmp_path}/a.json: columns not used: id, source",
    ]
    assert list(records.told([Source("a", "", 1), Source("b", "", 1, encoding=None)])) == []


def test_columns_not_used_are_not_collected_without_end(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{**GOOD, f"column {i}": i} for i in range(1_000)])
    _, (source,) = records.read([path])
    assert 100 <= len(source.unused) <= 110


def test_progress_goes_on_from_file_to_file(tmp_path):
    a, b = (lines(tmp_path / f"{name}.jsonl", [GOOD] * 300) for name in "ab")
    told = []
    list(Reader([a, b], on_progress=told.append).records())
    assert told == sorted(told)
    assert told[-1] > a.stat().st_size


def test_a_line_is_shown_where_there_is_one():
    assert str(Dropped("a.json", 3, 7, "bad")) == "a.json:7 row 3: bad"
    assert str(Dropped("a.parquet", 3, None, "bad")) == "a.parquet row 3: bad"
