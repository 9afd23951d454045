"""Made-up folders in the layouts of C-Eval and CMMLU: four subjects of ten questions, nothing of theirs."""

import csv
import io
from pathlib import Path

SUBJECTS = {
    "ceval": ("college_physics", "law", "marxism", "accountant"),
    "cmmlu": ("anatomy", "chinese_history", "economics", "nutrition"),
}
NUM_EACH = 10


def answer_of(i: int) -> str:
    return "ABCD"[(i * 7 + i // 3) % 4]


def row_of(subject: str, i: int) -> list[str]:
    """Question, options and answer: the sum of two numbers, in its place among wrong ones."""
    right = 10 * i + len(subject)
    values = [right + 1 + k for k in range(4)]
    values["ABCD".index(answer_of(i))] = right
    return [f"{10 * i}加{len(subject)}等于", *(f"等于{value}" for value in values), answer_of(i)]


def as_csv(rows: list[list[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def ceval_rows(subject: str, numbers: range, *, has_answers: bool = True) -> list[list[str]]:
    head = ["id", "question", "A", "B", "C", "D", *(["answer", "explanation"] if has_answers else [])]
    rows = [[str(i), *row_of(subject, i)] for i in numbers]
    return [head, *([*row, "因为"] if has_answers else row[:-1] for row in rows)]


def ceval_folder(folder: Path) -> Path:
    """40 val items, 2 dev and 3 test items a subject, the last without answers."""
    for subject in SUBJECTS["ceval"]:
        write(folder / "val" / f"{subject}_val.csv", as_csv(ceval_rows(subject, range(NUM_EACH))))
        write(folder / "dev" / f"{subject}_dev.csv", as_csv(ceval_rows(subject, range(20, 22))))
        write(folder / "test" / f"{subject}_test.csv", as_csv(ceval_rows(subject, range(30, 33), has_answers=False)))
    return folder


def cmmlu_folder(folder: Path) -> Path:
    """40 test items, 2 dev items a subject."""
    for subject in SUBJECTS["cmmlu"]:
        for split, numbers in (("test", range(NUM_EACH)), ("dev", range(20, 22))):
            rows = [["", "Question", "A", "B", "C", "D", "Answer"], *([str(i), *row_of(subject, i)] for i in numbers)]
            write(folder / split / f"{subject}.csv", as_csv(rows))
    return folder
