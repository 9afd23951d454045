"""benchmarks/balance.py, run as a command and by its parts."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.command import run
from tests.tiny import rows, tiny_json_tokenizer, write_rows
from yangtuo.data.examples import Examples
from yangtuo.engine.planning import MicroBatch, StepPlan, StepShape
from yangtuo.engine.steps import Execution, Planner

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "balance.py"


def load():
    """benchmarks/ is no package: its file is run, and imported only here."""
    spec = importlib.util.spec_from_file_location("balance", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


balance = load()


def examples_of(*ids):
    return Examples.of_rows(ids, [np.ones(len(row)) for row in ids])


def one_start(*lengths):
    """Rows of these lengths that share their first token alone."""
    return examples_of(*([1, *range(1000 * i + 2, 1000 * i + length + 1)] for i, length in enumerate(lengths)))


def test_the_command_on_a_few_rows(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out.json"
    data.mkdir()
    write_rows(data / "rows.json", rows(24))
    command = [sys.executable, PROGRAM, "--dataset_dir", data, "--model", tiny_json_tokenizer(tmp_path / "tokenizer")]
    done = run([*command, "--ranks", "1,2,4", "--rows_per_step", "2,8", "--json", out])
    assert done.code == 0, done.err
    record = json.loads(out.read_text(encoding="utf-8"))
    assert [(point["rows_per_step"], point["ranks"]) for point in record["points"]] == [
        *((2, 1), (2, 2)),  # 2 rows are too few for 4 ranks
        *((8, 1), (8, 2), (8, 4)),
    ]
    alone, *_, eight_of_four = record["points"]
    assert alone["planned"] == alone["in_turn"] == [0.0, 0.0]
    assert eight_of_four["planned"][0] < eight_of_four["in_turn"][0]
    assert all(point["num_steps"] * point["rows_per_step"] >= 8 * 2 for point in record["points"])
    assert (record["settings"]["rows"], record["settings"]["tokenizer"]) == (24, "tokenizer")
    assert str(tmp_path) not in json.dumps(record)
    assert len([line for line in done.out.splitlines() if "|" in line]) == 2 + len(record["points"])
    assert "taken up to 3 times" in done.out


def test_characters_where_there_is_no_tokenizer(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert balance.main(["--ranks", "8", "--rows_per_step", "64"]) == 0
    captured = capsys.readouterr()
    assert "a character counts as a token" in captured.err
    assert "target, at most 3% at 8 ranks for steps of 64 rows or more: " in captured.out


@pytest.mark.parametrize(
    "words",
    [
        ["--ranks", "0"],
        ["--ranks", "2,x"],
        ["--nonsense"],
        ["--ranks", "16", "--rows_per_step", "8"],
        ["--model", "no/such/folder"],
        ["--json", "no/such/folder/out.json"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_code_2(words, capsys):
    assert balance.main(words) == 2
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


def test_a_prefix_that_is_shared_counts_once():
    examples = examples_of([1, 2, 3], [1, 2, 4, 5], [9])
    assert balance.num_cells(examples, np.array([0, 1, 2])) == 3 + 2 + 1
    assert balance.num_cells(examples, np.array([0, 0])) == 3


def test_a_weightless_micro_batch_is_a_load_and_not_in_the_mean():
    examples = one_start(10, 20, 30)
    own, idle = (MicroBatch(np.array([row]), np.array([weight])) for row, weight in ((2, 1.0), (0, 0.0)))
    plan = StepPlan(np.arange(3), 1.0, [[own, MicroBatch(np.array([1]), np.ones(1))], [own, idle]])
    cells, mean = balance.loads(examples, plan)
    assert cells.tolist() == [[30, 20], [30, 10]]
    assert mean == (30 + 20 + 30) / 2


def test_copies_share_what_all_rows_share_and_no_more():
    examples = examples_of([7, 7, 1, 2, 3], [7, 7, 1, 2, 4], [7, 7, 5])
    copied = balance.repeated(examples, 3)
    assert copied.lengths().tolist() == 3 * examples.lengths().tolist()
    assert Planner(copied).common == 2
    assert balance.num_cells(copied, np.arange(9)) == 2 + 3 * (balance.num_cells(examples, np.arange(3)) - 2)


@pytest.mark.parametrize(("lengths", "largest"), [((40, 30, 20, 11), 1 + 39 + 10), ((90, 6, 6, 6), 90)])
def test_imbalance_by_hand(lengths, largest):
    examples = one_start(*lengths)
    point = balance.measure(Planner(examples), 1, StepShape(1, 2, 2), Execution(True, 10**6), seed=1)
    mean = (sum(length - 1 for length in lengths) + 2) / 2  # each rank has the token that all rows share
    assert point.planned == point.lockstep == 2 * (pytest.approx(largest / mean - 1),)
    assert point.longest_row[0] == pytest.approx(max(0.0, max(lengths) / mean - 1))
    assert point.in_turn[0] >= point.planned[0]
    assert (point.num_steps, point.ranks, point.rows_per_step) == (1, 2, 4)


def test_ranks_that_meet_in_every_micro_batch_wait_more():
    examples = one_start(*np.random.default_rng(1).integers(20, 200, 64))
    point = balance.measure(Planner(examples), 1, StepShape(1, 8, 8), Execution(True, 250), seed=1)
    assert point.lockstep[0] > point.planned[0]


def test_the_verdict_names_what_misses():
    def point(rows_per_step, mean, ranks=8):
        return balance.Point(ranks, rows_per_step, 8, 1, (mean, 1.0), (0, 0), (0, 0), (0, 0), 1.0)

    hit, small, other = point(64, 0.03), point(32, 0.5), point(64, 0.5, ranks=16)
    assert balance.verdict([hit, small, other])[0].endswith("rows or more: hit")
    assert balance.verdict([hit, point(128, 0.04)])[0].endswith("missed at 128 rows: 4.0%")
    assert balance.verdict([other]) == []
