"""What travels with an adapter, and what is refused by it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests import tiny
from yangtuo.data.template_json import to_values
from yangtuo.data.templates import ALPACA_ZH, ALPACA_ZH_2
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import AdapterError, DataError
from yangtuo.model import fingerprint, provenance
from yangtuo.model.architecture import read_config


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.tiny_sentencepiece(tiny.tiny_llama(tmp_path_factory.mktemp("base")))


@pytest.fixture
def adapter(base, tmp_path):
    return tiny.tiny_adapter(tmp_path / "adapter", base)


def check(adapter, base, **how):
    return fingerprint.check(adapter, base, read_config(base), **how)


def changed(base, folder, change, *, dtype=torch.float32):
    """A copy of the base with other weights."""
    shutil.copytree(base, folder)
    tensors = {name: value.to(dtype) for name, value in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# ---- the template


def write(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "yangtuo.json").write_text(json.dumps(content))
    return folder


def test_the_template_that_travels_is_used_unless_another_is_named(base, tmp_path):
    tokenizer = open_tokenizer(base)

    def found(folders, named, system=None):
        return provenance.find_template(folders, tokenizer, named, system)

    folder = write(tmp_path / "a", {"format": 1, "template": to_values(ALPACA_ZH_2), "other": 1})
    assert found([folder], None) == (ALPACA_ZH_2, f"auto: {folder} was trained with it")
    assert found([tmp_path, folder], "auto")[0] == ALPACA_ZH_2
    assert found([folder], "alpaca_zh") == (ALPACA_ZH, "--template")
    assert found([tmp_path], None)[0] == ALPACA_ZH
    assert found([folder], None, "简短")[0].default_system == "简短"
    assert found([write(tmp_path / "b", {"format": 1})], None)[1].startswith("auto: the tokenizer")


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ({"format": 1, "template": {"kind": "new"}}, DataError, "saved template"),
        ([1], AdapterError, "not written by this program"),
        ({"template": {}}, AdapterError, "not written by this program"),
        ({"format": 2}, AdapterError, "by a later version"),
    ],
)
def test_a_file_that_cannot_be_used(content, error, words, base, tmp_path):
    with pytest.raises(error, match=words):
        provenance.find_template([write(tmp_path / "x", content)], open_tokenizer(base), None, None)


@pytest.mark.parametrize("lost", ["base", "tokenizer", "tokenizer.sha256", "base.samples", "base.merged_before"])
@pytest.mark.parametrize("instead", [None, [1], 3])
def test_an_adapters_file_that_lacks_something_is_refused(adapter, base, lost, instead):
    known = json.loads((adapter / "yangtuo.json").read_text())
    outer, _, inner = lost.partition(".")
    (known[outer] if inner else known)[inner or outer] = instead if lost != "base.merged_before" else None
    text = provenance.to_text(known)
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt", "yangtuo": text})
    (adapter / "yangtuo.json").write_text(text)
    with pytest.raises(AdapterError, match=f"missing or of the wrong kind: {lost}"):
        check(adapter, base)


# ---- the base


def test_its_own_base_is_recognised(adapter, base):
    assert check(adapter, base)["base"]["name"] == str(base)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_is_the_same_base(adapter, base, tmp_path, dtype):
    assert check(adapter, changed(base, tmp_path / "b", lambda tensors: None, dtype=dtype))


def test_a_grown_vocabulary_is_the_same_base(adapter, base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(500, mean_resizing=False)
    model.save_pretrained(tmp_path / "grown")
    assert check(adapter, tmp_path / "grown")
    on_grown = tiny.tiny_adapter(tmp_path / "other", tmp_path / "grown", tokenizer=base)
    assert check(on_grown, base)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_tensor_with_other_values_is_another_base(adapter, base, tmp_path, name, dtype):
    other = changed(base, tmp_path / "b", lambda tensors: tensors[name].mul_(1.05), dtype=dtype)
    with pytest.raises(AdapterError, match=rf"was trained on .* this is .*: {name} has other values"):
        check(adapter, other)


def test_in_the_same_dtype_the_smallest_change_counts(adapter, base, tmp_path):
    other = changed(base, tmp_path / "b", lambda tensors: tensors["lm_head.weight"].mul_(1 + 2**-20))
    with pytest.raises(AdapterError, match=r"lm_head.weight has other values"):
        check(adapter, other)


def test_another_shape_and_another_kind_are_named(adapter, tmp_path):
    other = tiny.tiny_llama(tmp_path / "b")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps({**config, "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}})
    )
    with pytest.raises(AdapterError, match=r"rope_theta is 10000.0 there, 5.0 here"):
        check(adapter, other)


def test_force_takes_it_and_says_so(adapter, tmp_path, caplog):
    other = tiny.tiny_llama(tmp_path / "b", seed=3)
    assert check(adapter, other, force=True)
    assert "taken nevertheless (--force_base)" in caplog.text


def test_values_are_sampled_in_few_pages_and_by_name(base):
    samples = fingerprint.of_base("x", base, read_config(base))["samples"]
    assert all(len(sample["values"]) == 8 for sample in samples.values())
    tensors = load_file(base / "model.safetensors")
    for name, sample in samples.items():
        for value in sample["values"]:
            assert (tensors[name] - value).abs().min() < 1e-8


# ---- the order


def test_what_was_merged_before_decides_too(adapter, base, tmp_path):
    with pytest.raises(
        AdapterError, match=r"adapters are merged into it that were not there in training \(SHA-256 abc"
    ):
        check(adapter, base, merged=["abcdef0123"])
    stacked = tiny.tiny_adapter(tmp_path / "top", base, stack=[{"sha256": "abcdef0123", "folder": "/a/b"}])
    with pytest.raises(
        AdapterError, match=r"trained on top of /a/b \(SHA-256 abcdef01\), which has to be merged first"
    ):
        check(stacked, base)
    assert check(stacked, base, merged=["abcdef0123"])
    two = [{"sha256": one, "folder": one} for one in ("aa", "bb")]
    on_two = tiny.tiny_adapter(tmp_path / "two", base, stack=two)
    with pytest.raises(AdapterError, match="in another order"):
        check(on_two, base, merged=["bb", "aa"])


def test_those_below_are_found_where_they_still_lie(adapter, base, tmp_path):
    sha = provenance.sha256_of(adapter)
    stacked = tiny.tiny_adapter(tmp_path / "top", base, stack=[{"sha256": sha, "folder": str(adapter)}])
    assert provenance.below(stacked, []) == [adapter]
    assert provenance.below(stacked, [sha]) == []
    other = load_file(adapter / "adapter_model.safetensors")
    save_file({name: value + 1 for name, value in other.items()}, adapter / "adapter_model.safetensors")
    assert provenance.below(stacked, []) == []
    assert provenance.below(adapter.with_name("top"), []) == []
