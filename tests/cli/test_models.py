"""The LLaMA family: every kind of base trains, saves, and loads in plain PEFT, with and without checkpointing."""

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny
from tests.command import evaluations_of, log_of
from yangtuo.cli import main
from yangtuo.data import reading
from yangtuo.data.encoding import Policy, encode
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
    read, _ = reading.read([validation])
    examples, _ = encode(read, open_tokenizer(tokenizer_folder), Policy(CHATML, 384))
    model.eval()
    losses = []
    for i in range(len(examples)):
        ids, labels = (torch.from_numpy(column).long()[None] for column in (examples.row(i)[0], examples.labels(i)))
        with torch.no_grad():
            logits = model(ids).logits
        losses.append(functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="none")[labels[0, 1:] >= 0])
    return torch.cat(losses).mean().item()
