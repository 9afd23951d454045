"""The README.md of a run's adapter, by the real command line on the tiny model."""

import hashlib
import json
import re
import shutil

import pytest
import torch
import yaml
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from tests import tiny
from yangtuo.cli import main
from yangtuo.model import model_card

STEPS = {"max_steps": 4, "do_train": True}


def card_of(out):
    return (out / "sft_lora_model" / "README.md").read_text(encoding="utf-8")


def block(card, language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", card, flags=re.M | re.S)
    return found


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    """One run, which tests only read."""
    out = tmp_path_factory.mktemp("card") / "out"
    assert main(["train", *inputs.options(out, **STEPS)]) == 0
    return out


def ask(adapter, monkeypatch, num_tokens):
    """Run the card's Python in its folder; returns its names."""
    names = {}
    code = block((adapter / "README.md").read_text(encoding="utf-8"), "python")
    assert "max_new_tokens=256" in code
    monkeypatch.chdir(adapter)
    exec(code.replace("max_new_tokens=256", f"max_new_tokens={num_tokens}"), names)
    return names


def test_the_card_tells_the_run(trained, inputs):
    card = card_of(trained)
    assert "[More Information Needed]" not in card
    _, front, body = card.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["base_model"] == str(inputs.base)
    assert (values["library_name"], values["language"]) == ("peft", ["zh"])
    assert "lora" in values["tags"]
    assert "license" not in values
    for name, rows in (("a.json", 15), ("b.json", 9)):
        digest = hashlib.sha256((inputs.data / name).read_bytes()).hexdigest()
        assert f"| `{name}` | {rows} | `{digest}` |" in body
    proof = json.loads((trained / "proof.json").read_text())
    assert f"{proof['gain']['at_start']:.4f} before" in body
    assert f"{proof['reload']['reloaded']:.4f} of this adapter" in body
    config = json.loads((trained / "sft_lora_model" / "adapter_config.json").read_text())
    assert f"| rank | {config['r']} |" in body
    assert all(f"`{name}`" in body for name in config["target_modules"])
    assert "| steps 步数 | 4 |" in body
    assert "训练了 4 步" in body
    assert model_card.is_ours(card)


def test_its_python_asks_the_adapter(trained, monkeypatch, capfd):
    names = ask(trained / "sft_lora_model", monkeypatch, num_tokens=3)
    asked = names["tokenizer"].decode(names["inputs"]["input_ids"][0])
    assert asked.removeprefix("<s>").strip() == tiny.SENTENCES[0].strip()
    assert names["output"].shape[1] - names["inputs"]["input_ids"].shape[1] <= 3
    saved = load_file(trained / "sft_lora_model" / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(names["model"])
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)


def test_its_prompt_is_that_of_training(trained):
    prompt = block(card_of(trained), "text").removesuffix("\n").replace("{instruction}", "请介绍一下长城。")
    assert prompt == tiny.SENTENCES[0]


def without_last(words):
    assert words[-1] == "merged"
    return words[:-1]


def test_its_commands_work(trained, run, tmp_path, monkeypatch):
    monkeypatch.chdir(trained)
    lines = block(card_of(trained), "bash").splitlines()
    assert [line.split()[:2] for line in lines] == [["yangtuo", verb] for verb in ("chat", "eval", "export", "merge")]
    assert "sft_lora_model" in lines[0].split()
    run(*without_last(lines[3].split()[1:]), tmp_path / "merged")
    assert (tmp_path / "merged" / "merge.json").is_file()


def test_it_is_there_after_resuming_and_extending(train, inputs, tmp_path):
    out = tmp_path / "out"
    saves = {"save_strategy": "steps", "save_steps": 2, "do_train": True}
    train(out, **saves, max_steps=4)
    (out / "sft_lora_model").rename(tmp_path / "first")
    values = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(values | {"state": "running"}))
    assert "resuming" in train(out, **saves, max_steps=4)
    again = card_of(out)
    assert again == (tmp_path / "first" / "README.md").read_text(encoding="utf-8")
    train(out, **saves, max_steps=6, extend=True)
    assert "| steps 步数 | 6 |" in card_of(out)
    former = out / "sft_lora_model.step-4" / "README.md"
    assert former.read_text(encoding="utf-8") == again


def test_an_evaluation_of_these_weights_is_told_and_an_older_one_is_not(train, inputs, tmp_path):
    out = tmp_path / "out"
    saves = {"save_strategy": "steps", "save_steps": 2, "do_train": True}
    train(out, **saves, max_steps=2)
    (out / "evaluation").mkdir()
    text = "The tuned model is better on your data."
    (out / "evaluation" / "results.json").write_text(json.dumps({"verdict": {"outcome": "better", "text": text}}))
    assert model_card.put_verdict(out / "sft_lora_model", text)
    assert text in card_of(out)
    train(out, **saves, max_steps=4, extend=True)
    assert text not in card_of(out)


def test_grown_vocabularies_and_stacks_are_in_the_python(train, inputs, tmp_path, monkeypatch):
    base = tiny.tiny_llama(tmp_path / "base", num_rows=470)
    shutil.copy(inputs.base / "tokenizer.model", base)
    monkeypatch.chdir(tmp_path)  # so that the base's path is relative
    options = {"model_name_or_path": "base", "modules_to_save": "embed_tokens,lm_head", **STEPS}
    train(tmp_path / "first", **options)
    assert "resize_token_embeddings(480" in block(card_of(tmp_path / "first"), "python")
    first = tmp_path / "first" / "sft_lora_model"
    train(tmp_path / "out", model_name_or_path="base", peft_path=first, new_adapter=True, **STEPS)
    assert f"{str(first)!r}" in block(card_of(tmp_path / "out"), "python")
    names = ask(tmp_path / "out" / "sft_lora_model", monkeypatch, num_tokens=2)
    assert names["model"].get_input_embeddings().weight.shape[0] == 480
