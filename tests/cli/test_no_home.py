"""A user without a home: no HOME, and an id that has no name, as a service or a container has it."""

import os

import pytest

from tests.command import forked

NOBODY = """
import os, pwd
for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
def unknown(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = unknown
"""
WARNING = "encoded for this process alone, since this user has no home folder (--data_cache_dir or XDG_CACHE_HOME names"


def nobody(*words, code=0, cwd=None):
    done = forked(*words, first=NOBODY, cwd=cwd)
    assert done.code == code, done.said
    assert "Traceback" not in done.said
    return done


@pytest.fixture
def options(inputs):
    """As of a run, without a folder for encoded rows."""
    return lambda out, **changes: inputs.options(out, data_cache_dir=None, **changes)


@pytest.mark.parametrize("words", [["check"], ["preview", "--num_rows", "1"], ["encode", "--out", "-"]])
def test_rows_are_encoded_for_this_process_alone(words, options, tmp_path):
    done = nobody(*words, *options(None, output_dir=None), cwd=tmp_path)
    assert done.err.count(WARNING) == 1
    assert "~" not in os.listdir(tmp_path)


def test_a_whole_run_its_merge_and_its_answers(options, inputs, tmp_path):
    out = tmp_path / "out"
    done = nobody("train", *options(out, max_steps=2), cwd=tmp_path)
    assert done.err.count(WARNING) == 1
    nobody("chat", out, "--ask", "你好", "--max_new_tokens", 2, cwd=tmp_path)
    words = ["--model_name_or_path", inputs.base, "--peft_path", out / "sft_lora_model", "--output_dir"]
    nobody("merge", *words, tmp_path / "merged", cwd=tmp_path)
    nobody("export", *words, tmp_path / "exported", "--gguf", "f16", cwd=tmp_path)
    nobody("vocab", "stats", inputs.data / "a.json", "--tokenizer", inputs.base, cwd=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["exported", "merged", "out"]


def test_what_needs_a_home_says_so(inputs, sentences):
    said = nobody("cache", "list", code=2).err
    sentences(said, "--data_cache_dir names")
    said = nobody("demo", code=2).err
    assert said == (
        "error: this user has no home folder to keep the model in; set HOME or XDG_CACHE_HOME to a folder\n"
    )


def test_a_path_that_begins_with_a_home_that_is_not_there(options, tmp_path):
    wrong = "~/model"
    assert "no such folder" in nobody("chat", wrong, "--ask", "x", code=2).err
    assert (
        f"--model_name_or_path {wrong}: no such folder"
        in nobody("train", *options(tmp_path / "out", model_name_or_path=wrong), code=2).err
    )
    words = ["--model_name_or_path", "~nobody-has-this-name/model", "--peft_path", "a", "--output_dir", tmp_path / "m"]
    assert "no such folder" in nobody("merge", *words, code=2).err


def test_the_cache_is_where_the_xdg_directory_is(inputs, tmp_path):
    first = f"{NOBODY}\nos.environ['XDG_CACHE_HOME'] = {str(tmp_path)!r}"
    words = ["check", "--tokenizer_name_or_path", inputs.base, "--dataset_dir", inputs.data]
    assert WARNING not in forked(*words, first=first, cwd=tmp_path).err
    assert f"in {tmp_path}/yangtuo/encoded" in forked("cache", "list", first=first).out.replace("\n", "")
