"""Adapters that plain PEFT has saved: continued and merged they are what they are in PEFT, value for value."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny
from tests.unit.merging.test_merge import load, logits, run
from yangtuo.config.schema import LoraArguments
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import AdapterError
from yangtuo.merging import verify
from yangtuo.model import adapter_files, adapter_state
from yangtuo.model.adapters import attach_saved
from yangtuo.model.architecture import empty_model, read_config

ROWS = tiny.SENTENCEPIECE_VOCABULARY
PREFIX = "base_model.model."
COPIES = {
    "modules_to_save": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "frozen": {},
    "lora on both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
}


def of_peft(base, folder, *, num_rows=ROWS, seed=3, **config):
    """A LoRA by plain PEFT with all that it saves by itself; returns the model."""
    model = load(base)
    torch.manual_seed(seed)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if num_rows != ROWS:
            model.resize_token_embeddings(num_rows, mean_resizing=False)
        how = {"target_modules": ["q_proj"], "r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM"}
        peft_model = get_peft_model(model, LoraConfig(**{**how, **config}))
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
        peft_model.save_pretrained(folder)
    return peft_model.eval()


def continued(base, folder, num_rows=ROWS):
    """As training begins, and what it would save."""
    model = load(base)
    if num_rows != ROWS:
        model.resize_token_embeddings(num_rows, mean_resizing=False)
    adapter = attach_saved(model, adapter_files.read(str(folder)), LoraArguments(), ())
    adapter.model.eval()
    return adapter


def rewritten(folder, change):
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def as_copies(tensors, num_rows):
    """As PEFT 0.7 to 0.17 wrote a module trained in full: the weight that it loads, and two more."""
    for name in ("model.embed_tokens", "lm_head"):
        weight = tensors[f"{PREFIX}{name}.weight"]
        tensors[f"{PREFIX}{name}.modules_to_save.weight"] = weight.clone()
        tensors[f"{PREFIX}{name}.original_module.weight"] = torch.zeros(num_rows, weight.shape[1])
    return tensors


@pytest.mark.parametrize("num_rows", [ROWS, ROWS + 4], ids=["same vocabulary", "grown vocabulary"])
@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_embedding_and_head_are_taken_as_what_they_are(kind, tie, num_rows, tmp_path):
    base, folder = tiny.tiny_llama(tmp_path / "base", tie=tie), tmp_path / "adapter"
    expected = logits(of_peft(base, folder, num_rows=num_rows, **COPIES[kind]))
    if kind == "modules_to_save":
        rewritten(folder, lambda tensors: as_copies(tensors, num_rows))
    if num_rows != ROWS:  # its tokenizer says how many rows there are
        tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path / "tokenizer"))
        tokenizer.save(folder)
        add_tokens(folder, num_rows - ROWS)
    adapter = continued(base, folder, num_rows)
    torch.testing.assert_close(logits(adapter.model), expected, atol=2e-5, rtol=1e-5)
    if not (tie and kind == "lora on both"):  # one matrix with a LoRA on each of its two uses
        merged = logits(load(run(base, [folder], tmp_path / "merged")))
        torch.testing.assert_close(merged, expected, atol=2e-5, rtol=1e-5)


def add_tokens(folder, number):
    added = {f"<new{i}>": ROWS + i for i in range(number)}
    (folder / "added_tokens.json").write_text(json.dumps(added))


NAMES = {
    "with the adapter's name": lambda key: key.replace(".weight", ".default.weight"),
    "of a compiled model": lambda key: f"_orig_mod.{key}",
    "of a model of several processes": lambda key: f"module.{key}",
    "without PEFT's prefix": lambda key: key.removeprefix(PREFIX),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_that_other_tools_write_are_read(kind, tmp_path):
    base, folder = tiny.tiny_llama(tmp_path / "base"), tmp_path / "adapter"
    expected = logits(of_peft(base, folder))
    rewritten(folder, lambda tensors: {NAMES[kind](key): value for key, value in tensors.items()})
    torch.testing.assert_close(logits(continued(base, folder).model), expected, atol=2e-5, rtol=1e-5)
    merged = logits(load(run(base, [folder], tmp_path / "merged")))
    torch.testing.assert_close(merged, expected, atol=2e-5, rtol=1e-5)


def test_two_matrices_for_one_are_refused(tmp_path):
    """A head of its own in the file, and a base whose head is its embedding."""
    base, folder = tiny.tiny_llama(tmp_path / "base", tie=True), tmp_path / "adapter"
    of_peft(base, folder)
    embedding = load(base).get_input_embeddings().weight.detach()
    both = {f"{PREFIX}model.embed_tokens.weight": embedding + 1, f"{PREFIX}lm_head.weight": embedding + 2}
    rewritten(folder, lambda tensors: tensors | both)
    with pytest.raises(AdapterError, match=r"lm_head\.weight differ, and are one matrix in this base"):
        continued(base, folder)


# ---- LoRA on something else than a linear layer


def mixture(folder):
    config = AutoConfig.for_model(
        "qwen3_moe",
        **{"vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
        **{"num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1},
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


KINDS = {
    "a bias of the LoRA": (lambda folder: tiny.tiny_llama(folder), {"lora_bias": True, "target_modules": ["o_proj"]}),
    "experts": (mixture, {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}),
    "experts of some ranks": (mixture, {"target_parameters": ["mlp.experts.down_proj"], "rank_pattern": {"q_proj": 2}}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_lora_is_continued_and_its_file_is_foreseen(kind, tmp_path):
    """The shapes that the formula gives are those that PEFT writes, so that no run is lost at its first save."""
    make, config = KINDS[kind]
    base, folder = make(tmp_path / "base"), tmp_path / "adapter"
    expected = logits(of_peft(base, folder, **config))
    adapter = continued(base, folder)
    torch.testing.assert_close(logits(adapter.model), expected, atol=2e-5, rtol=1e-5)
    shapes = {key: tuple(value.shape) for key, value in load_file(folder / "adapter_model.safetensors").items()}
    assert adapter_state.expected_shapes(adapter) == adapter_state.file_shapes(adapter) == shapes


def test_a_lora_whose_file_is_not_foreseen_is_refused_before_training(tmp_path, monkeypatch):
    base, folder = tiny.tiny_llama(tmp_path / "base"), tmp_path / "adapter"
    of_peft(base, folder)
    real = adapter_state.expected_shapes
    monkeypatch.setattr(adapter_state, "expected_shapes", lambda adapter: {k: (1, 1) for k in real(adapter)})
    with pytest.raises(AdapterError, match=r"could not be saved whole; .*"):
        continued(base, folder)


# ---- the second proof of a merge runs a model layer by layer

KINDS_OF_MODEL = {
    "asks a weight for its device": (
        "llama4_text",
        {"num_local_experts": 4, "intermediate_size_mlp": 48, "attention_chunk_size": 24, "no_rope_layers": [1, 0]},
    ),
    "uses a weight outside of its own part": ("zaya", {}),
    "keeps to its own": ("qwen3", {}),
}


@pytest.fixture
def model_of(tmp_path):
    """The logits of a whole model, the same model without weights, and its weights by name."""

    @torch.no_grad()
    def make(kind):
        model_type, more = KINDS_OF_MODEL[kind]
        config = AutoConfig.for_model(
            model_type,
            **{"vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0},
            **more,
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        model.save_pretrained(tmp_path / "base")
        weights = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
        empty = empty_model(read_config(tmp_path / "base"))
        return model(input_ids=PROMPT, use_cache=False).logits, empty, weights.__getitem__

    return make


PROMPT = torch.arange(3, 33)[None]


@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_logits_layer_by_layer_are_those_of_the_whole_model(kind, model_of):
    expected, empty, weights = model_of(kind)
    torch.testing.assert_close(verify._logits(empty, weights, PROMPT, ""), expected, atol=2e-5, rtol=1e-5)


def test_a_weight_used_outside_of_its_own_part_is_noticed(model_of):
    """It is no number there, so that the whole model is run in place of its layers."""
    _, empty, weights = model_of("uses a weight outside of its own part")
    verify._put_placeholders(empty)
    by_layers = verify._run(empty, list(verify._parts(empty)), weights, PROMPT, "")
    assert not torch.isfinite(by_layers).all()


class Devices(TorchDispatchMode):
    """Where results of operations lie."""

    def __init__(self):
        super().__init__()
        self.kinds = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.kinds |= {one.device.type for one in tree_leaves(result) if isinstance(one, torch.Tensor)}
        return result


@pytest.mark.parametrize("has_placeholders", [True, False])
def test_weights_on_the_meta_device_would_send_the_input_there(has_placeholders, model_of):
    """What comes back from there is whatever lies in memory, by chance the right values too."""
    _, empty, weights = model_of("asks a weight for its device")
    if has_placeholders:
        verify._put_placeholders(empty)
    with Devices() as devices:
        verify._run(empty, list(verify._parts(empty)), weights, PROMPT, "")
    assert ("meta" in devices.kinds) != has_placeholders
