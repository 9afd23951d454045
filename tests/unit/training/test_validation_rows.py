"""The rows of a run that are measured afterwards: its own, never those that it was trained on."""

import json

import numpy as np
import pytest

from tests import tiny
from yangtuo.config.parser import build_parser, parse
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import DataError, UsageError
from yangtuo.training import dataset
from yangtuo.training.validation_rows import rows_of


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return open_tokenizer(tiny.tiny_sentencepiece(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    rows = tiny.rows(30)
    tiny.write_rows(tmp_path / "data" / "rows.json", [*rows, *rows[:5], {**rows[0], "output": "另一个"}])
    tiny.write_rows(tmp_path / "valid.json", tiny.rows(4))
    return tmp_path


def a_run(place, *words, seed=3, name="run"):
    """A run's folder with what it has written of its rows; the rows that it was evaluated on."""
    settings, _ = parse(["--dataset_dir", "data", *words], build_parser("yangtuo train"))
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(place / "tokenizer"))
    inputs = dataset.DataInputs(tokenizer, ALPACA_ZH, *dataset.find_data(settings))
    corpus = dataset.split_and_audit(settings, *dataset.encode_data(settings, inputs), inputs.end_id, seed)
    from yangtuo.config.settings import as_dict

    (place / name).mkdir()
    dataset.write_audit(place / name, corpus.audits, ())
    record = {"seed": seed, "arguments": as_dict(settings), "working_directory": str(place)}
    (place / name / "run.json").write_text(json.dumps(record))
    return place / name, corpus


def ids_of(examples):
    return [examples.row(i)[0].tolist() for i in range(len(examples))]


@pytest.mark.parametrize(
    "words",
    [
        ("--validation_split_percentage", "20"),
        ("--validation_split_percentage", "0.1", "--deduplicate", "exact"),
        ("--validation_split_percentage", "30", "--deduplicate", "near", "--max_rows", "20"),
        ("--validation_file", "valid.json", "--max_seq_length", "80", "--max_rows", "3"),
    ],
)
def test_they_are_those_that_the_run_set_aside(place, tokenizer, words, monkeypatch):
    run, corpus = a_run(place, *words, "--do_eval")
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    rows = rows_of(run, {})
    found = rows.encoded(tokenizer, ALPACA_ZH)
    assert ids_of(found) == ids_of(corpus.validation)
    assert rows.told(found)[0]["num_rows"] == corpus.validation.num_rows()


def test_another_seed_sets_others_aside(place, tokenizer):
    run, corpus = a_run(place, "--validation_split_percentage", "20", "--do_eval", seed=4)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"seed": 5}))
    assert ids_of(rows_of(run, {}).encoded(tokenizer, ALPACA_ZH)) != ids_of(corpus.validation)


def test_a_run_without_evaluation_set_nothing_aside(place, caplog):
    run, corpus = a_run(place, "--validation_split_percentage", "20")
    assert corpus.validation is None
    assert rows_of(run, {}) is None
    assert "trained on" in caplog.text


@pytest.mark.parametrize("given", [{"max_rows": 10}, {"train_turns": "last"}, {"max_seq_length": 64}])
def test_options_that_would_set_others_aside_are_refused(place, given):
    run, _ = a_run(place, "--validation_split_percentage", "20", "--do_eval")
    with pytest.raises(UsageError, match=f"--{next(iter(given))}.*--validation_file"):
        rows_of(run, given)


def test_files_that_have_changed_are_refused_where_a_part_was_set_aside(place, tokenizer):
    run, _ = a_run(place, "--validation_split_percentage", "20", "--do_eval")
    tiny.write_rows(place / "data" / "rows.json", tiny.rows(31))
    with pytest.raises(DataError, match=r"rows\.json"):
        rows_of(run, {}).encoded(tokenizer, ALPACA_ZH)


def test_a_file_that_is_new_beside_them_is_refused_too(place, tokenizer):
    run, _ = a_run(place, "--validation_split_percentage", "20", "--do_eval")
    tiny.write_rows(place / "data" / "more.json", tiny.rows(2))
    with pytest.raises(DataError, match=r"more\.json"):
        rows_of(run, {}).encoded(tokenizer, ALPACA_ZH)


def test_a_validation_file_that_has_changed_is_said(place, tokenizer, caplog):
    run, _ = a_run(place, "--validation_file", "valid.json", "--do_eval")
    rows_of(run, {}).encoded(tokenizer, ALPACA_ZH)
    assert "changed" not in caplog.text
    tiny.write_rows(place / "valid.json", tiny.rows(2))
    assert len(rows_of(run, {}).encoded(tokenizer, ALPACA_ZH)) == 2
    assert "changed" in caplog.text


def test_rows_that_are_gone_are_named_with_the_run(place):
    run, _ = a_run(place, "--validation_file", "valid.json", "--do_eval")
    (place / "valid.json").unlink()
    with pytest.raises(DataError, match=r"run.*--validation_file.*valid\.json"):
        rows_of(run, {})


def test_rows_that_are_named_are_cut_as_those_of_the_run_and_not_read_by_its_columns(place, tokenizer):
    run, _ = a_run(
        place, "--validation_split_percentage", "20", "--do_eval", "--max_rows", "3", "--max_seq_length", "130"
    )
    rows = rows_of(run, {"validation_file": "valid.json"})
    assert (rows.settings.data.max_rows, rows.settings.data.max_seq_length) == (None, 130)
    found = rows.encoded(tokenizer, ALPACA_ZH)
    assert len(found) == 4
    assert np.max(found.lengths()) <= 130


def test_no_run_and_no_file_are_no_rows():
    assert rows_of(None, {}) is None
    assert rows_of(None, {"max_rows": 3}) is None
