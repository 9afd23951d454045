"""A GGUF file is the folder that it was made of, read back with the format's own library; and every guard holds."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests import tiny
from yangtuo.errors import ModelError, RunFailure, RunFolderError, UsageError
from yangtuo.exporting.gguf import convert, model
from yangtuo.exporting.gguf.model import paired
from yangtuo.merging.edits import WeightEdits
from yangtuo.model.architecture import read_config
from yangtuo.model.weight_files import open_weights

from .folders import ROWS, llama_folder, model_folder, written

LAYER = (
    *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
)
Q8_ERROR = 0.5 / 127 + 2.0**-11  # half a step, and the step's own rounding to float16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama_folder(tmp_path_factory.mktemp("folder"))


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_the_values_are_the_folders_in_llama_cpps_names_and_order(folder, tmp_path, kind):
    result, fields, tensors = written(folder, tmp_path / "m.gguf", kind)
    source = load_file(folder / "model.safetensors")
    assert (result.num_tensors, result.num_tokens, result.architecture) == (21, ROWS + 2, "llama")
    assert result.num_bytes == (tmp_path / "m.gguf").stat().st_size
    assert result.max_relative_error <= {"f32": 0, "f16": 2.0**-11, "q8_0": Q8_ERROR}[kind]
    assert (result.max_relative_error == 0) == (kind == "f32")
    assert set(tensors) == {
        *("token_embd.weight", "output_norm.weight", "output.weight"),
        *(f"blk.{layer}.{name}.weight" for layer in (0, 1) for name in LAYER),
    }
    for name, of in {
        "token_embd.weight": source["model.embed_tokens.weight"],
        "blk.1.ffn_down.weight": source["model.layers.1.mlp.down_proj.weight"],
        "blk.1.attn_v.weight": source["model.layers.1.self_attn.v_proj.weight"],
        "blk.1.attn_norm.weight": source["model.layers.1.input_layernorm.weight"],
        # Rows 0 to 7 are the first head: 0 is paired with 4, 1 with 5.
        "blk.0.attn_q.weight": source["model.layers.0.self_attn.q_proj.weight"][
            [8 * head + i for head in range(4) for i in (0, 4, 1, 5, 2, 6, 3, 7)]
        ],
        "blk.0.attn_k.weight": source["model.layers.0.self_attn.k_proj.weight"][
            [8 * head + i for head in range(2) for i in (0, 4, 1, 5, 2, 6, 3, 7)]
        ],
    }.items():
        tensor = tensors[name]
        assert tensor.tensor_type.name == ("F32" if of.dim() == 1 else kind.upper())
        assert tuple(tensor.shape) == tuple(reversed(of.shape))
        values = dequantize(tensor.data, tensor.tensor_type).reshape(of.shape)
        assert np.abs(values - of.numpy()).max() <= result.max_relative_error * float(of.abs().max())
    assert fields["general.file_type"] == {"f32": 0, "f16": 1, "q8_0": 7}[kind]


def test_the_keys_of_the_model(folder, tmp_path):
    _, fields, _ = written(folder, tmp_path / "m.gguf", chat_template="{{ messages[0]['content'] }}")
    assert {name: value for name, value in fields.items() if name.startswith("llama.")} == {
        "llama.vocab_size": ROWS + 2,
        "llama.context_length": 512,
        "llama.embedding_length": 32,
        "llama.block_count": 2,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.attention.value_length": 8,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 10000.0,
    }
    assert fields["general.name"] == folder.name
    assert fields["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"


def test_without_a_chat_template_the_file_has_none(folder, tmp_path):
    assert "tokenizer.chat_template" not in written(folder, tmp_path / "m.gguf")[1]


def test_a_tied_head_is_left_out(tmp_path):
    path = tiny.tiny_sentencepiece(tiny.tiny_llama(tmp_path / "tied", tie=True))
    result, _, tensors = written(path, tmp_path / "m.gguf")
    assert result.num_tensors == 20
    assert "output.weight" not in tensors


def test_biases_of_queries_and_keys_are_paired_like_their_rows(tmp_path):
    path = model_folder(tmp_path / "m", LlamaConfig, LlamaForCausalLM, attention_bias=True, mlp_bias=True)
    _, _, tensors = written(path, tmp_path / "m.gguf", "q8_0")
    source = load_file(path / "model.safetensors")
    for name, of, num_heads in (
        ("attn_q", "self_attn.q_proj", 4),
        ("attn_k", "self_attn.k_proj", 2),
        ("attn_v", "self_attn.v_proj", 0),
        ("attn_output", "self_attn.o_proj", 0),
        ("ffn_down", "mlp.down_proj", 0),
    ):
        bias = source[f"model.layers.1.{of}.bias"]
        wanted = paired(bias, num_heads) if num_heads else bias
        assert tensors[f"blk.1.{name}.bias"].data.tolist() == wanted.tolist()


def test_pairs_come_from_the_halves_of_each_head():
    assert paired(torch.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert paired(torch.arange(8)[:, None].expand(8, 3), 1)[:, 2].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_bfloat16_weights_reach_float32_as_they_are(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "bf16")
    save_file(
        {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )
    result, _, _ = written(path, tmp_path / "m.gguf")
    assert result.max_relative_error == 0


def test_rows_that_do_not_divide_into_blocks_stay_in_float16(tmp_path):
    path = model_folder(tmp_path / "m", LlamaConfig, LlamaForCausalLM, intermediate_size=40)
    _, _, tensors = written(path, tmp_path / "m.gguf", "q8_0")
    assert tensors["blk.0.ffn_down.weight"].tensor_type == GGMLQuantizationType.F16
    assert tensors["blk.0.ffn_up.weight"].tensor_type == GGMLQuantizationType.Q8_0


@pytest.mark.parametrize(
    ("config_class", "model_class", "name", "num_tensors"),
    [
        (MistralConfig, MistralForCausalLM, "llama", 21),
        (Qwen2Config, Qwen2ForCausalLM, "qwen2", 27),
        (Qwen3Config, Qwen3ForCausalLM, "qwen3", 25),
    ],
)
def test_the_other_architectures(tmp_path, config_class, model_class, name, num_tensors):
    changes = {"sliding_window": None, "head_dim": 8}
    path = model_folder(tmp_path / "m", config_class, model_class, **changes)
    result, fields, tensors = written(path, tmp_path / "m.gguf")
    assert (result.architecture, result.num_tensors, fields[f"{name}.block_count"]) == (name, num_tensors, 2)
    queries = load_file(path / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    wanted = paired(queries, 4) if name == "llama" else queries
    assert np.array_equal(tensors["blk.0.attn_q.weight"].data, wanted.numpy())


def test_heads_wider_than_their_share(tmp_path):
    path = model_folder(tmp_path / "m", LlamaConfig, LlamaForCausalLM, head_dim=16)
    _, fields, _ = written(path, tmp_path / "m.gguf")
    assert fields["llama.attention.key_length"] == fields["llama.rope.dimension_count"] == 16


def test_an_attention_window_bounds_the_context_and_that_is_said(tmp_path, caplog):
    path = model_folder(tmp_path / "m", MistralConfig, MistralForCausalLM, sliding_window=128)
    assert written(path, tmp_path / "m.gguf")[1]["llama.context_length"] == 128
    assert "128 in the GGUF file" in caplog.text


def test_linear_rotary_scaling(tmp_path):
    rope = {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0}
    path = model_folder(tmp_path / "m", LlamaConfig, LlamaForCausalLM, rope_parameters=rope)
    _, fields, _ = written(path, tmp_path / "m.gguf")
    assert fields["llama.rope.freq_base"] == 5e5
    assert (fields["llama.rope.scaling.type"], fields["llama.rope.scaling.factor"]) == ("linear", 4.0)


def test_llama3s_rotary_scaling_becomes_divisors_of_frequencies(tmp_path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    path = model_folder(tmp_path / "m", LlamaConfig, LlamaForCausalLM, rope_parameters=rope, head_dim=16)
    _, _, tensors = written(path, tmp_path / "m.gguf", "f16")
    divisors = tensors["rope_freqs.weight"].data
    assert divisors.dtype == np.float32
    # Wavelengths 6.3 | 32 | 167 ...: above 64 / 1 all is divided by 8, below 64 / 4 nothing.
    smooth = (64 / (2 * np.pi * 5e5 ** (2 / 16)) - 1) / (4 - 1)
    assert divisors == pytest.approx([1, 1 / ((1 - smooth) / 8 + smooth), *[8] * 6], rel=1e-5)


@pytest.mark.parametrize(
    ("config_class", "model_class", "changes", "said"),
    [
        (Gemma2Config, Gemma2ForCausalLM, {}, "model_type 'gemma2' cannot be written as GGUF here; supported: llama, "),
        (LlamaConfig, LlamaForCausalLM, {"hidden_act": "gelu"}, "activation 'gelu'"),
        (
            LlamaConfig,
            LlamaForCausalLM,
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 128,
                }
            },
            "rotary scaling 'yarn'",
        ),
        (Qwen3Config, Qwen3ForCausalLM, {"attention_bias": True}, "biases in Qwen3's attention"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path, config_class, model_class, changes, said):
    path = model_folder(tmp_path / "m", config_class, model_class, **changes)
    with pytest.raises(ModelError, match=said) as caught:
        convert.write(path, tmp_path / "m.gguf", "f32", None)
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LlamaConfig(quantization_config={"quant_method": "gptq"}), "quantised weights"),
        (
            LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
            "rotary embedding of a part of each head",
        ),
        (Qwen2Config(hidden_size=64, num_attention_heads=4, head_dim=32), "heads that do not add up"),
        (
            LlamaConfig(hidden_act="relu", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            "; ",
        ),
    ],
)
def test_all_that_is_wrong_with_a_configuration_is_said_at_once(config, said):
    with pytest.raises(ModelError, match=f"m: cannot be written as GGUF: .*{said}.*; serve the folder itself"):
        model.architecture(Path("m"), config)


def test_configurations_of_2023_name_no_rotary_embedding(tmp_path):
    values = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(values))
    found = model.fields(tmp_path, read_config(tmp_path), "f16", 10)
    assert (found["llama.rope.freq_base"], found["llama.context_length"]) == (10_000, 2048)
    assert found["llama.attention.head_count_kv"] == 4


def test_a_tensor_without_a_name_in_gguf_is_refused(folder):
    weights = open_weights(folder)
    odd = WeightEdits({"model.layers.0.odd.weight": "x"}, {}, ROWS, "", "", False)
    with pytest.raises(ModelError, match=r"GGUF has no name for model.layers.0.odd.weight in a llama model"):
        model.tensors(folder, weights, odd, read_config(folder), "f32")


def test_a_buffer_of_2023_is_left_out(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "old")
    tensors = load_file(folder / "model.safetensors") | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    assert written(path, tmp_path / "m.gguf")[0].num_tensors == 21


def scaled(folder, path, factor, name="model.layers.1.mlp.up_proj.weight"):
    """A copy in which one tensor has large values."""
    shutil.copytree(folder, path)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] *= factor / tensors[name].abs().max()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize(
    ("kind", "largest", "said"),
    [
        ("f16", 65519.0, None),
        ("f16", 65521.0, r"up_proj.weight: values up to 6.55e\+04 do not fit F16, whose largest is 6.55e\+04"),
        ("q8_0", 65521.0, None),
        ("q8_0", 9e6, r"up_proj.weight: values up to 9e\+06 do not fit Q8_0, whose largest is 8.32e\+06; write .* f32"),
        ("f32", 9e6, None),
        ("f32", float("nan"), "up_proj.weight: not all values are finite"),
    ],
)
def test_values_that_do_not_fit_are_an_error_that_names_the_tensor(folder, tmp_path, kind, largest, said):
    path = scaled(folder, tmp_path / "large", largest)
    if said is None:
        assert written(path, tmp_path / "m.gguf", kind)[0].num_tensors == 21
    else:
        with pytest.raises(ModelError, match=said):
            convert.write(path, tmp_path / "m.gguf", kind, None)
        assert [one.name for one in tmp_path.iterdir()] == ["large"]


@pytest.mark.parametrize("largest", [0.0, 1e-42, 1e-9])
def test_blocks_too_small_for_float16_become_zero(folder, tmp_path, largest):
    path = scaled(folder, tmp_path / "small", largest)
    _, _, tensors = written(path, tmp_path / "m.gguf", "q8_0")
    tensor = tensors["blk.1.ffn_up.weight"]
    assert not dequantize(tensor.data, tensor.tensor_type).any()


def test_an_unknown_kind_is_refused(folder, tmp_path):
    with pytest.raises(UsageError, match="'q4_0' is no kind of GGUF; choose from f32, f16, q8_0"):
        convert.write(folder, tmp_path / "m.gguf", "q4_0", None)


def test_a_file_that_is_there_stays(folder, tmp_path):
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(RunFolderError, match=r"--gguf .*exists; choose another name"):
        convert.write(folder, tmp_path / "m.gguf", "f32", None, option="gguf")
    assert (tmp_path / "m.gguf").read_text() == "mine"


def test_a_draft_of_another_command_stays(folder, tmp_path):
    (tmp_path / "m.gguf.unproven").write_text("theirs")
    with pytest.raises(RunFolderError, match="another command is writing there"):
        convert.write(folder, tmp_path / "m.gguf", "f32", None)
    assert (tmp_path / "m.gguf.unproven").read_text() == "theirs"


def test_a_folder_that_cannot_be_made(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        convert.write(folder, tmp_path / "file" / "m.gguf", "f32", None)


def test_a_disk_without_room_is_refused_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 100))
    with pytest.raises(RunFolderError, match="GB are needed"):
        convert.write(folder, tmp_path / "new" / "m.gguf", "f32", None)
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(RunFailure, match="cannot be written: No space left on device"):
        convert.write(folder, tmp_path / "m.gguf", "f32", None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appears_meanwhile_stays(folder, tmp_path, monkeypatch):
    def slow(*_):
        (tmp_path / "m.gguf").write_text("theirs")
        return 0.0

    monkeypatch.setattr(convert, "prove", slow)
    with pytest.raises(RunFolderError, match="exists"):
        convert.write(folder, tmp_path / "m.gguf", "f32", None)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["theirs"]


def test_what_fails_the_proof_is_kept_under_another_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(model.Tensor, "read", lambda tensor, weights: weights.get(tensor.source) + next(errors))
    for name in ("m.gguf.failed-proof", "m.gguf.failed-proof-2"):
        errors = iter([*[0] * 30, 1e-3, *[0] * 30])
        with pytest.raises(RunFailure, match=f"proof failed: .* has values .*; do not use .*{name}$"):
            convert.write(folder, tmp_path / "m.gguf", "f32", None)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m.gguf.failed-proof", "m.gguf.failed-proof-2"]


def test_the_library_is_not_heard(folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        convert.write(folder, tmp_path / "m.gguf", "f32", None)
    assert {record.name for record in caplog.records} == {"yangtuo.exporting.gguf.convert"}
    assert "proof: 21 tensors" in caplog.text
