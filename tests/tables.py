"""A table of texts as a file of any kind."""

import csv
import gzip
import io
import json
import zipfile

import pytest


def write_table(path, head, lines):
    """A line of names, or the first row, and rows below it; the file's name says what it is. Returns the path."""
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind == ".xlsx":
        return write_excel(path, [head, *lines])
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    if kind in (".parquet", ".arrow"):
        return _write_arrow(path, rows)
    if kind == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        out = io.StringIO(newline="")
        csv.writer(out, delimiter="\t" if kind == ".tsv" else ",").writerows([head, *lines])
        text = out.getvalue()
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def _write_arrow(path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    return path


def write_excel(path, *sheets):
    """The least that is an Excel file: texts inline, numbers as they are."""
    pytest.importorskip("python_calamine")

    def cell(value):
        if value is None:
            return "<c/>"
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t xml:space="preserve">{value}</t></is></c>'
        return f"<c><v>{value}</v></c>"

    main, office = "http://schemas.openxmlformats.org", "officeDocument/2006/relationships"
    numbers = range(1, len(sheets) + 1)

    def relations(*ones):
        listed = "".join(
            f'<Relationship Id="r{i}" Type="{main}/{office}/{kind}" Target="{at}"/>' for i, kind, at in ones
        )
        return f'<Relationships xmlns="{main}/package/2006/relationships">{listed}</Relationships>'

    listed = "".join(f'<sheet name="s{i}" sheetId="{i}" r:id="r{i}"/>' for i in numbers)
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{main}/package/2006/content-types"/>',
        "_rels/.rels": relations((1, "officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": (
            f'<workbook xmlns="{main}/spreadsheetml/2006/main" xmlns:r="{main}/{office}">'
            f"<sheets>{listed}</sheets></workbook>"
        ),
        "xl/_rels/workbook.xml.rels": relations(*((i, "worksheet", f"worksheets/sheet{i}.xml") for i in numbers)),
    }
    for i, lines in zip(numbers, sheets, strict=True):
        rows = "".join(f"<row>{''.join(map(cell, line))}</row>" for line in lines)
        parts[f"xl/worksheets/sheet{i}.xml"] = (
            f'<worksheet xmlns="{main}/spreadsheetml/2006/main"><sheetData>{rows}</sheetData></worksheet>'
        )
    with zipfile.ZipFile(path, "w") as file:
        for name, text in parts.items():
            file.writestr(name, text)
    return path
