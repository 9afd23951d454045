import json
import math

import pytest

from yangtuo.engine.step_log import StepLog

STEPS = [
    {"step": 1, "loss": 3.0000000000000004},
    {"step": 2, "loss": 2.5},
    {"step": 2, "eval_loss": 2.0},
    {"step": 3, "loss": 2.25},
    {"step": 4, "loss": 2.0},
    {"step": 4, "eval_loss": 1.5},
]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "log.jsonl"
    step_log = StepLog(path)
    for entry in STEPS:
        step_log.write(entry)
    return path


def entries(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def best_of(step_log):
    return min((e["eval_loss"] for e in step_log.entries if e.get("eval_loss") is not None), default=math.inf)


def test_one_line_an_entry_with_floats_in_full(path):
    assert path.read_text().splitlines()[0] == '{"step": 1, "loss": 3.0000000000000004}'
    assert entries(path) == STEPS


def test_a_fresh_run_begins_an_empty_log(path):
    assert best_of(StepLog(path)) == math.inf
    assert path.read_text() == ""


@pytest.mark.parametrize(
    ("last_step", "num_kept", "best"), [(1, 1, math.inf), (2, 3, 2.0), (3, 4, 2.0), (4, 6, 1.5), (9, 6, 1.5)]
)
def test_a_resumed_run_cuts_the_log_back_to_its_checkpoint(path, last_step, num_kept, best):
    step_log = StepLog(path, last_step=last_step)
    assert entries(path) == STEPS[:num_kept]
    assert best_of(step_log) == best
    step_log.write({"step": last_step + 1, "loss": 1.0})
    assert entries(path) == [*STEPS[:num_kept], {"step": last_step + 1, "loss": 1.0}]
    assert [file.name for file in path.parent.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize(
    ("num_evaluations", "kept", "best"),
    [(0, [0, 1, 3, 4], math.inf), (1, [0, 1, 2, 3, 4], 2.0), (2, [0, 1, 2, 3, 4, 5], 1.5)],
)
def test_an_evaluation_that_came_after_the_checkpoint_is_made_again(path, num_evaluations, kept, best):
    step_log = StepLog(path, last_step=4, num_evaluations=num_evaluations)
    assert entries(path) == [STEPS[i] for i in kept]
    assert best_of(step_log) == best


def test_samples_go_with_the_evaluation_that_they_stand_behind(tmp_path):
    start, first, second = ({"step": step, "samples": [{"prompt": "?"}]} for step in (0, 2, 4))
    log = StepLog(tmp_path / "log.jsonl")
    for entry in (start, *STEPS[:3], first, *STEPS[3:], second):
        log.write(entry)
    kept = StepLog(tmp_path / "log.jsonl", last_step=4, num_evaluations=1)
    assert kept.samples == [start, first]
    assert entries(tmp_path / "log.jsonl") == [start, *STEPS[:3], first, *STEPS[3:5]]
    assert StepLog(tmp_path / "log.jsonl", last_step=1, num_evaluations=0).samples == [start]


def test_the_losses_of_the_steps_before(path):
    assert StepLog(path, last_step=3, writes=False).losses == [3.0000000000000004, 2.5, 2.25]
    assert StepLog(path).losses == []


def test_a_line_that_was_being_written_is_no_line(path):
    path.write_text(path.read_text()[:-9])
    step_log = StepLog(path, last_step=4)
    assert best_of(step_log) == 2.0
    step_log.write({"step": 5, "loss": 1.0})
    assert entries(path) == [*STEPS[:5], {"step": 5, "loss": 1.0}]


def test_other_ranks_read_and_never_write(path):
    before = path.read_bytes()
    step_log = StepLog(path, last_step=2, writes=False)
    step_log.write({"step": 3, "loss": 0.0})
    assert path.read_bytes() == before
    assert best_of(step_log) == 2.0


def test_no_log_yet(tmp_path):
    assert best_of(StepLog(tmp_path / "log.jsonl", last_step=3)) == math.inf
    assert entries(tmp_path / "log.jsonl") == []


def test_numbers_that_json_does_not_have(tmp_path):
    step_log = StepLog(tmp_path / "log.jsonl")
    step_log.write({"step": 1, "eval_loss": float("nan"), "perplexity": float("inf")})
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "eval_loss": null, "perplexity": null}\n'
    assert best_of(StepLog(tmp_path / "log.jsonl", last_step=1)) == float("inf")
