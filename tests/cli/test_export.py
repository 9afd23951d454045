"""`yangtuo export`: what lies in the folder, and that others compute and ask with it as training did."""

import json
import shutil
from importlib.metadata import version

import pytest
import torch
from gguf import GGUFReader
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils.chat_template_utils import render_jinja_template

from tests import tiny
from tests.cli.test_adapters import adapter_of, logits, with_peft
from yangtuo.data.encoding import prompt_ids
from yangtuo.data.records import Turn
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.exporting.plain_lora import vllm_rank

FULL = {"modules_to_save": "embed_tokens,lm_head"}
QUESTION = "请介绍一下长城。"


def export(run, base, out, *more, adapters=(), expect=0):
    peft_path = ["--peft_path", ",".join(map(str, adapters))] if adapters else []
    words = ["--model_name_or_path", base, *peft_path, "--output_dir", out, *more]
    return run("export", *words, expect=expect)


def asked_by(folder):
    """The ids that a server makes: it renders the messages with the folder's template, and tokenises the text whole."""
    source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    messages = [{"role": "user", "content": QUESTION}]
    ((text,), _) = render_jinja_template([messages], chat_template=source, add_generation_prompt=True)
    tokenizer = open_tokenizer(folder)
    assert text.startswith("<s>")
    return [tokenizer.bos_id, *tokenizer.encode([text.removeprefix("<s>")])[0]]


def test_a_merged_folder_has_all_that_a_server_asks_for(train, run, inputs, tmp_path):
    train(tmp_path / "out")
    said = export(run, inputs.base, tmp_path / "exported", "--gguf", "f16", adapters=[adapter_of(tmp_path / "out")])
    folder = tmp_path / "exported"
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.model", "merge.json", "yangtuo.json", "Modelfile"),
        *("chat_template.jinja", "generation_config.json", "prompt.txt", "model-f16.gguf", "README.md"),
    }
    assert "ollama create NAME -f" in said
    told = (
        "makes other token ids than training from 13 of 13 dialogues (the same text in other tokens of tokenizer.model"
    )
    assert f"prompts: transformers {version('transformers')} {told}" in said
    assert told in (folder / "README.md").read_text(encoding="utf-8")
    tokenizer = open_tokenizer(folder)
    expected = prompt_ids(tokenizer, ALPACA_ZH, [Turn("user", QUESTION, trained=False)])
    assert asked_by(folder) == expected
    assert (folder / "prompt.txt").read_text(encoding="utf-8") == ALPACA_ZH.prompt("{instruction}")
    assert (folder / "Modelfile").read_text(encoding="utf-8").splitlines()[1] == "FROM ./model-f16.gguf"
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_id
    assert json.loads((folder / "yangtuo.json").read_text(encoding="utf-8"))["template"]["name"] == "alpaca_zh"
    reader = GGUFReader(folder / "model-f16.gguf")
    assert len(reader.tensors) == 21
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    live = logits(with_peft(inputs.base, adapter_of(tmp_path / "out")))
    torch.testing.assert_close(logits(model), live, atol=2e-5, rtol=1e-5)


def test_the_template_can_be_named_and_given_a_system_prompt(train, run, inputs, tmp_path):
    train(tmp_path / "out")
    words = ["--template", "alpaca_zh", "--system_prompt", "简短地回答。"]
    export(run, inputs.base, tmp_path / "exported", *words, adapters=[adapter_of(tmp_path / "out")])
    assert (tmp_path / "exported" / "prompt.txt").read_text(encoding="utf-8").startswith("简短地回答。\n\n###")


def test_a_model_without_adapters_gets_its_texts_in_a_folder_of_its_own(run, inputs, tmp_path):
    before = sorted(path.name for path in inputs.base.iterdir())
    said = export(run, inputs.base, tmp_path / "exported")
    assert "template: alpaca_zh (auto: the tokenizer has no chat template and no tokens of one)" in said
    assert (tmp_path / "exported" / "chat_template.jinja").is_file()
    assert sorted(path.name for path in inputs.base.iterdir()) == before
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    assert exported.keys() == load_file(inputs.base / "model.safetensors").keys()
    again = export(run, tmp_path / "exported", tmp_path / "again", "--gguf", "q8_0")
    assert f"template: alpaca_zh (auto: {tmp_path / 'exported'} was trained with it)" in again
    assert (tmp_path / "again" / "model-q8_0.gguf").is_file()


KINDS = {
    "in_full": FULL,
    "patterns": {**FULL, "rank_pattern": "q_proj:4", "alpha_pattern": "v_proj:8"},
    "rslora": {"use_rslora": True, "modules_to_save": "lm_head"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_pure_lora_is_one_rank_and_scale_for_a_base_with_the_rest_inside(train, run, inputs, tmp_path, kind):
    train(tmp_path / "out", **KINDS[kind])
    said = export(run, inputs.base, tmp_path / "pure", "--pure_lora", adapters=[adapter_of(tmp_path / "out")])
    assert f"{tmp_path}/pure/base --enable-lora --max-lora-rank 8 --lora-modules tuned={tmp_path}/pure/adapter" in said
    adapter = tmp_path / "pure" / "adapter"
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert all(".lora_A." in key or ".lora_B." in key for key in tensors)
    assert {len(value) for key, value in tensors.items() if ".lora_A." in key} == {8}
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["modules_to_save"], config["rank_pattern"], config["use_rslora"]) == (None, {}, False)
    live = logits(with_peft(inputs.base, adapter_of(tmp_path / "out")))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "pure" / "base", dtype=torch.float32)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(base, adapter)), live, atol=2e-5, rtol=1e-5)
    # It knows its new base: merging into that works, into the old one is refused.
    run(
        "merge",
        "--model_name_or_path",
        tmp_path / "pure" / "base",
        "--peft_path",
        adapter,
        "--output_dir",
        tmp_path / "m",
    )
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    torch.testing.assert_close(logits(merged), live, atol=2e-5, rtol=1e-5)
    words = ["--model_name_or_path", inputs.base, "--peft_path", adapter, "--output_dir", tmp_path / "x"]
    assert "was trained on" in run("merge", *words, expect=2)


@pytest.mark.parametrize(
    ("ranks", "says"),
    [
        ({"lora_rank": 16}, "--max-lora-rank 16 "),
        ({"lora_rank": 8, "rank_pattern": "q_proj:48"}, "--max-lora-rank 64 "),
        ({"lora_rank": 513}, "rank 513: vLLM takes adapters up to 512 only; export without --pure_lora, merged"),
    ],
)
def test_the_command_for_vllm_takes_the_largest_rank(train, run, inputs, tmp_path, ranks, says):
    train(tmp_path / "out", **ranks, trainable="q_proj,v_proj")
    said = export(run, inputs.base, tmp_path / "pure", "--pure_lora", adapters=[adapter_of(tmp_path / "out")])
    assert says in said
    assert ("vllm serve" in said) == ("--max-lora-rank" in says)


def test_a_rank_that_vllm_knows():
    ranks = {1: 8, 8: 8, 9: 16, 64: 64, 65: 128, 257: 320, 321: 512, 512: 512, 513: None}
    assert {rank: vllm_rank(rank) for rank in ranks} == ranks


def test_pure_lora_keeps_a_tied_matrix_one(train, run, tmp_path):
    base = tiny.tiny_llama(tmp_path / "tied", tie=True)
    tiny.tiny_sentencepiece(base)
    train(tmp_path / "out", model_name_or_path=base, **FULL)
    export(run, base, tmp_path / "pure", "--pure_lora", adapters=[adapter_of(tmp_path / "out")])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "pure" / "base", dtype=torch.float32)
    assert model.config.tie_word_embeddings
    live = logits(with_peft(base, adapter_of(tmp_path / "out")))
    together = PeftModel.from_pretrained(model, tmp_path / "pure" / "adapter")
    torch.testing.assert_close(logits(together), live, atol=2e-5, rtol=1e-5)


def test_a_split_that_is_not_the_same_model_fails(train, run, inputs, tmp_path, monkeypatch):
    from yangtuo.exporting import plain_lora

    train(tmp_path / "out", **FULL)
    real = plain_lora.lora_of

    def half(step, base, published):
        lora = real(step, base, published)
        lora.config.lora_alpha /= 2
        return lora

    monkeypatch.setattr(plain_lora, "lora_of", half)
    adapters = [adapter_of(tmp_path / "out")]
    said = export(run, inputs.base, tmp_path / "pure", "--pure_lora", adapters=adapters, expect=1)
    assert "proof failed: logits of base with plain LoRA" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pure.failed-proof"]


def test_what_vllm_does_not_load_is_refused(train, run, inputs, tmp_path):
    train(tmp_path / "out", use_dora=True)
    adapters = [adapter_of(tmp_path / "out")]
    said = export(run, inputs.base, tmp_path / "pure", "--pure_lora", adapters=adapters, expect=2)
    assert "--pure_lora: vLLM does not load DoRA; export it merged" in said
    assert not (tmp_path / "pure").exists()


def test_options_that_contradict_each_other(run, inputs, tmp_path, sentences):
    said = export(run, inputs.base, tmp_path / "x", "--pure_lora", expect=2)
    assert "--pure_lora: it divides an adapter" in said
    said = export(run, inputs.base, tmp_path / "x", "--pure_lora", "--gguf", "f16", adapters=["a"], expect=2)
    assert "--pure_lora: a GGUF file is of a merged model" in said
    said = export(run, inputs.base, tmp_path / "x", "--dtype", "float16", expect=2)
    sentences(said, "--dtype float16")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not empty" in export(run, inputs.base, tmp_path / "full", expect=2)


def test_a_model_that_llama_cpp_does_not_know_is_refused_before_anything_is_written(run, inputs, tmp_path):
    base = tmp_path / "other"
    shutil.copytree(inputs.base, base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(
        json.dumps({**config, "model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"]})
    )
    said = export(run, base, tmp_path / "x", "--gguf", "f16", expect=2)
    assert "olmo2" in said
    assert not (tmp_path / "x").exists()


def test_what_is_wrong_is_said_before_anything_is_written(train, run, inputs, tmp_path, sentences):
    train(tmp_path / "out")
    adapter, out = adapter_of(tmp_path / "out"), tmp_path / "exported"
    said = export(run, inputs.base, out, "--template", "llama3", adapters=[adapter], expect=2)
    assert "has no token <|start_header_id|>" in said
    sentences(export(run, adapter, out, expect=2), "--peft_path")
    assert "did you mean '--peft_path'?" in export(run, inputs.base, out, "--peft_pat", adapter, expect=2)
    (tmp_path / "file").write_text("mine")
    assert "file: a file; choose a folder" in export(run, inputs.base, tmp_path / "file", expect=2)
    said = export(run, inputs.base, tmp_path / "file" / "x", adapters=[adapter], expect=2)
    assert f"cannot be made: {tmp_path / 'file'} is a file" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]
