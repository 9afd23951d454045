"""Malformed inputs and what is said of them: the table of docs/data.md. `python -m tests.docs.malformed` writes it."""

# ruff: noqa: E501, T201  # a case a line; the answer belongs on the screen

import gzip
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from yangtuo.config.parser import build_parser, parse
from yangtuo.data.readers import reader, search
from yangtuo.errors import UserError
from yangtuo.training.dataset import read_options

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
BEGIN, END = "<!-- malformed: begin -->", "<!-- malformed: end -->"
GOOD = b'{"instruction": "a", "output": "b"}'
TWO_COLUMNS = b"instruction,output\n"


class Case(NamedTuple):
    """What was given.

    Attributes:
        name: in words.
        file: its name, "" for none.
        content: its bytes, or what makes them.
        options: of the command besides the folder.
        given: in place of the folder, below it.
    """

    name: str
    file: str = "a.json"
    content: bytes | Callable[[], bytes] = b""
    options: tuple[str, ...] = ()
    given: str = ""


def rows(*ones: object) -> bytes:
    """JSON Lines."""
    return "\n".join(json.dumps(one, ensure_ascii=False) for one in ones).encode()


def dialogue(*turns: object, **more: object) -> bytes:
    """One row of messages."""
    return rows({"messages": list(turns), **more})


def turn(role: str, content: object, **more: object) -> dict[str, object]:
    """One message."""
    return {"role": role, "content": content, **more}


def parquet() -> bytes:
    """A file of one row."""
    import io

    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([{"instruction": "a", "output": ["b"]}]), file)
    return file.getvalue()


def zstd() -> bytes:
    """A packed row."""
    import zstandard

    return bytes(zstandard.ZstdCompressor().compress(GOOD))


ASK, ANSWER = turn("user", "a"), turn("assistant", "b")
CASES = [
    Case("no such folder", "", given="none"),
    Case("a folder with nothing in it", ""),
    Case("a folder with no data file in it", "notes.docx", b"x"),
    Case("files only in a sub-folder", "sub/a.json", GOOD),
    Case("one of several files is missing", "a.json", GOOD, given="a.json,b.json"),
    Case("unknown --format", "a.json", GOOD, options=("--format", "alpca")),
    Case("unknown --bad_rows", "a.json", GOOD, options=("--bad_rows", "skip")),
    Case("--format of another format", "a.json", GOOD, options=("--format", "sharegpt")),
    Case("keys of two formats", "a.json", rows({"instruction": "a", "output": "b", "messages": []})),
    Case("keys of no format", "a.json", rows({"客户描述": "a", "结果": "b"})),
    Case("two columns that may be the answer", "a.json", rows({"question": "a", "answer": "b", "response": "c"})),
    Case("pairs for DPO", "a.json", rows({"prompt": "a", "chosen": "b", "rejected": "c"})),
    Case("answers for KTO", "a.json", rows({"prompt": "a", "completion": "b", "label": True})),
    Case("plain text", "a.json", rows({"text": "a"})),
    Case("--columns that is no JSON", "a.json", GOOD, options=("--columns", "{“问”：“instruction”}")),
    Case("--columns with a field that is none", "a.json", GOOD, options=("--columns", '{"a": "question", "b": "outptu"}')),
    Case("--columns with the field first", "a.json", GOOD, options=("--columns", '{"prompt": "问", "response": "答"}')),
    Case("--columns twice the same field", "a.json", GOOD, options=("--columns", '{"a": "output", "b": "output"}')),
    Case("--columns that the file has not", "a.csv", "问,答复\na,b\n".encode(), options=("--columns", '{"问": "instruction", "答": "output"}')),
    Case("--columns by place, with a head", "a.csv", TWO_COLUMNS + b"a,b\n", options=("--columns", '{"0": "instruction", "1": "output"}')),
    Case("an empty file", "a.json", b""),
    Case("only blanks", "a.json", b" \r\n"),
    Case("an empty array", "a.json", b"[]"),
    Case("no JSON at all", "a.json", b"hello"),
    Case("rows inside another object", "a.json", b'{"version": 1, "data": [%s]}' % GOOD),
    Case("columns in place of rows", "a.json", b'{"instruction": {"0": "a"}, "output": {"0": "b"}}'),
    Case("an array that is cut off", "a.json", b"[%s,\n%s" % (GOOD, GOOD[:-9])),
    Case("an array that is cut off behind a row", "a.json", b"[%s" % GOOD),
    Case("a `,` missing between rows", "a.json", b"[%s\n%s]" % (GOOD, GOOD)),
    Case("a `,` behind the last row", "a.json", b"[%s,\n]" % GOOD),
    Case("a `,` behind the last key", "a.json", b'[{"instruction": "a", "output": "b",}]'),
    Case("no `[` around rows with `,`", "a.json", b"%s,\n%s" % (GOOD, GOOD)),
    Case("two arrays, one behind the other", "a.json", b"[%s]\n[%s]" % (GOOD, GOOD)),
    Case("text in single quotes", "a.json", b"[{'instruction': 'a', 'output': 'b'}]"),
    Case("Python's None", "a.json", b'[{"instruction": "a", "input": None, "output": "b"}]'),
    Case("a line break inside a text", "a.json", b'[{"instruction": "a\nb", "output": "c"}]'),
    Case("a single backslash", "a.json", rb'[{"instruction": "C:\dir", "output": "b"}]'),
    Case("a broken line among good ones", "a.jsonl", b'%s\n{"instruction": "a" "output"}\n%s' % (GOOD, GOOD)),
    Case("a line that is cut off", "a.jsonl", b"%s\n%s" % (GOOD, GOOD[:-9])),
    Case("nesting without end", "a.json", b"[" * 100_000),
    Case("a number without end", "a.json", b'[{"instruction": "a", "output": %s}]' % (b"9" * 5_000)),
    Case("a key twice in a row", "a.json", b'{"instruction": "a", "output": "b", "output": "c"}'),
    Case("a row that is a text", "a.json", rows("text")),
    Case("a row that is a list", "a.json", b"[[1, 2]]"),
    Case("a row that is null", "a.json", b"[null]"),
    Case("a field is missing", "a.json", rows({"instruction": "a", "ouput": "b"})),
    Case("a misspelt key", "a.json", rows({"instrction": "a", "output": "b"})),
    Case("a field is null", "a.json", rows({"instruction": "a", "output": None})),
    Case("an empty answer", "a.json", rows({"instruction": "a", "output": ""})),
    Case("an empty instruction", "a.json", rows({"instruction": " ", "output": "b"})),
    Case("an answer that is a number", "a.json", rows({"instruction": "a", "output": 3})),
    Case("an answer that is a list", "a.json", rows({"instruction": "a", "output": ["b", "c"]})),
    Case("an answer that is NaN", "a.json", b'{"instruction": "a", "output": NaN}'),
    Case("an input that is a number", "a.json", rows({"instruction": "a", "input": 0, "output": "b"})),
    Case("half of a surrogate pair", "a.json", rb'{"instruction": "\ud83d", "output": "b"}'),
    Case("a history of no pairs", "a.json", rows({"instruction": "a", "output": "b", "history": ["c"]})),
    Case("a weight below 0", "a.json", rows({"instruction": "a", "output": "b", "weight": -1})),
    Case("a weight that is a text", "a.json", rows({"instruction": "a", "output": "b", "weight": "2"})),
    Case("several faults in one row", "a.json", rows({"instruction": "", "input": 1, "output": None})),
    Case("messages that are a text", "a.json", rows({"messages": "[]"})),
    Case("no messages", "a.json", rows({"messages": []})),
    Case("an unknown role", "a.json", dialogue(ASK, turn("tool", "x"), ANSWER)),
    Case("a turn without a text", "a.json", dialogue(ASK, {"role": "assistant"})),
    Case("a turn with parts", "a.json", dialogue(turn("user", [{"type": "image_url"}]), ANSWER)),
    Case("a call of a tool", "a.json", dialogue(ASK, turn("assistant", "", tool_calls=[{"id": "1"}]))),
    Case("the same role twice", "a.json", dialogue(ASK, ASK, ANSWER)),
    Case("the assistant first", "a.json", rows({"conversations": [{"from": "gpt", "value": "b"}]})),
    Case("no answer to the last question", "a.json", dialogue(ASK, ANSWER, ASK)),
    Case("a system turn in the middle", "a.json", dialogue(ASK, ANSWER, turn("system", "c"), ANSWER)),
    Case("`train` that is a text", "a.json", dialogue(ASK, turn("assistant", "b", train="no"))),
    Case("`train` for a question", "a.json", dialogue(turn("user", "a", train=True), ANSWER)),
    Case("no answer that is trained", "a.json", dialogue(ASK, turn("assistant", "b", train=False))),
    Case("a key twice in a turn", "a.json", b'{"messages": [{"role": "user", "role": "user", "content": "a"}]}'),
    Case("UTF-8 with a broken byte", "a.json", "[\n{\"instruction\": \"介绍一下长城的历史\", \"output\": \"\xff好\"}]".encode().replace("\xff".encode(), b"\xff")),
    Case("UTF-16 without a mark", "a.json", GOOD.decode().encode("utf-16-le")),
    Case("broken UTF-16", "a.json", b"\xff\xfe[\0]"),
    Case("an Excel file", "a.json", b"PK\x03\x04"),
    Case("a web page", "a.json", b"<!DOCTYPE html><html>"),
    Case("a Git LFS pointer", "a.json", b"version https://git-lfs.github.com/spec/v1\n"),
    Case("gzip without .gz", "a.json", lambda: gzip.compress(GOOD)),
    Case("no gzip in spite of .gz", "a.json.gz", GOOD),
    Case("a .gz file that is cut off", "a.json.gz", lambda: gzip.compress(GOOD)[:-9]),
    Case("a .zst file that is cut off", "a.json.zst", lambda: zstd()[:-1]),
    Case("CSV: empty", "a.csv", b""),
    Case("CSV: no header", "a.csv", "你好,你好！\n再见,再见！\n".encode()),
    Case("CSV: only the header", "a.csv", TWO_COLUMNS),
    Case("CSV: too many values", "a.csv", TWO_COLUMNS + b"a,b,c\n"),
    Case("CSV: a title above the names", "a.csv", b"2026,\n" + TWO_COLUMNS + b"a,b\n"),
    Case("CSV: too few values", "a.csv", TWO_COLUMNS + b"a\n"),
    Case("CSV: a quote that is not closed", "a.csv", TWO_COLUMNS + b'a,b\nc,"d\n'),
    Case("CSV: two columns of one name", "a.csv", b"output,output\n"),
    Case("CSV: `;` between the columns", "a.csv", b"instruction;output\na;b\n"),
    Case("Parquet: an answer that is a list", "a.parquet", parquet),
    Case("Parquet: cut off", "a.parquet", lambda: parquet()[:-4]),
    Case("Parquet: another file", "a.parquet", GOOD),
]  # fmt: skip


def message(case: Case, folder: Path) -> str:
    """What stands behind `error: ` for a case that is laid out in an empty folder, which is left out of it."""
    if case.file:
        path = folder / case.file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(case.content() if callable(case.content) else case.content)
    place = ",".join(str(folder / name) for name in case.given.split(",")) if case.given else str(folder)
    try:
        settings, _ = parse(["--dataset_dir", place, *case.options], build_parser("yangtuo check"))
        data = settings.data
        found = search.find_files(place, recursive=data.include_subfolders)
        reader.read(found, read_options(data))
    except UserError as error:
        return str(error).replace(f"{folder}/", "").replace(str(folder), "DIR")
    raise AssertionError(f"{case.name}: nothing was said")


def table() -> Iterator[str]:
    """The lines of the page."""
    yield "| given | said |"
    yield "| --- | --- |"
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            said = message(case, Path(folder))
        yield f"| {cell(f'{case.file}: {case.name}' if case.file else case.name)} | {cell(said)} |"


def cell(text: str) -> str:
    """A text as Markdown shows it in a table, one line of it a line there."""
    text = re.sub(r"([\\`*\[\]<>|&~])", r"\\\1", text).replace("/--", r"/\-\-")  # second spellings are no options
    return "<br>".join(line.strip() for line in text.splitlines())


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, rest = text.split(BEGIN)
    return "\n".join([f"{before}{BEGIN}", *table(), f"{END}{rest.split(END)[1]}"])


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {PAGE}")
