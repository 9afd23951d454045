"""The last lines of a run: each command finds the base where the run has found it."""

from pathlib import Path

import pytest

from yangtuo.config.parser import build_parser, parse
from yangtuo.training.load import next_commands


def commands(name, *words):
    settings, _ = parse([f"--{word}" for word in words], build_parser("yangtuo train"))
    known = {"base": {"name": str(name)}, "stack": []}
    return next_commands(settings, known, Path("out/sft_lora_model"))


@pytest.mark.parametrize(
    ("variable", "words", "hub"),
    [
        ("", (), None),
        ("", ("hub=modelscope",), "modelscope"),
        ("1", (), "modelscope"),
        ("1", ("hub=huggingface",), "huggingface"),
    ],
)
def test_the_hub_is_named_where_another_command_would_ask_another(monkeypatch, variable, words, hub):
    monkeypatch.setenv("USE_MODELSCOPE_HUB", variable)
    for line in commands("owner/model", *words):
        assert ("--hub" in line) == (hub is not None)
        assert hub is None or f"--hub {hub}" in line
        assert "--model_name_or_path owner/model" in line


def test_a_folder_is_found_by_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    asked, measured, *_ = commands(tmp_path, "cache_dir=elsewhere", "trust_remote_code=true")
    assert asked == "to ask it: yangtuo chat out/sft_lora_model --trust_remote_code"
    assert measured.endswith("yangtuo eval out/sft_lora_model --compare --trust_remote_code")


def test_a_cache_of_ones_own_is_named():
    assert all("--cache_dir elsewhere" in line for line in commands("owner/model", "cache_dir=elsewhere"))
