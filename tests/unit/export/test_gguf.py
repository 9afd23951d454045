"""A GGUF file is the folder that it was made of, read back with the format's own library; and every guard holds."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, TokenType
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
from yangtuo.errors import ModelError, RunFailure, RunFolderError, TokenizerError, UsageError
from yangtuo.export import gguf, gguf_model, gguf_proof, gguf_vocabulary
from yangtuo.export.gguf_model import paired
from yangtuo.export.merge import Chain
from yangtuo.export.merge_plan import start
from yangtuo.export.weight_files import open_weights
from yangtuo.model.base import read_config

ROWS = tiny.SENTENCEPIECE_VOCABULARY
LAYER = (
    *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
)
Q8_ERROR = 0.5 / 127 + 2.0**-11  # half a step, and the step's own rounding to float16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """LLaMA with sentencepiece, and two rows without a token."""
    return tiny.tiny_sentencepiece(tiny.tiny_llama(tmp_path_factory.mktemp("folder"), num_rows=ROWS + 2))


def model_folder(path, config_class, model_class, tokenizer=tiny.tiny_json_tokenizer, **changes):
    values = {
        "vocab_size": ROWS,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    torch.manual_seed(0)
    model = model_class(config_class(**{**values, **changes}))
    for name, parameter in model.named_parameters():  # norms of 1 and biases of 0 hide mistakes
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    model.save_pretrained(path)
    return tokenizer(path)


def with_json(path, name, change):
    value = json.loads((path / name).read_text())
    change(value)
    (path / name).write_text(json.dumps(value))


def keys(reader):
    return {name: field.contents() for name, field in reader.fields.items()}


def written(folder, out, kind="f32", chat_template=None):
    """What was returned, the keys, and the tensors by name with their types."""
    result = gguf.write(folder, out, kind, chat_template)
    reader = GGUFReader(out)
    return result, keys(reader), {tensor.name: tensor for tensor in reader.tensors}


def plan(folder, kind):
    """What `gguf.write` writes, for proofs of files that are broken afterwards."""
    config, weights = read_config(folder), open_weights(folder)
    chain = start(weights, config)
    fields = {
        "general.architecture": "llama",
        **gguf_model.fields(folder, config, kind, chain.num_rows),
        **gguf_vocabulary.fields(gguf.open_tokenizer(folder), chain.num_rows),
    }
    return fields, gguf_model.tensors(folder, weights, chain, config, kind), weights


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
        gguf.write(path, tmp_path / "m.gguf", "f32", None)
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["m"]


def test_a_tensor_without_a_name_in_gguf_is_refused(folder):
    weights = open_weights(folder)
    odd = Chain({"model.layers.0.odd.weight": "x"}, {}, ROWS, "", "", False)
    with pytest.raises(ModelError, match=r"GGUF has no name for model.layers.0.odd.weight in a llama model"):
        gguf_model.tensors(folder, weights, odd, read_config(folder), "f32")


def test_a_buffer_of_2023_is_left_out(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "old")
    tensors = load_file(folder / "model.safetensors") | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    assert written(path, tmp_path / "m.gguf")[0].num_tensors == 21


def test_sentencepiece_pieces_with_scores_and_types(folder, tmp_path, sentencepiece_tokenizer):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    _, fields, _ = written(folder, tmp_path / "m.gguf")
    pieces = [model.id_to_piece(i) for i in range(ROWS)]
    assert fields["tokenizer.ggml.tokens"] == [*pieces, f"[PAD{ROWS}]", f"[PAD{ROWS + 1}]"]
    types = fields["tokenizer.ggml.token_type"]
    assert types[:3] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    assert types[-2:] == [TokenType.UNUSED] * 2
    for i in range(3, ROWS):
        assert types[i] == (TokenType.BYTE if model.is_byte(i) else TokenType.NORMAL)
        assert fields["tokenizer.ggml.scores"][i] == pytest.approx(model.get_score(i))
    assert fields["tokenizer.ggml.model"] == "llama"
    assert fields["tokenizer.ggml.pre"] == "default"
    assert {name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "unknown")} == {
        "bos": 1,
        "eos": 2,
        "unknown": 0,
    }
    assert "tokenizer.ggml.padding_token_id" not in fields
    assert fields["tokenizer.ggml.add_space_prefix"] is True
    assert (fields["tokenizer.ggml.add_bos_token"], fields["tokenizer.ggml.add_eos_token"]) == (True, False)


def test_tokens_that_a_sentencepiece_folder_adds(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "added")
    (path / "added_tokens.json").write_text(json.dumps({"[PAD]": ROWS}))
    config = {
        "pad_token": "[PAD]",
        "add_bos_token": False,
        "add_eos_token": True,
        "added_tokens_decoder": {str(ROWS + 1): {"content": "<think>", "special": False}},
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    _, fields, _ = written(path, tmp_path / "m.gguf")
    assert fields["tokenizer.ggml.tokens"][ROWS:] == ["[PAD]", "<think>"]
    assert fields["tokenizer.ggml.token_type"][ROWS:] == [TokenType.CONTROL, TokenType.USER_DEFINED]
    assert fields["tokenizer.ggml.padding_token_id"] == ROWS
    assert (fields["tokenizer.ggml.add_bos_token"], fields["tokenizer.ggml.add_eos_token"]) == (False, False)


def changed_pieces(folder, path, change):
    """A copy whose sentencepiece model is another."""
    from sentencepiece import sentencepiece_model_pb2

    shutil.copytree(folder, path)
    model = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    change(model)
    (path / "tokenizer.model").write_bytes(model.SerializeToString())
    return path


def declared_control(model):
    model.pieces[400].piece = "[X]"


def test_a_plain_piece_that_the_folder_declares_as_control_token_is_one(folder, tmp_path):
    path = changed_pieces(folder, tmp_path / "m", declared_control)
    (path / "tokenizer_config.json").write_text(json.dumps({"additional_special_tokens": ["[X]"], "pad_token": "[X]"}))
    _, fields, _ = written(path, tmp_path / "m.gguf")
    assert fields["tokenizer.ggml.token_type"][400] == TokenType.CONTROL
    assert fields["tokenizer.ggml.padding_token_id"] == 400


def test_a_control_token_that_pieces_join_to_is_said(folder, tmp_path, caplog):
    def spelled(model):
        model.pieces[400].piece = "</s"

    written(changed_pieces(folder, tmp_path / "m", spelled), tmp_path / "m.gguf")
    assert "a user's text that spells </s> becomes that control token" in caplog.text
    caplog.clear()
    written(folder, tmp_path / "other.gguf")
    assert "spells" not in caplog.text


def unigram(model):
    model.trainer_spec.model_type = 1


def without_a_byte(model):
    next(piece for piece in model.pieces if piece.piece == "<0x41>").type = 1


def normalised(model):
    model.normalizer_spec.precompiled_charsmap = b"x"


def squeezed(model):
    model.normalizer_spec.remove_extra_whitespaces = True


def unescaped(model):
    model.normalizer_spec.escape_whitespaces = False


def suffixed(model):
    model.trainer_spec.treat_whitespace_as_suffix = True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unigram, "it is no BPE model"),
        (without_a_byte, "it has 255 of the 256 byte pieces"),
        (normalised, "it changes characters"),
        (squeezed, "it removes blanks"),
        (unescaped, "it leaves blanks"),
        (suffixed, "it puts the blank behind words"),
    ],
)
def test_sentencepiece_models_that_llama_cpp_applies_otherwise_are_refused(
    folder, tmp_path, sentencepiece_tokenizer, change, said
):
    path = changed_pieces(folder, tmp_path / "m", change)
    opened = replace(sentencepiece_tokenizer, folder=path)  # sentencepiece itself refuses some of these models
    with pytest.raises(TokenizerError, match=f"llama.cpp would encode otherwise: {said}") as caught:
        gguf_vocabulary.fields(opened, ROWS)
    assert "\n" not in str(caught.value)


def test_byte_level_tokens_with_merges_and_types(tmp_path):
    path = model_folder(tmp_path / "m", LlamaConfig, LlamaForCausalLM)
    whole = json.loads((path / "tokenizer.json").read_text())
    _, fields, _ = written(path, tmp_path / "m.gguf")
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert {text: i for i, text in enumerate(tokens) if types[i] == TokenType.NORMAL} == whole["model"]["vocab"]
    assert {text: types[i] for i, text in enumerate(tokens) if text.startswith("<") and len(text) > 4} == {
        "<|im_start|>": TokenType.CONTROL,
        "<|im_end|>": TokenType.CONTROL,
        "<think>": TokenType.USER_DEFINED,
    }
    assert tokens[403:] == [f"[PAD{i}]" for i in range(403, ROWS)]
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in whole["model"]["merges"]]
    assert fields["tokenizer.ggml.eos_token_id"] == 401
    assert "tokenizer.ggml.bos_token_id" not in fields
    assert fields["tokenizer.ggml.add_bos_token"] is fields["tokenizer.ggml.add_space_prefix"] is False
    assert "tokenizer.ggml.scores" not in fields


def test_a_bos_that_is_named_but_not_put_before_texts(tmp_path):
    path = model_folder(tmp_path / "m", LlamaConfig, LlamaForCausalLM)
    with_json(path, "tokenizer_config.json", lambda config: config.update(bos_token="<|im_start|>"))
    _, fields, _ = written(path, tmp_path / "m.gguf")
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.add_bos_token"]) == (400, False)


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def split(pattern):
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            BYTES | {"use_regex": False},
        ],
    }


@pytest.mark.parametrize(
    ("name", "pre_tokenizer", "ignores_merges"),
    [
        ("gpt-2", BYTES, False),
        ("gpt-2", {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}, False),
        ("smollm", {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}, False),
        ("llama-bpe", split(LLAMA3), True),
        ("qwen2", split(LLAMA3.replace("{1,3}", "")), False),
        (None, split(LLAMA3), False),  # Llama 3 takes whole words of its vocabulary first
        (None, split(LLAMA3.replace("{1,3}", "")), True),
        (None, split("a"), False),
        (None, BYTES | {"add_prefix_space": True}, False),
        (None, {"type": "Sequence", "pretokenizers": [BYTES, DIGITS]}, False),
        (None, {"type": "Whitespace"}, False),
        (None, None, False),
    ],
)
def test_the_pre_tokenizer_is_known_by_what_it_does(tmp_path, name, pre_tokenizer, ignores_merges):
    path = tiny.tiny_json_tokenizer(tmp_path / "t")

    def change(whole):
        whole["pre_tokenizer"] = pre_tokenizer
        whole["model"]["ignore_merges"] = ignores_merges

    with_json(path, "tokenizer.json", change)
    opened = gguf.open_tokenizer(path)
    if name:
        assert gguf_vocabulary.fields(opened, ROWS)["tokenizer.ggml.pre"] == name
    else:
        with pytest.raises(
            TokenizerError, match=r"its pre-tokenizer is .*known are .* gpt-2, smollm, llama-bpe, qwen2"
        ):
            gguf_vocabulary.fields(opened, ROWS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole: whole.update(normalizer={"type": "NFKC"}), 'its normalizer is {"type": "NFKC"}'),
        (lambda whole: whole["model"].update(merges=[]), "it has no merges"),
        (lambda whole: whole["model"].update(end_of_word_suffix="</w>"), "its pieces carry marks"),
        (
            lambda whole: (whole["model"].update(byte_fallback=True), whole.update(pre_tokenizer=None)),
            "put the tokenizer.model that it was made from beside it",
        ),
    ],
)
def test_other_json_tokenizers_are_refused(tmp_path, change, said):
    path = tiny.tiny_json_tokenizer(tmp_path / "t")
    opened = gguf.open_tokenizer(path)
    with_json(path, "tokenizer.json", change)
    with pytest.raises(TokenizerError) as caught:
        gguf_vocabulary.fields(opened, ROWS)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_qwens_normaliser_is_let_through(tmp_path):
    path = tiny.tiny_json_tokenizer(tmp_path / "t")
    with_json(path, "tokenizer.json", lambda whole: whole.update(normalizer={"type": "NFC"}))
    assert gguf_vocabulary.fields(gguf.open_tokenizer(path), ROWS)["tokenizer.ggml.model"] == "gpt2"


def test_a_json_tokenizer_of_another_kind_is_refused(tmp_path):
    import tokenizers

    whole = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    whole.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(TokenizerError, match="its model is WordLevel"):
        gguf_vocabulary.fields(gguf.open_tokenizer(tmp_path), 2)


def test_two_tokens_of_one_text_are_refused(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "twice")
    (path / "added_tokens.json").write_text(json.dumps({"[PAD481]": ROWS}))  # what a row without token would be called
    with pytest.raises(TokenizerError, match=r"tokens 480 and 481 are both '\[PAD481\]'"):
        gguf.write(path, tmp_path / "m.gguf", "f32", None)


def test_more_tokens_than_rows_are_refused(folder, sentencepiece_tokenizer):
    with pytest.raises(TokenizerError, match="480 tokens, but the model has 479 rows"):
        gguf_vocabulary.fields(sentencepiece_tokenizer, ROWS - 1)


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
            gguf.write(path, tmp_path / "m.gguf", kind, None)
        assert [one.name for one in tmp_path.iterdir()] == ["large"]


@pytest.mark.parametrize("largest", [0.0, 1e-42, 1e-9])
def test_blocks_too_small_for_float16_become_zero(folder, tmp_path, largest):
    path = scaled(folder, tmp_path / "small", largest)
    _, _, tensors = written(path, tmp_path / "m.gguf", "q8_0")
    tensor = tensors["blk.1.ffn_up.weight"]
    assert not dequantize(tensor.data, tensor.tensor_type).any()


def test_an_unknown_kind_is_refused(folder, tmp_path):
    with pytest.raises(UsageError, match="'q4_0' is no kind of GGUF; choose from f32, f16, q8_0"):
        gguf.write(folder, tmp_path / "m.gguf", "q4_0", None)


def test_a_file_that_is_there_stays(folder, tmp_path):
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(RunFolderError, match=r"--gguf .*exists; choose another name"):
        gguf.write(folder, tmp_path / "m.gguf", "f32", None, option="gguf")
    assert (tmp_path / "m.gguf").read_text() == "mine"


def test_a_draft_of_another_command_stays(folder, tmp_path):
    (tmp_path / "m.gguf.unproven").write_text("theirs")
    with pytest.raises(RunFolderError, match="another command is writing there"):
        gguf.write(folder, tmp_path / "m.gguf", "f32", None)
    assert (tmp_path / "m.gguf.unproven").read_text() == "theirs"


def test_a_folder_that_cannot_be_made(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        gguf.write(folder, tmp_path / "file" / "m.gguf", "f32", None)


def test_a_disk_without_room_is_refused_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 100))
    with pytest.raises(RunFolderError, match="GB are needed"):
        gguf.write(folder, tmp_path / "new" / "m.gguf", "f32", None)
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(RunFailure, match="cannot be written: No space left on device"):
        gguf.write(folder, tmp_path / "m.gguf", "f32", None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appears_meanwhile_stays(folder, tmp_path, monkeypatch):
    def slow(*_):
        (tmp_path / "m.gguf").write_text("theirs")
        return 0.0

    monkeypatch.setattr(gguf, "prove", slow)
    with pytest.raises(RunFolderError, match="exists"):
        gguf.write(folder, tmp_path / "m.gguf", "f32", None)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["theirs"]


def test_what_fails_the_proof_is_kept_under_another_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_model.Tensor, "read", lambda tensor, weights: weights.get(tensor.source) + next(errors))
    for name in ("m.gguf.failed-proof", "m.gguf.failed-proof-2"):
        errors = iter([*[0] * 30, 1e-3, *[0] * 30])
        with pytest.raises(RunFailure, match=f"proof failed: .* has values .*; do not use .*{name}$"):
            gguf.write(folder, tmp_path / "m.gguf", "f32", None)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m.gguf.failed-proof", "m.gguf.failed-proof-2"]


def test_the_proof_lets_the_file_through_as_it_was_written(folder, tmp_path):
    gguf.write(folder, tmp_path / "m.gguf", "q8_0", None)
    assert gguf_proof.prove(tmp_path / "m.gguf", *plan(folder, "q8_0")) > 0


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.0.attn_norm.weight", "token_embd.weight"])
def test_one_flipped_bit_of_a_value_is_found(folder, tmp_path, kind, name):
    out = tmp_path / "m.gguf"
    _, _, tensors = written(folder, out, kind)
    flipped = np.random.default_rng(0).integers(0, tensors[name].n_bytes * 8, 24)
    for bit in flipped.tolist():
        place = tensors[name].data_offset + bit // 8
        with out.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << bit % 8]))
        with pytest.raises(RunFailure, match=f"{name} has values that are not the folder's"):
            gguf_proof.prove(out, *plan(folder, kind))
        with out.open("r+b") as file:
            file.seek(place)
            file.write(bytes([byte]))


def rewritten(path, old, new):
    data = path.read_bytes()
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: rewritten(path, b"GGUF", b"GGUG"), "cannot be read"),
        (lambda path: rewritten(path, b"blk.1.ffn_up", b"blk.1.ffn_xp"), "other tensors than the model: blk.1.ffn_"),
        (lambda path: rewritten(path, b"llama.vocab_size", b"llama.vocab_sizf"), "keys that differ: llama.vocab_siz"),
        (lambda path: rewritten(path, b"<0x41>", b"<0x42>"), "tokenizer.ggml.tokens is not what was written"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4000]), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(32)), "bytes, its tensors end at"),
    ],
)
def test_a_file_that_is_broken_elsewhere_is_refused(folder, tmp_path, change, said):
    gguf.write(folder, tmp_path / "m.gguf", "f16", None)
    change(tmp_path / "m.gguf")
    with pytest.raises(RunFailure, match=f"proof failed: .*{said}"):
        gguf_proof.prove(tmp_path / "m.gguf", *plan(folder, "f16"))


def test_another_shape_or_type_is_refused(folder, tmp_path):
    gguf.write(folder, tmp_path / "m.gguf", "f16", None)
    fields, _, weights = plan(folder, "f16")
    _, tensors, _ = plan(folder, "f32")
    with pytest.raises(RunFailure, match=r"token_embd.weight is F16 \[482, 32\], expected F32 \[482, 32\]|output"):
        gguf_proof.prove(tmp_path / "m.gguf", fields, tensors, weights)


def test_scores_that_differ_are_refused(folder, tmp_path):
    gguf.write(folder, tmp_path / "m.gguf", "f32", None)
    fields, tensors, weights = plan(folder, "f32")
    fields["tokenizer.ggml.scores"][300] += 1e-3
    with pytest.raises(RunFailure, match=r"tokenizer.ggml.scores is not what was written"):
        gguf_proof.prove(tmp_path / "m.gguf", fields, tensors, weights)


def test_the_library_is_not_heard(folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        gguf.write(folder, tmp_path / "m.gguf", "f32", None)
    assert {record.name for record in caplog.records} == {"yangtuo.export.gguf"}
    assert "proof: 21 tensors" in caplog.text
