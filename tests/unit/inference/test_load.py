import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests import tiny
from yangtuo.config.schema import LoraArguments, ModelArguments
from yangtuo.errors import AdapterError, ModelError, TokenizerError, UsageError
from yangtuo.inference.load import open_base, open_model
from yangtuo.inference.places import Places, find_adapter, places_of_adapter
from yangtuo.model.processor import Hardware

CPU = Hardware("cpu", bfloat16=False, float16=False)
IDS = torch.arange(3, 60)[None]
FULL = "embed_tokens,lm_head"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tiny.tiny_llama(tmp_path_factory.mktemp("base") / "base")
    return tiny.tiny_sentencepiece(folder)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return tiny.tiny_adapter(tmp_path_factory.mktemp("adapter"), base)


@pytest.fixture(scope="module")
def full_adapter(base, tmp_path_factory):
    return tiny.tiny_adapter(tmp_path_factory.mktemp("full"), base, modules_to_save=FULL)


@pytest.fixture
def old_adapter(full_adapter, tmp_path):
    """As the recipe of 2023 leaves it: embeddings in the file, and modules_to_save null."""
    folder = shutil.copytree(full_adapter, tmp_path / "old")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": None}))
    return folder


@pytest.fixture
def grown_tokenizer(base, tmp_path):
    """The base's tokenizer and two tokens more."""
    folder = tmp_path / "grown"
    folder.mkdir()
    shutil.copy(base / "tokenizer.model", folder)
    rows = tiny.SENTENCEPIECE_VOCABULARY
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": rows, "<new>": rows + 1}))
    return folder


def opened(base, adapter=None, **options):
    return open_model(
        Places(base, adapter), **{"model": ModelArguments(), "template": None, "hardware": CPU, **options}
    )


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


def of_base(base):
    return logits(AutoModelForCausalLM.from_pretrained(base))


# ---- what answers


@pytest.mark.parametrize("kind", ["adapter", "full_adapter"])
def test_the_tuned_voice_is_what_peft_loads_and_the_other_is_the_base(kind, base, request):
    folder = request.getfixturevalue(kind)
    model = opened(base, folder)
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder))
    torch.testing.assert_close(logits(model.loaded.model), expected, atol=2e-6, rtol=0)
    assert (expected - of_base(base)).abs().max() > 0.1
    with model.loaded_base.in_place():
        assert torch.equal(logits(model.loaded_base.model), of_base(base))
    torch.testing.assert_close(logits(model.loaded.model), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("tie", [False, True])
def test_embeddings_that_came_with_null_modules_to_save_are_not_the_bases(tie, tmp_path, old_adapter, base):
    if tie:
        base = tiny.tiny_sentencepiece(tiny.tiny_llama(tmp_path / "tied", tie=True))
        tensors = load_file(old_adapter / "adapter_model.safetensors")
        save_file(
            {key: value for key, value in tensors.items() if "lm_head" not in key},
            old_adapter / "adapter_model.safetensors",
        )
    model = opened(base, old_adapter)
    tuned = logits(model.loaded.model)
    embedding = load_file(old_adapter / "adapter_model.safetensors")["base_model.model.model.embed_tokens.weight"]
    assert torch.equal(model.loaded.model.get_input_embeddings().weight, embedding)
    for _ in range(2):
        with model.loaded_base.in_place():
            assert torch.equal(logits(model.loaded_base.model), of_base(base))
        assert torch.equal(logits(model.loaded.model), tuned)


def test_the_base_comes_back_after_an_error(base, old_adapter):
    model = opened(base, old_adapter)
    tuned = logits(model.loaded.model)
    with pytest.raises(KeyboardInterrupt), model.loaded_base.in_place():
        raise KeyboardInterrupt
    assert torch.equal(logits(model.loaded.model), tuned)


def test_nothing_is_trainable_and_dropout_is_off(base, full_adapter):
    model = opened(base, full_adapter)
    for _ in range(2):
        assert not [name for name, weight in model.loaded.model.named_parameters() if weight.requires_grad]
        assert not [module for module in model.loaded.model.modules() if module.training]
        with model.loaded_base.in_place():
            pass


def test_everything_is_in_the_number_format_of_the_weights(base, full_adapter):
    able = Hardware("cpu", bfloat16=True, float16=False)
    model = opened(base, full_adapter, hardware=able, model=ModelArguments(torch_dtype="bfloat16"))
    assert {weight.dtype for weight in model.loaded.model.parameters()} == {torch.bfloat16}
    expected = logits(opened(base, full_adapter).loaded.model)
    assert (logits(model.loaded.model) - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_a_model_alone_has_no_other_voice(base):
    model = opened(base)
    assert model.loaded_base is None
    assert torch.equal(logits(model.loaded.model), of_base(base))
    assert model.num_positions == 512


def test_a_key_that_is_missing_is_an_error(base, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "short")
    tensors = load_file(folder / "adapter_model.safetensors")
    first = min(tensors)
    save_file({key: value for key, value in tensors.items() if key != first}, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=f"{first} is missing"):
        opened(base, folder)


# ---- the vocabulary


def test_rows_are_added_for_the_adapters_tokens_and_the_base_is_asked_without_them(base, grown_tokenizer, tmp_path):
    folder = tiny.tiny_adapter(tmp_path / "adapter", base, tokenizer=grown_tokenizer, modules_to_save=FULL)
    model = opened(base, folder)
    rows = tiny.SENTENCEPIECE_VOCABULARY
    assert (model.loaded.num_rows, model.loaded_base.num_rows) == (rows + 2, rows)
    assert (model.loaded.tokenizer.folder, model.loaded_base.tokenizer.folder) == (folder, base)
    with model.loaded_base.in_place():
        assert torch.equal(logits(model.loaded_base.model)[..., :rows], of_base(base))


def test_a_base_without_a_tokenizer_is_asked_with_the_adapters(base, grown_tokenizer, tmp_path, caplog):
    bare = tmp_path / "bare"
    shutil.copytree(base, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    folder = tiny.tiny_adapter(tmp_path / "adapter", base, tokenizer=grown_tokenizer)
    model = opened(bare, folder)
    assert model.loaded_base.tokenizer is model.loaded.tokenizer
    assert model.loaded_base.num_rows == tiny.SENTENCEPIECE_VOCABULARY


def test_spare_rows_are_never_said(tmp_path):
    base = tiny.tiny_sentencepiece(tiny.tiny_llama(tmp_path / "base", num_rows=512))
    assert opened(base).loaded.num_rows == tiny.SENTENCEPIECE_VOCABULARY


def test_a_tokenizer_may_have_tokens_that_the_model_has_no_rows_for(base, grown_tokenizer):
    model = opened(base, model=ModelArguments(tokenizer_name_or_path=str(grown_tokenizer)))
    assert model.loaded.num_rows == tiny.SENTENCEPIECE_VOCABULARY


def test_no_tokenizer_anywhere(base, adapter, tmp_path):
    bare, lora = tmp_path / "bare", tmp_path / "lora"
    for source, target in ((base, bare), (adapter, lora)):
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("tokenizer*"))
    assert opened(base, lora).loaded.tokenizer.folder == base
    with pytest.raises(UsageError, match="name --tokenizer_name_or_path"):
        opened(bare, lora)


def test_the_base_of_a_merged_model_has_memory_of_its_own(base, grown_tokenizer, tmp_path):
    merged = tiny.tiny_llama(tmp_path / "merged", num_rows=tiny.SENTENCEPIECE_VOCABULARY + 2, seed=1)
    for file in grown_tokenizer.iterdir():
        shutil.copy(file, merged)
    tuned = opened(merged)
    other = open_base(base, ModelArguments(), tuned, CPU)
    assert torch.equal(logits(other.model), of_base(base))
    assert (other.tokenizer.folder, other.num_rows) == (base, tiny.SENTENCEPIECE_VOCABULARY)
    same = open_base(tiny.tiny_llama(tmp_path / "wide", num_rows=600), ModelArguments(), tuned, CPU)
    assert (same.tokenizer.folder, same.num_rows) == (merged, tiny.SENTENCEPIECE_VOCABULARY + 2)


# ---- the template


def test_a_template_that_does_not_fit_is_told_before_the_weights_are_read(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "model.safetensors").unlink()
    with pytest.raises(TokenizerError, match="has no token"):
        opened(folder, template="chatml")


def test_an_adapter_that_is_not_whole_is_taken_where_that_is_allowed(adapter, base, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "partial")
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors[next(key for key in tensors if "q_proj.lora_A" in key)]
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"lora_A.weight is missing"):
        opened(base, folder)
    loaded = opened(base, folder, lora=LoraArguments(allow_partial_adapter=True)).loaded
    assert not torch.allclose(logits(loaded.model), of_base(base))


# ---- what a user names


def test_an_adapter_is_named_by_its_folder_or_that_of_its_run(adapter, base, tmp_path):
    shutil.copytree(adapter, tmp_path / "run" / "sft_lora_model")
    assert find_adapter(str(adapter), None) == adapter
    assert find_adapter(str(tmp_path / "run"), None) == tmp_path / "run" / "sft_lora_model"
    assert find_adapter(None, str(adapter)) == adapter
    assert find_adapter(str(base), None) is None
    assert find_adapter("owner/name", None) is None
    with pytest.raises(UsageError, match="name one of them"):
        find_adapter(str(base), str(adapter))
    with pytest.raises(UsageError, match=r"neither adapter_config.json nor config.json .*\(found: run\)"):
        find_adapter(str(tmp_path), None)


def test_the_base_is_the_one_named_or_the_one_of_training(adapter, base, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "lora")
    assert places_of_adapter(folder, ModelArguments()) == Places(base, folder)
    other = tiny.tiny_llama(tmp_path / "other")
    assert places_of_adapter(folder, ModelArguments(model_name_or_path=str(other))) == Places(other, folder)
    with pytest.raises(ModelError, match="no such folder"):
        places_of_adapter(folder, ModelArguments(model_name_or_path="./nothing"))


@pytest.mark.parametrize(
    ("named", "told"),
    [("owner/big-model", "its base owner/big-model is not a folder here"), (None, "names no base")],
)
def test_a_base_that_is_not_here_is_not_fetched_by_itself(named, told, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "lora")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": named}))
    with pytest.raises(AdapterError, match=rf"{told}.*--model_name_or_path"):
        places_of_adapter(folder, ModelArguments())


def test_an_adapter_that_is_none(tmp_path):
    with pytest.raises(AdapterError, match=r"no such folder$"):
        places_of_adapter(tmp_path / "nothing", ModelArguments())
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match="cannot be read"):
        places_of_adapter(tmp_path, ModelArguments())
