"""The LLaMA family: every kind of base trains, saves, and loads in plain PEFT, with and without checkpointing."""

import json
import os
import re
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tests import tiny
from tests.command import evaluations_of, log_of
from yangtuo.cli import main
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.readers import reader
from yangtuo.data.templates import CHATML
from yangtuo.data.tokenizer import open_tokenizer

SMALL = {
    "vocab_size": 500,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
FAMILY = {
    "llama": {"model_type": "llama", "num_key_value_heads": 4},
    "llama, tied, grouped heads": {"model_type": "llama", "tie_word_embeddings": True},
    "llama 3's rope": {"model_type": "llama", "rope_parameters": LLAMA3_ROPE},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "mistral": {"model_type": "mistral", "sliding_window": None},
}


@pytest.mark.parametrize("modules_to_save", [None, "embed_tokens,lm_head"], ids=["lora", "modules_to_save"])
@pytest.mark.parametrize("name", FAMILY)
def test_train_save_load(name, modules_to_save, inputs, tmp_path):
    values = {**SMALL, **FAMILY[name]}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    model.save_pretrained(tmp_path / "base")
    tiny.tiny_json_tokenizer(tmp_path / "base")
    changes = {"model_name_or_path": tmp_path / "base", "modules_to_save": modules_to_save}
    changes |= {"do_train": True, "do_eval": True, "validation_file": inputs.validation}
    curves = []
    for checkpointing in (False, True):
        out = tmp_path / f"out{checkpointing}"
        assert main(["train", *inputs.options(out, **changes, gradient_checkpointing=checkpointing)]) == 0
        curves.append([entry["loss"] for entry in log_of(out)])
    assert curves[0] == pytest.approx(curves[1], abs=2e-6)
    assert curves[0][-1] < curves[0][0]

    ids = torch.arange(3, 60)[None]
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    before = base(ids).logits
    tuned = PeftModel.from_pretrained(base, out / "sft_lora_model")
    assert (tuned(ids).logits - before).abs().max() > 1e-3
    in_memory = evaluations_of(out)[-1]["eval_loss"]
    assert mean_nll(tuned, inputs.validation, tmp_path / "base") == pytest.approx(in_memory, abs=2e-6)


def mean_nll(model, validation, tokenizer_folder):
    read, _ = reader.read([validation])
    examples, _ = encode(read, open_tokenizer(tokenizer_folder), EncodingOptions(CHATML, 384))
    model.eval()
    losses = []
    for i in range(len(examples)):
        ids, labels = (torch.from_numpy(column).long()[None] for column in (examples.row(i)[0], examples.labels(i)))
        with torch.no_grad():
            logits = model(ids).logits
        losses.append(functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="none")[labels[0, 1:] >= 0])
    return torch.cat(losses).mean().item()


# ---- bases that are not of the LLaMA family, and those that cannot be trained

SEVERAL = {**SMALL, "head_dim": 8, "pad_token_id": 0}
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TOWER |= {"image_size": 28, "patch_size": 14}


def several_towers(folder, kind, of_text):
    text = {**SEVERAL, "model_type": of_text, "tie_word_embeddings": True}
    config = AutoConfig.for_model(kind, text_config=text, vision_config={**TOWER, "head_dim": 8})
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tiny.tiny_json_tokenizer(folder)
    return folder


def of_kind(folder, kind, **values):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SEVERAL, **values}), dtype=torch.float32)
    model.save_pretrained(folder)
    tiny.tiny_json_tokenizer(folder)
    return folder


@pytest.mark.parametrize("trainable", [None, "q_proj", "all-linear"])
def test_of_several_towers_the_one_of_text_is_trained(trainable, train, tmp_path):
    """A vision tower has modules of the same names, whose LoRA would never have a gradient."""
    base = several_towers(tmp_path / "base", "gemma3", "gemma3_text")
    said = train(model_name_or_path=base, trainable=trainable)
    assert said.count("adapter: no LoRA in vision_tower, which the loss of text does not depend on") == 1
    saved = tmp_path / "out" / "sft_lora_model"
    keys = load_file(saved / "adapter_model.safetensors").keys()
    assert {key.split(".")[3] for key in keys} == {"language_model"}
    ids = torch.arange(3, 60)[None]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = model(ids).logits.detach()
    tuned = PeftModel.from_pretrained(model, saved)
    assert not torch.allclose(tuned(ids).logits, before, atol=1e-3)
    assert {key.split(".")[3] for key, p in tuned.named_parameters() if "lora_" in key} == {"language_model"}


def test_modules_without_a_gradient_are_named_before_the_first_step(train, tmp_path):
    base = several_towers(tmp_path / "base", "gemma3", "gemma3_text")
    said = train(model_name_or_path=base, modules_to_save="fc1", expect=2)
    assert "error: 2 trained modules have no gradient, since the loss of text does not depend on them: " in said
    assert "vision_tower.encoder.layers.0.mlp.fc1, " in said
    assert "log.jsonl" not in os.listdir(tmp_path / "out") or not log_of(tmp_path / "out")


def test_a_model_that_is_no_causal_language_model_is_one_line(train, inputs, tmp_path):
    base = shutil.copytree(inputs.base, tmp_path / "base")
    (base / "config.json").write_text(json.dumps({"model_type": "vit"}))
    said = train(model_name_or_path=base, expect=2)
    assert f"error: {base}: transformers makes no language model of this config.json (model_type 'vit')" in said


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("roberta", "a roberta base cannot be trained here: RobertaForCausalLM of transformers counts positions"),
        ("bart", "a bart base cannot be trained here: BartForCausalLM of transformers does not compute the loss"),
        ("rwkv", "what would be trained could not be merged into this base"),
        ("laguna", "this PEFT would not find"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of transformers on these
def test_what_could_not_be_trained_or_merged_is_refused_before_the_first_step(kind, told, train, tmp_path):
    from tests.invariants import walk

    folder = tmp_path / "base"
    walk.write_base(kind, folder, torch.float32)
    config = json.loads((folder / "config.json").read_text())
    tiny.tiny_sentencepiece(folder)
    assert config["vocab_size"] < tiny.SENTENCEPIECE_VOCABULARY
    said = train(model_name_or_path=folder, expect=2)
    assert told in said
    assert not (tmp_path / "out" / "log.jsonl").is_file() or not log_of(tmp_path / "out")


SIZES_OF_LAYERS = {
    "gemma4_text": {"vocab_size_per_layer_input": 500, "hidden_size_per_layer_input": 8, "sliding_window": 24},
    "gemma3n_text": {
        **{"sliding_window": 24, "query_pre_attn_scalar": 16, "num_hidden_layers": 5, "num_kv_shared_layers": 2},
        **{"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 500, "laurel_rank": 4},
        **{"altup_num_inputs": 2, "activation_sparsity_pattern": None, "intermediate_size": [48, 64, 64, 64, 64]},
        "layer_types": [*("sliding_attention", "full_attention"), *("sliding_attention",) * 2, "full_attention"],
    },
}


@pytest.mark.parametrize("kind", SIZES_OF_LAYERS)
def test_layers_may_have_sizes_of_their_own(kind, train, tmp_path):
    train(model_name_or_path=of_kind(tmp_path / "base", kind, **SIZES_OF_LAYERS[kind]))
    assert log_of(tmp_path / "out")[-1]["loss"] < log_of(tmp_path / "out")[0]["loss"]


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [0]}


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")  # that PEFT itself has put there
def test_experts_are_trained_and_loaded_by_plain_peft(train, tmp_path):
    """transformers 5 keeps all experts of a layer in one tensor, so that PEFT's LoRA on them has another shape."""
    base = of_kind(tmp_path / "base", "qwen3_moe", **EXPERTS)
    train(model_name_or_path=base)
    saved = tmp_path / "out" / "sft_lora_model"
    assert any(".experts." in key for key in load_file(saved / "adapter_model.safetensors"))
    proof = json.loads((tmp_path / "out" / "proof.json").read_text(encoding="utf-8"))
    assert proof["reload"]["reloaded"] == pytest.approx(proof["reload"]["in_memory"], abs=1e-5)
    ids = torch.arange(3, 60)[None]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = model(ids).logits.detach()
    assert not torch.allclose(PeftModel.from_pretrained(model, saved)(ids).logits, before, atol=1e-3)


def test_dropout_is_on_the_layers_that_can_have_it_and_the_rest_is_said(train, tmp_path):
    base = of_kind(tmp_path / "base", "qwen3_moe", **EXPERTS)
    said = train(model_name_or_path=base, lora_dropout=0.5)
    assert "lora_dropout: none on down_proj.weight, experts.down_proj, experts.gate_up_proj, " in said
    assert "dropout 0 or 0.5 on k_proj" in said
    train(tmp_path / "without", model_name_or_path=base)
    assert log_of(tmp_path / "out")[-1]["loss"] != pytest.approx(log_of(tmp_path / "without")[-1]["loss"], abs=1e-9)


def of_experts(folder, kind):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SEVERAL, **MIXTURES[kind]})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tiny.tiny_json_tokenizer(folder)
    return folder


SHARED = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1}
SHARED |= {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8}
LATENT |= {"qk_rope_head_dim": 8, "v_head_dim": 8}
USUAL = {"q_proj", "k_proj", "v_proj", "o_proj"}
DENSE = {"gate_proj", "up_proj", "down_proj"}  # of a first layer, and of shared experts
MIXTURES = {
    "qwen3_moe": {**EXPERTS, "mlp_only_layers": []},
    "deepseek_v3": {**SHARED, **LATENT},
    "glm4_moe": SHARED,
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2, "moe_intermediate_size": 24},
    "ernie4_5_moe": {
        **{"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_num_shared_experts": 1},
        **{"moe_layer_start_index": 1},
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "minimax_m2": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
NAMES = {
    **{kind: USUAL for kind in ("qwen3_moe", "mixtral", "minimax_m2")},
    **{kind: USUAL | DENSE for kind in ("glm4_moe", "hunyuan_v1_moe", "ernie4_5_moe")},
    "deepseek_v3": DENSE | {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"},
}


@pytest.mark.parametrize("kind", MIXTURES)
@pytest.mark.parametrize("trainable", [None, "all-linear"], ids=["default", "all-linear"])
def test_experts_and_what_stands_beside_them_are_trained_and_merged(kind, trainable, train, run, tmp_path):
    base = of_experts(tmp_path / "base", kind)
    train(model_name_or_path=base, trainable=trainable)
    saved = tmp_path / "out" / "sft_lora_model"
    keys = {key.split(".lora_")[0] for key in load_file(saved / "adapter_model.safetensors")}
    ends = {key.replace(".base_layer", "").rsplit(".", 1)[-1] for key in keys}
    assert ends == NAMES[kind] | {"experts"}  # and no router
    assert sum(".experts" in key for key in keys) % 2 == 0  # gate_up_proj and down_proj
    entries = log_of(tmp_path / "out")
    assert entries[-1]["loss"] < entries[0]["loss"]
    assert all(1 <= entry["experts_busiest"] <= 4 and 0 <= entry["experts_idle"] < 1 for entry in entries)
    words = ["--model_name_or_path", base, "--peft_path", saved]
    run("merge", *words, "--output_dir", tmp_path / "merged")
    ids = torch.arange(3, 60)[None]
    base_model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected = PeftModel.from_pretrained(base_model, saved).eval()(ids).logits
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()(ids).logits
    torch.testing.assert_close(merged, expected, atol=2e-4, rtol=1e-4)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "merged"))
    assert {name: value.shape for name, value in before.items()} == {name: v.shape for name, v in after.items()}
    routers = [name for name in before if re.search(r"(mlp|moe)\.(gate|router)\.", name)]
    assert routers
    assert all(torch.equal(before[name], after[name]) for name in routers)


def test_experts_resume_continue_and_take_a_router_that_is_named(train, tmp_path):
    base = of_experts(tmp_path / "base", "qwen3_moe")
    how = {"model_name_or_path": base, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    train(tmp_path / "whole", **how)
    out = tmp_path / "whole"
    first = load_file(out / "sft_lora_model" / "adapter_model.safetensors")
    for path in (out / "sft_lora_model", out / "checkpoint-4"):
        shutil.rmtree(path)
    run_file = out / "run.json"
    run_file.write_text(run_file.read_text().replace('"state": "finished"', '"state": "running"'))
    train(out, **how)
    again = load_file(out / "sft_lora_model" / "adapter_model.safetensors")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    train(tmp_path / "more", model_name_or_path=base, peft_path=out / "sft_lora_model")
    assert log_of(tmp_path / "more")[0]["loss"] < log_of(out)[0]["loss"]
    train(tmp_path / "router", model_name_or_path=base, trainable="q_proj,gate")
    keys = load_file(tmp_path / "router" / "sft_lora_model" / "adapter_model.safetensors")
    assert any(key.endswith("mlp.gate.lora_A.weight") for key in keys)


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_kinds_of_lora_that_experts_cannot_have_are_named(changes, train, tmp_path):
    base = of_experts(tmp_path / "base", "mixtral")
    (option,) = changes
    said = train(model_name_or_path=base, expect=2, **changes)
    assert f"--{option} " in said
    assert "is not possible on experts.down_proj, experts.gate_up_proj" in said


NOT_FITTING = {
    "names of another family": {"target_modules": ["c_attn", "c_proj"]},
    "a pattern for the model of several towers": {"target_modules": r".*language_model.*\.(q_proj|v_proj)"},
    "a beginning that changes the base": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
    "a number as text": {"r": "4"},
}


@pytest.mark.parametrize("kind", NOT_FITTING)
def test_an_adapter_that_does_not_fit_is_one_line_in_each_verb(kind, train, run, inputs, tmp_path):
    folder = tiny.tiny_adapter(tmp_path / "adapter", inputs.base)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | NOT_FITTING[kind]))
    words = ["--model_name_or_path", inputs.base, "--peft_path", folder]
    for said in (
        train(peft_path=folder, expect=2),
        run("merge", *words, "--output_dir", tmp_path / "merged", expect=2),
        run("chat", *words, "--ask", "你好", expect=2),
    ):
        assert said.splitlines()[-1].startswith(f"error: {folder}")


def test_a_base_with_weights_that_it_does_not_use_is_refused_by_each_verb(train, run, inputs, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(inputs.base, base)
    bias = "model.layers.0.self_attn.q_proj.bias"
    file = base / "model.safetensors"
    save_file({**load_file(file), bias: torch.ones(32)}, file, {"format": "pt"})
    words = ["--model_name_or_path", base]
    adapter = tiny.tiny_adapter(tmp_path / "adapter", inputs.base)
    for said in (
        train(model_name_or_path=base, expect=2),
        run("check", *words, "--dataset_dir", inputs.data, expect=2),
        run("chat", *words, "--ask", "你好", expect=2),
        run("merge", *words, "--peft_path", adapter, "--output_dir", tmp_path / "out2", "--force_base", expect=2),
    ):
        assert bias in said.splitlines()[-1] or bias in said.splitlines()[-2]
