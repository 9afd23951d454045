"""In a forward in 16 bits nothing is widened to float32 on the way, and the numbers are the same."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests import tiny
from yangtuo.model.narrow import keep_narrow


def made(tmp_path, *, full=(), narrow, dropout=0.0):
    from transformers import AutoModelForCausalLM

    tiny.tiny_llama(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    torch.manual_seed(0)
    config = LoraConfig(
        target_modules="all-linear", modules_to_save=list(full) or None, init_lora_weights=False, lora_dropout=dropout
    )
    model = get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if narrow:
        keep_narrow(model, base, torch.bfloat16)
    return model


def gradients(model):
    ids = torch.arange(3, 27).view(2, 12)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    return float(loss.detach()), found


class _Widened(TorchDispatchMode):
    """Casts of activations to float32 in the forward: [2, 12, H]."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") is torch.float32:
            self.shapes.append(tuple(result.shape))
        return result


def widened(model):
    ids = torch.arange(3, 27).view(2, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), _Widened() as seen:
        model(input_ids=ids)
    return [shape for shape in seen.shapes if shape[:2] == (2, 12) and shape[-1] in (32, 64)]


def test_lora_alone_has_the_same_numbers_to_the_bit(tmp_path):
    loss, found = gradients(made(tmp_path, narrow=True))
    expected_loss, expected = gradients(made(tmp_path, narrow=False))
    assert loss == expected_loss
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_lora_layers_widen_nothing(tmp_path):
    # What is left are the norms, in float32 as transformers computes them: two a layer, and the last.
    assert len(widened(made(tmp_path, narrow=True))) == 5
    assert len(widened(made(tmp_path, narrow=False))) == 5 + 2 * 7


def test_an_embedding_that_is_trained_gives_what_the_forward_is_in(tmp_path):
    model = made(tmp_path, full=("embed_tokens", "lm_head"), narrow=True)
    seen = []
    norm = next(module for name, module in model.named_modules() if name.endswith("layers.0.input_layernorm"))
    norm.register_forward_hook(lambda module, args, output: seen.append(args[0].dtype))
    loss, found = gradients(model)
    assert seen == [torch.bfloat16]
    wide_loss, wide = gradients(made(tmp_path, full=("embed_tokens", "lm_head"), narrow=False))
    assert loss == pytest.approx(wide_loss, rel=2e-3)
    embedding = next(name for name in found if "embed_tokens" in name)
    assert found[embedding].dtype is torch.float32
    assert nn.functional.cosine_similarity(found[embedding].flatten(), wide[embedding].flatten(), 0) > 0.99


def test_without_autocast_an_embedding_gives_what_it_holds(tmp_path):
    model = made(tmp_path, full=("embed_tokens",), narrow=True)
    assert model.get_input_embeddings()(torch.tensor([3])).dtype is torch.float32


def test_norms_stored_in_the_other_16_bits_give_those_of_the_forward(tmp_path):
    """The negative control is the model as it was loaded."""
    from transformers import AutoModelForCausalLM

    tiny.tiny_llama(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    x = torch.ones(1, 3, base.config.hidden_size, dtype=torch.float16)
    base.requires_grad_(False)
    norm = base.model.layers[0].input_layernorm
    assert norm(x).dtype is torch.float32
    keep_narrow(base, base, torch.float16)
    assert norm(x).dtype is torch.float16
    assert base.model.layers[0].mlp.up_proj.weight.dtype is torch.bfloat16, "matrices stay as they are stored"
