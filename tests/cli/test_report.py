"""The page of whole runs: written when a run ends, by `yangtuo report`, and never in the way of a run."""

import json
import logging
import sys

import pytest

from tests.command import run as run_command
from tests.html_pages import Page
from tests.run_folders import results, write_run
from yangtuo.report import page as report_page
from yangtuo.report.facts import read_run
from yangtuo.training import verify


def page_of(path):
    return Page(path.read_text(encoding="utf-8"))


def test_a_run_ends_with_its_page(train, inputs, tmp_path):
    said = train(
        **{"do_train": True, "do_eval": True, "eval_strategy": "steps", "eval_steps": 2},
        **{"validation_file": inputs.validation, "sample_prompts": "validation:2", "sample_tokens": 4},
    )
    out = tmp_path / "out"
    assert f"report: {out / 'report.html'}" in said
    page, run = page_of(out / "report.html"), json.loads((out / "run.json").read_text())
    facts = read_run(out)
    assert facts.missing == ()
    assert page.all("section", id="verdict")[0]["data-verdict"] == "verdict.proven"
    english = page.text()
    for told in (
        "24 of 24 rows are used",
        "--learning_rate 0.01 command line",
        "Validation rows",
        "Answers before and",
    ):
        assert told in english
    proof = json.loads((out / "proof.json").read_text())
    assert f"went from {proof['gain']['at_start']:.4f} to {proof['gain']['at_end']:.4f}" in english
    assert run["planned_seconds"] > 0
    assert facts.planned_seconds == run["planned_seconds"]
    assert len(run["next_commands"]) == 4
    for line in run["next_commands"]:
        assert line in said
        assert line.partition(": ")[2] in english
    size = (out / "report.html").stat().st_size
    assert size < 400_000


def test_no_page_where_none_is_wanted(train, tmp_path):
    assert "report" not in train(no_report=True)
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_page_that_cannot_be_written_is_a_warning(train, tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "page_of", lambda runs: 1 / 0)
    said = train()
    (line,) = [line for line in said.splitlines() if line.startswith("report: ")]
    assert "could not be written: division by zero" in line
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "finished"


def test_a_run_whose_proof_fails_has_its_page_too(train, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "_other_loss", lambda reload: iter(["it is another one <i>"]))
    train(expect=1)
    page = page_of(tmp_path / "out" / "report.html")
    assert page.all("section", id="verdict")[0]["data-verdict"] == "verdict.proof_failed"
    assert "it is another one <i>" in page.text()


def test_of_two_runs(train, run, tmp_path, monkeypatch):
    train(tmp_path / "a", report=False)
    train(tmp_path / "b", report=False, learning_rate=0.003)
    monkeypatch.chdir(tmp_path)
    assert "report: report.html (" in run("report", "a", "b")
    english = page_of(tmp_path / "report.html").text()
    assert "--learning_rate 0.01 command line 0.003 command line" in english
    assert "--lora_rank" not in english


def test_the_verb_writes_into_the_folder_or_elsewhere(run, tmp_path):
    folder = write_run(tmp_path / "out", evaluated=results())
    run("report", folder)
    run("report", folder, "--output", tmp_path / "page.html")
    assert (folder / "report.html").read_bytes() == (tmp_path / "page.html").read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "run"),
        (("gone",), "gone: no such folder; give the --output_dir of a run"),
        ((".",), "neither run.json nor log.jsonl in it"),
        (("out", "--output", "no/page.html"), "--output no/page.html"),
        (("out", "--output", "out"), "--output out: a folder"),
        (("out", "--output", "notes.txt"), "--output notes.txt: there is another file of that name"),
        (("out", "out"), "out: named twice"),
        (("out", "--ouput", "x"), "--ouput"),
    ],
)
def test_what_cannot_be(words, told, run, tmp_path, monkeypatch):
    write_run(tmp_path / "out")
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in run("report", *words, expect=2).splitlines() if line]
    assert line.startswith("error: ")
    assert told in line
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_it_starts_without_torch(tmp_path):
    folder = write_run(tmp_path / "out")
    code = f"import sys\nfrom yangtuo.cli import main\ncode = main(['report', {str(folder)!r}])\n"
    code += "print(code, [name for name in ('torch', 'transformers', 'peft', 'numpy') if name in sys.modules])"
    done = run_command([sys.executable, "-c", code])
    assert done.out.strip() == "0 []", done.said


def test_a_folder_that_nothing_may_be_written_into(run, tmp_path, monkeypatch):
    folder = write_run(tmp_path / "out")
    (folder / "report.html").mkdir()
    said = run("report", folder, expect=1)
    assert "report.html: cannot be written" in said
    assert logging.getLogger("yangtuo").handlers
