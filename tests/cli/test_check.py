"""`yangtuo check`, `preview` and `cache`, as a user calls them."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests import tiny
from tests.command import REPOSITORY, run
from yangtuo.cli import main


@pytest.fixture
def verb(inputs, tmp_path, capfd, monkeypatch):
    """Run a verb in this process, in an empty folder; returns standard output and what was said."""
    monkeypatch.chdir(tmp_path)

    def call(name, *words, expect=0, **changes):
        given = {"data_cache_dir": tmp_path / "encoded", "max_seq_length": 384, **changes}
        given = {"tokenizer_name_or_path": inputs.base, "dataset_dir": inputs.data, **given}
        options = [word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))]
        code = main([name, *options, *words])
        out, err = capfd.readouterr()
        assert expect in (code, None), out + err
        assert "Traceback" not in err
        return out, err

    return call


def rows_file(tmp_path, rows, name="rows.json"):
    (tmp_path / "rows").mkdir(exist_ok=True)
    tiny.write_rows(tmp_path / "rows" / name, rows)
    return tmp_path / "rows"


# ---- check


def test_the_report_in_a_pipe_is_plain_text(verb):
    out, _ = verb("check")
    assert "\x1b" not in out
    assert "train: 24 of 24 rows from 2 file(s)" in out
    for word in ("a.json", "b.json", "tokens a row", "█", "end token", "trained in 24 of 24 rows (100.0%)", "verdict:"):
        assert word in out


def everything_in(folder):
    """Names, bytes and times of all that lies there."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("words", [["check"], ["check", "--json"], ["preview"]])
def test_what_only_looks_writes_nothing(words, verb, tmp_path):
    data = rows_file(tmp_path, [*tiny.rows(40), {"instruction": "问", "output": None}])
    before = everything_in(tmp_path)
    verb(*words, dataset_dir=data, bad_rows="drop", output_dir=tmp_path / "out")
    assert {name for name in everything_in(tmp_path) if not name.startswith("encoded")} == set(before)


@pytest.mark.parametrize("words", [["check"], ["preview"], ["encode", "--out", "-"]])
def test_a_run_is_as_it_was_after_a_look_at_it(words, verb, inputs, tmp_path, capfd):
    out, data = tmp_path / "out", rows_file(tmp_path, [*tiny.rows(40), {"instruction": "问", "output": None}])
    options = inputs.options(out, max_steps=1, dataset_dir=data, bad_rows="drop")
    assert main(["train", *options]) == 0
    capfd.readouterr()
    before = everything_in(out)
    assert "dropped_rows.jsonl" in before
    assert main([*words, *options, "--max_seq_length", "384"]) == 0
    assert everything_in(out) == before
    said = verb("check", "--out", str(out), dataset_dir=data, bad_rows="drop", expect=2)[1]
    assert f"--out {out}: it holds a run, whose data_audit.json is its own; give another folder" in said
    assert everything_in(out) == before


def test_the_audit_is_written_where_it_is_asked_for_and_training_may_start_there(verb, inputs, tmp_path, capfd):
    _, said = verb("check", "--out", str(tmp_path / "a" / "out"))
    assert f"written: {tmp_path}/a/out/data_audit.json" in said
    written = json.loads((tmp_path / "a" / "out" / "data_audit.json").read_text(encoding="utf-8"))
    assert written["train"]["rows_kept"] == 24
    assert written["verdict"] == "look"
    assert os.listdir(tmp_path / "a" / "out") == ["data_audit.json"]
    assert main(["train", *inputs.options(tmp_path / "a" / "out", max_steps=1)]) == 0
    capfd.readouterr()
    (tmp_path / "file").write_text("x")
    assert (
        f"--out {tmp_path}/file: a file; give a folder" in verb("check", "--out", str(tmp_path / "file"), expect=2)[1]
    )


def test_json_on_standard_output_is_the_written_audit(verb, tmp_path):
    out, _ = verb("check", "--json", "--out", "audit", validation_file=None)
    report = json.loads(out)
    assert report == json.loads((tmp_path / "audit" / "data_audit.json").read_text(encoding="utf-8"))
    assert report["steps"]["an_epoch"] == 3
    assert report["savings"].keys() == {"padding", "shared_prefixes", "all", "head"}
    assert sum(one["rows"] for one in report["train"]["histogram"]) == 24
    assert [one["rows_kept"] for one in report["train"]["files"]] == [15, 9]


def test_few_steps_are_said_with_a_proposal_that_is_not_few(verb):
    out, _ = verb("check", num_train_epochs=1)
    said = re.search(r"3 steps are too few to change the model; --num_train_epochs (\d+) gives (\d+)", out)
    assert int(said[2]) == 3 * int(said[1]) >= 20
    assert "too few" not in verb("check", num_train_epochs=said[1])[0]


def test_a_step_of_one_row_cannot_be_smaller(verb, tmp_path):
    data = rows_file(tmp_path, tiny.rows(4))
    assert "or " not in verb("check", dataset_dir=data, per_device_train_batch_size=1)[0].split("too few")[1]
    few = {"dataset_dir": data, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    assert "or give fewer --gradient_accumulation_steps" in verb("check", **few)[0]
    few = {"dataset_dir": data, "per_device_train_batch_size": 2}
    assert "or give a smaller --per_device_train_batch_size" in verb("check", **few)[0]


def test_many_shortened_answers_are_said(verb):
    # Answers of several sentences; the limit lies within.
    assert "answers are shortened" in verb("check", max_seq_length=120, expect=None)[0]
    assert "answers are shortened" not in verb("check")[0]


def test_rows_that_lose_their_end_are_a_bad_verdict(verb):
    out, err = verb("check", truncation="right", max_seq_length=100, expect=2)
    assert "do not train on this yet" in out
    assert "rows teach where an answer ends" in err


def test_dropped_rows_are_listed_in_a_file(verb, tmp_path, sentences):
    data = rows_file(tmp_path, [*tiny.rows(40), {"instruction": "问", "output": None}])
    out, err = verb("check", dataset_dir=data, bad_rows="drop")
    assert "1 rows cannot be used and are dropped" in out
    sentences(err, "--out FOLDER")
    _, err = verb("check", "--out", "audit", dataset_dir=data, bad_rows="drop")
    assert "check: rows are dropped" not in err
    (listed,) = [json.loads(line) for line in (tmp_path / "audit" / "dropped_rows.jsonl").read_text().splitlines()]
    assert listed["row"] == 40
    assert listed["line"] == 202
    assert "'output' is null" in listed["reason"]


def test_rows_that_the_template_cannot_render_are_bad_rows(verb, tmp_path, sentences):
    folder = tiny.tiny_json_tokenizer(tmp_path / "tokenizer")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if '坏' in m.content %}{{ raise_exception('no') }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    rows = [*tiny.rows(40), {"instruction": "坏", "output": "好"}]
    chosen = {"dataset_dir": rows_file(tmp_path, rows), "tokenizer_name_or_path": folder}
    said = "rows that the template cannot render; --bad_rows drop leaves them out: "
    _, err = verb("check", **chosen, expect=2)
    assert said in err
    sentences(err, "rows.json row 40")
    out, _ = verb("check", "--out", ".", **chosen, bad_rows="drop")
    assert "1 rows dropped: the tokenizer's chat template cannot render this row: no" in out
    assert len((tmp_path / "dropped_rows.jsonl").read_text().splitlines()) == 1


def test_many_lost_rows_are_a_bad_verdict(verb, tmp_path):
    data = rows_file(tmp_path, [*tiny.rows(39), *[{"instruction": "问", "output": "答" * 900}] * 10])
    given = {"dataset_dir": data, "truncation": "drop"}
    _, err = verb("check", **given, expect=2)
    assert "10 of 49 rows are lost (20%); --out FOLDER lists them in dropped_rows.jsonl" in err
    assert "check: rows are dropped" not in err
    _, err = verb("check", "--out", "audit", **given, expect=2)
    assert "10 of 49 rows are lost (20%); audit/dropped_rows.jsonl has them" in err


def test_rows_that_a_user_asked_to_drop_are_no_reason_against_training(verb, tmp_path):
    data = rows_file(tmp_path, [*tiny.rows(39), *[{"instruction": "问", "output": None}] * 10])
    out, err = verb("check", "--json", dataset_dir=data, bad_rows="drop")
    report = json.loads(out)
    assert report["verdict"] == "look"
    assert any("10 of 49 rows are left out" in one["text"] for one in report["findings"])
    assert "check: rows are dropped; --out FOLDER" in err


def test_bad_rows_stop_it_as_they_stop_training(verb, tmp_path):
    data = rows_file(tmp_path, [{"instruction": "问", "output": None}])
    out, err = verb("check", dataset_dir=data, expect=2)
    assert out == ""
    assert "row 0: 'output' is null" in err


def test_validation_prompts_that_are_trained_on_are_counted(verb, inputs, tmp_path):
    validation = tiny.write_rows(tmp_path / "valid.json", [*tiny.rows(2), *tiny.rows(29)[24:]])
    out, _ = verb("check", validation_file=validation)
    assert "2 validation rows have a prompt that is trained on too" in out
    assert "prompt that is trained on" not in verb("check", validation_file=inputs.validation)[0]


def test_repeats_are_counted_and_left_out_where_asked_for(verb, tmp_path):
    rows = tiny.rows(30)
    # One character of a long answer differs.
    near = {**rows[5], "output": rows[5]["output"] * 4}
    data = rows_file(tmp_path, [*rows, rows[0], rows[1], near, {**near, "output": near["output"][:-2] + "！"}])

    def kept(**changes):
        out, _ = verb("check", "--json", dataset_dir=data, **changes)
        return json.loads(out)["train"]

    assert (kept()["repeated_rows"], kept()["rows_kept"]) == (2, 34)
    assert kept(deduplicate="exact")["rows_kept"] == 32
    assert kept(deduplicate="near")["rows_kept"] < 32
    assert "equal or nearly so" in verb("check", dataset_dir=data)[0]


def test_a_mix_shows_the_rows_of_an_epoch(verb, sentences):
    out, _ = verb("check", mix="a.json:2,b.json:0.5")
    assert "a.json 30, b.json 4" in out
    report = json.loads(verb("check", "--json", mix="a.json:2,b.json:0.5")[0])
    assert report["steps"]["rows_of_an_epoch"] == 34
    _, err = verb("check", mix="c.json:2", expect=2)
    sentences(err, "c.json")


def test_special_text_is_counted(verb, tmp_path):
    rows = tiny.rows(30)
    rows[3]["output"] += "</s>"
    rows[4]["instruction"] = "[INST]" + rows[4]["instruction"]
    out, _ = verb("check", dataset_dir=rows_file(tmp_path, rows))
    assert "2 rows hold text like a control token: " in out
    assert "</s> (1)" in out
    assert "[INST] (1)" in out


def test_it_starts_fast_and_without_torch(inputs, tmp_path):
    options = ["--tokenizer_name_or_path", inputs.base, "--dataset_dir", inputs.data, "--data_cache_dir", tmp_path]
    code = (
        "import atexit, sys; from yangtuo.cli import main;"
        "atexit.register(lambda: print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)), file=sys.stderr));"
        "sys.exit(main(sys.argv[1:]))"
    )
    for name in ("check", "preview", "encode"):
        words = [sys.executable, "-c", code, name, *options, *(["--out", "-"] if name == "encode" else [])]
        done = run(words, cwd=tmp_path)
        assert (done.code, done.err.splitlines()[-1]) == (0, "[]"), done.said
        help_ = run([*words[:3], name, "--help"], cwd=tmp_path)
        assert (help_.code, help_.err.splitlines()[-1]) == (0, "[]")
        assert f"usage: yangtuo {name} [run.yaml] [options]" in help_.out


def test_options_without_effect_are_said(verb):
    assert "--validation_split_percentage has no effect" in verb("check", validation_split_percentage=0.1)[1]
    assert "no effect" not in verb("check", "--do_eval", validation_split_percentage=0.1)[1]
    for name, words in (("preview", []), ("encode", ["--out", "rows.jsonl"])):
        said = verb(name, *words, mix="a.json:2", deduplicate="exact")[1]
        assert "--mix has no effect" in said
        assert "--deduplicate has no effect" in said


# ---- preview


def test_preview_in_a_pipe_marks_what_is_trained(verb, inputs):
    out, _ = verb("preview", "--num_rows", "1")
    assert "\x1b" not in out
    assert [line.split(":")[0] for line in out.splitlines() if " tokens, " in line] == [
        *("random", "longest", "shortest", "worst")
    ]
    assert out.count("### Response: ⟦") == 4
    assert out.count("</s>⟧") == 4


def test_preview_of_one_row_is_its_text(verb):
    out, _ = verb("preview", "--row", "2")
    row = tiny.rows(3)[2]
    assert f"### Instruction:↵\n{row['instruction']}↵\n↵\n### Response: ⟦ {row['output']}</s>⟧" in out
    _, err = verb("preview", "--row", "99", expect=2)
    assert "--row 99: there is no such row" in err


def test_preview_colours_a_terminal(inputs, tmp_path):
    """Under a real terminal of `script`."""
    words = f"{sys.executable} -m yangtuo preview --num_rows 1 --tokenizer_name_or_path {inputs.base}"
    words += f" --dataset_dir {inputs.data} --data_cache_dir {tmp_path}"
    done = subprocess.run(
        ["script", "-qec", words, "/dev/null"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": ""},
    )
    assert "\x1b[32m" in done.stdout  # trained: green
    assert "\x1b[2m" in done.stdout  # prompt: dim
    assert "\x1b[30;42m</s>" in done.stdout
    assert "⟦" not in done.stdout


def test_preview_as_a_page_needs_nothing_else_and_escapes_the_rows(verb, tmp_path):
    rows = [{"instruction": "<b>加粗</b>&", "output": "<script>alert(1)</script>"}]
    verb("preview", "--html", "page.html", dataset_dir=rows_file(tmp_path, rows))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert not re.search(r"(src|href)=", page)
    text = re.sub(r"<[^>]+>", "", page.split("</style>")[1])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;/s&gt;" in text
    assert page.count('class="t c ') == 4  # the end token of each row shown
    _, err = verb("preview", "--html", "none/page.html", dataset_dir=tmp_path / "rows", expect=2)
    assert "--html none/page.html: No such file" in err


# ---- cache


def test_cache_is_listed_and_cleared(verb, tmp_path, capfd):
    verb("check")
    verb("check", max_seq_length=200)
    assert main(["cache", "list", "--data_cache_dir", str(tmp_path / "encoded")]) == 0
    out = capfd.readouterr().out
    assert out.count("a.json, b.json") == 2
    assert "alpaca_zh" in out
    (tmp_path / "encoded" / "old").mkdir()
    (tmp_path / "encoded" / "old" / "about.json").write_text('{"built": "2026-01-01 00:00:00", "sources": []}')
    assert main(["cache", "list", "--data_cache_dir", str(tmp_path / "encoded")]) == 0
    assert "(earlier version)" in capfd.readouterr().out
    assert main(["cache", "clear", "--data_cache_dir", str(tmp_path / "encoded")]) == 0
    assert "3 entries removed" in capfd.readouterr().out
    assert main(["cache", "list", "--data_cache_dir", str(tmp_path / "encoded")]) == 0
    assert "nothing is kept" in capfd.readouterr().out


def test_a_second_run_says_what_it_uses(verb):
    assert "as encoded on" not in verb("check")[1]
    assert "as encoded on 20" in verb("check")[1]
    assert "as encoded on" not in verb("check", template="alpaca_zh_2")[1]
