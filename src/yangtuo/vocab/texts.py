"""Files -> plain texts, for vocabularies: lines of text files, the turns of rows, and rows that are a text alone."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from yangtuo.data.readers import files, recognition, search
from yangtuo.data.readers.decode import encoding_of, opened
from yangtuo.data.readers.reader import Reader, ReadOptions
from yangtuo.errors import DataError
from yangtuo.i18n import Message

_READING = ReadOptions(allow_empty_answers=True)
_MOST_CHARACTERS = 1000  # sentencepiece leaves out, without a word, what has more than 4,192 bytes


def texts_of(paths: Sequence[Path]) -> Iterator[str]:
    """All texts of the files, none empty.

    A file of rows (`.json`, `.jsonl`, `.parquet`, `.csv`, also packed) gives the text of every turn, or its key `text`
    where that is all that tells what a row is; any other file gives its lines.

    Raises:
        DataError: a file is missing or cannot be read, or a row cannot be used.
    """
    for path in paths:
        if not path.is_file():
            kind = Message("a folder; name the files in it") if path.is_dir() else Message("no such file")
            raise DataError("{path}: {kind}", path=path, kind=kind)
    for path in paths:
        if search.kind_of(path) not in search.SUFFIXES:
            found: Iterator[str] = _lines(path)
        elif _is_text_alone(path):
            found = _text_column(path)
        else:
            found = (turn.text for record in Reader([path], _READING).records() for turn in record.turns)
        yield from (text for text in found if text)


def pieces_of(text: str) -> Iterator[str]:
    """A text in lines of at most 1,000 characters, none blank."""
    for line in text.splitlines():
        if line.strip():
            yield from (line[i : i + _MOST_CHARACTERS] for i in range(0, len(line), _MOST_CHARACTERS))


def _lines(path: Path) -> Iterator[str]:
    encoding = encoding_of(path)
    with opened(path) as (raw, _), io.TextIOWrapper(raw, encoding=encoding) as text:
        for line in text:
            yield line.rstrip("\n")


def _is_text_alone(path: Path) -> bool:
    _, values = files.values_of(path)
    content = next((value.content for value in values if not value.fault), None)
    return isinstance(content, dict) and "text" in content and isinstance(recognition.layout_of(content), str)


def _text_column(path: Path) -> Iterator[str]:
    _, values = files.values_of(path)
    for value in values:
        text = value.content.get("text") if isinstance(value.content, dict) else None
        if value.fault or not isinstance(text, str):
            line = "" if value.line is None else f":{value.line}"
            raise DataError(
                "{path}{line} row {row}: {fault}",
                path=path,
                line=line,
                row=value.row,
                fault=value.fault or Message("its text is missing or no text"),
            )
        yield text
