"""Whose README.md it is, and which evaluation belongs to the weights."""

import json
import os
from types import SimpleNamespace

import pytest

from yangtuo.model.model_card import MARK
from yangtuo.training import adapter_card


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a card over what lies there; returns what lies there then."""
    monkeypatch.setattr(adapter_card, "_facts", lambda *given: None)
    monkeypatch.setattr(adapter_card.model_card, "markdown", lambda facts: f"{MARK}\nnew\n")

    def call(before, *, writes=True):
        (tmp_path / "README.md").write_text(before)
        adapter_card.write(SimpleNamespace(), SimpleNamespace(), SimpleNamespace(), {}, tmp_path, writes=writes)
        return (tmp_path / "README.md").read_text()

    return call


def test_one_of_ours_or_of_peft_is_written_anew(write):
    for before in (f"{MARK}\nold\n", "# Model Card for Model ID\n"):
        assert write(before) == f"{MARK}\nnew\n"


def test_one_of_the_user_stays_and_that_is_said(write, caplog):
    assert write("# My adapter\n") == "# My adapter\n"
    assert "README.md" in caplog.text


def test_only_processes_that_save_write(write):
    assert write(f"{MARK}\nold\n", writes=False) == f"{MARK}\nold\n"


def test_an_evaluation_is_of_the_weights_that_are_older_than_it(tmp_path):
    results, weights = tmp_path / "results.json", tmp_path / "weights"
    weights.touch()
    assert adapter_card.verdict_of(results, weights) is None
    results.write_text(json.dumps({"verdict": {"text": "Better."}}))
    os.utime(weights, (1, 1))
    assert adapter_card.verdict_of(results, weights) == "Better."
    os.utime(results, (0, 0))
    assert adapter_card.verdict_of(results, weights) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"verdict": null}', '{"verdict": {"outcome": "better"}}'])
def test_no_verdict_is_none(tmp_path, text):
    (tmp_path / "weights").touch()
    os.utime(tmp_path / "weights", (1, 1))
    (tmp_path / "results.json").write_text(text)
    assert adapter_card.verdict_of(tmp_path / "results.json", tmp_path / "weights") is None
