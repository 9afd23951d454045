import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.unit.engine.small import model_of
from yangtuo.model.originals import to_main_memory, unused_originals


def wrapped(modules, *, tied=False):
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], modules_to_save=modules)
    return get_peft_model(model_of("Llama", tie_word_embeddings=tied), config)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize(
    ("modules", "tied", "names"),
    [
        (["embed_tokens", "lm_head"], False, ["embed_tokens", "lm_head"]),
        (["lm_head"], False, ["lm_head"]),
        (["embed_tokens"], True, []),  # the head computes with it
        (None, False, []),
    ],
)
def test_which_are_nobody_elses(modules, tied, names):
    model = wrapped(modules, tied=tied)
    found = {id(weight) for weight in unused_originals(model)}
    named = [name for name, weight in model.named_parameters(remove_duplicate=False) if id(weight) in found]
    assert sorted(name.split(".")[-3] for name in named if "original_module" in name) == sorted(names)
    assert all("original_module" in name for name in named)


def test_the_model_computes_and_trains_as_before():
    model = wrapped(["embed_tokens", "lm_head"])
    ids = torch.arange(3, 13)[None]
    before = model(input_ids=ids, labels=ids).loss
    to_main_memory(model)
    after = model(input_ids=ids, labels=ids).loss
    assert torch.equal(before, after)
    after.backward()
    assert model.get_base_model().lm_head.modules_to_save["default"].weight.grad.any()
