"""Rows of JSON text, with the blocks of any size."""

# ruff: noqa: E501  # tables of messages

import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yangtuo.data.readers import json_rows
from yangtuo.data.readers.json_rows import Doubled, json_values
from yangtuo.errors import DataError

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
ROWS = st.lists(st.dictionaries(st.text(max_size=6), VALUES, max_size=4), min_size=1, max_size=5)
BLOCKS = st.integers(1, 40)
SPELLINGS = {
    "array": lambda rows, ascii: json.dumps(rows, ensure_ascii=ascii),
    "indented array": lambda rows, ascii: json.dumps(rows, ensure_ascii=ascii, indent=2),
    "row a line": lambda rows, ascii: "\n".join(json.dumps(row, ensure_ascii=ascii) for row in rows),
    "indented rows": lambda rows, ascii: "\n".join(json.dumps(row, ensure_ascii=ascii, indent=1) for row in rows),
    "CRLF": lambda rows, ascii: "\r\n".join(json.dumps(row, ensure_ascii=ascii) for row in rows) + "\r\n",
}


def values_of(text, block=1 << 20, longest=1 << 26):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_BLOCK", block)
        patch.setattr(json_rows, "_LONGEST_ROW", longest)
        return list(json_values(io.StringIO(text, newline=""), "rows"))


def fault_of(text, block=1 << 20, longest=1 << 26):
    with pytest.raises(DataError) as caught:
        values_of(text, block, longest)
    return str(caught.value)


@given(ROWS, BLOCKS, st.booleans(), st.sampled_from(sorted(SPELLINGS)))
@settings(deadline=None)
def test_rows_are_those_of_json_loads_however_they_are_spelt_and_cut_into_blocks(rows, block, ascii, spelling):
    text = SPELLINGS[spelling](rows, ascii)
    values = values_of(text, block)
    assert [value.content for value in values] == rows
    assert [value.row for value in values] == list(range(len(rows)))
    assert not any(value.fault for value in values)


@given(ROWS, BLOCKS, st.sampled_from(sorted(SPELLINGS)))
@settings(deadline=None)
def test_a_line_is_that_in_which_the_row_begins(rows, block, spelling):
    text = SPELLINGS[spelling](rows, True)
    lines = text.split("\n")
    for value in values_of(text, block):
        place = sum(len(line) + 1 for line in lines[: value.line - 1])
        begun = text[place:].lstrip(" [")
        if spelling == "array":
            assert value.line == 1
        else:
            assert json.JSONDecoder().raw_decode(begun)[0] == value.content


@given(ROWS, BLOCKS, st.sampled_from(sorted(SPELLINGS)), st.data())
@settings(deadline=None)
def test_a_file_cut_anywhere_gives_a_fault_or_the_first_rows(rows, block, spelling, data):
    text = SPELLINGS[spelling](rows, False)
    cut = text[: data.draw(st.integers(0, len(text)))]
    try:
        values = values_of(cut, block)
    except DataError as error:
        assert str(error).startswith("rows:")  # noqa: PT017  # any other outcome is tested below
        return
    whole = [value.content for value in values if not value.fault]
    assert whole == rows[: len(whole)]
    assert sum(1 for value in values if value.fault) <= 1


@pytest.mark.parametrize("cut", range(4, 15))
def test_the_rest_of_a_row_spread_over_lines_is_no_row(cut):
    text = '{}\n{\n "": null\n}'
    try:
        values = values_of(text[:cut], 1)
    except DataError:
        return
    assert [value.content for value in values if not value.fault] in ([{}], [{}, {"": None}])


@given(st.text(max_size=60) | st.text(alphabet='[]{}",:\\ \n1ea-.u', max_size=60), BLOCKS)
@settings(deadline=None)
def test_any_text_gives_rows_or_a_data_error_and_the_same_with_any_block(text, block):
    outcomes = []
    for size in (block, 1 << 20):
        try:
            outcomes.append([repr(value) for value in values_of(text, size)])
        except DataError as error:
            outcomes.append(str(error))  # type: ignore[arg-type]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("block", range(1, 24))
def test_no_place_of_a_block_end_breaks_a_number_or_an_escape(block):
    rows = [{"a": -1.5e-10}, {"a": 123456789012345678901234567890}, {"\U0001f600\\": "\\u1234\U0001f600"}, {"b": True}]
    assert [value.content for value in values_of(json.dumps(rows), block)] == rows
    assert [value.content for value in values_of("[1.5, -2e+3, true, -Infinity]", block)] == [
        1.5,
        -2e3,
        True,
        -float("inf"),
    ]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "rows: the file is empty; expected a JSON array of rows, or one row a line"),
        (" \r\n\t", "rows: the file is empty; expected a JSON array of rows, or one row a line"),
        ("[ \n]", "rows: the array has no rows"),
        ("[\n\n", "rows:3:1: broken JSON: Expecting value, found the end of the file"),
        (
            '[{"a": 1}',
            "rows:1:10: broken JSON after 1 whole row(s): expected ',' or ']' behind a row, found the end of the file",
        ),
        (
            '[{"a": 1}\n{"b": 1}]',
            "rows:2:1: broken JSON after 1 whole row(s): expected ',' or ']' behind a row, found '{'",
        ),
        ('[{"a": 1},\n]', "rows:2:1: broken JSON after 1 whole row(s): a ',' before the closing ']'; remove it"),
        ('[{"a": 1}]\n[', "rows:2:1: broken JSON after 1 whole row(s): text behind the closing ']'"),
        (
            '[{"a": 1},\n {"b": "x',
            "rows:2:8: broken JSON after 1 whole row(s): Unterminated string: a text begins here and has no closing quote",
        ),
        (
            '{"a": 1},\n{"a": 2}',
            "rows:1:9: broken JSON after 1 whole row(s): a ',' between rows that stand in no array; put [ ] around all rows",
        ),
        (
            '{\n"a": 1\n},\n{"a": 2}',
            "rows:3:2: broken JSON after 1 whole row(s): a ',' between rows that stand in no array; put [ ] around all rows",
        ),
        ("[" * 100_000, "rows:1:2: broken JSON: the row that begins here is nested too deeply"),
        ("[" + "9" * 5_000 + "]", "rows:1:2: broken JSON: the row that begins here has a number with too many digits"),
        ('{"a": [1, ]}', "rows:1:9: broken JSON: a ',' before the closing ']'; remove it"),
        ('{"a": 1 ,\n}', "rows:1:9: broken JSON: a ',' before the closing '}'; remove it"),
    ],
)
def test_a_fault_that_ends_the_file(text, fault, block):
    assert fault_of(text, block) == fault


@pytest.mark.parametrize("block", [1, 2, 5, 1 << 20])
def test_the_column_counts_from_the_start_of_a_line_of_many_blocks(block):
    text = "[" + ", ".join('{"a": "问"}' for _ in range(50)) + ', {"a" 1}]'
    assert fault_of(text, block).startswith(f"rows:1:{text.index(' 1}') + 2}: broken JSON after 50 whole row(s): ")


@pytest.mark.parametrize("block", [1, 4, 1 << 20])
@pytest.mark.parametrize(
    "broken", ['{"b" 2}', '{"b": "2', '{"b": 2', '{"b": [2}', '{"b": [', "b", '{"b": "\t"}', '{"a": ' + "[" * 100_000]
)
def test_in_a_file_of_one_row_a_line_a_fault_costs_that_line_alone(broken, block):
    for before in ([], ['{"a": 1}']):
        lines = [*before, broken, '{"c": 3}', "", '{"d": 4}']
        values = values_of("\n".join(lines), block)
        assert [value.content for value in values] == [*([{"a": 1}] if before else []), None, {"c": 3}, {"d": 4}]
        bad = values[len(before)]
        assert (bad.row, bad.line) == (len(before), len(before) + 1)
        assert bad.fault.startswith("broken JSON at ") or "nested too deeply" in bad.fault
        assert values[-1].line == len(lines)


def test_a_file_that_is_no_json_is_one_fault():
    assert fault_of("not json\nat all\n") == "rows:1:1: broken JSON: Expecting value, found 'not json'"


def test_indented_rows_without_a_comma_end_at_the_fault():
    assert fault_of('{\n "a": 1\n}\n{\n "a": 1\n "b": 2\n}').startswith("rows:6:2: broken JSON after 1 whole row(s): ")


class Endless(io.TextIOBase):
    """Text that goes on for ever."""

    def __init__(self, start, then):
        self.start, self.then, self.num_read = start, then, 0

    def read(self, size=-1):
        text = self.start + self.then * (max(0, size - len(self.start)) // len(self.then) + 1)
        piece, self.start = text[:size], text[size:]
        self.num_read += size
        return piece


@pytest.mark.parametrize("start", ['[{"a": 1}, {"b": "', '{"data": ["', '[{"a": 1}, {"b" "x", '])
def test_a_row_without_an_end_is_not_read_to_the_end_of_the_file(start, monkeypatch):
    monkeypatch.setattr(json_rows, "_BLOCK", 1 << 10)
    monkeypatch.setattr(json_rows, "_LONGEST_ROW", 1 << 14)
    text = Endless(start, "abc ")
    with pytest.raises(DataError, match="broken JSON"):
        list(json_values(text, "rows"))
    assert text.num_read <= 4 << 14


def test_a_row_that_is_too_long_is_called_so(sentences):
    fault = fault_of('[{"a": 1},\n {"b": "' + "x" * 500 + '"}]', block=8, longest=100)
    sentences(fault, "row that begins")


def test_memory_does_not_grow_with_the_file(monkeypatch):
    monkeypatch.setattr(json_rows, "_BLOCK", 1 << 12)
    row = json.dumps({"instruction": "问" * 50, "output": "答" * 50})
    text = Endless("[", f"{row},")
    tracemalloc.start()
    try:
        for value in json_values(text, "rows"):
            if value.row == 5_000:
                break
        assert tracemalloc.get_traced_memory()[1] < 1 << 19
    finally:
        tracemalloc.stop()


def test_a_key_that_stands_twice_is_marked_wherever_it_is():
    (value,) = values_of('{"a": {"b": 1, "c": 2, "b": 3}, "d": 4}')
    assert not isinstance(value.content, Doubled)
    assert isinstance(value.content["a"], Doubled)
    assert value.content["a"].key == "b"
    assert value.content["a"] == {"b": 3, "c": 2}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{'a': 1}", "Expecting property name enclosed in double quotes, found \"'a': 1}\""),
        ('{"a": None}', "Expecting value, found 'None}'"),
        ('{"a": "b\nc"}', "Invalid control character: inside a text write a line break as \\n and a tab as \\t"),
        (r'{"a": "C:\dir"}', "Invalid \\ in a text: write one backslash as \\\\"),
        (r'{"a": "\u12g4"}', "Invalid \\u in a text: four hexadecimal digits must follow"),
        ('{"a": 1 "b"}', "Expecting ',' delimiter, found '\"b\"}'"),
    ],
)
def test_a_message_says_what_was_found_and_what_to_do(text, says):
    assert fault_of(f"[\n{text}\n]").endswith(says)
