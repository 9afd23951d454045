"""A merged folder is its base with its adapters: against PEFT, for every kind of adapter; and every guard holds."""

import argparse
import json
import logging
import shutil
import warnings
from dataclasses import dataclass, replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests import tiny
from yangtuo.cli import main
from yangtuo.cli import merge as cli_merge
from yangtuo.config.schema import LoraArguments
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import AdapterError, ModelError, RunFailure, RunFolderError
from yangtuo.merging import edits as merge
from yangtuo.merging import fit, make, tensor_proof, verify
from yangtuo.merging import plan as merge_plan
from yangtuo.model import adapter_files
from yangtuo.model.adapter_state import save, trained_parameters
from yangtuo.model.adapters import attach_new
from yangtuo.model.base import fit_vocabulary
from yangtuo.model.prompt_files import prompt_files_of
from yangtuo.model.stored_weights import open_stored
from yangtuo.model.weight_files import Spec, open_weights, shards

IDS = torch.tensor([[1, 5, 80, 300, 479, 17, 3, 7], [2, 4, 6, 8, 470, 471, 472, 473]])
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS = tiny.SENTENCEPIECE_VOCABULARY


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tied_base(tmp_path_factory):
    return tiny.tiny_llama(tmp_path_factory.mktemp("tied"), tie=True)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def tiny_config():
    return {
        "vocab_size": ROWS,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }


def adapter_on(model, folder, *, seed=1, **config):
    """A PEFT folder whose every trained weight differs from its start."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 12, **config}))
        with torch.no_grad():
            for parameter in peft_model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
        peft_model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def with_peft(base, *adapters, num_rows=ROWS):
    """The model as PEFT has it, adapters before the last merged by PEFT."""
    model = load(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if num_rows != ROWS:
            model.resize_token_embeddings(num_rows, mean_resizing=False)
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                layer.weight.data[ROWS:] = layer.weight.data[:ROWS].mean(0)
        for adapter in adapters[:-1]:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        return PeftModel.from_pretrained(model, adapters[-1]).eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def run(base, adapters, out, *more):
    parser = argparse.ArgumentParser()
    cli_merge.add_options(parser)
    peft_path = ",".join(map(str, adapters))
    words = ["--model_name_or_path", str(base), "--peft_path", peft_path, "--output_dir", str(out), *more]
    cli_merge.run(parser.parse_args(words))
    return out


def assert_equals_peft(base, adapters, out, **how):
    """Logits of the merged folder in plain transformers, against PEFT live and PEFT's own merge."""
    merged = logits(load(out))
    live = with_peft(base, *adapters, **how)
    torch.testing.assert_close(merged, logits(live), atol=2e-5, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(merged, logits(live.merge_and_unload()), atol=2e-5, rtol=1e-5)
    assert not torch.allclose(merged[..., :ROWS], logits(load(base)), atol=1e-2)


KINDS = {
    "plain": {"target_modules": ALL},
    "rslora": {"target_modules": ALL, "use_rslora": True},
    "dora": {"target_modules": ALL, "use_dora": True},
    "patterns": {
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {"up_proj": 40},
    },
    "some_layers": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "regex": {"target_modules": r".*\.0\..*v_proj"},
    "modules_to_save": {"target_modules": ALL, "modules_to_save": ["embed_tokens", "lm_head"]},
    "norms_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "embedding_lora": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "token_rows": {
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"embed_tokens": [5, 471], "lm_head": [5, 471]},
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_folder_gives_the_logits_of_peft(base, tmp_path, kind):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS[kind])
    out = run(base, [adapter], tmp_path / "out")
    assert_equals_peft(base, [adapter], out)
    record = json.loads((out / "merge.json").read_text())
    assert record["proofs"]["logits"]["max_difference"] <= record["proofs"]["logits"]["limit"]
    assert 0 < record["proofs"]["tensors"]["num_changed"] <= record["proofs"]["tensors"]["num_tensors"]
    assert record["proofs"]["tensors"]["num_lost"] == 0


@pytest.mark.parametrize(
    "config", [{"bias": "lora_only"}, {"bias": "all"}, {"lora_bias": True}], ids=["lora_only", "all", "lora_bias"]
)
def test_trained_biases_are_merged(tmp_path, config):
    folder = tmp_path / "base"
    model = LlamaForCausalLM(LlamaConfig(**{**tiny_config(), "attention_bias": True}))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.bias += torch.randn(32)
    model.save_pretrained(folder)
    adapter = adapter_on(load(folder), tmp_path / "a", target_modules=["q_proj"], **config)
    assert_equals_peft(folder, [adapter], run(folder, [adapter], tmp_path / "out"))


def test_a_lora_bias_without_a_place_in_the_base_is_refused(base, tmp_path):
    adapter = adapter_on(load(base), tmp_path / "a", target_modules=["q_proj"], lora_bias=True)
    with pytest.raises(AdapterError, match=r"needs .*q_proj\.bias, which the base has not"):
        run(base, [adapter], tmp_path / "out")


def test_dora_on_the_embedding_is_refused(base, tmp_path):
    adapter = adapter_on(load(base), tmp_path / "a", target_modules=["embed_tokens"], use_dora=True)
    with pytest.raises(AdapterError, match=r"DoRA on the embedding .*embed_tokens cannot be merged"):
        run(base, [adapter], tmp_path / "out")


TIED = {
    "follows": ({"target_modules": ["q_proj"]}, True),
    "trained_as_one": (
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
        True,
    ),
    "rows_of_both": ({"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 471]}}, True),
    "embedding_alone": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
    "head_alone": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
    "lora_on_the_head": ({"target_modules": ["q_proj", "lm_head"]}, False),
}


@pytest.mark.parametrize("kind", TIED)
def test_a_tied_base_stays_tied_or_is_untied_and_loses_nothing(tied_base, tmp_path, kind):
    config, stays_tied = TIED[kind]
    adapter = adapter_on(load(tied_base), tmp_path / "a", **config)
    out = run(tied_base, [adapter], tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is stays_tied
    assert ("lm_head.weight" in open_weights(out).specs) is not stays_tied
    live = with_peft(tied_base, adapter)
    torch.testing.assert_close(logits(load(out)), logits(live), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("which", ["embed_tokens,lm_head", None], ids=["in_full", "new_rows"])
@pytest.mark.parametrize("tie", [False, True], ids=["apart", "tied"])
def test_what_yangtuo_saves_on_a_grown_vocabulary_is_merged(tmp_path, which, tie):
    folder = tiny.tiny_llama(tmp_path / "base", num_rows=ROWS - 3, tie=tie)
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path / "tokenizer"))
    model = load(folder)
    fit_vocabulary(model, tokenizer.num_tokens, are_trained=True)
    lora = LoraArguments(modules_to_save=which, lora_rank=4, train_new_tokens_only=not which)
    adapter = attach_new(model, lora, [] if which else list(range(ROWS - 3, ROWS)))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights, provenance = trained_parameters(adapter), tiny.provenance_of(folder, tokenizer)
        save(adapter, tmp_path / "adapter", prompt_files_of(ALPACA_ZH, tokenizer, None), weights, provenance)
    out = run(folder, [tmp_path / "adapter"], tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is tie
    torch.testing.assert_close(logits(load(out)), logits(adapter.model.eval()), atol=2e-5, rtol=1e-5)


def test_two_adapters_are_applied_in_order(base, tmp_path):
    first = adapter_on(load(base), tmp_path / "a", **KINDS["modules_to_save"])
    middle = with_peft(base, first).merge_and_unload()
    second = adapter_on(middle, tmp_path / "b", seed=2, **KINDS["dora"])
    out = run(base, [first, second], tmp_path / "out")
    assert_equals_peft(base, [first, second], out)
    turned = run(base, [second, first], tmp_path / "turned")
    assert not torch.allclose(logits(load(turned)), logits(load(out)), atol=1e-3)


def test_new_rows_of_the_vocabulary_are_means_and_the_trained_ones(base, tmp_path):
    model = load(base)
    model.resize_token_embeddings(ROWS + 3, mean_resizing=False)
    rows = {"embed_tokens": [ROWS, ROWS + 1], "lm_head": [ROWS, ROWS + 1]}
    adapter = adapter_on(model, tmp_path / "a", target_modules=["q_proj"], trainable_token_indices=rows)
    tiny.tiny_sentencepiece(adapter)
    tokens = {f"<new{i}>": ROWS + i for i in range(3)}
    (adapter / "added_tokens.json").write_text(json.dumps(tokens))
    out = run(base, [adapter], tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["vocab_size"] == ROWS + 3
    assert json.loads((out / "added_tokens.json").read_text()) == tokens
    assert_equals_peft(base, [adapter], out, num_rows=ROWS + 3)
    head = open_weights(out).get("lm_head.weight")
    torch.testing.assert_close(head[ROWS + 2], open_weights(base).get("lm_head.weight").mean(0))


def test_an_adapter_and_a_base_of_2023_are_read(base, tmp_path):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["modules_to_save"])
    expected = logits(with_peft(base, adapter))
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    config = json.loads((adapter / "adapter_config.json").read_text())
    kept = ("r", "lora_alpha", "target_modules", "peft_type", "task_type", "bias", "fan_in_fan_out")
    old = {**{key: config[key] for key in kept}, "modules_to_save": None, "enable_lora": None, "merge_weights": False}
    (adapter / "adapter_config.json").write_text(json.dumps(old))
    old_base = tmp_path / "base"
    old_base.mkdir()
    shutil.copy(base / "config.json", old_base)
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # files of 2023 hold it
    torch.save(tensors, old_base / "pytorch_model.bin")
    out = run(old_base, [adapter], tmp_path / "out")
    torch.testing.assert_close(logits(load(out)), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_16_bit_merge_is_rounded_once_from_float32(base, tmp_path, dtype):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    out = run(base, [adapter], tmp_path / "out", "--dtype", dtype)
    exact = with_peft(base, adapter).merge_and_unload().state_dict()
    kind = getattr(torch, dtype)
    for name, value in load_file(out / "model.safetensors").items():
        assert value.dtype is kind
        torch.testing.assert_close(value.float(), exact[name], rtol=torch.finfo(kind).eps / 2 * 1.01, atol=1e-6)
    assert json.loads((out / "config.json").read_text())["dtype"] == dtype


def test_auto_keeps_the_dtype_of_each_tensor(base, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(base / "config.json", half)
    tensors = {name: value.half() for name, value in load_file(base / "model.safetensors").items()}
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()
    save_file(tensors, half / "model.safetensors")
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    out = run(half, [adapter], tmp_path / "out")
    found = load_file(out / "model.safetensors")
    assert {name: value.dtype for name, value in found.items()} == {n: v.dtype for n, v in tensors.items()}
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(found[name], tensors[name])


def planned(base, *adapters):
    files = open_stored(base)
    saved = [adapter_files.read(str(adapter)) for adapter in adapters]
    return files, merge_plan.plan(files, saved, fit.Allowed())


@dataclass
class Case:
    base: object
    files: object
    plan: object
    out: object

    def prove_tensors(self, base=None):
        return tensor_proof.prove_tensors(base or self.files, self.plan.chain, open_stored(self.out), None)

    def prove_logits(self, base=None):
        probes = make.probes(None, self.plan.chain.num_rows)
        return verify.prove_logits(base or self.files, self.plan, open_stored(self.out), probes)


@pytest.fixture
def case(base, tmp_path):
    """A merge in several shards that both proofs accept."""
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    files, plan = planned(base, adapter)
    out = tmp_path / "merged"
    out.mkdir()
    merge.write(files, plan.chain, out, None, most_bytes=60_000)
    shutil.copy(base / "config.json", out)
    assert len(list(out.glob("model-*.safetensors"))) > 2
    case = Case(base, files, plan, out)
    assert case.prove_tensors().num_changed == 14
    case.prove_logits()
    return case


def rewritten(out, name, change):
    """Change one tensor of a merged folder on the disk."""
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    tensors = load_file(out / index[name])
    tensors[name] = change(tensors[name].clone())
    save_file(tensors, out / index[name], metadata={"format": "pt"})


def test_shards_load_in_plain_transformers(case, base, tmp_path):
    torch.testing.assert_close(logits(load(case.out)), logits(with_peft(base, tmp_path / "a")), atol=2e-5, rtol=1e-5)


def with_adapter_changed(case, change):
    last = case.plan.last
    tensors = {key: change(key, value) for key, value in last.saved.tensors.items()}
    saved = replace(last.saved, tensors=tensors)
    case.plan = merge_plan.plan(case.files, [saved], fit.Allowed())


def test_an_adapter_with_zeroed_lora_b_is_not_the_one_that_was_merged(case):
    with_adapter_changed(case, lambda key, value: torch.zeros_like(value) if "lora_B" in key else value)
    with pytest.raises(RunFailure, match=r"proj\.weight is .* times as far"):
        case.prove_tensors()
    with pytest.raises(RunFailure, match="logits of the merged model"):
        case.prove_logits()


def test_another_base_fails_both_proofs(case, tmp_path):
    other = open_stored(tiny.tiny_llama(tmp_path / "other", seed=7))
    with pytest.raises(RunFailure, match="touched by no adapter, yet differs from the base"):
        case.prove_tensors(other)
    with pytest.raises(RunFailure, match="logits"):
        case.prove_logits(other)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_one_flipped_value_fails_the_proof_by_tensors(case, name):
    def flip(value):
        value[3, 5] = -value[3, 5] + 1e-3
        return value

    rewritten(case.out, name, flip)
    with pytest.raises(RunFailure, match=f"proof failed: {name}"):
        case.prove_tensors()


def test_nan_fails_the_proof(case):
    rewritten(case.out, "model.layers.0.mlp.up_proj.weight", lambda value: value * float("nan"))
    with pytest.raises(RunFailure, match="proof failed"):
        case.prove_tensors()
    with pytest.raises(RunFailure, match="proof failed"):
        case.prove_logits()


def test_a_tensor_of_another_shape_or_dtype_fails_the_proof(case):
    rewritten(case.out, "model.layers.0.mlp.up_proj.weight", lambda value: value.half())
    with pytest.raises(RunFailure, match="instead of"):
        case.prove_tensors()


def test_a_swapped_layer_fails_the_proof_by_logits(case):
    other = open_weights(case.out).get("model.layers.1.mlp.up_proj.weight").clone()
    rewritten(case.out, "model.layers.0.mlp.up_proj.weight", lambda value: other)
    with pytest.raises(RunFailure, match="logits"):
        case.prove_logits()


def test_a_wrong_scale_that_both_sides_of_the_first_proof_share_fails_the_second(case):
    edits = {
        name: tuple(replace(edit, scale=edit.scale * 1.01) for edit in done)
        for name, done in case.plan.chain.edits.items()
    }
    case.plan = replace(case.plan, chain=replace(case.plan.chain, edits=edits))
    merge.write(case.files, case.plan.chain, case.out, None, most_bytes=60_000)
    case.prove_tensors()
    with pytest.raises(RunFailure, match="logits"):
        case.prove_logits()


def truncate(file):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def test_a_truncated_shard_ends_with_a_folder_that_says_so(base, tmp_path, monkeypatch):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    write = merge.write

    def write_and_truncate(files, chain, folder, dtype):
        written = write(files, chain, folder, dtype)
        truncate(folder / "model.safetensors")
        return written

    monkeypatch.setattr(merge, "write", write_and_truncate)
    for name in ("out.failed-proof", "out.failed-proof-2"):
        with pytest.raises(RunFailure, match=r"perhaps cut short.*do not use what was written") as caught:
            run(base, [adapter], tmp_path / "out")
        assert caught.value.exit_code == 1
        assert (tmp_path / name / "model.safetensors").is_file()
        assert not (tmp_path / name / "merge.json").exists()
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.unfinished").exists()


def test_a_merge_that_is_stopped_leaves_nothing(base, tmp_path, monkeypatch):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "write_small_files", stop)
    with pytest.raises(KeyboardInterrupt):
        run(base, [adapter], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def changed_adapter(adapter, change):
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")
    return adapter


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), f"{KEY} is missing"),
        (lambda t: t.update({KEY.replace("q_proj", "x_proj"): t.pop(KEY)}), "x_proj.* belongs to nothing in this base"),
        (lambda t: t.update({KEY: torch.ones(16, 4)}), r"has shape \[16, 4\], this base needs \[32, 4\]"),
        (lambda t: t.update({KEY: torch.ones(0)}), r"has shape \[0\]"),
        (lambda t: t[KEY].fill_(float("nan")), "not finite"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_naming_both_sides(base, tmp_path, change, message):
    adapter = changed_adapter(adapter_on(load(base), tmp_path / "a", **KINDS["plain"]), change)
    with pytest.raises(AdapterError, match=message):
        run(base, [adapter], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_targets_that_the_base_has_not_are_refused(base, tmp_path):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["query_key_value"]}))
    with pytest.raises(AdapterError, match=r"does not fit this llama base.*query_key_value"):
        run(base, [adapter], tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "convert the adapter first"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication cannot be merged"),
    ],
)
def test_kinds_of_lora_with_another_arithmetic_are_refused(base, tmp_path, config, message):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    old = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**old, **config}))
    with pytest.raises(AdapterError, match=message):
        run(base, [adapter], tmp_path / "out")


def test_an_adapter_is_not_merged_twice(base, tmp_path):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    out = run(base, [adapter], tmp_path / "out")
    other = adapter_on(load(base), tmp_path / "b", seed=3, **KINDS["plain"])
    second = run(out, [other], tmp_path / "second")
    for folder, without_record in ((out, False), (second, False), (second, True)):
        if without_record:
            (folder / "merge.json").unlink()  # config.json tells too
        with pytest.raises(AdapterError, match="has this very adapter in it already"):
            run(folder, [adapter], tmp_path / "again")
    with pytest.raises(AdapterError, match="the same adapter as"):
        run(base, [adapter, shutil.copytree(adapter, tmp_path / "copy")], tmp_path / "again")


def test_a_folder_that_holds_something_is_not_written_to(base, tmp_path):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    (tmp_path / "out").mkdir()
    run(base, [adapter], tmp_path / "out")
    with pytest.raises(RunFolderError, match="not empty"):
        run(base, [adapter], tmp_path / "out")
    (tmp_path / "new.unfinished").mkdir()
    with pytest.raises(RunFolderError, match="another command is writing there"):
        run(base, [adapter], tmp_path / "new")


def test_an_adapter_that_is_not_there_is_not_said_to_be_optional(base, tmp_path):
    with pytest.raises(AdapterError, match=r"no such folder$"):
        run(base, [tmp_path / "none"], tmp_path / "out")


def test_a_disk_without_room_is_told_before_anything_is_written(base, tmp_path, monkeypatch):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1000))
    with pytest.raises(RunFolderError, match=r"are needed, 0\.00 GB are free there"):
        run(base, [adapter], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_quantised_base_is_refused(base, tmp_path):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    quantised = shutil.copytree(base, tmp_path / "base")
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantised / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="merge onto the 16-bit model that it was made from"):
        run(quantised, [adapter], tmp_path / "out")


def test_values_beyond_float16_are_an_error(base, tmp_path):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    changed_adapter(adapter, lambda tensors: tensors[KEY].mul_(1e7))
    with pytest.raises(RunFailure, match="do not fit float16; give --dtype bfloat16 or float32"):
        run(base, [adapter], tmp_path / "out", "--dtype", "float16")
    assert not (tmp_path / "out.unfinished").exists()


def test_a_base_without_a_tensor_or_with_one_too_many_is_refused(base, tmp_path):
    adapter = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    broken = shutil.copytree(base, tmp_path / "base")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.0.extra"] = tensors.pop("model.norm.weight")
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        run(broken, [adapter], tmp_path / "out")
    assert "model.norm.weight is not in the files" in str(caught.value)
    assert "model.layers.0.extra is in the files, not in the model" in str(caught.value)


@dataclass
class Rows2023:
    """An adapter that has full embeddings of so many rows."""

    folder: str
    tensors: dict

    @classmethod
    def of(cls, num_rows):
        names = ("model.embed_tokens.weight", "lm_head.weight")
        return cls(f"adapter of {num_rows}", {merge_plan.PREFIX + name: torch.empty(num_rows, 1) for name in names})


def rows_after(here, num_rows, tmp_path, *, allowed=False):
    from yangtuo.merging.fit import rows_after

    chain = merge.WeightEdits({}, {}, here, "model.embed_tokens.weight", "lm_head.weight", False)
    saved = Rows2023.of(num_rows)
    saved.folder = tmp_path / "adapter"
    return rows_after(saved, chain, fit.Allowed(new_vocabulary=allowed))


def test_the_vocabularies_of_2023_are_known(tmp_path):
    assert rows_after(32_000, 49_953, tmp_path) == 49_953  # LLaMA-Plus on LLaMA
    assert rows_after(49_953, 49_954, tmp_path) == 49_954  # Alpaca-Plus after it
    with pytest.raises(AdapterError, match=r"the order looks wrong: LLaMA-Plus \(49,953\) comes first"):
        rows_after(49_954, 49_953, tmp_path)
    with pytest.raises(
        AdapterError, match=r"has 49,954 rows in embed_tokens, the base 32,000; is its base Chinese-LLaMA\?"
    ):
        rows_after(32_000, 49_954, tmp_path)
    assert rows_after(32_000, 49_954, tmp_path, allowed=True) == 49_954  # Chinese-Alpaca, made on LLaMA itself
    with pytest.raises(AdapterError, match="it was trained on another base"):
        rows_after(49_954, 32_000, tmp_path)


def test_the_tokenizer_is_the_last_adapters_else_the_bases(base, tmp_path):
    first = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    with_tokenizer = shutil.copytree(base, tmp_path / "base")
    tiny.tiny_sentencepiece(with_tokenizer)
    out = run(with_tokenizer, [first], tmp_path / "out")
    assert (out / "tokenizer.model").read_bytes() == (with_tokenizer / "tokenizer.model").read_bytes()
    assert (out / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()
    tiny.tiny_sentencepiece(first)
    (first / "added_tokens.json").write_text(json.dumps({"<mark>": 479}))
    out = run(with_tokenizer, [first], tmp_path / "out2")
    assert (out / "added_tokens.json").is_file()


def test_tokens_of_the_base_that_the_adapters_tokenizer_lacks_are_said(base, tmp_path, capfd):
    first = adapter_on(load(base), tmp_path / "a", **KINDS["plain"])
    tiny.tiny_sentencepiece(first)
    tokenizer, grown = tiny.tiny_sentencepiece(tmp_path / "tokenizer"), tmp_path / "grown"
    (tokenizer / "added_tokens.json").write_text(json.dumps({"<mark>": ROWS}))
    assert main(["vocab", "resize", str(base), str(tokenizer), "--out", str(grown)]) == 0
    words = ["--model_name_or_path", grown, "--peft_path", first, "--output_dir", tmp_path / "out"]
    assert main(["merge", *map(str, words)]) == 0
    said = f"has {ROWS} tokens, the one in {grown} {ROWS + 1}; the merged folder has the former"
    assert said in capfd.readouterr().err
    assert not (tmp_path / "out" / "added_tokens.json").exists()


def test_a_change_below_the_rounding_is_told(base, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="yangtuo")
    adapter = adapter_on(load(base), tmp_path / "a", target_modules=["q_proj"])
    changed_adapter(adapter, lambda t: [v.mul_(1e-9) for k, v in t.items() if "lora_B" in k])
    logger = logging.getLogger("yangtuo")
    propagates, logger.propagate = logger.propagate, True
    try:
        out = run(base, [adapter], tmp_path / "out", "--dtype", "bfloat16")
    finally:
        logger.propagate = propagates
    assert "2 tensors came out as in the base" in caplog.text
    assert json.loads((out / "merge.json").read_text())["proofs"]["tensors"]["num_lost"] == 2


def test_shards_keep_the_order_and_their_limit():
    specs = {name: Spec((size,), torch.uint8) for name, size in {"a": 4, "b": 5, "c": 20, "d": 1}.items()}
    assert shards(specs, 10) == {
        "model-00001-of-00003.safetensors": ["a", "b"],
        "model-00002-of-00003.safetensors": ["c"],
        "model-00003-of-00003.safetensors": ["d"],
    }
    assert shards(specs, 100) == {"model.safetensors": ["a", "b", "c", "d"]}


def test_folding_leaves_the_tensors_that_it_was_given_alone():
    torch.manual_seed(0)
    weight, up, down = torch.randn(6, 5), torch.randn(6, 2), torch.randn(2, 5)
    copy, own = weight.clone(), torch.randn(6, 5)
    own_copy = own.clone()
    edits = (merge.LowRank(up, down, 0.5), merge.Replace(own), merge.ReplaceRows((1, 4), weight[:2]))
    result = merge.fold(weight, edits)
    assert torch.equal(weight, copy)
    assert torch.equal(own, own_copy)
    assert torch.equal(result[[1, 4]], weight[:2])
    torch.testing.assert_close(merge.fold(weight, edits[:1]), weight + 0.5 * up @ down)
    assert merge.fold(weight, (merge.Grow(8),)).shape == (8, 5)
