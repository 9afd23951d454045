"""The scripts and the notebook of examples/ do what they say, on a tiny model."""

import json
import re
import runpy
import shutil
import sys

import pytest

from tests.command import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


@pytest.fixture
def example(monkeypatch, capsys):
    """Run a script in this process; returns its names and what it printed."""

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        names = runpy.run_path(str(EXAMPLES / name))
        return names, capsys.readouterr().out

    return run


def test_every_example_is_run_by_a_test():
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {"one_row.py", "look_before_training.py", "train_and_ask.py", "merge_and_export.py"}
    assert [path.name for path in EXAMPLES.glob("*.ipynb")] == ["first_run.ipynb"]


def test_the_scripts_one_after_the_other(example, inputs, tmp_path):
    rows = inputs.data / "a.json"
    names, out = example("look_before_training.py", inputs.base, rows)
    assert "verdict: look" in out
    assert f"{len(names['rows'])} rows" in out
    assert len(names["rows"]) == 15

    names, out = example("train_and_ask.py", inputs.base, rows, tmp_path / "run", 3)
    assert names["run"].num_steps == 3
    assert f"{names['run'].losses[-1][1]:.3f} at the last" in out
    assert out.rstrip().endswith(names["chat"].ask("你好，请问你是哪位？").text.rstrip())

    names, out = example("merge_and_export.py", tmp_path / "run", inputs.validation, tmp_path / "out")
    assert names["found"].outcome in ("better", "no_difference")
    assert (tmp_path / "out" / "merged" / "merge.json").is_file()
    assert (tmp_path / "out" / "served" / "model-q8_0.gguf").is_file()


def test_a_wrong_folder_is_one_line(example, tmp_path):
    with pytest.raises(SystemExit, match=r"not trained: --model_name_or_path \./nothing: no such folder"):
        example("train_and_ask.py", "./nothing", "a.json", tmp_path / "run")


def test_the_notebook_runs_and_shows_its_curve(inputs, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra dev)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra dev)")
    import nbformat

    monkeypatch.setenv("MODEL", str(inputs.base))
    monkeypatch.setenv("STEPS", "3")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(EXAMPLES / "first_run.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("<svg" in html and "3 steps" in html for html in shown)
    said = {name: _stream(outputs, name) for name in ("stdout", "stderr")}
    assert "before:" in said["stdout"]
    # The bar, whose last state is that of the end: `\r` goes back to the begin of its line.
    bars = [line for line in said["stderr"].splitlines() if "step/s" in line or "s/step" in line]
    assert len([line for line in bars if line]) >= 1
    assert "3/3" in bars[-1]
    assert "Traceback" not in said["stderr"]


def _stream(outputs, name):
    return "".join(output["text"] for output in outputs if output.get("name") == name)


def test_the_notebook_is_kept_without_outputs():
    """What a run printed is of one machine and one day."""
    notebook = json.loads((EXAMPLES / "first_run.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def blocks(page):
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)


def test_both_pages_on_python_have_the_same_code():
    assert blocks("python.md") == blocks("python.zh.md")
    assert len(blocks("python.md")) == 5


def test_the_code_of_the_page_on_python_runs_as_it_stands(inputs, tmp_path, monkeypatch, capsys):
    shutil.copytree(inputs.base, tmp_path / "path" / "to" / "model")
    shutil.copy(inputs.data / "a.json", tmp_path / "rows.json")
    shutil.copy(inputs.validation, tmp_path / "valid.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for block in blocks("python.md"):
        if "logging.basicConfig" not in block:  # of the whole process; the examples call it
            exec(compile(block, "docs/python.md", "exec"), {})
    out = capsys.readouterr().out
    assert "did you mean '--lora_rank'?" in out
    assert "model-q8_0.gguf" in out
    assert (tmp_path / "merged" / "merge.json").is_file()
