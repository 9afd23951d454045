import hashlib

import pytest

from tests import tiny
from yangtuo.data import records
from yangtuo.data.records import Record, Source, Turn
from yangtuo.errors import DataError

GOOD = b'[{"instruction": "a", "output": "b"}]'


def read_bytes(tmp_path, raw):
    path = tmp_path / "rows.json"
    path.write_bytes(raw)
    return records.read([path])


def read_row(tmp_path, row):
    return records.read([tiny.write_rows(tmp_path / "rows.json", [row])])[0]


def fault_of(tmp_path, raw):
    """The message, with the file's folder left out."""
    with pytest.raises(DataError) as caught:
        read_bytes(tmp_path, raw)
    return str(caught.value).replace(f"{tmp_path}/", "")


# ---- rows


@pytest.mark.parametrize(
    ("row", "user"),
    [
        ({"instruction": "问", "output": "答"}, "问"),
        ({"instruction": "问", "input": None, "output": "答"}, "问"),
        ({"instruction": "问", "input": "", "output": "答"}, "问"),
        ({"instruction": "问", "input": "材料", "output": "答"}, "问\n材料"),
        ({"instruction": "问", "input": " ", "output": "答"}, "问\n "),
        ({"instruction": " 问\n", "input": "材料\n", "output": "答"}, " 问\n\n材料\n"),
        ({"instruction": "问", "output": "答", "id": 7}, "问"),
    ],
)
def test_input_is_joined_where_there_is_one(tmp_path, row, user):
    (record,) = read_row(tmp_path, row)
    turns = (Turn("user", user, trained=False), Turn("assistant", "答", trained=True))
    assert record == Record(str(tmp_path / "rows.json"), 0, turns)


def test_an_empty_answer_is_text(tmp_path):
    (record,) = read_row(tmp_path, {"instruction": "问", "output": ""})
    assert record.turns[1].text == ""


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
    assert read_bytes(tmp_path, b"\xef\xbb\xbf" + GOOD)[0] == read_bytes(tmp_path, GOOD)[0]


# ---- faults

FIELD_FAULTS = [
    ({"output": "b"}, "no 'instruction' (keys: output); expected a text that is not empty"),
    ({}, "no 'instruction' (keys: none); expected a text that is not empty"),
    ({"instruction": "a"}, "no 'output' (keys: instruction); expected a text"),
    ({"instruction": None, "output": "b"}, "'instruction' is null, null; expected a text that is not empty"),
    ({"instruction": "", "output": "b"}, "'instruction' is empty; expected a text that is not empty"),
    ({"instruction": " \n", "output": "b"}, "'instruction' is empty; expected a text that is not empty"),
    ({"instruction": "a", "output": None}, "'output' is null, null; expected a text"),
    ({"instruction": "a", "output": 3}, "'output' is a number, 3; expected a text"),
    ({"instruction": "a", "output": 1.5}, "'output' is a number, 1.5; expected a text"),
    ({"instruction": "a", "output": True}, "'output' is a boolean, true; expected a text"),
    ({"instruction": "a", "output": ["答"]}, "'output' is a list, [\"答\"]; expected a text"),
    ({"instruction": "a", "output": {"x": 1}}, "'output' is an object, {\"x\": 1}; expected a text"),
    ({"instruction": "a", "output": ["答" * 90]}, f"'output' is a list, [\"{'答' * 55}...; expected a text"),
    ({"instruction": "a", "output": "b", "input": 0}, "'input' is a number, 0; expected a text, null or no input"),
    ({"instruction": "a", "output": "b", "input": []}, "'input' is a list, []; expected a text, null or no input"),
]


@pytest.mark.parametrize(("row", "fault"), FIELD_FAULTS)
def test_a_bad_field_is_named_with_its_value_and_the_rule(tmp_path, row, fault):
    with pytest.raises(DataError) as caught:
        read_row(tmp_path, row)
    faults = str(caught.value).splitlines()
    assert faults[0 if len(faults) == 1 else 1].removeprefix("data: ").strip() == f"{tmp_path}/rows.json row 0: {fault}"


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"", "rows.json: the file is empty; expected a JSON array of rows"),
        (b" \n", "rows.json: the file is empty; expected a JSON array of rows"),
        (b"[]", "rows.json: the array has no rows"),
        (b"3", "rows.json: expected a JSON array of rows, found a number"),
        (b"null", "rows.json: expected a JSON array of rows, found null"),
        (
            b'{"data": [], "version": 1}',
            "rows.json: expected a JSON array of rows, found an object with keys 'data', 'version'",
        ),
        (b'["a"]', 'rows.json row 0: expected an object, found a text: "a"'),
        (b"[[1]]", "rows.json row 0: expected an object, found a list: [1]"),
        (b"[null]", "rows.json row 0: expected an object, found null: null"),
        (
            GOOD[:-1] + b',\n{"instruction": "a" "b"}]',
            "rows.json:2:21: broken JSON after 1 whole row(s): Expecting ',' delimiter",
        ),
        (b'{"a": }', "rows.json:1:7: broken JSON: Expecting value"),
        (b"[\n\n", "rows.json:3:1: broken JSON: Expecting value"),
        (GOOD[:-1], "rows.json:1:37: broken JSON after 1 whole row(s): Expecting ',' delimiter"),
        (
            b'[\n{"instruction": "\xc4\xe3"}]',
            "rows.json:2: not UTF-8 (byte 0xc4); save the file as UTF-8",
        ),
    ],
)
def test_a_bad_file(tmp_path, raw, fault):
    assert fault_of(tmp_path, raw) == f"data: {fault}"


def test_all_faults_of_all_files_at_once(tmp_path):
    first = tiny.write_rows(tmp_path / "1.json", [{"instruction": 1}, *tiny.rows(1), "text"])
    second = tmp_path / "2.json"
    second.write_text("{")
    good = tiny.write_rows(tmp_path / "3.json", tiny.rows(2))
    with pytest.raises(DataError) as caught:
        records.read([first, second, good, tmp_path / "4.json"])
    assert str(caught.value).splitlines() == [
        "data (5 problems):",
        f"  {first} row 0: 'instruction' is a number, 1; expected a text that is not empty",
        f"  {first} row 0: no 'output' (keys: instruction); expected a text",
        f'  {first} row 2: expected an object, found a text: "text"',
        f"  {second}:1:2: broken JSON: Expecting property name enclosed in double quotes",
        f"  {tmp_path}/4.json: cannot be read: No such file or directory",
    ]
    assert len(records.read([good])[0]) == 2


# ---- files


def test_json_files_of_the_folder_itself_sorted(tmp_path):
    names = [f"{letter}.json" for letter in "hbgafced"]
    for name in (*names, "notes.txt", "c.jsonl", "d.JSON"):
        (tmp_path / name).write_bytes(GOOD)
    (tmp_path / "sub.json").mkdir()
    (tmp_path / "sub.json" / "e.json").write_bytes(GOOD)
    assert records.find_files(str(tmp_path)) == [tmp_path / name for name in sorted(names)]


def test_the_validation_file_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.json", "dev.json"):
        (tmp_path / name).write_bytes(GOOD)
    assert records.find_files(str(tmp_path), exclude="./dev.json") == [tmp_path / "a.json"]
    assert len(records.find_files(str(tmp_path), exclude="elsewhere/dev.json")) == 2


def test_one_file_may_be_given(tmp_path):
    (tmp_path / "rows.txt").write_bytes(GOOD)
    assert records.find_files(str(tmp_path / "rows.txt")) == [tmp_path / "rows.txt"]


@pytest.mark.parametrize(
    ("names", "exclude", "message"),
    [
        ([], None, "no .json file in it (found: nothing)"),
        (["x.jsonl", "a.txt"], None, "no .json file in it (found: a.txt, x.jsonl)"),
        (["dev.json"], "dev.json", "no .json file in it besides the validation file (found: dev.json)"),
    ],
)
def test_a_folder_without_rows(tmp_path, names, exclude, message):
    for name in names:
        (tmp_path / name).write_bytes(GOOD)
    with pytest.raises(DataError) as caught:
        records.find_files(str(tmp_path), exclude=exclude and str(tmp_path / exclude))
    assert str(caught.value) == f"--dataset_dir {tmp_path}: {message}"


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError) as caught:
        records.find_files(f"{tmp_path}/none")
    assert str(caught.value) == (
        f"--dataset_dir {tmp_path}/none: no such folder or file; give a folder with .json files, or one file"
    )


def test_rows_before_the_fault_are_counted_only_up_to_it(tmp_path):
    said = fault_of(tmp_path, b'[{"a": 1}\n{"b": 1}\n,{"c": 1}]')
    assert "rows.json:2:1: broken JSON after 1 whole row(s)" in said
    said = fault_of(tmp_path, b'{"text": "[1, 2]"}\n{"text": "b"}')
    assert "rows.json:2:1: broken JSON: Extra data" in said


def test_line_of_a_bad_byte_behind_a_byte_order_mark(tmp_path):
    assert "rows.json:3: not UTF-8 (byte 0xff)" in fault_of(tmp_path, b'\xef\xbb\xbf[\n\n"\xff"]')


@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "9" * 5_000 + "]"])
def test_json_that_python_refuses(tmp_path, text):
    assert "cannot be read as JSON" in fault_of(tmp_path, text.encode())
