import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yangtuo.errors import DataError
from yangtuo.evaluation.probe_checks import Check
from yangtuo.evaluation.probe_items import CheckedItem, ChoiceItem, Passage, best_option, bundled_items, read_items

CHOICE = {"id": "a", "language": "zh", "kind": "facts", "prompt": "几？", "options": ["1", "2", "3", "4"], "answer": 3}
CHECKED = {
    "id": "b",
    "language": "en",
    "kind": "own_kind",
    "prompt": "Say it.",
    "check": {"rule": "number", "value": 2},
}
LISTED = CHECKED | {"id": "c", "check": {"rule": "contains_all", "values": ["x", "y"]}}
BARE = CHECKED | {"id": "d", "check": {"rule": "refuses"}}
PASSAGE = {"id": "e", "language": "zh", "kind": "passage", "text": "山中有松。"}


def write(path, *rows):
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return path


def test_items_are_read_in_order(tmp_path):
    first, second = write(tmp_path / "b.jsonl", CHOICE, CHECKED), write(tmp_path / "a.jsonl", LISTED, BARE, PASSAGE)
    assert read_items([first, second]) == (
        ChoiceItem("a", "zh", "facts", "几？", ("1", "2", "3", "4"), 3),
        CheckedItem("b", "en", "own_kind", "Say it.", Check("number", 2)),
        CheckedItem("c", "en", "own_kind", "Say it.", Check("contains_all", ("x", "y"))),
        CheckedItem("d", "en", "own_kind", "Say it.", Check("refuses")),
        Passage("e", "zh", "山中有松。"),
    )


def test_the_bundled_set_is_found():
    items = bundled_items()
    assert items[0].id == "arithmetic-zh-01"
    assert items[-1].id == "safety-en-12"


WITHOUT = object()
FAULTS = [
    (["id"], None, ("list",)),
    (CHOICE | {"id": " "}, "id", ("empty",)),
    (CHOICE | {"id": WITHOUT}, "id", ("missing: ",)),
    (CHOICE | {"language": "cn"}, "language", ('"zh"', '"en"')),
    (CHOICE | {"language": ["zh"]}, "language", ("list",)),
    (CHOICE | {"kind": "My Kind"}, "kind", ("small letters",)),
    (CHOICE | {"kind": "accuracy"}, "kind", ("loss",)),
    (CHOICE | {"kind": 1}, "kind", ("number",)),
    (CHOICE | {"prompt": ""}, "prompt", ("empty",)),
    (CHOICE | {"options": ["1", "2", "3"]}, "options", ("4 different",)),
    (CHOICE | {"options": ["1", "2", "3", "3"]}, "options", ("4 different",)),
    (CHOICE | {"options": ["1", "2", "3", 4]}, "options", ("4 different",)),
    (CHOICE | {"options": "1234"}, "options", ("text",)),
    (CHOICE | {"options": WITHOUT}, "options", ("missing: ",)),
    (CHOICE | {"answer": 4}, "answer", ("from 0 to 3",)),
    (CHOICE | {"answer": True}, "answer", ("boolean",)),
    (CHOICE | {"answer": "D"}, "answer", ("text",)),
    (CHOICE | {"answer": WITHOUT}, "answer", ("missing: ",)),
    (CHOICE | {"check": {"rule": "refuses"}}, "check", ("has no key",)),
    (CHECKED | {"check": WITHOUT}, "check", ("missing: ",)),
    (CHECKED | {"check": "refuses"}, "check", ("'rule'",)),
    (CHECKED | {"check": {"rule": "regex", "value": "a"}}, "check", ("contains_any",)),
    (CHECKED | {"check": {"rule": ["number"]}}, "check", ("contains_any",)),
    (CHECKED | {"check": {"rule": "number"}}, "value", ("number",)),
    (CHECKED | {"check": {"rule": "number", "value": "2"}}, "value", ("number",)),
    (CHECKED | {"check": {"rule": "refuses", "value": 1}}, "value", ("only 'rule'",)),
    (CHECKED | {"check": {"rule": "equals", "value": "a"}}, "value", ("'values'",)),
    (CHECKED | {"note": "x"}, "note", ("has no key",)),
    (PASSAGE | {"prompt": "几？"}, "prompt", ("has no key",)),
    (PASSAGE | {"text": ""}, "text", ("empty",)),
]


@pytest.mark.parametrize(("row", "key", "said"), FAULTS)
def test_a_row_that_is_no_item_is_named(tmp_path, row, key, said):
    if isinstance(row, dict):
        row = {name: value for name, value in row.items() if value is not WITHOUT}
    path = write(tmp_path / "own.jsonl", CHOICE | {"id": "z"}, row)
    with pytest.raises(DataError) as error:
        read_items([path])
    message = str(error.value)
    assert f"{path}: row 2 (line 2): " in message
    assert all(part in message for part in (*said, *([f"'{key}'"] if key else [])))


def test_all_faults_are_named_at_once(tmp_path):
    first = write(tmp_path / "1.jsonl", CHOICE, CHECKED | {"check": {"rule": "case", "value": "Upper"}})
    second = tmp_path / "2.jsonl"
    second.write_text(f'{json.dumps(PASSAGE)}\n{{"id": "x", \n{json.dumps(PASSAGE | {"id": "a"})}\n')
    with pytest.raises(DataError) as error:
        read_items([first, second])
    lines = str(error.value).splitlines()[1:]
    assert [line.split(": ")[0].strip() for line in lines] == [str(first), str(second), str(second)]
    assert "row 2" in lines[0]
    assert "broken JSON" in lines[1]
    assert "row 3" in lines[2]
    assert f"{first}: row 1" in lines[2]  # the id "a" is there too


def test_a_key_twice_is_named(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(PASSAGE)[:-1] + ', "text": "x"}\n')
    with pytest.raises(DataError, match=r"row 1 .*text"):
        read_items([path])


def test_a_file_that_is_not_there_or_empty_is_named(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for path in (empty, tmp_path / "none.jsonl"):
        with pytest.raises(DataError, match=path.name):
            read_items([path])


def test_the_likeliest_option():
    assert best_option([-4.0, -3.0, -9.0]) == 1


@pytest.mark.parametrize("scores", [[-1.0, -1.0], [-1.0, math.nan], [math.nan, -1.0], [-1.0, -math.inf], []])
def test_no_option_is_likeliest(scores):
    assert best_option(scores) is None


@given(st.lists(st.floats(-1e3, 0), min_size=4, max_size=4, unique=True))
def test_the_order_of_options_does_not_matter(scores):
    best = best_option(scores)
    assert best_option(scores[::-1]) == 3 - best
