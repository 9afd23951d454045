"""The README's first command, for real: SmolLM2-135M from the package index, a few minutes."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.command import run
from yangtuo.cli import demo
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
