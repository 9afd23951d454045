"""Folders of C-Eval and CMMLU as users have them -> questions with four options; nothing of either comes with us.

A file tells its subject and split by its place: `val/law_val.csv` or `law_val.csv` (C-Eval), `test/law.csv` (CMMLU),
`law/val-00000-of-00001.parquet` (as the hubs have both). CSV, TSV, JSON Lines, JSON and Parquet are read.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yangtuo.data.readers.files import values_of
from yangtuo.data.readers.search import kind_of
from yangtuo.data.readers.shown import shown
from yangtuo.data.records import Value
from yangtuo.errors import DataError, UsageError
from yangtuo.evaluation.choice_subjects import CEVAL, CMMLU, subject_of, tables
from yangtuo.i18n import Message, shortened

LETTERS = "ABCD"
DEV = "dev"  # the split of the exemplars
_SPLITS = {"dev": "dev", "val": "val", "validation": "val", "test": "test"}
_KINDS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_COLUMNS = ("question", *LETTERS.lower(), "answer")
_RULES = dict.fromkeys(_COLUMNS[:-1], Message("a text is needed")) | {"answer": Message("A, B, C or D is allowed")}


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with four options.

    Attributes:
        benchmark: "ceval" or "cmmlu".
        subject: the name of its file, such as "high_school_physics".
        group: what the subject counts for, such as "STEM".
        number: its row in the file, from 1.
        question: its text.
        options: the texts of A, B, C and D.
        answer: the right letter; None where the file tells none.
    """

    benchmark: str
    subject: str
    group: str
    number: int
    question: str
    options: tuple[str, str, str, str]
    answer: str | None


@dataclass(frozen=True)
class ChoiceFolder:
    """What a folder holds.

    Attributes:
        benchmark: "ceval" or "cmmlu".
        questions: by split ("dev", "val", "test"), in the order of subjects and rows.
        notes: what a user should know of it, a sentence each.
    """

    benchmark: str
    questions: Mapping[str, tuple[ChoiceQuestion, ...]]
    notes: tuple[str, ...]

    def exemplars(self, subject: str) -> tuple[ChoiceQuestion, ...]:
        """The questions of the dev split, whose answers may be shown."""
        return tuple(one for one in self.questions.get(DEV, ()) if one.subject == subject)

    def answered(self, split: str | None = None) -> tuple[ChoiceQuestion, ...]:
        """Questions whose answers are known, of a split; None for the largest that has them all, dev left out.

        Raises:
            UsageError: there is no such split, or none with answers.
        """
        able = {name: found for name, found in self.questions.items() if all(one.answer for one in found)}
        chosen = split or max((name for name in able if name != DEV), key=lambda name: len(able[name]), default=None)
        if chosen not in able:
            told: dict[str, Any] = {"benchmark": self.benchmark, "splits": ", ".join(able) or Message("none")}
            if split is None:
                raise UsageError(
                    "no split besides dev has answers in this folder of {benchmark}; splits with answers: {splits}",
                    **told,
                )
            raise UsageError(
                "split {split!r} has no answers in this folder of {benchmark}; splits with answers: {splits}",
                split=split,
                **told,
            )
        return able[chosen]


@dataclass(frozen=True)
class _File:
    path: Path
    subject: str
    split: str
    has_suffix: bool  # the split stands in the file's own name, behind the subject


def licence(benchmark: str) -> str:
    """The line on whose questions these are, to be printed with any result."""
    name, whose = {CEVAL: ("C-Eval", "Huang et al. 2023"), CMMLU: ("CMMLU", "Li et al. 2023")}[benchmark]
    return Message(
        "{name} ({whose}) is licensed CC BY-NC-SA 4.0: not for commercial use; derived data under the same licence.",
        name=name,
        whose=whose,
    )


def read_choice_folder(folder: Path, benchmark: str | None = None) -> ChoiceFolder:
    """All questions of a folder.

    Args:
        folder: see above for what may lie in it.
        benchmark: "ceval" or "cmmlu"; None to tell by the names of its files.

    Raises:
        DataError: no file of questions there, or files that are malformed: all faults at once, with file, row, column
            and what is allowed.
        MissingDependencyError: Parquet, and pyarrow is not installed.
    """
    if not folder.is_dir():
        raise DataError(
            "{folder}: no folder; give the folder of C-Eval or CMMLU, with dev/ and val/ or test/ in it", folder=folder
        )
    files, others = _files_in(folder)
    if not files:
        raise DataError(
            "{folder}: no file of questions; C-Eval has val/law_val.csv or the like, CMMLU test/law.csv, both also as "
            ".jsonl or .parquet",
            folder=folder,
        )
    benchmark = benchmark or _benchmark_of(files)
    questions: dict[str, list[ChoiceQuestion]] = {}
    problems = list(_twice(files))
    for file in files:
        problems += _read(file, benchmark, questions.setdefault(file.split, []))
    if problems:
        raise DataError.of_problems(Message("{folder}: questions that cannot be read", folder=folder), problems)
    found = {split: tuple(questions[split]) for split in dict.fromkeys(_SPLITS.values()) if split in questions}
    return ChoiceFolder(benchmark, found, tuple(_notes(folder, benchmark, files, others)))


def _files_in(folder: Path) -> tuple[list[_File], list[Path]]:
    """Files of questions by split, subject and name; and other files of their kinds."""
    files, others = [], []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and kind_of(path) in _KINDS and not any(part.startswith(".") for part in inside.parts):
            placed = _placed(path, inside)
            if placed:
                files.append(placed)
            else:
                others.append(inside)
    order = list(dict.fromkeys(_SPLITS.values()))
    return sorted(files, key=lambda file: (order.index(file.split), file.subject, file.path)), others


def _placed(path: Path, inside: Path) -> _File | None:
    stem = inside.name.split(".")[0]
    parents = [*reversed(inside.parts[:-1]), path.parents[len(inside.parts) - 1].name]  # nearest first, the folder last
    behind = re.fullmatch(r"(.+)_(dev|val|test)", stem)
    if behind:
        return _File(path, behind[1], _SPLITS[behind[2]], has_suffix=True)
    shard = re.fullmatch(r"(dev|val|validation|test)(-\d+-of-\d+)?", stem)
    if shard and parents[0] not in _SPLITS:
        return _File(path, parents[0], _SPLITS[shard[1]], has_suffix=False)
    if parents[0] in _SPLITS:
        numbered = stem.isdecimal() and len(parents) > 1  # law/val/0000.parquet
        return _File(path, parents[1] if numbered else stem, _SPLITS[parents[0]], has_suffix=False)
    return None


def _benchmark_of(files: Sequence[_File]) -> str:
    """By the names: C-Eval's files end with the split; else the one of which more subjects are known."""
    if any(file.has_suffix for file in files):
        return CEVAL
    subjects = {file.subject for file in files}
    known = {name: sum(subject_of(name, subject).is_known for subject in subjects) for name in tables()}
    return CEVAL if known[CEVAL] > known[CMMLU] else CMMLU


def _twice(files: Iterable[_File]) -> Iterator[str]:
    """Of a subject and split there may be several files only where they are numbered parts."""
    seen: dict[tuple[str, str], Path] = {}
    for file in files:
        other = seen.setdefault((file.split, file.subject), file.path)
        if other != file.path and not (_is_part(other) and _is_part(file.path) and other.parent == file.path.parent):
            yield Message(
                "{path}: {subject}, {split}, is in {other} too; keep one of them",
                path=file.path,
                subject=file.subject,
                split=file.split,
                other=other,
            )


def _is_part(path: Path) -> bool:
    return re.fullmatch(r"\w+-\d+-of-\d+|\d+", path.name.split(".")[0]) is not None


def _read(file: _File, benchmark: str, questions: list[ChoiceQuestion]) -> list[str]:
    """Add a file's questions; returns what is wrong with it."""
    try:
        rows = list(values_of(file.path)[1])
    except DataError as error:
        return [error.text]
    if not rows:
        return [Message("{path}: no questions in it", path=file.path)]
    cells = [_cells(row) for row in rows]
    told = [row.fault or Message("no object with the columns of a question") for row in rows]
    if first := next((found for found in cells if found is not None), None):
        missing = [name for name in _COLUMNS if name not in first and (name, file.split) != ("answer", "test")]
        if missing:
            names = ", ".join(map(_label, missing))
            return [
                Message(
                    "{path}: no column {names}; columns there: {first}",
                    path=file.path,
                    names=names,
                    first=shown(", ".join(map(str, first))),
                )
            ]
    # A test set may be published without answers, but not with some of them.
    has_answers = file.split != "test" or any(found and found.get("answer") for found in cells)
    problems: list[str] = []
    group = subject_of(benchmark, file.subject).groups[0]
    for number, (row, found) in enumerate(zip(rows, cells, strict=True), start=1):
        faults = [told[number - 1]] if found is None else list(_faults(found, has_answers=has_answers))
        line = "" if row.line is None else f":{row.line}"
        place = f"{file.path}{line}"
        problems += [
            Message("{place} row {number}: {fault}", place=place, number=number, fault=fault) for fault in faults
        ]
        if found is not None and not faults:
            a, b, c, d = (found[letter] for letter in LETTERS.lower())
            answer = _letter(found.get("answer", "")) if has_answers else None
            questions.append(
                ChoiceQuestion(benchmark, file.subject, group, number, found["question"], (a, b, c, d), answer)
            )
    return problems


def _cells(row: Value) -> dict[str, str] | None:
    """Columns by their plain names, without blanks around their texts; None where the row is none."""
    if row.fault or not isinstance(row.content, dict):
        return None
    return {_column(name): _text(value) for name, value in row.content.items()}


def _column(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().lower()


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _letter(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip(" .。、()").upper()


def _faults(cells: Mapping[str, str], *, has_answers: bool) -> Iterator[str]:
    for name in _COLUMNS:
        if name == "answer":
            is_wrong = has_answers and _letter(cells.get(name, "")) not in tuple(LETTERS)
        else:
            is_wrong = not cells.get(name)
        if is_wrong:
            yield Message(
                "column {label}: {cells}; {rules}",
                label=_label(name),
                cells=shown(cells.get(name, "")) or "nothing",
                rules=_RULES[name],
            )


def _label(name: str) -> str:
    return name.upper() if len(name) == 1 else name


def _notes(folder: Path, benchmark: str, files: Sequence[_File], others: Sequence[Path]) -> Iterator[str]:
    unknown = sorted({file.subject for file in files if not subject_of(benchmark, file.subject).is_known})
    if unknown:
        yield Message(
            "{folder}: no subjects of {benchmark}, so called by their names, in group Other: {unknown}",
            folder=folder,
            benchmark=benchmark,
            unknown=", ".join(unknown),
        )
    if others:
        names = shortened(list(map(str, others)), 5, ", ")
        yield Message("{folder}: not read, since their names tell no split: {names}", folder=folder, names=names)
