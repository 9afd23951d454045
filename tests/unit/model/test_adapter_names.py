"""Names in adapter files, as PEFT and other tools write them."""

import pytest
import torch

from yangtuo.model.adapter_names import as_used, name_in_use

Q = "base_model.model.model.layers.0.self_attn.q_proj"
HEAD = "base_model.model.lm_head"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (f"{Q}.lora_A.weight", f"{Q}.lora_A.weight"),
        (f"{Q}.lora_A.default.weight", f"{Q}.lora_A.weight"),
        (f"module.{Q}.lora_B.weight", f"{Q}.lora_B.weight"),
        (f"_orig_mod.{Q}.lora_B.default.weight", f"{Q}.lora_B.weight"),
        (Q.replace(".0.", ".0._fsdp_wrapped_module.") + ".lora_B.weight", f"{Q}.lora_B.weight"),
        (f"{Q}.lora_B.bias", f"{Q}.lora_B.bias"),
        (f"{Q}.lora_magnitude_vector.weight", f"{Q}.lora_magnitude_vector"),
        (f"{Q}.lora_magnitude_vector.default.weight", f"{Q}.lora_magnitude_vector"),
        (f"{HEAD}.modules_to_save.weight", f"{HEAD}.weight"),
        (f"{HEAD}.modules_to_save.default.weight", f"{HEAD}.weight"),
        (f"{HEAD}.original_module.weight", None),
        (f"{HEAD}.base_layer.weight", f"{HEAD}.weight"),
        (f"{HEAD}.lora_embedding_A", f"{HEAD}.lora_embedding_A"),
        (f"{HEAD}.lora_embedding_A.default", f"{HEAD}.lora_embedding_A"),
        (f"{HEAD}.token_adapter.trainable_tokens_delta.default", f"{HEAD}.token_adapter.trainable_tokens_delta"),
        # experts: PEFT puts one wrapper around the other
        (f"{Q}.base_layer.lora_A.default.weight", f"{Q}.base_layer.lora_A.weight"),
    ],
)
def test_each_way_to_write_a_name(key, name):
    assert name_in_use(key) == name


def test_of_three_copies_the_one_that_peft_loads_is_taken():
    one, two, three = (torch.full((2,), float(n)) for n in range(3))
    tensors = {f"{HEAD}.modules_to_save.weight": two, f"{HEAD}.weight": one, f"{HEAD}.original_module.weight": three}
    assert as_used(tensors) == {f"{HEAD}.weight": one}


def test_a_file_without_the_prefix_gets_it():
    one = torch.zeros(1)
    assert as_used({"model.layers.0.x.lora_A.weight": one}) == {"base_model.model.model.layers.0.x.lora_A.weight": one}
