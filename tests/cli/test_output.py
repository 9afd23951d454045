"""Output that is not UTF-8, cannot be written or is closed; names of files that are no text."""

import json
import os
import subprocess
import sys

import pytest

from tests import tiny
from tests.command import forked, run

ROW = {"instruction": "你好😀", "output": "长城😀"}
ASCII = "import sys; sys.stdout.reconfigure(encoding='ascii', errors='strict')"
NAME = b"\xca\xfd\xbe\xdd.jsonl"  # GBK, no UTF-8


@pytest.fixture
def data(tmp_path):
    (tmp_path / "数据").mkdir()
    tiny.write_rows(tmp_path / "数据" / "行😀.json", [ROW, *tiny.rows(30)])
    return tmp_path / "数据"


def output_to(path, encoding):
    """Code that sends standard output to a file, in an encoding, as a process has it that is started so."""
    return (
        f"import os, sys; os.dup2(os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1);"
        f"sys.stdout.reconfigure(encoding={encoding!r}, errors='strict')"
    )


@pytest.fixture
def verb(inputs, data, tmp_path):
    """Run a verb whose output has an encoding; returns what it printed."""

    def call(name, *words, encoding="utf-8"):
        options = ["--tokenizer_name_or_path", inputs.base, "--dataset_dir", data] if name != "cache" else []
        words = [name, *words, *options, "--data_cache_dir", tmp_path / "c"]
        done = forked(*words, first=output_to(tmp_path / "out", encoding), cwd=tmp_path)
        assert done.code == 0, done.err
        return (tmp_path / "out").read_bytes().decode(encoding)

    return call


def test_what_a_terminal_of_gbk_lacks_is_replaced_or_has_a_plain_sign(verb):
    out = verb("preview", "--row", "0", encoding="gbk")
    assert "行?.json row 0" in out
    assert "### Instruction:\\n\n你好?\\n\n\\n\n### Response: [[ 长城?</s>]]" in out
    assert out.rstrip().endswith("[[trained]]")
    out = verb("check", encoding="gbk")
    assert "█" in out  # GBK has it
    assert "行?.json" in out


def test_ascii_has_signs_for_bars(verb):
    assert "########" in verb("check", encoding="ascii")
    assert "??.json" in verb("cache", "list", encoding="ascii")


@pytest.mark.parametrize("words", [[], ["check", "--help"], ["merge", "--help"], ["vocab", "train", "--help"]])
def test_help_in_ascii(words):
    done = forked(*words, first=ASCII)
    assert (done.code, done.err) == (0, "")
    assert "usage: yangtuo" in done.out


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "latin-1"])
def test_json_loses_nothing_in_any_encoding(verb, data, encoding):
    reports = [json.loads(verb("check", "--json", encoding=one)) for one in ("utf-8", encoding)]
    assert reports[0] == reports[1]
    assert reports[0]["train"]["files"][0]["path"] == str(data / "行😀.json")
    rows = [verb("encode", "--out", "-", encoding=one).splitlines() for one in ("utf-8", encoding)]
    assert [*map(json.loads, rows[0])] == [*map(json.loads, rows[1])]
    assert json.loads(rows[1][0])["file"] == str(data / "行😀.json")


def test_files_are_utf_8_whatever_the_terminal_is(verb, data, tmp_path):
    verb("encode", "--out", "rows.jsonl", encoding="ascii")
    first = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(first)["file"] == str(data / "行😀.json")
    assert "行😀" in first
    verb("preview", "--html", "page.html", "--row", "0", encoding="gbk")
    assert "你好😀" in "".join(
        part.split("<")[0] for part in (tmp_path / "page.html").read_text(encoding="utf-8").split(">")
    )


def test_a_machine_without_utf_8_reads_files_with_names_of_any_bytes(data, inputs):
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "yangtuo", "check", "--data_cache_dir", data.parent / "c", "--dataset_dir", data]
    done = run([*words, "--tokenizer_name_or_path", inputs.base], env=env)
    assert done.code == 0, done.err
    assert "31 of 31 rows" in done.out
    done = run([*words, "--tokenizer_name_or_path", "数"], env=env)
    assert done.code == 2
    assert done.err.endswith("not ASCII; set LC_ALL=C.UTF-8, or PYTHONUTF8=1\n")


def test_a_dialogue_in_ascii(inputs):
    words = ["chat", inputs.base, "--ask", "你好", "--max_new_tokens", 8]
    done = forked(*words, "--json", first=ASCII)
    assert done.code == 0, done.said
    assert json.loads(done.out)["question"] == "你好"
    done = forked(*words, "--ask", "再见", first=ASCII)
    assert done.code == 0, done.said
    assert done.out.startswith("> ??\n")


# ---- output that cannot be written


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize(
    "words", [["check"], ["check", "--json"], ["preview"], ["encode", "--out", "-"], ["cache", "list"]]
)
def test_a_full_disk_behind_standard_output_is_one_line(words, unbuffered, inputs, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    options = ["--tokenizer_name_or_path", inputs.base, "--dataset_dir", inputs.data] if words[0] != "cache" else []
    first = f"{output_to('/dev/full', 'utf-8')}; sys.stdout.reconfigure(write_through={unbuffered})"
    done = forked(*words, *options, "--data_cache_dir", tmp_path, first=first)
    assert done.code == 1
    assert done.err.splitlines()[-1] == "error: standard output: cannot be written: No space left on device"
    assert "Traceback" not in done.err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_ends_it_without_a_word(unbuffered, inputs, tmp_path):
    words = [sys.executable, "-m", "yangtuo", "encode", "--tokenizer_name_or_path", inputs.base, "--out", "-"]
    words += ["--dataset_dir", inputs.data, "--data_cache_dir", tmp_path]
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "bash", *map(str, words)],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 141
    assert "rror" not in done.stderr


@pytest.mark.parametrize(
    "first",
    [
        "import os, sys; os.close(1); os.close(2); sys.stdout = sys.stderr = None",
        "import os; reading, writing = os.pipe(); os.close(reading); os.dup2(writing, 2)",
        "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
    ],
)
def test_output_that_is_closed_or_that_nobody_reads_ends_no_run(first, inputs, tmp_path):
    done = forked("train", *inputs.options(tmp_path / "out", max_steps=2), first=first)
    assert done.code == 0
    assert (tmp_path / "out" / "proof.json").is_file()


# ---- names that are no text


@pytest.fixture
def strange(tmp_path):
    """A folder of data with a file whose name is GBK."""
    (tmp_path / "data").mkdir()
    try:
        with open(bytes(tmp_path / "data") + b"/" + NAME, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in tiny.rows(24))
    except OSError:
        pytest.skip("this file system knows UTF-8 names only")
    return tmp_path / "data"


def test_a_file_with_a_name_of_any_bytes_is_read_and_told_of(strange, inputs, tmp_path):
    path = str(strange / os.fsdecode(NAME))
    words = ["--tokenizer_name_or_path", inputs.base, "--data_cache_dir", tmp_path / "cache"]
    for place in (strange, path):
        for verb in (["check", "--json"], ["encode", "--out", "-"], ["encode", "--out", tmp_path / "rows.jsonl"]):
            done = forked(*verb, *words, "--dataset_dir", place)
            assert done.code == 0, done.err
            text = done.out or (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
            found = json.loads(text if verb[0] == "check" else text.splitlines()[0])
            assert (found["train"]["files"][0]["path"] if verb[0] == "check" else found["file"]) == path


def test_a_run_on_such_a_file_goes_on_and_is_recognised(strange, inputs, tmp_path):
    options = inputs.options(tmp_path / "out", dataset_dir=strange, max_steps=1)
    assert forked("train", *options).code == 0
    name = os.fsdecode(NAME)
    assert json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["recipe"]["data"][0][0] == name
    audit = json.loads((tmp_path / "out" / "data_audit.json").read_text(encoding="utf-8"))
    assert audit["train"]["files"][0]["path"] == str(strange / name)
    known = json.loads((tmp_path / "out" / "sft_lora_model" / "yangtuo.json").read_text(encoding="utf-8"))
    assert known["data"][0][0] == name
    assert "holds this very run, finished" in forked("train", *options).err


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--model_name_or_path"],
        ["check", "--tokenizer_name_or_path"],
        ["preview", "--template"],
        ["chat", "--ask"],
        ["merge", "--peft_path", "a", "--output_dir", "b", "--model_name_or_path"],
        ["export", "--output_dir", "b", "--model_name_or_path"],
        ["vocab", "stats", "a", "--tokenizer"],
        ["vocab", "stats", "--tokenizer", "a", "TEXT"],
        ["cache", "list", "--data_cache_dir"],
        ["demo", "--output_dir"],
        ["check-deploy", "--url", "http://127.0.0.1:1", "--model_dir"],
    ],
)
def test_other_words_that_are_no_text_are_named(words):
    given = words[:-1] if words[-1] == "TEXT" else words
    done = forked(*given, "\udcca\udcfd")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.endswith(f"{words[-1]} '\\udcca\\udcfd': not UTF-8; rename the file or folder of this name")


def test_a_value_of_a_file_of_options_that_is_no_text_is_named(tmp_path, sentences):
    (tmp_path / "run.yaml").write_text('template: "\\ud800"\nlora_rank: 4\n')
    done = forked("check", tmp_path / "run.yaml")
    assert done.code == 2
    sentences(done.err, "--template '")


def test_a_folder_that_libraries_cannot_name_gets_no_merged_model(inputs, tmp_path):
    place = os.fsdecode(os.fsencode(tmp_path) + b"/\xca\xfd")
    os.mkdir(place)
    words = ["--model_name_or_path", inputs.base, "--peft_path", tmp_path, "--output_dir", "merged"]
    done = forked("merge", *words, cwd=place)
    assert done.code == 2
    assert "its name is not UTF-8; choose a folder elsewhere" in done.err
