"""The README's first command, for real: SmolLM2-135M from the package index, a few minutes."""

import json
import shlex
import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.command import run
from yangtuo.cli import OF_A_RUN, demo, module_of
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.words import Parser
from yangtuo.inference.generate import Sampling

from .test_scripts import SCRIPTS, environment  # noqa: F401  # the fixture


@pytest.mark.demo
def test_main_command_teaches_the_model_its_name(environment, tmp_path):  # noqa: F811
    values = {**environment, "output_dir": tmp_path / "out"}
    done = run(["bash", SCRIPTS / "run_sft.sh"], env=values, timeout=1500)
    assert done.code == 0, done.said
    assert "so the demo runs" in done.out
    assert "of 4 questions about its name, none of them in the data, 0 answered with 羊驼 before" in done.out

    assert "verdict: better" in done.out
    found = json.loads((tmp_path / "out" / "evaluation" / "results.json").read_text())
    assert [model["name"] for model in found["models"]] == ["base", "tuned"]

    base = demo.fetch_model(demo.cache_folder())
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    questions = ["能做个简单的自我介绍吗？", "请问你的名字是什么？"]  # the first is not among the demo's own questions
    before = demo.answers(model, base, questions, Sampling(24))
    tuned = PeftModel.from_pretrained(model, tmp_path / "out" / "sft_lora_model")
    after = demo.answers(tuned.get_base_model(), base, questions, Sampling(24))
    assert not any(demo.NAME in text for text in before), before
    assert all(demo.NAME in text for text in after), after


@pytest.mark.parametrize("is_switched_on", [True, False])
def test_in_an_environment_that_is_not_switched_on_that_comes_first(is_switched_on, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "env") if is_switched_on else "")
    text = demo.next_steps(tmp_path / "out", tmp_path / "base")
    assert (f"source {tmp_path}/env/bin/activate" in text) != is_switched_on


def test_it_ends_with_commands_that_there_are(tmp_path):
    """Each is read by its verb's parser; MODEL and rows.json are the user's."""
    text = demo.next_steps(tmp_path / "my run", tmp_path / "a base")
    commands = [shlex.split(line.partition("yangtuo ")[2]) for line in text.splitlines() if "yangtuo " in line]
    assert [words[0] for words in commands] == ["chat", "preview", "check", "train"]
    for verb, *words in commands:
        module = module_of(verb)
        if verb in OF_A_RUN:
            parse(words, build_parser(verb, module.add_options))
        else:
            parser = Parser(verb)
            module.add_options(parser)
            assert parser.parse_args(words).target == str(tmp_path / "my run")
    assert str(tmp_path / "my run" / "report.html") in text
