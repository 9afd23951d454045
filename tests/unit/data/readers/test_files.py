"""What is read from the bytes of a file."""

import codecs
import gzip
import importlib.util
import json
import logging
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import write_excel, write_table
from yangtuo.data.readers import columns, decode, files, tables
from yangtuo.errors import DataError, MissingDependencyError
from yangtuo.installing import pip_install

ROWS = [{"instruction": f"介绍第{i}座城市。", "output": f"这是第{i}座城市的介绍，有长有短。"} for i in range(40)]
TEXT = json.dumps(ROWS, ensure_ascii=False, indent=1)
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(path, content=TEXT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path):
    encoding, values = files.values_of(path)
    return encoding, list(values)


def contents(path):
    return [value.content for value in read(path)[1]]


def fault_of(path):
    with pytest.raises(DataError) as caught:
        read(path)
    return str(caught.value).replace(f"{path.parent}/", "")


# ---- encodings


@pytest.mark.parametrize(
    ("codec", "encoding"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("gb18030", "gb18030"),
        ("gbk", "gb18030"),
        ("utf-16", "utf-16"),
        ("utf-16-be", "utf-16"),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.json.gz", "a.csv.zst"])
def test_a_text_is_the_same_in_every_encoding_and_packing(tmp_path, codec, encoding, name):
    text = TEXT if ".json" in name else LINES
    if ".csv" in name:
        text = "instruction,output\r\n" + "".join(f"{row['instruction']},{row['output']}\r\n" for row in ROWS)
    raw = text.encode(codec)
    raw = codecs.BOM_UTF16_BE + raw if codec == "utf-16-be" else raw
    assert read(write(tmp_path / name, packed(raw, name)))[0] == encoding
    assert contents(tmp_path / name) == ROWS


def packed(raw, name):
    if name.endswith(".gz"):
        return gzip.compress(raw)
    if name.endswith(".zst"):
        return pytest.importorskip("zstandard").ZstdCompressor().compress(raw)
    return raw


@pytest.mark.parametrize("block", [1, 3, 64])
def test_an_encoding_is_found_with_blocks_of_any_size(tmp_path, monkeypatch, block):
    monkeypatch.setattr(decode, "_BLOCK_BYTES", block)
    assert read(write(tmp_path / "a.json", TEXT))[0] == "utf-8"
    assert read(write(tmp_path / "b.json", TEXT.encode("gbk")))[0] == "gb18030"
    raw = TEXT.encode()
    place = raw.index("第30座".encode())
    broken = raw[:place] + b"\xff" + raw[place:]
    line = raw[:place].count(b"\n") + 1
    assert fault_of(write(tmp_path / "c.json", broken)).startswith(f"c.json:{line}: byte 0xff is not UTF-8")


def test_a_broken_byte_in_utf_8_is_named_even_where_the_file_is_gb18030_by_chance(tmp_path):
    # Without the last byte of a character, the others stand in pairs and are GB18030 by chance.
    raw = '[{"instruction": "你好吗吗", "output": "好的"}]'.encode().replace(
        "你好吗吗".encode(), "你好吗吗".encode()[:-2]
    )
    raw.decode("gb18030")
    said = fault_of(write(tmp_path / "a.json", raw))
    assert said.startswith("a.json:1: byte 0xe5 is not UTF-8, and the file is not GB18030")


@given(st.integers(0, 2_000), st.binary(min_size=1, max_size=1))
def test_one_wrong_byte_in_utf_8_never_makes_it_gb18030(tmp_path_factory, place, byte):
    raw = bytearray(TEXT.encode())
    raw[place : place + 1] = byte
    path = write(tmp_path_factory.getbasetemp() / "broken.json", bytes(raw))
    try:
        assert decode.encoding_of(path) in ("utf-8", "utf-8-sig")
    except DataError as error:
        assert "is not UTF-8" in str(error) or "UTF-16" in str(error)  # noqa: PT017


@pytest.mark.parametrize("seed", range(5))
def test_gbk_is_gbk_however_its_text_begins(tmp_path, seed):
    common = [c for c in map(chr, range(0x4E00, 0x9FA5)) if 0xB0 <= c.encode("gb18030")[0] <= 0xD7]
    common = [c for c in common if len(c.encode("gb18030")) == 2 and c.encode("gb18030")[1] >= 0xA1]
    text = "".join(random.Random(seed).choices(common, k=2_000))
    assert decode.encoding_of(write(tmp_path / "a.json", text.encode("gbk"))) == "gb18030"


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (
            b"\xef\xbb\xbf[\n\n" + '"一二三四五六七八九十'.encode() + b'\xff"]',
            "a.json:3: byte 0xff is not UTF-8, and the file is not GB18030 (GBK) throughout; "
            "correct that line, or save the file as UTF-8",
        ),
        (
            codecs.BOM_UTF16_LE + '["\n\n'.encode("utf-16-le") + b"\x00\xd8" + '"]'.encode("utf-16-le"),
            "a.json:3: begins as UTF-16 but is not throughout; save the file as UTF-8",
        ),
        (codecs.BOM_UTF16_LE + b"[\0]", "a.json:1: begins as UTF-16 but is not throughout; save the file as UTF-8"),
        (
            '["a"]'.encode("utf-16-le"),
            "a.json: no text, or UTF-16 without a mark (zero bytes at its start); save it as UTF-8",
        ),
        ('["a"]'.encode("utf-32"), "a.json: this is UTF-32 text; save it as UTF-8"),
        (b"PK\x03\x04x", "a.json: this is a ZIP archive or an Excel file; unpack it, or save the table as .csv"),
        (gzip.compress(b"[]", mtime=0), "a.json: this is packed with gzip; add .gz to its name"),
        (b"\x28\xb5\x2f\xfdx", "a.json: this is packed with zstd; add .zst to its name"),
        (b"PAR1\x15\x04", "a.json: this is a Parquet file; let its name end with .parquet"),
        (b"<!DOCTYPE html>", "a.json: this is a web page and not the data; download the file itself"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a.json: this is a Git LFS pointer and not the data; run `git lfs pull` to get the data",
        ),
    ],
)
def test_bytes_that_are_no_text_are_told_for_what_they_are(tmp_path, raw, fault):
    assert fault_of(write(tmp_path / "a.json", raw)) == fault


# ---- packing


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_packed_file_that_is_cut_off_is_a_fault_wherever_the_cut_is(tmp_path, name, keep):
    # Of random text, so that whole rows stand before the cut; zstandard's own reader would end there without a word.
    rows = random.Random(0).choices(range(10**9), k=60_000)
    raw = packed("".join(f'{{"instruction": "{row}", "output": "b"}}\n' for row in rows).encode(), name)
    said = fault_of(write(tmp_path / name, raw[: int(len(raw) * keep)]))
    assert said == f"{name}: cannot be unpacked: its end is missing; was it copied or downloaded whole?"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_parts_packed_one_after_another_are_one_file(tmp_path, name):
    path = write(tmp_path / name, packed(LINES.encode(), name) + packed(b"", name) + packed(LINES.encode(), name))
    assert contents(path) == ROWS + ROWS


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_what_is_not_packed_in_spite_of_its_name(tmp_path, name):
    packed(b"", name)
    assert fault_of(write(tmp_path / name, LINES)).startswith(f"{name}: cannot be unpacked: ")
    assert fault_of(write(tmp_path / name, packed(LINES.encode(), name) + b"garbage")).startswith(f"{name}: cannot be ")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_nothing_in_a_packed_file_is_an_empty_file(tmp_path, name):
    for raw in (b"", packed(b"", name)):
        assert fault_of(write(tmp_path / name, raw)).startswith(f"{name}: the file is empty; ")


def test_damage_inside_a_packed_file(tmp_path):
    raw = bytearray(gzip.compress(LINES.encode()))
    raw[len(raw) // 2] ^= 0xFF
    assert fault_of(write(tmp_path / "a.jsonl.gz", bytes(raw))).startswith("a.jsonl.gz: cannot be unpacked: ")


@pytest.mark.parametrize(
    ("name", "package"),
    [("a.json.zst", "zstandard"), ("a.parquet", "pyarrow"), ("a.arrow", "pyarrow"), ("a.xlsx", "python-calamine")],
)
def test_a_package_that_is_not_installed_is_named_with_the_command(tmp_path, monkeypatch, name, package):
    real = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda one: None if one == package.replace("-", "_") else real(one)
    )
    path = write(tmp_path / name, b"x")
    with pytest.raises(MissingDependencyError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: the package {package} is not installed; {pip_install('data')}"


def test_a_file_that_cannot_be_opened(tmp_path):
    for name in ("none.json", "none.json.gz", "none.csv", "none.parquet"):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        assert fault_of(tmp_path / name) == f"{name}: cannot be read: No such file or directory"
    (tmp_path / "folder.json").mkdir()
    assert fault_of(tmp_path / "folder.json") == "folder.json: cannot be read: Is a directory"


def test_progress_is_told_in_bytes_of_the_file_on_disk(tmp_path):
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(LINES.encode() * 100))
    told = []
    _, values = files.values_of(path, told.append)
    assert len(list(values)) == 4_000
    assert told == sorted(told)
    assert len(told) == 16
    assert told[-1] <= path.stat().st_size


def test_a_reader_that_stops_early_leaves_nothing_open(tmp_path):
    for name in ("a.json", "a.json.gz", "a.json.zst"):
        _, values = files.values_of(write(tmp_path / name, packed(TEXT.encode(), name)))
        next(values)
        del values  # an open file would be a ResourceWarning, which is an error here


# ---- CSV


def test_cells_may_hold_commas_quotes_and_line_breaks_and_lines_count_from_where_a_row_begins(tmp_path):
    text = 'instruction,output\r\n"a, ""b""\r\nc",d\r\n\r\ne,f\r\n'
    _, values = read(write(tmp_path / "a.csv", text))
    assert [(value.row, value.line, value.content) for value in values] == [
        (0, 2, {"instruction": 'a, "b"\r\nc', "output": "d"}),
        (1, 5, {"instruction": "e", "output": "f"}),
    ]


def test_an_empty_system_prompt_in_csv_is_none_given(tmp_path):
    _, values = read(write(tmp_path / "a.csv", "instruction,output,system,input\na,b,,\na,b,s,\n"))
    assert [value.content["system"] for value in values] == [None, "s"]
    assert values[0].content["input"] == ""


def test_a_weight_is_a_number_in_csv_and_an_empty_cell_none(tmp_path):
    path = write(tmp_path / "a.csv", "instruction,output,weight,history\na,b,0.5,\na,b,,\na,b,much,x\n")
    weights = [(row["weight"], row["history"]) for row in contents(path)]
    assert weights == [(0.5, None), (None, None), ("much", "x")]


def test_rows_of_the_wrong_width_are_faults_of_their_own(tmp_path):
    _, values = read(write(tmp_path / "a.csv", "instruction,output\na\na,b,c\na,b\n"))
    assert [value.fault for value in values] == [
        "1 value(s) for the 2 columns of the header",
        "3 value(s) for the 2 columns of the header; probably a comma inside a cell, which then needs quotes",
        "",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a.csv: the file is empty; expected a line with the names of the columns"),
        ("\r\n\r\n", "a.csv: the file is empty; expected a line with the names of the columns"),
        ("a;b\n1;2\n", "a.csv:1: columns are separated by ';'; save the table with ',' between its columns"),
        ("\na,b,a\n", "a.csv:2: two columns are named 'a'; give each column its own name"),
        (
            'a,b\n1,2\n3,"4\n5,6\n',
            "a.csv:3: broken CSV: the row that begins here: a text in quotes begins in it and never ends",
        ),
        (
            'a,b\n1,"2"3\n',
            "a.csv:2: broken CSV: the row that begins here: text behind a closing quote; "
            'inside a text in quotes, write " as ""',
        ),
    ],
)
def test_broken_csv(tmp_path, text, fault):
    assert fault_of(write(tmp_path / "a.csv", text)) == fault


def test_csv_without_an_end_is_not_read_to_the_end_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_LONGEST_CELL", 100)
    said = fault_of(write(tmp_path / "a.csv", 'a,b\n1,"2\n' + "3,4\n" * 100))
    assert said.startswith("a.csv:2: broken CSV: the row that begins here: a text in it is longer than ")
    assert (
        fault_of(write(tmp_path / "b.csv", "x" * 1_000))
        == "b.csv: a line longer than 100 characters; is it a CSV file?"
    )


# ---- Parquet


@pytest.fixture
def parquet():
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    return parquet


def write_parquet(parquet, path, rows):
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_rows_of_parquet_have_no_lines(tmp_path, parquet, monkeypatch):
    monkeypatch.setattr(tables, "_BATCH_ROWS", 7)
    path = write_parquet(parquet, tmp_path / "a.parquet", ROWS)
    encoding, values = read(path)
    assert encoding is None
    assert [(value.row, value.line, value.content) for value in values] == [
        (i, None, row) for i, row in enumerate(ROWS)
    ]


def test_broken_parquet(tmp_path, parquet):
    raw = write_parquet(parquet, tmp_path / "a.parquet", ROWS).read_bytes()
    assert fault_of(write(tmp_path / "b.parquet", b"")) == "b.parquet: the file is empty; expected Parquet"
    assert fault_of(write(tmp_path / "c.parquet", "[]")) == "c.parquet: no Parquet file, although its name says so"
    said = "d.parquet: broken Parquet: its end is missing; was it copied or downloaded whole?"
    assert fault_of(write(tmp_path / "d.parquet", raw[:-10])) == said
    assert fault_of(write(tmp_path / "f.parquet", b"PAR1")).startswith("f.parquet: broken Parquet")
    assert "cannot be read while packed; unpack it" in fault_of(write(tmp_path / "g.parquet.gz", gzip.compress(raw)))


def test_damage_anywhere_in_parquet_is_a_fault_or_not_seen(tmp_path, parquet):
    raw = write_parquet(parquet, tmp_path / "a.parquet", ROWS).read_bytes()
    faults = []
    for place in range(4, len(raw) - 4, 23):
        try:
            read(write(tmp_path / "b.parquet", raw[:place] + b"\xff" * 3 + raw[place + 3 :]))
        except DataError as error:
            faults.append(str(error))
    assert len(faults) > 10
    assert all(fault.startswith(f"{tmp_path}/b.parquet: broken Parquet") for fault in faults)


def test_columns_of_parquet_that_are_no_json_do_no_harm(tmp_path, parquet):
    import datetime

    row = {**ROWS[0], "time": datetime.datetime(2024, 1, 1), "blob": b"\xff"}
    assert contents(write_parquet(parquet, tmp_path / "a.parquet", [row])) == [row]


def test_any_bytes_are_rows_or_a_data_error(tmp_path):
    make = random.Random(0)
    for _ in range(300):
        raw = make.choice([TEXT.encode(), LINES.encode("gbk"), gzip.compress(LINES.encode()), b"a,b\n1,2\n"])
        raw = bytearray(raw[: make.randrange(len(raw) + 1)])
        for _ in range(make.randrange(4)):
            if raw:
                raw[make.randrange(len(raw))] = make.randrange(256)
        path = write(tmp_path / make.choice(["a.json", "a.jsonl.gz", "a.csv", "a.jsonl.zst", "a.parquet"]), bytes(raw))
        try:
            read(path)
        except (DataError, MissingDependencyError):
            logging.debug("refused")


# ---- Arrow and Excel


@pytest.mark.parametrize("is_indexed", [False, True])
def test_rows_of_arrow_as_a_stream_and_with_an_index(tmp_path, is_indexed):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(ROWS)
    make = pyarrow.ipc.new_file if is_indexed else pyarrow.ipc.new_stream
    with make(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    encoding, values = read(tmp_path / "a.arrow")
    assert encoding is None
    assert [(value.row, value.content) for value in values] == list(enumerate(ROWS))
    raw = (tmp_path / "a.arrow").read_bytes()
    assert "a.arrow: broken Arrow" in fault_of(write(tmp_path / "a.arrow", raw[: len(raw) // 2]))
    assert "a.arrow: broken Arrow" in fault_of(write(tmp_path / "a.arrow", b"PAR1 no such thing"))


def test_rows_of_excel_are_texts_as_a_sheet_shows_them(tmp_path):
    lines = [["instruction", "output", None], ["一加一？", 2, None], [None, None, None], ["圆周率", 3.14, None]]
    values = read(write_excel(tmp_path / "a.xlsx", lines))[1]
    assert [(value.row, value.line, value.content, value.fault) for value in values] == [
        (0, 2, {"instruction": "一加一？", "output": "2"}, ""),
        (1, 4, {"instruction": "圆周率", "output": "3.14"}, ""),
    ]


def test_excel_that_cannot_be_used(tmp_path):
    assert "no Excel file, or a broken one" in fault_of(write(tmp_path / "a.xlsx", b"PK no zip"))
    assert "no sheet has a row" in fault_of(write_excel(tmp_path / "b.xlsx", []))
    assert "two columns are named 'a'" in fault_of(write_excel(tmp_path / "c.xlsx", [["a", "a"]]))
    path = write_excel(tmp_path / "d.xlsx", [["instruction", "output"], ["问", "答", "多"]])
    assert read(path)[1][0].fault == "more cells than the 2 columns of the header"


def test_tabs_between_cells(tmp_path):
    path = write(tmp_path / "a.tsv", 'instruction\toutput\n问,一\t"答\n二"\n')
    assert contents(path) == [{"instruction": "问,一", "output": "答\n二"}]
    fault = fault_of(write(tmp_path / "a.tsv", "instruction,output\n问,答\n"))
    assert fault == "a.tsv:1: columns are separated by ','; save the table with '\\t' between its columns"


def test_of_several_sheets_only_one_may_have_rows(tmp_path):
    lines = [["instruction", "output"], ["问", "答"]]
    assert contents(write_excel(tmp_path / "a.xlsx", [], lines, [])) == [{"instruction": "问", "output": "答"}]
    fault = fault_of(write_excel(tmp_path / "a.xlsx", lines, lines))
    assert fault == "a.xlsx: several sheets have rows (s1, s2); save each as a file of its own"


# ---- tables as people keep them


def table(path, lines):
    return write_table(path, lines[0], lines[1:])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.xlsx"])
def test_a_title_above_the_names_is_one_error(tmp_path, name):
    lines = [["2026年客服记录", "", ""], ["instruction", "output", "备注"], *[["问", "答", "好"]] * 50]
    fault = fault_of(table(tmp_path / name, lines))
    assert fault.startswith(f"{name}: row 1 ")
    assert "2026年客服记录" in fault
    assert "title" in fault
    assert len(contents(table(tmp_path / name, lines[1:]))) == 50


def test_a_title_in_a_line_of_its_own_is_one_too_and_blank_rows_may_stand_around_it(tmp_path):
    assert "row 1 has one cell" in fault_of(write(tmp_path / "a.csv", "标题\ninstruction,output\n问,答\n"))
    assert "row 2 has one cell" in fault_of(write(tmp_path / "b.csv", ",\n标题,\n,\ninstruction,output\n问,答\n"))


@pytest.mark.parametrize(
    "text",
    [
        "text\n一\n二\n",  # a column alone
        ",text\n0,一\n",  # of pandas: its first column has no name
        "instruction,output\n问,\n问,答\n",  # a row has one cell, and not the first line
    ],
)
def test_what_is_no_title(tmp_path, text):
    assert contents(write(tmp_path / "a.csv", text))


def test_a_first_row_with_an_empty_cell_is_no_title_where_columns_go_by_place(tmp_path):
    path = write(tmp_path / "a.csv", "问,\n问,答\n")
    asked = columns.parse('{"0": "instruction", "1": "output"}')
    _, values = files.values_of(path, columns=asked)
    assert [value.content for value in values] == [{"0": "问", "1": ""}, {"0": "问", "1": "答"}]
    assert "title" in fault_of(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.xlsx"])
def test_blank_rows_are_skipped_and_counted_and_lines_stay_right(tmp_path, name, caplog):
    caplog.set_level(logging.INFO)
    blank = ["", ""]
    lines = [blank, ["instruction", "output"], blank, ["一", "二"], blank, [" ", ""], ["三", "四"], blank]
    values = read(table(tmp_path / name, lines))[1]
    assert [(value.row, value.line, value.content["instruction"], value.fault) for value in values] == [
        (0, 4, "一", ""),
        (1, 7, "三", ""),
    ]
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path / name}: 4 blank rows skipped"]


def test_nothing_is_said_of_a_table_without_blank_rows(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    read(write(tmp_path / "a.csv", "instruction,output\n问,答\n\n"))
    assert not caplog.records


def test_lines_of_a_sheet_with_empty_rows_at_the_top_are_those_that_excel_shows(tmp_path):
    lines = [[None, None], [None, None], ["instruction", "output"], ["问", "答"]]
    assert [value.line for value in read(write_excel(tmp_path / "a.xlsx", lines))[1]] == [4]


def test_a_tab_too_many_is_told_as_one(tmp_path):
    values = read(write(tmp_path / "a.tsv", "instruction\toutput\n问\t答\t二\n"))[1]
    assert "a tab inside a cell" in values[0].fault
    assert "inside a cell" not in read(write(tmp_path / "b.tsv", "a\tb\n问\n"))[1][0].fault
