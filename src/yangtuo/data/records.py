"""Files -> records. Owns reading and checking of rows; knows nothing of tokens.

The format is Stanford Alpaca: a JSON array of objects with `instruction`, `output` and, where wanted, `input`. Every
bad row of every file is reported at once, and no value is coerced: a null answer is an error, never the text "None".
"""

import codecs
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yangtuo.errors import DataError


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance. `trained` tells whether its tokens carry a loss, `weight` how much each of them counts."""

    role: str
    text: str
    trained: bool
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Record:
    """One row as read: its turns, the file that it stands in and its 0-based row number there."""

    source: str
    row: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Source:
    """A data file and the SHA-256 of its bytes."""

    path: str
    sha256: str
    num_rows: int


def find_files(dataset_dir: str, *, exclude: str | None = None, option: str = "dataset_dir") -> list[Path]:
    """The .json files of a folder in sorted order (or the one file given), without `exclude`.

    `option` is the option that the place came from, for messages.

    Raises:
        DataError: nothing there, or no .json file in it.
    """
    place = Path(dataset_dir)
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(
            f"--{option} {dataset_dir}: no such folder or file; give a folder with .json files, or one file"
        )
    files = sorted(path for path in place.iterdir() if path.suffix == ".json" and path.is_file())
    kept = [path for path in files if exclude is None or path.resolve() != Path(exclude).resolve()]
    if not kept:
        others = sorted(path.name for path in place.iterdir())[:5]
        found = ", ".join(others) if others else "nothing"
        only = " besides the validation file" if files else ""
        raise DataError(f"--{option} {dataset_dir}: no .json file in it{only} (found: {found})")
    return kept


def read(files: Sequence[Path]) -> tuple[list[Record], list[Source]]:
    """All records of the files, in order.

    Raises:
        DataError: every unreadable file and every bad row, with file, row, key, value and rule.
    """
    records: list[Record] = []
    sources: list[Source] = []
    problems: list[str] = []
    for path in files:
        try:
            raw = path.read_bytes()
            rows = _parse(raw, path)
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
        except DataError as error:
            problems.append(str(error))
        else:
            before = len(records)
            for row, value in enumerate(rows):
                record, faults = _check(value, str(path), row)
                problems += faults
                if record:
                    records.append(record)
            sources.append(Source(str(path), hashlib.sha256(raw).hexdigest(), len(records) - before))
    if problems:
        raise DataError.of_problems("data", problems)
    return records, sources


def _parse(raw: bytes, path: Path) -> list[Any]:
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 (byte {raw[error.start]:#04x}); save the file as UTF-8") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty; expected a JSON array of rows")
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        rows_before = _rows_before(text, error.pos)
        read = f" after {rows_before} whole row(s)" if rows_before else ""
        raise DataError(f"{path}:{error.lineno}:{error.colno}: broken JSON{read}: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested without end, or a number of thousands of digits
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(rows, list):
        keys = f" with keys {', '.join(map(repr, list(rows)[:4]))}" if isinstance(rows, dict) else ""
        raise DataError(f"{path}: expected a JSON array of rows, found {_kind(rows)}{keys}")
    if not rows:
        raise DataError(f"{path}: the array has no rows")
    return rows


def _rows_before(text: str, fault: int) -> int:
    """How many rows of a broken array stand whole before the fault; helps to find the place."""
    begin = len(text) - len(text.lstrip())
    if text[begin] != "[":
        return 0
    decoder, place, count = json.JSONDecoder(), begin + 1, 0
    while place < fault:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        if place >= fault:
            break
        try:
            _, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError:
            break
        count += 1
    return count


def _check(value: Any, source: str, row: int) -> tuple[Record | None, list[str]]:
    if not isinstance(value, dict):
        return None, [f"{source} row {row}: expected an object, found {_kind(value)}: {_short(value)}"]
    faults = list(_faults(value, f"{source} row {row}"))
    if faults:
        return None, faults
    instruction, addition = value["instruction"], value.get("input")
    user = f"{instruction}\n{addition}" if addition else instruction
    return Record(source, row, (Turn("user", user, False), Turn("assistant", value["output"], True))), []


def _faults(value: dict[str, Any], where: str) -> Iterator[str]:
    for key, rule in (("instruction", "a text that is not empty"), ("output", "a text")):
        if key not in value:
            yield f"{where}: no {key!r} (keys: {', '.join(value) or 'none'}); expected {rule}"
        elif not isinstance(value[key], str):
            yield f"{where}: {key!r} is {_kind(value[key])}, {_short(value[key])}; expected {rule}"
        elif not _is_encodable(value[key]):
            yield f"{where}: {key!r} has half of a surrogate pair, which is no character; expected {rule}"
        elif key == "instruction" and not value[key].strip():
            yield f"{where}: {key!r} is empty; expected {rule}"
    if not isinstance(value.get("input"), str | None):
        kind, shown = _kind(value["input"]), _short(value["input"])
        yield f"{where}: 'input' is {kind}, {shown}; expected a text, null or no input"
    elif not _is_encodable(value.get("input") or ""):
        yield f"{where}: 'input' has half of a surrogate pair, which is no character; expected a text"


def _is_encodable(text: str) -> bool:
    # JSON can spell "\ud800" alone; no UTF-8 text, and so no tokenizer, can.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
