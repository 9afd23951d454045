"""What a run says while it goes on: early stopping, more steps after the end, faults of its course, what comes next."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from tests import tiny
from tests.command import evaluations_of, log_of

EVALUATE = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 8}


def events_of(out):
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "event" in entry]


@pytest.fixture
def others(tmp_path):
    """Rows of other letters, which the training rows soon make less likely."""
    rows = [{"instruction": row["instruction"], "input": "", "output": "XQ&% ZJ#@" * 4} for row in tiny.rows(29)[24:]]
    return tiny.write_rows(tmp_path / "others.json", rows)


def test_early_stopping_ends_the_run_and_the_same_command_finds_it_finished(train, inputs, others, tmp_path):
    options = {**EVALUATE, "validation_file": others, "early_stopping_patience": 2, "learning_rate": 0.03}
    said = train(**options)
    out = tmp_path / "out"
    losses = [entry["eval_loss"] for entry in evaluations_of(out)]
    end = len(log_of(out))
    assert end < EVALUATE["max_steps"]
    assert min(losses[:-2]) <= min(losses[-2:])  # the last two gained nothing
    (event,) = [entry for entry in events_of(out) if entry["event"] == "early_stop"]
    assert event["step"] == end
    assert f"early stopping after step {end} of 8: 2 evaluations in a row" in said
    assert (out / "best" / "adapter_model.safetensors").is_file()
    assert (out / "sft_lora_model" / "adapter_model.safetensors").is_file()
    assert "holds this very run, finished" in train(**options)
    assert "another recipe" in train(**{**options, "early_stopping_patience": 3}, expect=2)


def test_a_run_that_was_stopped_early_and_lost_its_end_stops_at_once(train, others, tmp_path):
    """As if it had been killed between its last checkpoint and its adapter."""
    options = {**EVALUATE, "validation_file": others, "early_stopping_patience": 2, "learning_rate": 0.03}
    train(**options)
    out = tmp_path / "out"
    before = log_of(out)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"state": "running"}))
    said = train(**options)
    assert "resuming from" in said
    assert [entry["loss"] for entry in log_of(out)] == [entry["loss"] for entry in before]


def test_all_steps_are_made_where_each_evaluation_gains(train, inputs, tmp_path):
    train(**EVALUATE, validation_file=inputs.validation, early_stopping_patience=1, learning_rate=1e-3)
    assert len(log_of(tmp_path / "out")) == EVALUATE["max_steps"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"early_stopping_patience": 2}, "--early_stopping_patience needs evaluations"),
        ({**EVALUATE, "early_stopping_patience": 0}, "--early_stopping_patience 0: at least 1"),
        ({**EVALUATE, "early_stopping_threshold": 0.1}, "only with --early_stopping_patience"),
        ({**EVALUATE, "early_stopping_patience": 1, "early_stopping_threshold": -1}, "threshold -1: at least 0"),
    ],
)
def test_what_early_stopping_needs(changes, text, train):
    assert text in train(**changes, expect=2)


def test_an_extended_run_has_the_schedule_of_the_longer_one(train, tmp_path):
    """From the checkpoint on, learning rates are those of a run that was as long from its beginning."""
    options = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "cosine", "warmup_steps": 1}
    train(tmp_path / "long", **options, max_steps=6)
    train(**options, max_steps=4)
    short = json.loads((tmp_path / "out" / "proof.json").read_text())
    said = train(**options, max_steps=6, expect=2)
    assert "or --extend to go on with more steps" in said
    said = train(**options, max_steps=6, extend=True)
    long, extended = (log_of(tmp_path / name) for name in ("long", "out"))
    rate = f"{long[4]['learning_rate']:.3g}"
    assert f"schedule: that of the longer run from here on: learning rate {rate} at step 5, where the shorter" in said
    rates = [[entry["learning_rate"] for entry in log] for log in (long, extended)]
    assert rates[0][4:] == pytest.approx(rates[1][4:])
    assert rates[0][:4] != pytest.approx(rates[1][:4])  # those were of the shorter run
    assert [entry["step"] for entry in extended] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "out" / "sft_lora_model.step-4" / "adapter_model.safetensors").is_file()
    proof = json.loads((tmp_path / "out" / "proof.json").read_text())
    assert proof["gain"]["at_start"] == short["gain"]["at_start"]  # of the same rows, before the very first step
    assert (short["gain"]["num_steps"], proof["gain"]["num_steps"]) == (4, 6)
    said = train(**options, max_steps=6, extend=True)
    assert "--extend has no effect: " in said
    assert "the run there has as many steps as are asked for" in said
    assert "holds this very run, finished" in said
    assert "has made 6 steps, and 5 are asked for" in train(**options, max_steps=5, extend=True, expect=2)


def test_extend_where_there_is_nothing_is_said(train):
    assert ": no checkpoint there to go on from" in train(max_steps=2, extend=True)


def test_a_run_without_a_checkpoint_cannot_be_extended(train):
    train(max_steps=2)
    assert "no complete checkpoint with its optimizer" in train(max_steps=4, extend=True, expect=2)


def test_a_run_that_stopped_early_is_extended_and_counts_anew(train, others, tmp_path):
    options = {**EVALUATE, "validation_file": others, "early_stopping_patience": 2, "learning_rate": 0.03}
    train(**options)
    out = tmp_path / "out"
    stopped = len(log_of(out))
    train(**{**options, "max_steps": 12}, extend=True)
    assert len(log_of(out)) >= stopped + 2
    (event,) = [entry for entry in events_of(out) if entry["event"] == "extended"]
    assert event["step"] == stopped


def test_parts_of_a_run_are_those_of_the_longer_one(train, inputs, tmp_path):
    options = {"validation_file": inputs.validation, "eval_strategy": "steps", "eval_steps": 0.5}
    options |= {"save_strategy": "steps", "save_steps": 0.5}
    train(**options, max_steps=4)
    train(**options, max_steps=12, extend=True)
    assert [entry["step"] for entry in evaluations_of(tmp_path / "out")] == [2, 4, 6, 12]


def test_the_final_metrics_are_those_of_the_checkpoint_that_is_put_back(train, inputs, tmp_path):
    """The best evaluation was at a step that was not saved."""
    options = {**EVALUATE, "save_steps": 2, "load_best_model_at_end": True, "do_train": True, "do_eval": True}
    stops = {"early_stopping_patience": 2, "early_stopping_threshold": 10}  # after step 3, whose loss is the lowest
    train(**options, **stops, validation_file=inputs.validation, learning_rate=1e-3)
    out = tmp_path / "out"
    losses = {entry["step"]: entry["eval_loss"] for entry in evaluations_of(out)}
    best = json.loads((out / "trainer_state.json").read_text())["best_model_checkpoint"]
    step = int(best.rpartition("-")[2])
    assert min(losses, key=losses.get) != step
    assert json.loads((out / "eval_results.json").read_text())["eval_loss"] == losses[step]


def test_a_patience_that_cannot_be_lost_is_said(train, inputs):
    options = {**EVALUATE, "eval_steps": 4, "save_steps": 4, "validation_file": inputs.validation}
    said = train(**options, early_stopping_patience=2)
    assert "--early_stopping_patience 2 has no effect: 8 steps have 2 evaluations" in said


def test_another_recipe_is_not_extended(train):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    train(**options)
    other = {**options, "max_steps": 4, "learning_rate": 0.02, "extend": True}
    assert "another recipe" in train(**other, expect=2)
    assert "another recipe" in train(**other, overwrite_output_dir=True, expect=2)  # to extend is not to begin anew


def test_over_fitting_is_said_once_in_the_log_the_notes_and_on_the_screen(train, others, tmp_path):
    whole = {"learning_rate": 0.02, "modules_to_save": "embed_tokens,lm_head", "max_steps": 12, "eval_steps": 2}
    said = train(**{**EVALUATE, **whole, "save_strategy": "no"}, validation_file=others)
    out = tmp_path / "out"
    (event,) = [entry for entry in events_of(out) if entry["event"] == "over_fitting"]
    assert said.count("over-fitting: the loss of the evaluation rises") == 1
    assert event["text"] in " ".join(json.loads((out / "run.json").read_text())["notes"])


def test_each_short_run_is_told_at_least_ten_times_and_its_memory_is_known(train, tmp_path):
    said = train(max_steps=8)
    assert [f"step {step}/8  loss" in said for step in range(1, 9)] == [True] * 8
    assert "time: about 0:0" in said
    assert " GiB (peak " in said
    entry = log_of(tmp_path / "out")[-1]
    assert 10**8 < entry["memory_bytes"] <= entry["peak_memory_bytes"]
    assert 0 <= entry["cpu_wait"] < 100
    said = train(tmp_path / "asked", max_steps=8, logging_steps=4, logging_first_step=False)
    assert [step for step in range(1, 9) if f"step {step}/8  loss" in said] == [4, 8]


def test_the_last_lines_are_commands_that_work(train, run, inputs, tmp_path):
    said = train(max_steps=2)
    commands = dict(line.split(": ", 1) for line in said.splitlines() if line.startswith("to "))
    serving = "to serve it (Ollama, vLLM, llama.cpp)"
    assert list(commands) == ["to ask it", "to measure it against its base", serving, "to merge it"]
    for place, command in commands.items():
        words = shlex.split(command)[1:]
        words = [str(tmp_path / word) if word in ("served", "merged") else word for word in words]
        more = ["--ask", "你好", "--max_new_tokens", "3"] if place == "to ask it" else []
        if words[0] == "eval":  # of a tiny base, whose knowledge is chance; its verdict is another test's
            more = ["--no_probe", "--validation_file", str(inputs.validation), "--num_answers", "0"]
        run(*words, *more)


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="this system tells nothing of waiting")
def test_waiting_for_a_processor_is_measured():
    """Beside two busy programs on one processor, a third of the time is waited for at least."""
    code = (
        "import os, subprocess, sys, time; from yangtuo.engine import flops; os.sched_setaffinity(0, {0})\n"
        "busy = [sys.executable, '-c', 'while True: pass']\n"
        "others = [subprocess.Popen(busy) for _ in range(2)]\n"
        "before, begin = flops._waited_for_processor(), time.monotonic()\n"
        "while time.monotonic() - begin < 1.5: pass\n"
        "print((flops._waited_for_processor() - before) / (time.monotonic() - begin))\n"
        "[other.kill() for other in others]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.33
