"""`benchmarks/data.py`: its rows, and a run of it on a few."""

import json
import sys

import pytest

from tests import tiny
from tests.command import REPOSITORY, run

PROGRAM = REPOSITORY / "benchmarks" / "data.py"


def test_a_small_run_is_measured_and_recorded(tmp_path):
    tokenizer = tiny.tiny_sentencepiece(tmp_path / "tokenizer")
    source = tiny.write_rows(tmp_path / "source.json", tiny.rows(3))
    words = ["--rows", 40, "--rounds", 1, "--contenders", "ours", "--tokenizer", tokenizer, "--source", source]
    done = run([sys.executable, PROGRAM, *words, "--json", tmp_path / "result.json"], cwd=tmp_path)
    assert done.code == 0, done.said
    record = json.loads((tmp_path / "result.json").read_text())
    (measured,) = record["runs"]
    assert measured["contender"] == "ours"
    assert measured["rows_per_s"] * measured["seconds"] == pytest.approx(40)
    assert 0 < measured["peak_gib"] < 2
    assert record["versions"]["sentencepiece"]
    assert str(tmp_path) not in json.dumps(record)


def test_the_rows_that_are_made_are_all_different(tmp_path):
    source = tiny.write_rows(tmp_path / "source.json", tiny.rows(3))
    code = (
        "import sys; from pathlib import Path; import data; data.write_rows(Path('rows.json'), Path(sys.argv[1]), 10)"
    )
    done = run([sys.executable, "-c", code, source], cwd=tmp_path, env={"PYTHONPATH": str(PROGRAM.parent)})
    assert done.code == 0, done.said
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert len({row["instruction"] for row in rows}) == len(rows) == 10
    assert {row["output"] for row in rows} == {row["output"] for row in tiny.rows(3)}
