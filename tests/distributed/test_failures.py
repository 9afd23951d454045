"""What a user sees when something dies, hangs, or the disk is full; and that nothing that was whole is lost."""

import re
import shutil
import socket
import subprocess
import sys

import pytest

from tests.command import free_port, log_of
from tests.distributed.launch import (
    LAUNCHED,
    RUN,
    Running,
    adapter,
    assert_bit_identical,
    command,
    curve,
    train,
    wait_for,
)
from yangtuo.engine import checkpoint


def errors(said):
    return [line for line in said.splitlines() if "error" in line.lower()]


def test_the_rank_that_failed_speaks_first_and_alone(engines, inputs, tmp_path):
    """Rank 1 alone has an error, while rank 0 waits for it in a collective."""
    launcher = ("--standalone",)
    done = train(inputs, tmp_path / "out", engines["ddp"], expect=1, env={"FAIL_AT": "1:5"}, launcher=launcher)
    assert errors(done.said)[0].startswith("error [rank 1 on ")
    assert "step 5: the test's own failure" in errors(done.said)[0]
    assert len(errors(done.said)) == 1
    assert "Traceback" not in done.said
    assert "ChildFailedError" not in done.said


def test_a_process_that_is_killed_is_named_first_and_alone(engines, inputs, tmp_path):
    launcher = ("--standalone",)
    done = train(inputs, tmp_path / "out", engines["zero2"], expect=137, env={"KILL_AT": "1:5"}, launcher=launcher)
    assert errors(done.said)[0].startswith(
        f"error: the process of rank 1 on {socket.gethostname()} was ended by SIGKILL; if nobody killed it"
    )
    assert len(errors(done.said)) == 1
    assert "Traceback" not in done.said


def test_a_peer_that_is_gone_is_told_without_a_trace(engines, inputs, tmp_path):
    """As on another machine, whose launcher cannot end this process before it finds out by itself."""
    env = {"KILL_AT": "1:5", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = [
        *(sys.executable, LAUNCHED),
        *inputs.options(tmp_path / "out", **{**RUN, "per_device_train_batch_size": 4}),
    ]
    with Running(words, env={**env, "RANK": "0"}) as first, Running(words, env={**env, "RANK": "1"}) as second:
        assert second.end().code == -9
        done = first.end()
    assert done.code == 1
    assert "error [rank 0 on " in done.said
    assert "training: another process is gone or unreachable, see its own message" in done.said
    assert "Traceback" not in done.said
    assert checkpoint.latest_complete(tmp_path / "out").name == "checkpoint-3"


def test_a_process_that_hangs_is_named(engines, inputs, tmp_path):
    words = command(inputs, tmp_path / "out", watchdog_minutes=0.1)
    with Running(words, env={"STOP_AT": "1:5"}) as running:
        said = []
        for line in running.process.stdout:
            said.append(line)
            if "waited" in line:
                break
        assert said, "it ended without a word"
    assert said[-1].startswith("error [rank 0 on ")
    assert "step 5]: waited 0.1 minutes for rank 1 on " in said[-1]
    assert re.search(r"which is in step \d and does not answer", said[-1])
    assert checkpoint.latest_complete(tmp_path / "out").name == "checkpoint-3"


def test_a_slow_process_is_not_taken_for_one_that_hangs(engines, inputs, tmp_path):
    """Steps longer than the watchdog's patience, on all ranks alike."""
    options = {"watchdog_minutes": 0.02, "max_steps": 3}
    train(inputs, tmp_path / "out", engines["ddp"], env={"STEP_SECONDS": "2.5"}, **options)
    assert len(log_of(tmp_path / "out")) == 3


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, 3 MiB; the tiny run's checkpoint takes about a tenth of one, and 16 are kept free."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place, *, leave):
    free = shutil.disk_usage(place).free
    (place / "filler").write_bytes(b"\0" * (free - leave))


def test_too_small_a_disk_is_found_before_the_first_step(small_disk, engines, inputs):
    fill(small_disk, leave=50_000)
    done = train(inputs, small_disk / "out", engines["ddp"], expect=2, modules_to_save="embed_tokens,lm_head")
    assert "free on its disk, where a checkpoint of " in done.said
    assert log_of(small_disk / "out") == []


@pytest.mark.parametrize("leave", [3_000_000, 60_000], ids=["found before writing", "found while writing"])
def test_a_disk_that_fills_up_ends_the_run_with_the_last_checkpoint_whole(leave, small_disk, engines, inputs, whole):
    """Filled by another program after the first checkpoint; freed, the same command ends the run bit for bit."""
    out = small_disk / "out"
    env = {"STEP_SECONDS": "0.4"} | ({"NO_CHECK_OF_ROOM": "1"} if leave < 100_000 else {})
    options = {"modules_to_save": "embed_tokens,lm_head"}
    with Running(command(inputs, out, **options), env=env) as running:
        wait_for(lambda: (out / "checkpoint-3" / "complete.json").exists())
        fill(small_disk, leave=leave)
        done = running.end()
    assert done.code == 1, done.said
    assert len(errors(done.said)) == 1, done.said
    assert ("No space left" if leave < 100_000 else "free on its disk, where a checkpoint of") in done.said
    assert "Traceback" not in done.said
    assert checkpoint.latest_complete(out).name == "checkpoint-3"
    assert not list(out.glob(".checkpoint*"))
    (small_disk / "filler").unlink()
    train(inputs, out, engines["ddp"], **options)
    assert_bit_identical(out, whole("ddp", **options))


@pytest.mark.parametrize("left_over", ["a draft", "a mark without files", "a mark without its optimizer"])
def test_what_a_kill_in_the_middle_of_a_save_leaves_is_not_used(left_over, engines, inputs, tmp_path, whole):
    out = tmp_path / "out"
    train(inputs, out, engines["ddp"], expect=137, env={"KILL_AT": "0:7"})
    six = out / "checkpoint-6"
    if left_over == "a draft":
        six.rename(out / ".checkpoint-6.writing")
    else:
        (six / ("optimizer.safetensors" if "optimizer" in left_over else "adapter_model.safetensors")).unlink()
    done = train(inputs, out, engines["ddp"])
    assert "checkpoint-3" in done.said
    assert_bit_identical(out, whole("ddp"))
    assert sorted(path.name for path in out.glob("*checkpoint*")) == ["checkpoint-3", "checkpoint-6", "checkpoint-8"]


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_lives(engines, inputs, tmp_path, whole):
    """Such as that of processes whose launcher was killed: they go on training."""
    out = tmp_path / "out"
    with Running(command(inputs, out), env={"STEP_SECONDS": "0.5"}) as running:
        wait_for(lambda: (out / "log.jsonl").exists() and len(log_of(out)) >= 1)
        done = train(inputs, out, engines["ddp"], expect=2)
        assert "is training into it; wait for it, or end it first" in done.said
        assert len(errors(done.said)) == 1
        done = train(inputs, out, engines["ddp"], expect=2, learning_rate=0.02, overwrite_output_dir=True)
        assert "is training into it" in done.said  # nor is its folder renamed under it
        assert running.end().code == 0
    assert_bit_identical(out, whole("ddp"))


def test_a_killed_run_keeps_no_adapter_that_looks_finished(engines, inputs, tmp_path):
    train(inputs, tmp_path / "out", engines["ddp"], expect=137, env={"KILL_AT": "0:8"})
    assert not (tmp_path / "out" / "sft_lora_model").exists()
    train(inputs, tmp_path / "out", engines["ddp"])
    assert adapter(tmp_path / "out")
    assert len(curve(tmp_path / "out")) == 8
