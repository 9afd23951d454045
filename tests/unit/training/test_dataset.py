"""What is said of the rows that are trained and evaluated on."""

import logging
from types import SimpleNamespace

import pytest

from yangtuo.training import dataset


@pytest.mark.parametrize(("left_out", "num_lines"), [(0, 3), (6, 2)])
def test_repeats_are_told_below_the_training_rows_which_they_are(monkeypatch, caplog, left_out, num_lines):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(dataset, "summary", lambda name, report: [f"{name}: {report['n']} rows"])
    audits = {"train": {"n": 9, "repeated_rows": 6, "repeated_rows_left_out": left_out}, "validation": {"n": 4}}
    dataset.log_summary(SimpleNamespace(audits=audits, mix=None))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == num_lines
    assert lines[0] == "data, train: 9 rows"
    assert lines[-1] == "data, validation: 4 rows"
    assert all("6 rows are equal" in line for line in lines[1:-1])
