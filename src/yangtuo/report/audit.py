"""data_audit.json -> what became of the rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yangtuo.report.json_reading import count, counts, objects, text


@dataclass(frozen=True)
class DataFile:
    """A file of rows: how many it has, and what became of them."""

    path: str
    data_format: str
    num_rows: int | None
    num_kept: int | None
    num_cut: int | None
    num_tokens: int | None


@dataclass(frozen=True)
class Audit:
    """What became of the rows of one part of the data.

    Attributes:
        name: train or validation.
        counts: every count of data_audit.json, by its name there.
        row_tokens: min, median, p90, p99, max.
        histogram: rows by their length in tokens: from, to, rows.
        dropped: rows by the reason (in English) why they are not trained on.
        special_texts: rows by the text like a control token that they hold.
        files: in order.
    """

    name: str
    counts: Mapping[str, int]
    row_tokens: Mapping[str, int]
    histogram: tuple[tuple[int, int, int], ...]
    dropped: Mapping[str, int]
    special_texts: Mapping[str, int]
    files: tuple[DataFile, ...]


def audit_of(name: str, found: Mapping[str, Any]) -> Audit:
    """One part of the file's object."""
    bars = [[count(one.get(end)) for end in ("from", "to", "rows")] for one in objects(found.get("histogram"))]
    return Audit(
        name=name,
        counts=counts(found),
        row_tokens=counts(found.get("row_tokens")),
        histogram=tuple((a, b, rows) for a, b, rows in bars if a is not None and b is not None and rows is not None),
        dropped=counts(found.get("rows_dropped")),
        special_texts=counts(found.get("special_texts")),
        files=tuple(
            DataFile(
                path=text(one.get("path")),
                data_format=text(one.get("data_format")),
                num_rows=count(one.get("num_rows")),
                num_kept=count(one.get("rows_kept")),
                num_cut=count(one.get("rows_cut")),
                num_tokens=count(one.get("tokens")),
            )
            for one in objects(found.get("files"))
        ),
    )
