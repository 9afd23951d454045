"""`--columns`: what it says, everything that is wrong with it, and files that are read by it."""

import json

import pytest

from tests.tables import write_table
from yangtuo.config.choices import BadRows, DataFormat
from yangtuo.data.readers import columns, reader
from yangtuo.data.readers.reader import Reader, ReadOptions
from yangtuo.data.records import Turn
from yangtuo.errors import DataError, UsageError

OWN = {"客户问题": "instruction", "客服回答": "output"}
BY_PLACE = {"0": "instruction", "1": "output"}
QUESTION, ANSWER = "怎么退货？", "七天之内可以退货。"
TURNS = (Turn("user", QUESTION, trained=False), Turn("assistant", ANSWER, trained=True))


def asked(fields=OWN, **more):
    return ReadOptions(columns=columns.parse(json.dumps(fields, ensure_ascii=False)), **more)


def read(path, fields=OWN, **more):
    reading = Reader([path], asked(fields, **more))
    return [record.turns for record in reading.records()], reading


def refused(text, data_format=DataFormat.AUTO):
    with pytest.raises(UsageError) as caught:
        columns.parse(text if isinstance(text, str) else json.dumps(text, ensure_ascii=False), data_format)
    return str(caught.value)


def fault_of(path, fields=OWN, **more):
    with pytest.raises(DataError) as caught:
        read(path, fields, **more)
    return str(caught.value).replace(f"{path.parent}/", "").removeprefix("data: ")


def lines(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


# ---- what is said


def test_a_format_is_told_by_the_fields_where_they_fit_one():
    assert columns.parse('{"b": "output", "a": "instruction"}') == columns.parse('{"a": "instruction", "b": "output"}')
    formats = {
        '{"a": "input"}': DataFormat.ALPACA,
        '{"a": "conversations", "b": "system"}': DataFormat.SHAREGPT,
        '{"a": "completion"}': DataFormat.PROMPT_COMPLETION,
        '{"a": "system", "b": null}': None,
    }
    assert {text: columns.parse(text).data_format for text in formats} == formats
    assert columns.parse('{"a": "system"}', DataFormat.MESSAGES).data_format is DataFormat.MESSAGES


def test_all_problems_at_once():
    said = refused({"a": "instruction", "b": "instruction", "c": "outptu", "d": 3, "e": "messages"})
    assert said.splitlines() == [
        "--columns (4 problems):",
        "  'c': no format has a field 'outptu'; did you mean 'output'?",
        "  'd' is 3; expected a field, or null for a column that is not used",
        "  'a' and 'b' are the field 'instruction'; a field is one column",
        "  no format has all of the fields instruction, messages: "
        "alpaca: chat_template_kwargs, history, input, instruction, output, reasoning_content, system, tools, weight; "
        "sharegpt: chat_template_kwargs, conversations, system, tools, weight; "
        "messages: chat_template_kwargs, messages, system, tools, weight; "
        "prompt_completion: chat_template_kwargs, completion, prompt, reasoning_content, system, tools, weight",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"a": "query"}, "--columns: 'a': no format has a field 'query'; here it is 'instruction'"),
        ({"a": "response"}, "--columns: 'a': no format has a field 'response'; here it is 'output'"),
        (
            {"prompt": "客户问题", "response": "客服回答"},
            "--columns: the file's column comes first, then the field; did you mean "
            '\'{"客户问题": "instruction", "客服回答": "output"}\'?',
        ),
        (
            {"messages": "turns"},
            '--columns: the file\'s column comes first, then the field; did you mean \'{"turns": "messages"}\'?',
        ),
        ({}, '--columns {}: expected columns and fields, as {"客户问题": "instruction", "客服回答": "output"}'),
        (["a"], '--columns ["a"]: expected columns and fields, as {"客户问题": "instruction", "客服回答": "output"}'),
        (
            {"a": None},
            '--columns: no column is given a field; expected columns and fields, as {"客户问题": "instruction", '
            '"客服回答": "output"}',
        ),
        (
            {"“客户问题”：“instruction”": None},  # what YAML makes of a mapping in wide signs
            "\"output\"}; '“”' is a full-width quote, type '\"'; '：' is a full-width colon, type ':'",
        ),
        ('{"a": "output", "a": "input"}', 'the key \'a\' stands twice, as "output" and "input"; keep one of them'),
        (
            "{“客户问题”：“instruction”，“客服回答”：“output”}",
            "'“”' is a full-width quote, type '\"'; '，' is a full-width comma, type ','; '：' is a full-width colon, "
            'type \':\'; did you mean \'{"客户问题":"instruction","客服回答":"output"}\'?',
        ),
        ("{‘a’: ‘output’}", '\'‘’\' is a full-width quote, type "\'"; did you mean \'{"a": "output"}\'?'),
        ("{'a': 'output'}", 'JSON has double quotes; did you mean \'{"a": "output"}\'?'),
        ('{"a": "output"', 'not JSON; write it as \'{"a": "output"}\''),
        ("{客户问题: instruction}", 'not JSON; write it as \'{"客户问题": "instruction"}\''),
        ("客户问题=instruction", 'not JSON; write it as \'{"客户问题": "instruction"}\''),
        (
            "{问：instruction，答：output，备注：null}",
            'not JSON; write it as \'{"问": "instruction", "答": "output", "备注": null}\'',
        ),
        ("instruction=客户问题", 'not JSON; write it as \'{"客户问题": "instruction"}\''),  # the wrong way round
        *(
            (text, f"not JSON; write it as '{columns._EXAMPLE}'")
            for text in ("客户问题", "a=b", "a=output,a=input", "")
        ),
    ],
)
def test_one_problem(given, said):
    assert said in refused(given)


def test_a_format_that_has_not_the_field():
    said = refused({"a": "messages"}, DataFormat.ALPACA)
    assert said.startswith(
        "--columns: --format alpaca has not all of the fields messages: alpaca: chat_template_kwargs,"
    )


def test_a_column_may_have_wide_signs_in_its_name(tmp_path):
    row = {"问题，（客户）：": QUESTION, "“答”": ANSWER}
    found, _ = read(lines(tmp_path / "a.jsonl", row), {"问题，（客户）：": "instruction", "“答”": "output"})
    assert found == [TURNS]


# ---- what is read


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.arrow", "a.xlsx", "a.csv.gz"])
def test_every_kind_of_file_is_read_by_names(name, tmp_path):
    path = write_table(tmp_path / name, ["编号", "客户问题", "客服回答"], [["1", QUESTION, ANSWER]])
    found, reading = read(path)
    assert found == [TURNS]
    (source,) = reading.sources
    assert (source.data_format, source.unused, source.is_asked) == ("alpaca", ("编号",), True)
    assert source.layout == "客户问题 as instruction, 客服回答 as output"


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.xlsx", "a.csv.gz"])
def test_a_table_without_a_head_is_read_by_places(name, tmp_path):
    path = write_table(tmp_path / name, ["1", QUESTION, ANSWER], [["2", "问", "答"]])
    found, reading = read(path, {"1": "instruction", "2": "output"})
    assert [turns[1].text for turns in found] == [ANSWER, "答"]
    assert found[0] == TURNS
    assert reading.sources[0].unused == ("0",)


def test_rows_that_are_lists_have_places_too(tmp_path):
    found, _ = read(lines(tmp_path / "a.json", [[QUESTION, ANSWER], [QUESTION, ANSWER, "x"]]), BY_PLACE)
    assert found == [TURNS, TURNS]
    assert fault_of(lines(tmp_path / "b.json", [[QUESTION, ANSWER], [QUESTION]]), BY_PLACE) == (
        "b.json:1 row 1: no '1' (keys: 0); it is the output"
    )


def test_a_head_of_numbers_is_a_head(tmp_path):
    path = write_table(tmp_path / "a.csv", ["0", "1"], [[QUESTION, ANSWER]])
    assert read(path, BY_PLACE)[0] == [TURNS]


def test_places_of_a_table_that_has_names_are_refused(tmp_path):
    path = write_table(tmp_path / "a.csv", ["instruction", "output"], [[QUESTION, ANSWER]])
    assert fault_of(path, BY_PLACE) == (
        "a.csv:1: --columns goes by places, and the first line has names (instruction, output); "
        "give these names in place of numbers"
    )


def test_a_table_without_a_head_is_told_how_to_be_read(tmp_path):
    path = write_table(tmp_path / "a.csv", [QUESTION, ANSWER], [["问", "答"]])
    with pytest.raises(DataError) as caught:
        reader.read([path])
    assert '--columns \'{"0": "instruction", "1": "output"}\'' in str(caught.value)
    path = lines(tmp_path / "a.jsonl", {QUESTION: "问", ANSWER: "答"})  # here a first line is never a row
    with pytest.raises(DataError) as caught:
        reader.read([path])
    assert '"0"' not in str(caught.value)


def test_cells_become_what_their_field_is(tmp_path):
    fields = {**OWN, "权": "weight", "人设": "system", "weight": None}
    head = ["客户问题", "客服回答", "权", "人设", "weight"]
    path = write_table(tmp_path / "a.csv", head, [[QUESTION, ANSWER, "2", "", "x"], [QUESTION, ANSWER, "", "令", ""]])
    (first, second), _ = read(path, fields)
    assert first[-1].weight == 2.0
    assert first[0].role == "user"
    assert (second[0].text, second[-1].weight) == ("令", 1.0)
    path = write_table(tmp_path / "b.csv", ["名", "weight"], [["猫", "3.5"]])
    assert read(path, {"名": "instruction", "weight": "output"})[0][0][1].text == "3.5"


def test_dialogues_have_columns_too(tmp_path):
    listed = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    found, reading = read(lines(tmp_path / "a.jsonl", {"对话记录": listed}), {"对话记录": "messages"})
    assert found == [TURNS]
    assert reading.sources[0].data_format == "messages"


def test_what_the_fields_leave_open_the_rows_own_keys_tell(tmp_path):
    row = {"prompt": QUESTION, "completion": ANSWER, "人设": "令"}
    found, reading = read(lines(tmp_path / "a.jsonl", row), {"人设": "system"})
    assert found == [(Turn("system", "令", trained=False), *TURNS)]
    assert reading.sources[0].data_format == "prompt_completion"
    assert fault_of(lines(tmp_path / "b.jsonl", {"人设": "令", "x": 1}), {"人设": "system"}).startswith(
        "b.jsonl:1: --columns leaves open what a row is: unknown format (keys: system, x)"
    )


def test_an_unknown_column_is_named_with_those_that_are_there(tmp_path):
    path = write_table(tmp_path / "a.csv", ["客户问题", "客服答复", "备注"], [[QUESTION, ANSWER, ""]])
    fields = {**OWN, "补充": "input"}
    assert fault_of(path, fields) == (
        "a.csv:1: --columns: no column '客服回答', '补充'; there are 客户问题, 客服答复, 备注; "
        "'客服回答': did you mean '客服答复'?"
    ).replace("a.csv:1", "a.csv:2")


def test_a_column_that_is_nearly_there_is_offered(tmp_path):
    path = write_table(tmp_path / "a.csv", ["客户问题", "客服答复"], [[QUESTION, ANSWER]])
    assert fault_of(path, OWN).endswith("no column '客服回答'; there are 客户问题, 客服答复; did you mean '客服答复'?")
    fields = {"客户问提": "instruction", "客服回答": "output", "备注": None}
    path = write_table(tmp_path / "b.csv", ["客户问题", "客服答复", "备注"], [[QUESTION, ANSWER, ""]])
    assert fault_of(path, fields).endswith(
        "备注; '客户问提': did you mean '客户问题'? '客服回答': did you mean '客服答复'?"
    )
    taken = {"客服答复": "instruction", "客服回答": "output"}
    assert "did you mean" not in fault_of(path, taken)  # the near one is named already


def test_a_column_without_a_name_is_told_by_its_number(tmp_path):
    path = write_table(tmp_path / "a.csv", ["客户问题", "回复", "备注", ""], [[QUESTION, ANSWER, "", ""]])
    fault = fault_of(path, OWN)
    assert "备注, (column 4, without a name)" in fault
    assert "did you mean" not in fault  # nothing is near
    assert fault_of(path, {"甲": "instruction", "乙": "output"}).endswith("备注, (column 4, without a name))")


def test_a_column_that_may_be_missing_has_to_be_in_some_row(tmp_path):
    rows = [{"客户问题": QUESTION, "客服回答": ANSWER}, {"客户问题": QUESTION, "客服回答": ANSWER, "补充": "材料"}]
    fields = {**OWN, "补充": "input"}
    found, _ = read(lines(tmp_path / "a.jsonl", *rows), fields)
    assert [turns[0].text for turns in found] == [QUESTION, f"{QUESTION}\n材料"]
    assert fault_of(lines(tmp_path / "b.jsonl", rows[0]), fields) == "b.jsonl: --columns: no row has a column '补充'"


def test_bad_rows_are_told_in_the_names_of_the_file(tmp_path):
    rows = [{"客户问题": QUESTION, "客服回答": ANSWER}, {"客户问题": " ", "客服回答": None}, {"客户问题": QUESTION}]
    path = lines(tmp_path / "a.jsonl", *rows, "text")
    assert fault_of(path).splitlines() == [
        "data (4 problems):",
        "  a.jsonl:2 row 1: '客户问题' is empty; expected a text that is not empty; write it, or leave the row out "
        "(--bad_rows drop)",
        "  a.jsonl:2 row 1: '客服回答' is null; expected a text",
        "  a.jsonl:3 row 2: no '客服回答' (keys: 客户问题); it is the output",
        '  a.jsonl:4 row 3: expected an object, found a text, "text"',
    ]
    assert len(read(path, bad_rows=BadRows.DROP)[0]) == 1


def test_a_column_that_is_displaced_or_left_out_is_not_used(tmp_path):
    row = {"instruction": QUESTION, "output": "旧", "改写": ANSWER, "rejected": "坏", "input": "x"}
    fields = {"改写": "output", "rejected": None, "input": None}
    found, reading = read(lines(tmp_path / "a.jsonl", row), fields)
    assert found == [TURNS]
    assert reading.sources[0].unused == ("output",)
    assert reading.sources[0].layout == "input not used, rejected not used, 改写 as output"
    assert "'rejected' is" in fault_of(lines(tmp_path / "b.jsonl", row), {"改写": "output", "input": None})


def test_a_file_with_none_of_the_columns_is_read_by_its_own(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"instruction": QUESTION, "output": ANSWER})
    found, reading = read(path)
    assert found == [TURNS]
    assert not reading.sources[0].is_asked
    said = "it has none of the columns that --columns names (it has instruction, output)"
    assert reading.sources[0].layout == said
    path = lines(tmp_path / "b.jsonl", {"甲": QUESTION, "乙": ANSWER})
    assert fault_of(path) == "b.jsonl:1: it has none of the columns that --columns names (it has 甲, 乙)"
