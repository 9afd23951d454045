"""The public names: which there are, that they load nothing heavy, and what they are for a type checker."""

import json
import subprocess
import sys

import pytest

import yangtuo
from tests.command import REPOSITORY, run

NAMES = {
    *("train", "check", "preview", "encode", "evaluate", "merge", "export", "load"),
    *(
        "TrainResult",
        "CheckResult",
        "PreviewRow",
        "EncodedRow",
        "EvaluateResult",
        "MergeResult",
        "ExportResult",
        "Chat",
    ),
    *("YangtuoError", "UserError", "RunFailure"),
}


def test_the_names_are_these():
    """A new name is a promise: it is added here on purpose, and to docs/python.md."""
    assert set(yangtuo.__all__) == NAMES
    page = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    assert not [name for name in NAMES if f"`{name}`" not in page and f"yangtuo.{name}" not in page]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_is_there_and_documented(name):
    assert getattr(yangtuo, name).__doc__
    assert name in dir(yangtuo)


def test_other_names_are_refused_as_python_does():
    with pytest.raises(AttributeError, match="trian"):
        yangtuo.trian  # noqa: B018


# In a fresh interpreter: what is loaded after the import, after all names, and after calls that go wrong.
CALLS = """
import json, sys
import yangtuo
loaded = []
def note():
    loaded.append([name for name in ("torch", "transformers", "peft", "numpy") if name in sys.modules])
note()
for name in yangtuo.__all__:
    getattr(yangtuo, name)
note()
wrong = {
    "train": lambda: yangtuo.train(model_name_or_path="./nothing", train_file="a.json", output_dir="out"),
    "check": lambda: yangtuo.check(model_name_or_path="./nothing", train_file="a.json"),
    "preview": lambda: yangtuo.preview(model_name_or_path="./nothing", train_file="a.json"),
    "encode": lambda: yangtuo.encode(model_name_or_path="./nothing", train_file="a.json"),
    "evaluate": lambda: yangtuo.evaluate("./nothing"),
    "merge": lambda: yangtuo.merge("./nothing", output_dir="out"),
    "export": lambda: yangtuo.export("./nothing", output_dir="out"),
    "load": lambda: yangtuo.load("./nothing"),
}
errors = {}
for name, call in wrong.items():
    try:
        call()
    except yangtuo.UserError as error:
        errors[name] = str(error)
note()
# And after all of it, merging and exporting are functions still, whatever has been imported.
import yangtuo.merging.options, yangtuo.exporting.kinds
print(json.dumps([loaded, errors, callable(yangtuo.merge) and callable(yangtuo.export)]))
"""


def test_no_torch_is_loaded_until_something_is_computed(tmp_path):
    done = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, check=True, cwd=tmp_path)
    (imported, named, failed), errors, are_functions = json.loads(done.stdout)
    assert imported == []
    assert "torch" not in named
    assert "torch" not in failed
    assert "transformers" not in failed
    assert set(errors) == {name for name in NAMES if name[0].islower()}
    assert all("./nothing" in text and "no such folder" in text for text in errors.values()), errors
    assert are_functions
    assert done.stderr == ""


SCRIPT = """
import yangtuo

run = yangtuo.train(model_name_or_path="m", train_file=["a.json"], output_dir="out", learning_rate=1e-4, do_eval=True)
first: tuple[int, float] = run.losses[0]
chat = yangtuo.load(run.output_dir, temperature=0.7)
text: str = chat.ask("?").text
pieces: list[str] = list(chat.stream("?"))
row: yangtuo.EncodedRow = next(iter(yangtuo.encode(train_file="a.json")))
ids: list[int] = row.input_ids
found = yangtuo.evaluate(run.output_dir, compare=True)
outcome: str | None = found.outcome
good: bool = yangtuo.check(train_file="a.json").is_good_to_train
folder = yangtuo.merge(run.adapter, output_dir="merged").folder / "config.json"
try:
    yangtuo.export(folder.parent, output_dir="served", gguf="f16")
except yangtuo.UserError as error:
    code: int = error.exit_code
"""
WRONG = {
    "yangtuo.trian()": "attr-defined",
    "yangtuo.check().verdct": "attr-defined",
    "x: int = yangtuo.load('m').ask('?').text": "assignment",
    "yangtuo.train(train_file=object())": "arg-type",
}


def test_a_users_script_is_checked_by_mypy(tmp_path):
    """From the repository's own folder, where mypy has kept what it found out of `src`: seconds in place of many."""
    pytest.importorskip("mypy")
    files = {"script": SCRIPT, **{f"wrong_{i}": f"import yangtuo\n\n{line}\n" for i, line in enumerate(WRONG)}}
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    options = ["--strict", "--no-error-summary", "--config-file", REPOSITORY / "pyproject.toml"]
    scripts = [tmp_path / f"{name}.py" for name in files]
    done = run([sys.executable, "-m", "mypy", *options, *scripts], cwd=REPOSITORY, timeout=600)
    lines = [line for line in done.out.splitlines() if "error:" in line]
    assert not [line for line in lines if "script.py:" in line], done.said
    for number, kind in enumerate(WRONG.values()):
        assert [line for line in lines if f"wrong_{number}.py:" in line and f"[{kind}]" in line], done.said
