"""The commands of README.md, docs/adapters.md and docs/data.md, typed as they stand there, on a tiny model."""

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests import tiny
from tests.cli.test_eval import choice_folder
from tests.command import REPOSITORY
from tests.run_folders import write_run
from tests.unit.exporting.test_server_check import Served, running
from yangtuo.cli import main
from yangtuo.data.templates import CHATML, read_template

# What would take long, or needs more text than a test has; in place of the documented values.
SHORTER = {
    "train": ["--max_steps", "2"],
    "vocab train": ["--vocab_size", "400"],
    "eval": ["--num_answers", "3", "--max_new_tokens", "8"],
    "generate": ["--max_new_tokens", "8"],
    "demo": None,  # tests/cli/test_demo.py runs it
}


def commands(page="README.md"):
    """Every `yangtuo ...` line of a page's shell blocks, in order."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("yangtuo ")]


def test_the_commands_are_found():
    verbs = {words[1] for words in commands()}
    assert verbs == {"check", "train", "chat", "eval", "export"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which the paths of the README exist."""
    base = tiny.tiny_llama(tmp_path / "path" / "to" / "model")
    tiny.tiny_sentencepiece(base)
    (tmp_path / "path" / "to" / "data").mkdir()
    tiny.write_rows(tmp_path / "path" / "to" / "data" / "rows.json", tiny.rows(30))
    tiny.write_rows(tmp_path / "data.json", tiny.rows(5))
    tiny.write_rows(tmp_path / "path" / "to" / "validation.json", tiny.rows(6))
    (tmp_path / "prompts.txt").write_text("你好\n请介绍长城。\n", encoding="utf-8")
    lines = [f"第{i}句：{text}东方{chr(0x5000 + i)}山水" for i in range(200) for text in tiny.SENTENCES[1:]]
    (tmp_path / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    shutil.copy(base / "tokenizer.model", tmp_path / "tokenizer.model")
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def without(options, names):
    """The words without those options and their values: an option cannot be given twice."""
    places = [options.index(name) for name in names if name in options]
    return [word for i, word in enumerate(options) if i not in places and i - 1 not in places]


def run_all(page, capfd):
    """Run a page's commands in order; `check-deploy` asks a server that has the exported folder."""
    for words in commands(page):
        _, verb, *options = words
        extra = SHORTER.get(verb, SHORTER.get(f"{verb} {options[0]}", []))
        if words[2:3] == ["examples/train.yaml"]:
            extra = [*extra, "--output_dir", "from_yaml"]
        options = without(options, extra[::2])
        with contextlib.ExitStack() as stack:
            if verb == "check-deploy":
                served = Served(Path(options[options.index("--model_dir") + 1]))
                url, _ = stack.enter_context(running(served))
                options = [url if word.startswith("http") else word for word in options]
            code = main([verb, *options, *extra])
        out, err = capfd.readouterr()
        assert code == 0, f"{' '.join(words)}\n{out}{err}"


def test_every_command_of_the_readme_works(place, capfd):
    run_all("README.md", capfd)
    assert (place / "output_dir" / "report.html").is_file()
    assert (place / "exported" / "model-f16.gguf").is_file()


def test_every_command_of_the_page_on_adapters_works(place, capfd):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra qlora)")
    run_all("docs/adapters.md", capfd)
    both, third = (load_file(place / name / "model.safetensors") for name in ("merged_both", "merged_too"))
    assert all(torch.equal(both[name], third[name]) for name in both)
    assert (place / "pure" / "adapter" / "adapter_model.safetensors").is_file()


def test_every_command_of_the_page_on_reports_works(place, capfd):
    for name in ("output_dir", "lower_rate", "higher_rank"):
        write_run(place / name)
    run_all("docs/report.md", capfd)
    assert (place / "output_dir" / "report.html").is_file()
    assert "3 runs side by side" in (place / "comparison.html").read_text(encoding="utf-8")


def test_every_command_of_the_page_on_evaluation_works(place, capfd):
    base = place / "path" / "to" / "model"
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    choice_folder(place / "path" / "to" / "ceval")
    words = [
        *("--model_name_or_path", base, "--dataset_dir", "path/to/data", "--output_dir", "output_dir", "--do_train"),
        *("--validation_split_percentage", 20, "--do_eval", "--max_steps", 12, "--learning_rate", "5e-3", "--seed", 3),
        *("--per_device_train_batch_size", 4, "--save_strategy", "no", "--use_cpu"),
    ]
    assert main(["train", *map(str, words)]) == 0
    run_all("docs/evaluation.md", capfd)
    found = json.loads((place / "output_dir" / "evaluation" / "results.json").read_text(encoding="utf-8"))
    page = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    keys = found.keys() - {"version", "created", "seconds"} | found["measures"][0].keys() | found["models"][0].keys()
    assert [key for key in keys if not re.search(rf"\b{key}\b", page)] == []
    rules = {rule["name"] for rule in found["verdict"]["rules"]}
    assert {f"`{name}`" for name in rules} <= set(re.findall(r"^\| (`\w+`) \|", page, flags=re.M))
    assert len((place / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_the_template_of_the_page_is_chatml_with_a_system_prompt(tmp_path):
    page = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.M | re.S)
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    template = read_template(tmp_path / "mine.yaml")
    assert template.default_system == yaml.safe_load(block)["default_system"]
    for name in ("opening", "opening_without_system", "after_user", "between", "end", "control_tokens"):
        assert getattr(template, name) == getattr(CHATML, name), name
