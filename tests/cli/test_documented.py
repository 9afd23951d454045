"""The commands of README.md and docs/data.md, typed as they stand there, on a tiny model."""

import re
import shlex
import shutil

import pytest
import yaml

from tests import tiny
from tests.command import REPOSITORY
from yangtuo.cli import main
from yangtuo.data.templates import CHATML, read_template

# What would take long, or needs more text than a test has; behind the documented words, so that it wins.
SHORTER = {
    "train": ["--max_steps", "2"],
    "vocab train": ["--vocab_size", "400"],
    "demo": None,  # tests/cli/test_demo.py runs it
}


def commands():
    """Every `yangtuo ...` line of the README's shell blocks, in order."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("yangtuo ")]


def test_the_commands_are_found():
    verbs = {words[1] for words in commands()}
    assert verbs == {"train", "check", "preview", "encode", "merge", "vocab"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which the paths of the README exist."""
    base = tiny.tiny_llama(tmp_path / "path" / "to" / "model")
    tiny.tiny_sentencepiece(base)
    (tmp_path / "path" / "to" / "data").mkdir()
    tiny.write_rows(tmp_path / "path" / "to" / "data" / "rows.json", tiny.rows(30))
    tiny.write_rows(tmp_path / "data.json", tiny.rows(5))
    lines = [f"第{i}句：{text}东方{chr(0x5000 + i)}山水" for i in range(200) for text in tiny.SENTENCES[1:]]
    (tmp_path / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    shutil.copy(base / "tokenizer.model", tmp_path / "tokenizer.model")
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_every_command_of_the_readme_works(place, capfd):
    for words in commands():
        _, verb, *options = words
        extra = SHORTER.get(verb, SHORTER.get(f"{verb} {options[0]}", []))
        if words[2:3] == ["examples/train.yaml"]:
            extra = [*extra, "--output_dir", "from_yaml"]
        code = main([verb, *options, *extra])
        out, err = capfd.readouterr()
        assert code == 0, f"{' '.join(words)}\n{out}{err}"
    assert (place / "merged" / "merge.json").is_file()
    assert (place / "rows.jsonl").is_file()
    assert (place / "llama-zh" / "config.json").is_file()


def test_the_template_of_the_page_is_chatml_with_a_system_prompt(tmp_path):
    page = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.M | re.S)
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    template = read_template(tmp_path / "mine.yaml")
    assert template.default_system == yaml.safe_load(block)["default_system"]
    for name in ("opening", "opening_without_system", "after_user", "between", "end", "control_tokens"):
        assert getattr(template, name) == getattr(CHATML, name), name
