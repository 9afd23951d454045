"""A full disk, here a limit on the size of files, wherever something is written: one line, and nothing half-written."""

import json
import os

import pytest

from tests import tiny
from tests.command import forked, yangtuo
from yangtuo.engine import checkpoint

FULL = "cannot be written: File too large"


def limit(kibibytes):
    size = kibibytes * 1024
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


def fails(*words, kibibytes, more=""):
    """Run a verb on a disk that is full; returns its error."""
    done = forked(*words, first=limit(kibibytes) + more)
    assert done.code == 1, done.said
    assert "Traceback" not in done.said
    (error,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.err.splitlines()[-1] == error
    return error.removeprefix("error: "), done.err


@pytest.fixture
def many(inputs, tmp_path):
    """Options for 1,000 rows, of which the ids take more than 300 KiB."""
    tiny.write_rows(tmp_path / "rows.json", tiny.rows(1000))
    return ["--tokenizer_name_or_path", inputs.base, "--dataset_dir", tmp_path / "rows.json"]


def hidden(folder):
    return sorted(path for path in os.listdir(folder) if path.startswith("."))


def test_rows_are_encoded_elsewhere_and_where_that_is_full_too_it_is_one_line(many, tmp_path):
    cache, other = tmp_path / "cache", tmp_path / "tmp"
    other.mkdir()
    words = ["encode", *many, "--data_cache_dir", cache, "--out", tmp_path / "out.jsonl"]
    error, said = fails(*words, kibibytes=100, more=f"; import tempfile; tempfile.tempdir = {str(other)!r}")
    assert f"data: encoded for this process alone, since {cache} cannot be written (File too large)\n" in said
    assert error == (
        f"{other}: the encoded rows {FULL}; make room, or name another place with --data_cache_dir or TMPDIR"
    )
    assert [name for name in os.listdir(cache) if not name.endswith(".lock")] == os.listdir(other) == []
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_are_encoded_elsewhere_where_only_the_cache_is_full(many, tmp_path):
    """A file in the place of the folder stands for a disk of its own."""
    (tmp_path / "cache").write_text("")
    done = yangtuo("check", *many, "--data_cache_dir", tmp_path / "cache")
    assert done.code == 0
    assert f"for this process alone, since {tmp_path / 'cache'} cannot be written (File exists)" in done.err


@pytest.mark.parametrize("words", [["encode", "--out"], ["preview", "--num_rows", "300", "--html"]])
def test_what_was_there_stays(words, many, tmp_path):
    words = [*words, tmp_path / "out", *many, "--data_cache_dir", tmp_path / "cache"]
    assert yangtuo(*words).code == 0
    whole = (tmp_path / "out").read_bytes()
    (tmp_path / "out").write_text("old")
    error, _ = fails(*words, kibibytes=100)
    assert error == f"{tmp_path / 'out'}: {FULL}"
    assert (tmp_path / "out").read_text() == "old"
    assert hidden(tmp_path) == []
    assert yangtuo(*words).code == 0
    assert (tmp_path / "out").read_bytes() == whole


@pytest.mark.parametrize(("kibibytes", "name"), [(8, "run.json"), (20, "checkpoint-2"), (50, "checkpoint-2")])
def test_a_run_ends_in_one_line_and_goes_on_when_there_is_room(kibibytes, name, inputs, tmp_path):
    out = tmp_path / "out"
    options = inputs.options(out, save_strategy="steps", save_steps=2)
    yangtuo("check", *inputs.options(None, output_dir=None))  # so that the rows are encoded
    error, _ = fails("train", *options, kibibytes=kibibytes)
    assert error.startswith(f"{out / name}: cannot be written: ")
    assert "File too large" in error
    assert hidden(out) == [".lock"]
    assert not (out / "checkpoint-2").exists()
    done = yangtuo("train", *options)
    assert done.code == 0, done.said


def test_a_log_that_cannot_grow_ends_the_run_with_its_last_checkpoint_good(inputs, tmp_path):
    out = tmp_path / "out"
    small = {"lora_rank": 1, "trainable": "q_proj", "per_device_train_batch_size": 1, "max_seq_length": 384}
    options = inputs.options(
        out, **small, max_steps=300, save_strategy="steps", save_steps=50, save_total_limit=1, logging_strategy="no"
    )
    yangtuo("check", *inputs.options(None, output_dir=None))
    error, _ = fails("train", *options, kibibytes=70)
    assert error == (f"{out / 'log.jsonl'}: {FULL}; make room, and the same command goes on from the last checkpoint")
    lines = (out / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
    last = checkpoint.latest_complete(out)
    assert last is not None
    assert checkpoint.step_of(last) == len(lines) // 50 * 50 >= 50
    done = yangtuo("train", *options)
    assert done.code == 0, done.said
    assert f"resuming from {last}" in done.err
    assert len((out / "log.jsonl").read_text().splitlines()) == 300


@pytest.mark.parametrize("more", [[], ["--gguf", "f16"], ["--pure_lora"]])
def test_a_merge_or_an_export_leaves_nothing(more, inputs, tmp_path):
    adapter = tiny.tiny_adapter(tmp_path / "adapter", inputs.base, modules_to_save="embed_tokens,lm_head")
    words = ["--model_name_or_path", inputs.base, "--peft_path", adapter, "--output_dir", tmp_path / "out"]
    error, _ = fails("export" if more else "merge", *words, *more, kibibytes=100)
    assert error.startswith(f"{tmp_path / 'out.unfinished'}")
    assert FULL in error
    assert sorted(os.listdir(tmp_path)) == ["adapter"]


def test_a_vocabulary_leaves_nothing(inputs, tmp_path):
    tiny.write_rows(tmp_path / "rows.json", tiny.rows(40))
    words = ["vocab", "train", tmp_path / "rows.json", "--vocab_size", "60", "--num_threads", "1"]
    assert yangtuo(*words, "--out", tmp_path / "more.model").code == 0
    words = ["vocab", "merge", inputs.base / "tokenizer.model", tmp_path / "more.model", "--out", tmp_path / "out"]
    error, _ = fails(*words, kibibytes=1)
    assert error == f"{tmp_path / 'out.unfinished'}: {FULL}"
    assert sorted(os.listdir(tmp_path)) == ["more.model", "rows.json"]


def test_a_disk_that_is_full_where_a_library_writes_is_one_line(inputs, tmp_path):
    """`adapter_config.json` is written by PEFT, for one."""
    full = "; import errno; from peft import LoraConfig\n"
    full += "def fail(*more): raise OSError(errno.ENOSPC, 'No space left on device')\nLoraConfig.save_pretrained = fail"
    done = forked("train", *inputs.options(tmp_path / "out", max_steps=1), first=f"import os{full}")
    assert done.code == 1
    assert (
        done.err.splitlines()[-1]
        == f"error: {tmp_path / 'out' / 'sft_lora_model'}: cannot be written: No space left on device"
    )
