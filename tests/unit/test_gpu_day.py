"""benchmarks/gpu_day.sh without a GPU: order, resume, failures, files and table, with parts that are plain commands."""

import io
import json
import subprocess
import sys
import time

import pytest
import throughput
from gpu_day_parts import __main__ as command
from gpu_day_parts import bases, footprint, gpu, plan, speed, tests, train_runs
from gpu_day_parts.day import DONE, FAILED, SKIPPED, Part, told
from gpu_day_parts.job import ROOT, Job, NothingToDo, PartFailure, last_word
from rich.console import Console

from yangtuo.errors import UsageError

CARD = {"name": "NVIDIA H200", "driver": "580.1", "compute_capability": "9.0", "memory_gib": 140.0, "free_gib": 139.0}
ANSWERS = 'echo \'{"measured": {"headline": "%s", "value": 7}}\' > "$GPU_DAY_ANSWER"'


def shell(name, code):
    return Part(name, f"what {name} shows", 5, ("sh", "-c", code))


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Runs the command on parts of the test; returns its exit code, what it printed, and the records."""
    monkeypatch.setattr(gpu, "gpus", lambda: [CARD])

    def run(parts, *words):
        console = Console(record=True, width=200, file=io.StringIO())
        results, scratch = tmp_path / "results", tmp_path / "scratch"
        given = [*words, "--results", str(results), "--scratch", str(scratch)]
        code = command.measure(given, parts, console)
        files = sorted(results.glob("*.json")) if results.is_dir() else []
        return code, console.export_text(), {file.stem: json.loads(file.read_text()) for file in files}

    return run


def test_parts_run_in_order_and_leave_a_file_each(scene, tmp_path):
    done = tmp_path / "order"
    parts = [shell(name, f"echo {name} >> {done}; {ANSWERS % name}") for name in ("b", "a", "c")]
    code, shown, records = scene(parts)
    assert code == 0
    assert done.read_text().split() == ["b", "a", "c"]
    assert set(records) == {"a", "b", "c", "summary"}
    record = records["a"]
    assert record["status"] == DONE
    assert record["measured"] == {"headline": "a", "value": 7}
    assert record["gpus"] == [CARD]
    assert record["versions"]["torch"]
    assert record["command"][:2] == ["bash", "benchmarks/gpu_day.sh"]
    assert {"commit", "seconds", "date", "machine", "work"} <= record.keys()
    assert list(records["summary"]["parts"]) == ["b", "a", "c"]
    assert records["summary"]["parts"]["c"]["measured"]["value"] == 7
    assert [line.split()[:2] for line in shown.splitlines() if " done " in line and "in " not in line] == [
        [name, "done"] for name in ("b", "a", "c")
    ]


def test_a_part_that_is_done_is_not_run_again_unless_it_is_asked_for(scene, tmp_path):
    ran = tmp_path / "ran"
    parts = [shell(name, f"echo {name} >> {ran}; {ANSWERS % name}") for name in ("a", "b")]
    scene(parts)
    _, shown, _ = scene(parts)
    assert ran.read_text().split() == ["a", "b"]
    assert "a: there already" in shown
    scene(parts, "--again", "b")
    assert ran.read_text().split() == ["a", "b", "b"]


def test_what_is_named_is_run_alone(scene):
    parts = [shell(name, ANSWERS % name) for name in ("a", "b", "c")]
    _, _, records = scene(parts, "c", "a")
    assert list(records["summary"]["parts"]) == ["a", "c"]


def test_a_failure_is_noted_with_its_reason_and_the_rest_goes_on(scene):
    parts = [
        shell("says", "echo working; echo 'error: no room on the disk' >&2; echo later; exit 2"),
        shell("dies", "kill -9 $$"),
        shell("absent", ""),
        shell("well", ANSWERS % "well"),
    ]
    parts[2] = Part("absent", "a program that there is not", 5, ("no-such-program",))
    code, shown, records = scene(parts)
    assert code == 1
    assert [records[part.name]["status"] for part in parts] == [FAILED, FAILED, FAILED, DONE]
    assert records["says"]["reason"] == "no room on the disk"
    assert records["says"]["log_end"] == ["working", "error: no room on the disk", "later"]
    assert records["dies"]["reason"] == "killed by SIGKILL, out of memory?"
    assert records["absent"]["reason"] == "no-such-program: No such file or directory"
    assert "no room on the disk" in shown


def test_a_part_that_failed_is_run_again_and_its_result_stays(scene, tmp_path):
    flag = tmp_path / "flag"
    parts = [shell("a", f"test -e {flag} || exit 3; {ANSWERS % 'a'}")]
    assert scene(parts)[0] == 1
    assert scene(parts)[2]["a"]["reason"] == "exit code 3"
    flag.touch()
    code, _, records = scene(parts)
    assert (code, records["a"]["status"]) == (0, DONE)
    assert "log_end" not in records["a"]


def test_what_a_part_had_measured_when_it_failed_is_kept(scene):
    answer = json.dumps({"failed": "the losses differ", "measured": {"furthest": 0.5}})
    _, _, records = scene([shell("a", f"echo '{answer}' > $GPU_DAY_ANSWER; exit 1")])
    assert (records["a"]["reason"], records["a"]["measured"]) == ("the losses differ", {"furthest": 0.5})


def test_a_skipped_part_has_a_reason_and_is_no_failure(scene, tmp_path):
    ran = tmp_path / "ran"
    answer = json.dumps({"skipped": "one GPU is visible"})
    parts = [shell("a", f"echo a >> {ran}; echo '{answer}' > $GPU_DAY_ANSWER")]
    code, shown, records = scene(parts)
    assert (code, records["a"]["status"], records["a"]["reason"]) == (0, SKIPPED, "one GPU is visible")
    assert "one GPU is visible" in shown
    scene(parts)
    assert ran.read_text().split() == ["a", "a"]  # it may have become possible


def test_a_part_that_takes_too_long_is_ended_with_its_children(scene, tmp_path):
    late = tmp_path / "late"
    parts = [shell("slow", f"(sleep 2; touch {late}) & sleep 60"), shell("next", ANSWERS % "next")]
    code, _, records = scene(parts, "--limit", "0.5")
    assert code == 1
    assert records["slow"]["reason"] == "took longer than 0 s and was ended; --limit gives it more"
    assert records["next"]["status"] == DONE
    time.sleep(2)
    assert not late.exists()


def test_a_broken_file_is_no_result(scene, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text('{"status": "do')
    assert scene([shell("a", ANSWERS % "a")])[2]["a"]["status"] == DONE


def test_a_rehearsal_is_no_result(scene):
    parts = [shell("a", ANSWERS % "a")]
    scene(parts, "--rehearse")
    _, shown, records = scene(parts)
    assert "there already" not in shown
    assert records["a"]["rehearsal"] is False


def test_the_list_runs_nothing_and_tells_what_is_there(scene, monkeypatch):
    parts = [shell("a", ANSWERS % "a"), shell("b", ANSWERS % "b")]
    scene(parts, "a")
    monkeypatch.setattr(gpu, "gpus", list)
    code, shown, records = scene(parts, "--list")
    assert code == 0
    assert set(records) == {"a", "summary"}
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert lines["a"].rstrip().endswith("there")
    assert not lines["b"].rstrip().endswith("there")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["c"], "no part is called c; there are a"),
        (["--again", "c"], "no part is called c; there are a"),
        (["--every"], "--help lists the options"),
    ],
)
def test_a_wrong_word_is_refused(words, said, scene):
    with pytest.raises(UsageError, match=said):
        scene([shell("a", "")], *words)


def test_without_a_gpu_it_says_what_can_be_done(scene, monkeypatch):
    monkeypatch.setattr(gpu, "gpus", list)
    with pytest.raises(UsageError, match="--rehearse tries every part on the CPU"):
        scene([shell("a", "")])


@pytest.mark.parametrize(
    ("free_gib", "expected"),
    [
        (139, ("8b", 4096, 2)),
        (78, ("8b", 4096, 1)),
        (47, ("1b", 4096, 2)),
        (23.5, ("1b", 4096, 1)),
        (15.2, ("1b", 2048, 1)),
        (11, ("1b", 1024, 1)),
    ],
)
def test_the_work_fits_on_the_card(free_gib, expected):
    work = gpu.work_for(free_gib)
    assert (work.base, work.row_tokens, work.full_rows) == expected
    assert work.few_layers in bases.SHAPES


def test_too_small_a_card_is_refused(scene, monkeypatch):
    monkeypatch.setattr(gpu, "gpus", lambda: [{**CARD, "free_gib": 3.0}])
    with pytest.raises(UsageError, match=r"3\.0 GiB are free on NVIDIA H200, 10 are needed"):
        scene([shell("a", "")])


def test_what_nvidia_smi_prints_is_read():
    assert gpu.cards_in("NVIDIA H200, 580.1, 9.0, 143360, 142336\n\nFailed to initialize\n") == [CARD]
    assert gpu.folder_name("2026-12-01", "NVIDIA GeForce RTX 4090") == "2026-12-01-nvidia-geforce-rtx-4090"


def test_every_part_has_a_function_and_stays_under_three_minutes():
    parts = plan.all_parts()
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        assert callable(plan.function_of(part.name))
        assert part.seconds <= command._LIMIT_S
    files = {part.name.removeprefix("tests_") for part in parts if part.name.startswith("tests_")}
    assert files == {file.stem.removeprefix("test_") for file in (ROOT / "tests" / "gpu").glob("test_*.py")}


def test_a_job_comes_back_from_its_file(tmp_path):
    job = Job(tmp_path, True, "tiny", "tiny", "tiny", 256, 2, 0)
    assert Job.of_values(json.loads(json.dumps(job.to_values()))) == job
    assert job.device == "cpu"


@pytest.mark.parametrize(
    ("said", "expected"), [("a\nerror: b\nc\n", "b"), ("a\n\n  c \n", "c"), ("", "")], ids=["error", "last", "nothing"]
)
def test_the_word_that_tells_why(said, expected):
    assert last_word(said) == expected


def test_the_outcome_of_tests_is_read_and_a_failure_is_one(tmp_path, monkeypatch):
    text = (
        '<testsuites><testsuite><testcase name="one" time="1.5"/><testcase name="two"><skipped message="no\nGPU"/>'
        "</testcase>{}</testsuite></testsuites>"
    )
    job = real_job(tmp_path)

    def ends(more, code):
        def start(words):
            (tmp_path / "tests_x.xml").write_text(text.format(more))
            return train_runs.Ended(code, "")

        monkeypatch.setattr(tests, "start", start)
        return lambda: tests.run_file(job, "x")

    found = ends("", 0)()
    assert (found["passed"], found["skipped"], found["headline"]) == (
        {"one": 1.5},
        {"two": "no GPU"},
        "1 passed, 1 skipped",
    )
    failing = ends('<testcase name="three"><failure message="1 is not 2"/></testcase>', 1)
    with pytest.raises(PartFailure, match=r"1 passed, 1 failed, 1 skipped; three: 1 is not 2"):
        failing()


def fake_runs(monkeypatch, **runs):
    """In place of training: the steps of each run, by its name."""

    def train(job, name, data, *, options, wish=None, processes=0):
        steps, said = runs[name]
        return train_runs.TrainRun(steps, said, {"peak_bytes": 10})

    monkeypatch.setattr(train_runs, "train", train)
    monkeypatch.setattr(train_runs, "base_of", lambda scratch, *_: scratch)
    monkeypatch.setattr(train_runs, "full_rows", lambda scratch, *_: scratch)


def steps(*losses, skipped=0):
    return [
        {"loss": loss, "micro_batches": 2, "tokens_per_s": 9.0, **({"skipped": True} if i < skipped else {})}
        for i, loss in enumerate(losses)
    ]


REAL = {"rehearses": False, "base": "8b", "few_layers": "8b", "check_base": "check", "row_tokens": 4096}


def real_job(scratch, num_gpus=1):
    return Job(scratch=scratch, full_rows=2, num_gpus=num_gpus, **REAL)


SHORT = "out of memory: step 1 is computed again"


def test_memory_that_ran_out_has_to_be_told_and_to_change_nothing(monkeypatch, tmp_path):
    fake_runs(monkeypatch, in_memory=(steps(3, 2), ""), out_of_memory=(steps(3, 2.0005), SHORT))
    assert train_runs.out_of_memory(real_job(tmp_path))["headline"] == "halved 1 time(s), losses within 0.0005"
    fake_runs(monkeypatch, in_memory=(steps(3, 2), ""), out_of_memory=(steps(3, 2.5), SHORT))
    with pytest.raises(PartFailure, match=r"the losses differ by 0.5, 0.002 is allowed"):
        train_runs.out_of_memory(real_job(tmp_path))
    fake_runs(monkeypatch, in_memory=(steps(3, 2), ""), out_of_memory=(steps(3, 2), ""))
    with pytest.raises(PartFailure, match="memory did not run out"):
        train_runs.out_of_memory(real_job(tmp_path))


def test_float16_has_to_skip_and_to_go_on(monkeypatch, tmp_path):
    fake_runs(monkeypatch, float16=(steps(3, 2, 1), ""), float16_overflows=(steps(3, 3, 2, skipped=2), ""))
    assert train_runs.float16(real_job(tmp_path))["skipped"] == {"usual": 0, "high": 2}
    fake_runs(monkeypatch, float16=(steps(3, 2, 1), ""), float16_overflows=(steps(3, 2, 1), ""))
    with pytest.raises(PartFailure, match="no step is known as skipped"):
        train_runs.float16(real_job(tmp_path))
    fake_runs(monkeypatch, float16=(steps(3, 2, 1), ""), float16_overflows=(steps(3, 3, 3, skipped=3), ""))
    with pytest.raises(PartFailure, match="does not go on"):
        train_runs.float16(real_job(tmp_path))


def test_several_processes_need_several_gpus(monkeypatch, tmp_path):
    with pytest.raises(NothingToDo):
        train_runs.all_gpus(real_job(tmp_path))
    fake_runs(monkeypatch, of_4=(steps(3, 2), ""), alone=(steps(3, 2), ""))
    assert train_runs.all_gpus(real_job(tmp_path, num_gpus=4))["processes"] == 4


def test_the_line_through_sizes():
    sizes = [{"cells": cells, "bytes": 1000 + 50 * cells} for cells in (10, 20, 40)]
    found = footprint._line(sizes, 100, 6000)
    assert found == {"bytes_a_cell": 50.0, "bytes_beside": 1000.0, "estimate_over_it": 2.0, "cells_that_fit": 100}


def test_the_headline_of_speed():
    rate = {"tokens_per_s": {"median": 12000.4}, "failures": []}
    summary = {"ours": rate | {"ours_over_it": {"median": 1.0}}, "seed": rate | {"ours_over_it": {"median": 1.5}}}
    assert speed.headline(summary) == "tokens/s: ours 12,000, seed 12,000 (ours is 1.50 x)"
    assert speed.headline({"seed": {"failures": ["no room"]}}) == "tokens/s: seed failed"


def test_a_base_is_made_and_its_full_rows_are_nearly_full(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = bases.base_of(tmp_path, "tiny", "cpu", "float32")
    assert bases.base_of(tmp_path, "tiny", "cpu", "float32") == folder  # not made anew
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    rows = bases.full_rows(tmp_path, folder, 2, 1024)
    words = ["encode", "--model_name_or_path", folder, "--dataset_dir", rows, "--max_seq_length", 1024]
    out = tmp_path / "ids"
    subprocess.run([sys.executable, "-m", "yangtuo", *map(str, words), "--out", out], check=True, capture_output=True)
    lengths = [len(json.loads(line)["input_ids"]) for line in out.read_text().splitlines()]
    assert len(lengths) == 2
    assert all(850 < length <= 1024 for length in lengths)


def test_a_disk_without_room_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(bases.shutil, "disk_usage", lambda place: type("usage", (), {"free": 10})())
    with pytest.raises(PartFailure, match="--scratch names another place"):
        bases.base_of(tmp_path, "tiny", "cpu", "float32")


def test_the_outcome_in_a_line():
    assert told({"measured": {"headline": "fast"}}) == "fast"
    assert told({"reason": "broken", "measured": {"headline": "fast"}}) == "broken"


@pytest.mark.parametrize(
    ("part", "contenders"),
    [
        (speed.full, "ours,seed"),
        (speed.short, "ours,seed"),
        (speed.compiled_full, "ours,ours_compiled"),
        (speed.compiled_short, "ours,ours_compiled"),
        (speed.trl, "ours,trl_fast,trl_packed_fast"),
    ],
)
def test_speed_is_compared_by_throughput(part, contenders, tmp_path, monkeypatch):
    asked = []

    def start(words, environment):
        asked.extend(map(str, words))
        rate = {"tokens_per_s": {"median": 7.0}, "failures": []}
        record = {key: {} for key in ("settings", "matmul_flop_per_s", "rounds", "notes")} | {"summary": {"ours": rate}}
        (tmp_path / "throughput.json").write_text(json.dumps(record))
        return train_runs.Ended(0, "")

    monkeypatch.setattr(speed, "start", start)
    monkeypatch.setattr(speed, "base_of", lambda scratch, *_: scratch)
    monkeypatch.setattr(speed, "full_rows", lambda scratch, *_: scratch)
    monkeypatch.setattr(speed, "_compile_is_refused", lambda: False)
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: name)
    assert part(real_job(tmp_path))["headline"] == "tokens/s: ours 7"
    options = throughput.parse([*asked[2:], "--model", str(bases.base_of(tmp_path, "tiny", "cpu", "float32"))])
    assert options.contenders == contenders.split(",")
    assert (options.max_seq_length, options.rounds) == (4096 if "full" in part.__name__ else 512, 1)


def test_what_cannot_be_compared_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "_compile_is_refused", lambda: True)
    with pytest.raises(NothingToDo, match="refuses --torch_compile"):
        speed.compiled_full(real_job(tmp_path))
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NothingToDo, match="TRL is not installed"):
        speed.trl(real_job(tmp_path))
