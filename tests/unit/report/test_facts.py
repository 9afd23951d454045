"""A run's folder as values: whole, half written, of an earlier version, and none at all."""

import json
import math

import pytest

from tests import run_folders
from tests.run_folders import audit, proof, record, results, steps, write_run
from yangtuo.errors import UsageError
from yangtuo.report import facts
from yangtuo.report.evaluation import FILE as EVALUATION_FILE
from yangtuo.report.facts import read_run
from yangtuo.report.json_reading import State, number, read_lines
from yangtuo.report.run_log import log_of
from yangtuo.report.verdict import Level, checks_of, verdict_of


def missing(run):
    return {one.name: one.state for one in run.missing}


def test_a_whole_folder(tmp_path):
    run = read_run(write_run(tmp_path / "out", evaluated=results()))
    assert (run.name, run.state, run.seconds, run.planned_seconds, run.max_steps) == ("out", "finished", 95, 25, 60)
    assert run.command == "yangtuo train 'run file.yaml' --learning_rate 1e-4"
    assert {one.name: (one.value, one.origin) for one in run.options}["max_steps"] == (60, "configuration file")
    assert [note.text for note in run.notes] == list(run_folders.NOTES)
    assert [note.text_zh for note in run.notes] == list(run_folders.NOTES_ZH)
    assert missing(run) == {}
    log = run.log
    assert (log.num_steps, log.last_step, log.step_seconds, log.num_tokens) == (60, 60, 30.0, 60 * 512)
    assert log.peak_bytes == 2 * 2**30 + 60
    assert log.curves["learning_rate"].y[0] == 1e-4 * (1 - 1 / 61)
    assert log.curves["eval_loss"].x == (10, 20, 30, 40, 50, 60)
    assert [(event.step, event.name) for event in log.events] == [(7, "loss_spike")]
    assert [(one.step, one.samples[0].answer) for one in log.samples] == [(0, "The wall"), (60, "长城很长。")]
    (train,) = run.audits
    assert train.histogram == ((0, 49, 49), (50, 99, 51))
    assert train.counts["prompts_shortened"] == 2
    assert train.dropped == {"longer than --max_seq_length": 3}
    assert (train.files[0].path, train.files[0].num_cut) == ("data/a.json", 2)
    assert run.memory.total == run.memory.comparable == 2**31
    assert run.evaluation.models == ("base", "tuned")
    loss, ability = run.evaluation.measures
    assert (loss.is_better, ability.is_better) == (True, None)


def test_the_names_are_those_under_which_training_writes():
    from yangtuo.training import dataset, run_folder, verify

    assert facts.RUN_FILE == run_folder.RUN_FILE
    assert facts.AUDIT_FILE == dataset.AUDIT_FILE
    assert facts.PROOF_FILE == verify.PROOF_FILE


def test_the_plan_is_read_as_it_is_worded(tmp_path):
    from yangtuo.engine import planning

    lines = planning.describe(planning.StepShape(8, 1, 1), 40_000, 3, -1, drop_last=False)
    run = record(plan=lines, arguments={"max_steps": {"value": -1, "from": "default"}})
    assert read_run(write_run(tmp_path / "out", run=run)).max_steps == 15_000


@pytest.mark.parametrize("given", [("--hub_token", "hf_x"), ("--hub-token=hf_x",), ("--push_to_hub_token", "hf_x")])
def test_a_key_is_not_shown(given, tmp_path):
    run = record(command=["/site/yangtuo/__main__.py", "train", *given, "--max_steps", "3"])
    command = read_run(write_run(tmp_path / "out", run=run)).command
    assert "hf_x" not in command
    assert "(not written)" in command
    assert command.replace("'", "").startswith("yangtuo train --")
    assert command.endswith(" --max_steps 3")


def test_on_a_gpu_the_peak_is_compared_with_tensors_alone(tmp_path):
    plan = record()["memory_plan"] | {"machine": {"kind": "cuda"}}
    run = read_run(write_run(tmp_path / "out", run=record(memory_plan=plan)))
    assert run.memory.comparable == 2**31 - 2**30 - 2**29


@pytest.mark.parametrize(
    ("changes", "text", "level"),
    [
        ({}, "proven", Level.GOOD),
        ({"evaluated": results("better")}, "better", Level.GOOD),
        ({"evaluated": results("no_difference")}, "no_difference", Level.NOTE),
        ({"evaluated": results("broken")}, "broken", Level.BAD),
        ({"evaluated": results(verdict=None)}, "proven", Level.GOOD),
        ({"proven": proof(passed=False, problems=["bad"])}, "proof_failed", Level.BAD),
        ({"proven": proof(passed=False), "run": record(state="running")}, "proof_failed", Level.BAD),
        ({"proven": False}, "no_proof", Level.NOTE),
        ({"run": record(state="running"), "proven": False}, "unfinished_of", Level.NOTE),
        ({"run": False, "proven": False}, "unfinished", Level.NOTE),
        (
            {"run": record(arguments={"do_train": {"value": False}, "do_eval": {"value": True}}), "proven": False},
            "evaluated",
            Level.NOTE,
        ),
    ],
)
def test_verdicts(changes, text, level, tmp_path):
    verdict = verdict_of(read_run(write_run(tmp_path / "out", **changes)))
    assert (verdict.text, verdict.level) == (f"verdict.{text}", level)


def test_a_proof_of_before_an_extension_is_not_that_of_the_run_that_goes_on(tmp_path):
    run = read_run(write_run(tmp_path / "out", run=record(state="running"), log=steps(70)))
    assert run.proof is None
    assert verdict_of(run).values == {"step": 70, "steps": 60}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"num_tensors": 3, "changes": {"num_tensors": 28, "num_changed": 27}}, ["proof.changed"]),
        ({"reload": {"num_rows": 1, "in_memory": 1.0, "reloaded": 1.1, "limit": 0.01}}, ["proof.reloaded"]),
        ({"reload": {"num_rows": 1, "in_memory": 1.0, "reloaded": math.nan, "limit": 0.01}}, ["proof.reloaded"]),
        ({"gain": {"at_start": 1.0, "num_steps": 60}}, ["proof.fell"]),
    ],
)
def test_each_part_of_the_proof(changes, wrong, tmp_path):
    run = read_run(write_run(tmp_path / "out", proven=proof(**changes)))
    assert [one.text for one in checks_of(run) if one.passed is False] == wrong


def test_a_log_that_was_being_written(tmp_path):
    folder = write_run(tmp_path / "out", run=record(state="running"), proven=False)
    text = (folder / "log.jsonl").read_text(encoding="utf-8")
    (folder / "log.jsonl").write_text(text[: text.index('"step": 31,') + 30], encoding="utf-8")
    run = read_run(folder)
    assert run.log.last_step == 30
    assert missing(run) == {"log.jsonl": State.CUT}
    assert run.planned_seconds_of_steps == 12.5  # of 25 for 60 steps
    assert verdict_of(run).values == {"step": 30, "steps": 60}


@pytest.mark.parametrize("name", ["run.json", "proof.json", "data_audit.json", "log.jsonl", EVALUATION_FILE.as_posix()])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b'{"a": ' * 5000,
        b'{"state": 3, "arguments": [1], "versions": {"a": 1}}',
    ],
    ids=["empty", "cut", "list", "null", "bytes", "deep", "other"],
)
def test_any_file_may_be_broken(name, content, tmp_path):
    folder = write_run(tmp_path / "out", evaluated=results())
    (folder / name).write_bytes(content)
    run = read_run(folder)
    is_readable = content.startswith(b'{"state') or (name == "log.jsonl" and not content)
    assert (name in missing(run)) == (not is_readable)


@pytest.mark.parametrize("name", ["run.json", "proof.json", "data_audit.json", "log.jsonl"])
def test_any_file_may_be_absent(name, tmp_path):
    folder = write_run(tmp_path / "out")
    (folder / name).unlink()
    assert missing(read_run(folder)) == {name: State.ABSENT}


def test_of_an_earlier_version(tmp_path):
    """No origins, no memory plan, no monitor, `meaning` in place of `recipe`."""
    run = {"yangtuo": "0.0.9", "state": "finished", "meaning": {"max_steps": 60}, "arguments": {"lora_rank": 8}}
    found = read_run(write_run(tmp_path / "out", run=run))
    assert [(one.name, one.value, one.origin) for one in found.options] == [("lora_rank", 8, "")]
    assert (found.command, found.memory, found.seed, found.planned_seconds) == ("", None, None, None)
    assert verdict_of(found).text == "verdict.proven"


def test_numbers_that_are_none_are_gaps(tmp_path):
    entries = [
        {"step": 1, "loss": None},
        {"step": 2, "loss": math.nan},
        {"step": 3, "loss": 1.0, "grad_norm": math.inf},
    ]
    log = read_run(write_run(tmp_path / "out", log=entries)).log
    assert log.curves["loss"].y == (None, None, 1.0)
    assert log.curves["grad_norm"].y == (None,)
    assert [number(one) for one in (True, "1", 10**400, 2)] == [None, None, None, 2.0]


def test_of_a_step_that_is_there_twice_the_later_line_counts():
    log = log_of([{"step": 2, "loss": 5.0}, {"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0}, {"loss": 9.0}])
    assert (log.curves["loss"].x, log.curves["loss"].y) == ((1, 2), (4.0, 3.0))


def test_lines_in_the_middle_that_are_none(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\noops\n3\n{"step": 2}\n')
    entries, state = read_lines(path)
    assert ([one["step"] for one in entries], state) == ([1, 2], State.BROKEN)


def test_what_is_no_run_is_refused(tmp_path):
    write_run(tmp_path / "out")
    (tmp_path / "out" / "sft_lora_model").mkdir()
    for name, told in (
        ("gone", "no such folder"),
        (".", "no folder of a run"),
        ("out/run.json", "a file; give the --output_dir"),
        ("out/sft_lora_model", f"{tmp_path / 'out'} is one"),
    ):
        with pytest.raises(UsageError, match=r"give the --output_dir of a run") as error:
            read_run(tmp_path / name)
        assert told in str(error.value)


def test_the_audit_of_training_is_read_as_it_is_written(tmp_path):
    """The names of counts are those of `data.audit`; each that is shown has its text."""
    from yangtuo.data.audit import OUTCOMES
    from yangtuo.report import texts

    assert [name for name in OUTCOMES.values() if not texts.has(f"count.{name}")] == []
    folder = write_run(tmp_path / "out", data={**audit(), "validation": 3})
    assert [one.name for one in read_run(folder).audits] == ["train"]
    assert json.loads((folder / "data_audit.json").read_text())["validation"] == 3
