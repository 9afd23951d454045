from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig
from transformers.utils import is_flash_attn_2_available

from tests import tiny
from yangtuo.config.schema import ModelArguments
from yangtuo.errors import ModelError, OutOfMemoryError, UsageError
from yangtuo.model.architecture import modules_of, read_config
from yangtuo.model.base import _quantisation, check_attention, check_positions, describe, fit_vocabulary, load
from yangtuo.model.processor import Hardware, Precision, choose_precision

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
CPU = Hardware("cpu", bfloat16=False, float16=False)
CPU_BF16 = Hardware("cpu", bfloat16=True, float16=False)
SLOW_BF16 = Hardware("cpu", bfloat16=True, float16=False, bfloat16_rate=0.55)
V100 = Hardware("cuda", bfloat16=False, float16=True)
H100 = Hardware("cuda", bfloat16=True, float16=True)
MPS = Hardware("mps", bfloat16=False, float16=False)


OF_COMPUTING = (
    "precision: computed in bfloat16 instead of float16, since this CPU cannot train in the latter; "
    "the base stays in float32"
)


@pytest.mark.parametrize(
    ("hardware", "torch_dtype", "flags", "stored", "expected", "said"),
    [
        # the seed page's command: --fp16 --torch_dtype float16
        (CPU, "float16", {"fp16": True}, FP16, Precision(FP32), "float32 instead of --fp16"),
        (CPU_BF16, "float16", {"fp16": True}, FP16, Precision(BF16, bf16=True), "bfloat16 instead of float16"),
        (V100, "float16", {"fp16": True}, FP16, Precision(FP16, fp16=True), None),
        (H100, "float16", {"fp16": True}, FP16, Precision(FP16, fp16=True), None),
        (MPS, "float16", {"fp16": True}, FP16, Precision(FP32), "float32 instead of float16"),
        # nothing asked for: as stored, and mixed precision wherever the base has 16 bits
        (CPU, None, {}, FP32, Precision(FP32), None),
        (CPU, None, {}, BF16, Precision(FP32), "float32 instead of bfloat16 weights"),
        (CPU, "auto", {}, None, Precision(FP32), None),
        (H100, None, {}, BF16, Precision(BF16, bf16=True), None),
        (H100, None, {}, FP32, Precision(FP32), None),
        (V100, None, {}, BF16, Precision(FP16, fp16=True), "float16 instead of bfloat16"),
        # a CPU that multiplies them natively, and more slowly; what is asked for is done all the same
        (SLOW_BF16, None, {}, BF16, Precision(FP32), "this CPU multiplies them at 0.55 of the speed; --bf16"),
        (SLOW_BF16, None, {"bf16": True}, BF16, Precision(BF16, bf16=True), None),
        (SLOW_BF16, "bfloat16", {}, FP32, Precision(BF16, bf16=True), None),
        (CPU_BF16, None, {}, BF16, Precision(BF16, bf16=True), None),
        # flags over float32 weights
        (H100, "float32", {"bf16": True}, FP16, Precision(FP32, bf16=True), None),
        (V100, "float32", {"bf16": True}, FP16, Precision(FP32, fp16=True), "float16 instead of bfloat16"),
        (CPU, "torch.float32", {"bf16": True}, FP32, Precision(FP32), "float32 instead of --bf16"),
        (CPU_BF16, None, {"fp16": True}, FP32, Precision(FP32, bf16=True), OF_COMPUTING),
        (CPU_BF16, None, {"bf16": True}, FP32, Precision(FP32, bf16=True), None),
        (CPU_BF16, "float16", {"bf16": True}, FP32, Precision(BF16, bf16=True), "weights in bfloat16 instead of float"),
        (CPU_BF16, None, {"fp16": True}, BF16, Precision(BF16, bf16=True), "computed in bfloat16 instead of float16,"),
        # the base in one 16-bit format, the forward in another, both possible
        (
            H100,
            "float16",
            {"bf16": True},
            FP32,
            Precision(FP16, bf16=True),
            "each product turns float16 weights into",
        ),
        (H100, None, {"fp16": True}, BF16, Precision(BF16, fp16=True), "--torch_dtype float16 does it once"),
    ],
)
def test_precision(hardware, torch_dtype, flags, stored, expected, said, caplog):
    asked = {"fp16": False, "bf16": False, **flags}
    assert choose_precision(torch_dtype, **asked, stored=stored, hardware=hardware) == expected
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(messages) == (1 if said else 0)
    if said:
        assert said in messages[0]


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        (Precision(FP32), "frozen in float32"),
        (Precision(FP32, bf16=True), "frozen in float32, computed in bfloat16"),
        (Precision(BF16, bf16=True), "frozen in bfloat16"),
        (Precision(FP16, bf16=True), "frozen in float16, computed in bfloat16"),
    ],
)
def test_the_line_about_the_base_says_the_same(precision, said, tmp_path):
    folder = tiny.tiny_llama(tmp_path)
    model = load(folder, precision, ModelArguments())
    line = describe(read_config(folder), model, precision, ModelArguments())
    assert line == f"base: llama, 0.0 M parameters, {said}"


def test_attention_code_that_cannot_train_here(tmp_path):
    config = read_config(tiny.tiny_llama(tmp_path))
    for name in (None, "eager", "sdpa"):
        check_attention(config, ModelArguments(attn_implementation=name), CPU)
    with pytest.raises(UsageError) as caught:
        check_attention(config, ModelArguments(attn_implementation="flex_attention"), CPU)
    assert str(caught.value).startswith("--attn_implementation flex_attention: torch has no gradient of it on a CPU; ")
    assert "this model can be trained here with eager, sdpa" in str(caught.value)
    assert config._attn_implementation != "eager"


def test_attention_code_that_is_not_installed(tmp_path):
    if is_flash_attn_2_available():
        pytest.skip("flash-attn is installed")
    config = read_config(tiny.tiny_llama(tmp_path))
    with pytest.raises(UsageError, match=r"--attn_implementation flash_attention_2: .*; this model can be trained"):
        check_attention(config, ModelArguments(attn_implementation="flash_attention_2"), CPU)


def test_precision_that_makes_no_sense():
    with pytest.raises(UsageError, match="--fp16 and --bf16: give one of them"):
        choose_precision(None, fp16=True, bf16=True, stored=None, hardware=H100)
    with pytest.raises(UsageError, match="--torch_dtype int8: expected auto, float32, bfloat16 or float16"):
        choose_precision("int8", fp16=False, bf16=False, stored=None, hardware=H100)


@pytest.mark.parametrize("tie", [False, True])
def test_new_rows_are_the_mean_of_the_old_ones_and_old_ones_stay(tie, tmp_path):
    model = load(tiny.tiny_llama(tmp_path, num_rows=480, tie=tie), Precision(FP32), ModelArguments())
    before = {name: layer(model).weight.detach().clone() for name, layer in LAYERS.items()}
    assert fit_vocabulary(model, 483, are_trained=False) == 3
    assert model.config.vocab_size == 483
    for name, layer in LAYERS.items():
        weight = layer(model).weight
        assert weight.shape[0] == 483
        assert torch.equal(weight[:480], before[name])
        assert torch.allclose(weight[480:], before[name].mean(0), atol=1e-7)


LAYERS = {"input": lambda m: m.get_input_embeddings(), "output": lambda m: m.get_output_embeddings()}


@pytest.mark.parametrize("num_tokens", [480, 400])
def test_spare_rows_stay(num_tokens, tmp_path):
    model = load(tiny.tiny_llama(tmp_path, num_rows=480), Precision(FP32), ModelArguments())
    assert fit_vocabulary(model, num_tokens, are_trained=False) == 0
    assert model.get_input_embeddings().weight.shape[0] == 480


def test_modules_are_listed_without_weights(tmp_path):
    modules = modules_of(read_config(tiny.tiny_llama(tmp_path)))
    assert isinstance(modules["model.layers.1.self_attn.q_proj"], torch.nn.Linear)
    assert modules["lm_head"].weight.is_meta


def test_broken_config(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ModelError, match=r"config\.json cannot be used"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("rope", "max_seq_length", "is_refused"),
    [
        ({"rope_type": "default"}, 4096, False),
        ({"rope_type": "linear", "factor": 2.0}, 4096, False),
        ({"rope_type": "dynamic", "factor": 2.0}, 128, False),
        ({"rope_type": "dynamic", "factor": 2.0}, 129, True),
    ],
)
def test_rotary_scalings_that_depend_on_neighbours_are_refused(rope, max_seq_length, is_refused):
    config = LlamaConfig(
        hidden_size=32, num_attention_heads=4, max_position_embeddings=128, rope_parameters={"rope_theta": 1e4, **rope}
    )
    if is_refused:
        with pytest.raises(ModelError, match=r"beyond 128 tokens.*--max_seq_length 128 or less"):
            check_positions(config, max_seq_length)
    else:
        check_positions(config, max_seq_length)


def test_a_device_that_fills_up_while_the_base_is_loaded_is_out_of_memory(tmp_path, monkeypatch):
    """And not weights that cannot be read; also where transformers raises another error because of it."""

    class Full:
        @staticmethod
        def from_pretrained(*args, **kwargs):
            try:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            except RuntimeError as error:
                raise RuntimeError("issues during automatic conversion of the weights") from error

    tiny.tiny_llama(tmp_path)
    monkeypatch.setattr("yangtuo.model.base.auto_class", lambda config: Full)
    with pytest.raises(OutOfMemoryError, match=r"has not room for its weights, 0\.0 GiB as they are stored"):
        load(tmp_path, Precision(torch.float32), ModelArguments())


@pytest.mark.parametrize(("kind", "is_double"), [("cuda", True), ("xpu", True), ("npu", False), ("hpu", False)])
def test_double_quantisation_where_there_are_kernels_for_it(kind, is_double, monkeypatch):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra qlora)")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type=kind))
    config = _quantisation(ModelArguments(load_in_4bit=True), Precision(BF16, bf16=True))["quantization_config"]
    assert config.bnb_4bit_use_double_quant is is_double
