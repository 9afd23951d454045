"""A run that was killed goes on bit for bit; with another engine, or another number of processes, within rounding."""

import json
import os
import pty
import select
import shutil
import signal
import sys

import pytest

from tests.command import Started, log_of, yangtuo
from tests.distributed.launch import (
    LAUNCHED,
    RUN,
    Running,
    assert_bit_identical,
    assert_same,
    command,
    curve,
    train,
    wait_for,
)

FULL = "embed_tokens,lm_head"


@pytest.mark.parametrize(
    ("name", "modules_to_save"), [("ddp", FULL), ("zero2", None), ("zero2", FULL), ("zero3", FULL), ("fsdp2", FULL)]
)
def test_a_killed_process_and_the_same_command(name, modules_to_save, engines, inputs, tmp_path, whole):
    """SIGKILL for one rank at step 5, two after its checkpoint; with dropout, and another seed as the page has it."""
    options = {"lora_dropout": 0.1, "modules_to_save": modules_to_save}
    died = train(inputs, tmp_path / "out", engines[name], seed=7, expect=137, env={"KILL_AT": "1:5"}, **options)
    assert "rror" not in died.said  # the other rank says nothing: it only lost its peer
    assert len(log_of(tmp_path / "out")) in (4, 5)
    assert not (tmp_path / "out" / "sft_lora_model").exists()
    again = train(inputs, tmp_path / "out", engines[name], seed=8, **options)
    assert "resuming from" in again.said
    assert "seed: 7, of the run that goes on, instead of 8" in again.said
    assert_bit_identical(tmp_path / "out", whole(name, seed=7, **options))


@pytest.mark.parametrize("name", ["ddp", "zero2", "zero3", "fsdp2"])
def test_a_run_that_was_killed_after_its_last_checkpoint_has_only_to_end(name, engines, inputs, tmp_path, whole):
    """As it is before the adapter is saved; step 8 is in the middle of an epoch."""
    out, options = tmp_path / "out", {"lora_dropout": 0.1, "modules_to_save": FULL, "seed": 7}
    shutil.copytree(whole(name, **options), out)
    shutil.rmtree(out / "sft_lora_model")
    (out / "proof.json").unlink()
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**run, "state": "running"}))
    again = train(inputs, out, engines[name], **options)
    assert "resuming from" in again.said
    assert not [line for line in again.said.splitlines() if line.startswith("step ")]
    assert_bit_identical(out, whole(name, **options))
    assert json.loads((out / "proof.json").read_text())["passed"]
    results = [json.loads((place / "train_results.json").read_text()) for place in (out, whole(name, **options))]
    assert (
        results[0]["train_loss"]
        == results[1]["train_loss"]
        == pytest.approx(sum(entry["loss"] for entry in log_of(out)) / 8)
    )


def test_a_resumed_run_without_its_optimizer_would_differ(engines, inputs, tmp_path, whole):
    """The negative control: the same, but the moments are lost."""
    from safetensors.torch import load_file, save_file

    train(inputs, tmp_path / "out", engines["ddp"], expect=137, env={"KILL_AT": "1:5"})
    file = tmp_path / "out" / "checkpoint-3" / "optimizer.safetensors"
    save_file({name: value * 0 for name, value in load_file(file).items()}, file)
    train(inputs, tmp_path / "out", engines["ddp"])
    with pytest.raises(AssertionError):
        assert_bit_identical(tmp_path / "out", whole("ddp"))


def test_one_run_through_every_engine(engines, inputs, tmp_path):
    """Two steps each: one process, ZeRO-3, FSDP2, DDP, ZeRO-2; the result is that of one process."""
    out, options = tmp_path / "out", {"save_steps": 2, "modules_to_save": FULL, "max_steps": 8}
    whole = yangtuo(
        "train", *inputs.options(tmp_path / "whole", **{**RUN, **options, "per_device_train_batch_size": 8})
    )
    assert whole.code == 0, whole.said
    for step, name in ((2, "zero3"), (4, "fsdp2"), (6, "ddp")):
        train(inputs, out, engines[name], expect=137, env={"KILL_AT": f"0:{step + 1}"}, **options)
        assert len(log_of(out)) in (step, step + 1)
    last = train(inputs, out, engines["zero2"], **options)
    assert "this run goes on with DEEPSPEED on 2 processes, before it was MULTI_CPU on 2" in last.said
    assert_same(out, tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])  # SIGHUP: with the terminal that sends it, below
def test_a_signal_saves_stops_and_the_same_command_goes_on(number, engines, inputs, tmp_path, whole):
    """For the launcher, with two processes; its processes get the signal from it, and SIGINT from the terminal too."""
    out, options = tmp_path / "out", {"save_steps": 100}
    with Running(command(inputs, out, **options), env={"STEP_SECONDS": "0.4"}) as running:
        wait_for(lambda: (out / "log.jsonl").exists() and len(log_of(out)) >= 2)
        running.process.send_signal(number)
        done = running.end()
    assert done.code == 128 + number, done.said
    assert "Traceback" not in done.said
    steps = len(log_of(out))
    assert steps < 8
    assert f"stopped by {number.name} after step {steps} of 8, with a checkpoint" in done.said
    assert done.said.count("stopped by") == 1
    assert [path.name for path in out.glob("checkpoint-*")] == [f"checkpoint-{steps}"]
    train(inputs, out, engines["ddp"], **options)
    assert_bit_identical(out, whole("ddp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_process(number, inputs, tmp_path):
    out = tmp_path / "out"
    words = [sys.executable, LAUNCHED, *inputs.options(out, **{**RUN, "per_device_train_batch_size": 8})]
    with Running(words, env={"STEP_SECONDS": "0.4"}) as running:
        wait_for(lambda: (out / "log.jsonl").exists() and len(log_of(out)) >= 4)
        running.process.send_signal(number)
        done = running.end()
    assert done.code == 128 + number, done.said
    assert f"stopped by {number.name} after step" in done.said
    assert (out / f"checkpoint-{len(log_of(out))}" / "complete.json").exists()


@pytest.mark.parametrize("is_launched", [False, True])
def test_a_terminal_that_is_gone_stops_and_saves(is_launched, inputs, tmp_path):
    """Nothing that is written to it then ends the save."""
    out = tmp_path / "out"
    options = {"save_steps": 100, "logging_steps": 1}
    alone = [sys.executable, LAUNCHED, *inputs.options(out, **{**RUN, **options, "per_device_train_batch_size": 8})]
    master, terminal = pty.openpty()
    words = command(inputs, out, **options)[1:] if is_launched else alone[1:]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), os.ttyname(terminal))
    process = Started(words, env={"OMP_NUM_THREADS": "1", "STEP_SECONDS": "0.4"}, **streams)
    os.close(terminal)
    try:
        wait_for(lambda: read_all(master) and (out / "log.jsonl").exists() and len(log_of(out)) >= 2)
        os.close(master)
        assert process.wait(timeout=120) == 128 + signal.SIGHUP
    finally:
        process.kill()
    steps = len(log_of(out))
    assert steps < 8
    assert (out / f"checkpoint-{steps}" / "complete.json").exists()


def read_all(master) -> bool:
    """Take what was written, so that the writer never waits."""
    while select.select([master], [], [], 0)[0]:
        os.read(master, 65536)
    return True


@pytest.mark.parametrize("is_launched", [False, True])
def test_under_nohup_a_run_outlives_its_terminal(is_launched, inputs, tmp_path):
    out = tmp_path / "out"
    alone = [sys.executable, LAUNCHED, *inputs.options(out, **{**RUN, "per_device_train_batch_size": 8})]
    words = command(inputs, out) if is_launched else alone
    with Running(words, env={"STEP_SECONDS": "0.4"}, ignores=[signal.SIGHUP]) as running:  # what nohup does
        wait_for(lambda: (out / "log.jsonl").exists() and len(log_of(out)) >= 2)
        running.process.send_signal(signal.SIGHUP)
        done = running.end()
    assert done.code == 0, done.said
    assert len(log_of(out)) == 8


def test_restarts_resume_by_themselves(engines, inputs, tmp_path, whole):
    """torchrun --max_restarts, as run_sft.sh sets it up: one rank is killed in the first attempt."""
    launcher = ("--standalone", "--max_restarts", "2")
    done = train(inputs, tmp_path / "out", engines["ddp"], env={"KILL_AT": "1:5", "ATTEMPT": "0"}, launcher=launcher)
    assert "resuming from" in done.said
    assert_bit_identical(tmp_path / "out", whole("ddp"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.02}, "learning_rate: 0.01 there, 0.02 here"),
        ({"max_seq_length": 200}, "max_seq_length: 384 there, 200 here"),
        ({"rows": 4}, "rows_per_step: 8 there, 4 here"),
    ],
)
def test_another_recipe_is_refused_on_all_ranks_and_said_once(changes, named, engines, inputs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    if not (inputs.data.parent / "started").exists():
        train(inputs, inputs.data.parent / "started", engines["ddp"], expect=137, env={"KILL_AT": "0:4"})
    shutil.copytree(inputs.data.parent / "started", out, dirs_exist_ok=True)
    before = curve(out)
    done = train(inputs, out, engines["ddp"], expect=2, **changes)
    assert done.said.count(named) == 1
    assert done.said.count("error") == 1
    assert curve(out) == before
    assert json.loads((out / "run.json").read_text())["state"] == "running"
