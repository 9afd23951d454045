"""The table of an evaluation: its figures are whole in a window of any width."""

import pytest

from yangtuo.cli.eval_screen import show
from yangtuo.evaluation import measures
from yangtuo.evaluation.results import Evaluation, verdict_of


@pytest.mark.parametrize("columns", ["20", "80", "200"])
def test_no_figure_is_cut(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    names = ["base", "一个名字很长的模型", "another-model-with-a-long-name"]
    values = {name: [1.25 + i, 1.5 + i, 1.125 + i] for i, name in enumerate(names)}
    weights = {name: [1.0, 1.0, 1.0] for name in names}
    found = [measures.of_ratios("own/loss", "nats/token", values, weights, "lower")]
    verdict = verdict_of(found, names)
    show(Evaluation([{"name": name} for name in names], "alpaca_zh", [], found, verdict, {}, [], {}))
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("own/loss"))
    assert line.split()[1:5] == ["1.2917", "2.2917", "3.2917", "+2.0000"]
    assert all(name in said for name in names)
    assert "…" not in said
    assert "verdict: " in said
