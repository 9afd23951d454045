"""What becomes of adapters: continued, stacked, changed, refused; every kind of LoRA; and what the proofs find."""

import hashlib
import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.command import log_of
from yangtuo.cli import main

FULL = {"modules_to_save": "embed_tokens,lm_head"}
PREFIX = "base_model.model."


def adapter_of(out):
    return out / "sft_lora_model"


def tensors_of(folder):
    return load_file(folder / "adapter_model.safetensors")


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


def proof_of(out):
    return json.loads((out / "proof.json").read_text(encoding="utf-8"))


def embedding_of(folder):
    return tensors_of(folder)[f"{PREFIX}model.embed_tokens.weight"]


def of_base(base, name="model.embed_tokens.weight"):
    return load_file(base / "model.safetensors")[name]


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=torch.arange(3, 40)[None], use_cache=False).logits


def merged_logits(run, base, adapters, out):
    """Of `yangtuo merge`, whose own two proofs have passed."""
    words = ["--model_name_or_path", base, "--peft_path", ",".join(map(str, adapters)), "--output_dir", out]
    run("merge", *words)
    return logits(AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32))


def with_peft(base, folder):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    """Runs that several tests begin with, each trained once; puts a copy, which the test may change, where it says."""
    runs = {}

    def copy(to, **options):
        key = tuple(options.items())
        if key not in runs:
            runs[key] = tmp_path_factory.mktemp("made") / "out"
            assert main(["train", *inputs.options(runs[key], **options)]) == 0
        return adapter_of(shutil.copytree(runs[key], to))

    return copy


VARIANTS = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "loraplus": {"loraplus_lr_ratio": 16, "learning_rate": 0.002},
    "patterns": {"rank_pattern": "q_proj:4,layers.1.mlp.up_proj:2", "alpha_pattern": "q_proj:64"},
    "all_linear": {"trainable": "all-linear"},
    "layers": {"layers_to_transform": "1"},
    "pissa_with_patterns_and_rslora": {
        **{"init_lora_weights": "pissa", "use_rslora": True, "modules_to_save": "lm_head"},
        **{"rank_pattern": "q_proj:4", "alpha_pattern": "v_proj:8"},
    },
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_kind_of_lora_is_proven_loads_in_plain_peft_and_merges(made, run, inputs, tmp_path, kind):
    out = tmp_path / "out"
    made(out, **VARIANTS[kind])
    proof = proof_of(out)
    assert proof["passed"]
    assert proof["reload"]["into"] == "a fresh base"
    assert abs(proof["reload"]["reloaded"] - proof["reload"]["in_memory"]) < 1e-5
    assert proof["reload"]["without"] - proof["reload"]["in_memory"] > 0.05
    assert proof["changes"]["num_changed"] == proof["changes"]["num_tensors"]
    assert proof["num_bytes"] == (adapter_of(out) / "adapter_model.safetensors").stat().st_size
    merged = merged_logits(run, inputs.base, [adapter_of(out)], tmp_path / "merged")
    torch.testing.assert_close(merged, logits(with_peft(inputs.base, adapter_of(out))), atol=2e-5, rtol=1e-5)


def test_kinds_are_what_they_say(made, tmp_path):
    def trained(kind):
        return made(tmp_path / kind, **VARIANTS[kind])

    assert config_of(trained("rslora"))["use_rslora"]
    assert any("lora_magnitude_vector" in key for key in tensors_of(trained("dora")))
    assert {key.split(".")[4] for key in tensors_of(trained("layers"))} == {"1"}
    patterns = trained("patterns")
    ranks = {key: len(value) for key, value in tensors_of(patterns).items() if "lora_A" in key}
    assert {rank for key, rank in ranks.items() if "q_proj" in key} == {4}
    assert {rank for key, rank in ranks.items() if "up_proj" in key} == {8, 2}
    assert config_of(patterns)["alpha_pattern"] == {"q_proj": 64.0}


def test_what_began_from_the_base_is_saved_as_a_lora_of_twice_the_rank_and_resumes(train, tmp_path):
    options = {**VARIANTS["pissa"], "save_strategy": "steps", "save_steps": 2, "save_minutes": 0}
    train(tmp_path / "whole", **options)
    saved = adapter_of(tmp_path / "whole")
    config = config_of(saved)
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (16, 64, True)
    train(tmp_path / "halves", **options)
    shutil.rmtree(tmp_path / "halves" / "checkpoint-4")
    shutil.rmtree(adapter_of(tmp_path / "halves"))
    said = train(tmp_path / "halves", **options)
    assert "resuming from" in said
    resumed, whole = tensors_of(adapter_of(tmp_path / "halves")), tensors_of(saved)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    file = tmp_path / "halves" / "checkpoint-2" / "adapter_model.safetensors"
    turned = {
        key: torch.cat([value[:8], -value[8:]]) if "lora_A" in key else value
        for key, value in tensors_of(file.parent).items()
    }
    save_file(turned, file, {"format": "pt"})
    for name in ("checkpoint-4", "sft_lora_model"):
        shutil.rmtree(tmp_path / "halves" / name)
    (file.parent / "complete.json").write_text('{"files": {}}')
    assert "began with other matrices than this machine" in train(tmp_path / "halves", **options, expect=1)
    train(tmp_path / "more", peft_path=saved, lora_dropout=None)
    assert config_of(adapter_of(tmp_path / "more"))["r"] == 16


def test_loraplus_gives_b_the_higher_rate(train, tmp_path):
    """SGD makes the step's size the rate's: where A begins equal, the first step of B is 16 times as large."""
    options = {"max_steps": 1, "optim": "sgd", "max_grad_norm": 0, "seed": 3, "learning_rate": 1e-3}
    train(tmp_path / "plain", **options)
    train(tmp_path / "plus", **options, loraplus_lr_ratio=16)
    plain, plus = (tensors_of(adapter_of(tmp_path / name)) for name in ("plain", "plus"))
    for key in (key for key in plain if "lora_B" in key):
        torch.testing.assert_close(plus[key], 16 * plain[key])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init_lora_weights": "svd"}, "--init_lora_weights svd: expected true, gaussian"),
        ({"init_lora_weights": "pissa", "use_dora": True}, "both decompose the weight"),
        ({"rank_pattern": "q_proj:0"}, "--rank_pattern q_proj:0: expected name:number"),
        ({"rank_pattern": "q_porj:4"}, "--rank_pattern: the base has no module 'q_porj'; did you mean 'q_proj'?"),
        ({"alpha_pattern": "q_proj"}, "--alpha_pattern q_proj: expected name:number"),
        ({"rank_pattern": "o_proj:4", "trainable": "q_proj"}, "--rank_pattern o_proj: it gets no LoRA matrices"),
        ({"init_lora_weights": "pissa", "trainable": "q_proj,lm_head"}, "pissa on lm_head is not possible"),
        ({"init_lora_weights": "orthogonal", "lora_rank": 3}, "orthogonal needs an even rank; now 3"),
        (
            {"load_in_4bit": True, "modules_to_save": "down_proj", "trainable": "q_proj"},
            "it is quantised; leave it out",
        ),
        (
            {"modules_to_save": "norm"},
            "PEFT would train input_layernorm, post_attention_layernorm too; write model.norm",
        ),
        ({"layers_to_transform": "0-2"}, "--layers_to_transform 0-2: the base has the layers 0-1"),
        ({"layers_to_transform": "one"}, "--layers_to_transform one: expected numbers and ranges"),
        ({"lora_rank": 0}, "--lora_rank 0: at least 1"),
        ({"loraplus_lr_ratio": -1}, "--loraplus_lr_ratio -1: expected a number above 0"),
        ({"new_adapter": True}, "--new_adapter needs --peft_path, which is not given"),
        ({"modules_to_save_policy": "drop"}, "--modules_to_save_policy needs --peft_path"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "--load_in_4bit and --load_in_8bit: give one of them"),
        ({"load_in_4bit": True, "init_lora_weights": "pissa"}, "--load_in_4bit with --init_lora_weights pissa"),
    ],
)
def test_options_that_cannot_be_are_refused_in_a_line(train, options, words):
    if "load_in_4bit" in options and "load_in_8bit" not in options:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra qlora)")
    assert words in train(**options, expect=2)


def test_all_linear_is_the_same_when_continued(train, tmp_path):
    train(tmp_path / "first", trainable="all-linear")
    train(tmp_path / "second", peft_path=adapter_of(tmp_path / "first"), trainable="all-linear")
    said = train(tmp_path / "x", peft_path=adapter_of(tmp_path / "first"), loraplus_lr_ratio=-4, expect=2)
    assert "--loraplus_lr_ratio -4: expected a number above 0" in said


def test_a_lora_on_a_tied_matrix_is_not_merged_in_memory(train, tmp_path):
    base = tiny.tiny_sentencepiece(tiny.tiny_llama(tmp_path / "tied", tie=True))
    train(tmp_path / "first", model_name_or_path=base, trainable="q_proj,lm_head")
    options = {"model_name_or_path": base, "peft_path": adapter_of(tmp_path / "first"), "new_adapter": True}
    assert "cannot be merged in memory; merge it with yangtuo merge" in train(tmp_path / "x", **options, expect=2)


def test_without_its_tokenizer_an_adapter_takes_no_other(made, train, run, inputs, tmp_path):
    made(tmp_path / "first")
    folder = adapter_of(tmp_path / "first")
    (folder / "tokenizer.model").unlink()
    other = tmp_path / "other"
    shutil.copytree(inputs.base, other)
    (other / "added_tokens.json").write_text("{}")
    said = train(tmp_path / "x", peft_path=folder, model_name_or_path=other, expect=2)
    assert "was trained with another tokenizer than the one in" in said
    words = ["--model_name_or_path", other, "--peft_path", folder, "--output_dir", tmp_path / "y"]
    assert "was trained with another tokenizer" in run("merge", *words, expect=2)
    train(tmp_path / "x", peft_path=folder, model_name_or_path=other, force_base=True)


# ---- what lies beside and in the adapter


def test_the_record_lies_beside_the_weights_and_in_them(train, inputs, tmp_path):
    train()
    folder = adapter_of(tmp_path / "out")
    record = json.loads((folder / "yangtuo.json").read_text(encoding="utf-8"))
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["yangtuo"]) == record
    assert record["base"]["name"] == str(inputs.base)
    assert record["base"]["num_rows"] == 480
    assert record["template"]["name"] == "alpaca_zh"
    assert [name for name, _ in record["data"]] == ["a.json", "b.json"]
    assert len(record["base"]["samples"]) == 21


def test_the_template_that_an_adapter_was_trained_with_is_used_again(train, tmp_path):
    (tmp_path / "mine.json").write_text(
        json.dumps({"opening": "{system}问：", "after_user": "答：", "between": "。问："})
    )
    train(tmp_path / "first", template=tmp_path / "mine.json")
    said = train(tmp_path / "second", peft_path=adapter_of(tmp_path / "first"), lora_dropout=None)
    assert f"template: mine.json (auto: {adapter_of(tmp_path / 'first')} was trained with it)" in said
    said = train(tmp_path / "third", peft_path=adapter_of(tmp_path / "first"), template="alpaca_zh")
    assert "was trained with mine.json, or another system prompt" in said


def test_an_adapter_without_a_record_is_said_to_be_unverified(made, train, tmp_path):
    made(tmp_path / "first")
    folder = adapter_of(tmp_path / "first")
    save_file(tensors_of(folder), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    said = train(tmp_path / "second", peft_path=folder)
    assert "another program has written these weights" in said
    assert "whether it belongs to" in said
    assert "unverified" in said


def test_a_record_of_other_weights_is_refused(made, train, tmp_path):
    made(tmp_path / "first")
    train(tmp_path / "other", system_prompt="简短地回答。")
    shutil.copy(adapter_of(tmp_path / "first") / "yangtuo.json", adapter_of(tmp_path / "other"))
    assert "is not of these weights" in train(tmp_path / "c", peft_path=adapter_of(tmp_path / "other"), expect=2)


def test_another_tokenizer_in_the_adapters_folder_is_refused(made, train, tmp_path):
    made(tmp_path / "first")
    (adapter_of(tmp_path / "first") / "added_tokens.json").write_text("{}")
    said = train(tmp_path / "second", peft_path=adapter_of(tmp_path / "first"), expect=2)
    assert "is not the one that it was trained with" in said


def test_the_same_base_in_another_dtype_is_the_same_base(made, train, inputs, tmp_path):
    made(tmp_path / "first")
    half = tmp_path / "half"
    shutil.copytree(inputs.base, half)
    AutoModelForCausalLM.from_pretrained(inputs.base, dtype=torch.bfloat16).save_pretrained(half)
    train(tmp_path / "second", peft_path=adapter_of(tmp_path / "first"), model_name_or_path=half)


def test_a_base_with_something_merged_in_is_another_base(made, train, run, inputs, tmp_path):
    made(tmp_path / "first")
    train(tmp_path / "second", seed=5)
    merged_logits(run, inputs.base, [adapter_of(tmp_path / "second")], tmp_path / "merged")
    options = {"peft_path": adapter_of(tmp_path / "first"), "model_name_or_path": tmp_path / "merged"}
    said = train(tmp_path / "third", **options, expect=2)
    assert "adapters are merged into it that were not there in training" in said
    words = ["--model_name_or_path", tmp_path / "merged", "--peft_path", adapter_of(tmp_path / "first")]
    said = run("merge", *words, "--output_dir", tmp_path / "x", expect=2)
    assert "was trained on" in said
    assert not (tmp_path / "x").exists()
    assert "taken nevertheless" in run("merge", *words, "--output_dir", tmp_path / "x", "--force_base")


def test_an_adapter_that_continues_another_is_merged_alone(made, train, run, inputs, tmp_path):
    first, second, third = (adapter_of(tmp_path / name) for name in ("first", "second", "third"))
    made(tmp_path / "first")
    train(tmp_path / "second", peft_path=first, lora_dropout=None)
    train(tmp_path / "third", peft_path=second, lora_dropout=None)
    record = json.loads((third / "yangtuo.json").read_text(encoding="utf-8"))
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (first, second)]
    assert record["continued"] == [
        {"sha256": hashlib.sha256(weights[0]).hexdigest(), "folder": str(first)},
        {"sha256": hashlib.sha256(weights[1]).hexdigest(), "folder": str(second)},
    ]
    for given in ([first, third], [third, first], [second, third]):
        words = ["--model_name_or_path", inputs.base, "--peft_path", ",".join(map(str, given))]
        said = run("merge", *words, "--output_dir", tmp_path / "x", expect=2)
        other = next(folder for folder in given if folder != third)
        assert said.splitlines()[-1] == (
            f"error: --peft_path: {third} continues {other} and holds what that one learned; merge without {other}: "
            f"yangtuo merge --model_name_or_path {inputs.base} --peft_path {third} --output_dir merged"
        )
        assert not (tmp_path / "x").exists()
    merged_logits(run, inputs.base, [first], tmp_path / "merged")
    words = ["--model_name_or_path", tmp_path / "merged", "--peft_path", second, "--output_dir", tmp_path / "x"]
    assert f"{first} is merged into it, which this adapter continues" in run("merge", *words, expect=2)
    train(tmp_path / "above", peft_path=second, new_adapter=True)
    above = adapter_of(tmp_path / "above")
    assert json.loads((above / "yangtuo.json").read_text(encoding="utf-8"))["continued"] == []
    merged_logits(run, inputs.base, [second, above], tmp_path / "stacked")  # what lies below it is no double
    words = ["--model_name_or_path", inputs.base, "--peft_path", f"{first},{above}", "--output_dir", tmp_path / "x"]
    said = run("merge", *words, expect=2)
    assert f"yangtuo merge --model_name_or_path {inputs.base} --peft_path " in said
    assert f"--peft_path {second},{above} --output_dir merged" in said


# ---- modules_to_save when continuing


@pytest.fixture
def full(made, tmp_path):
    """An adapter with embedding and head."""
    return made(tmp_path / "full", **FULL)


def continued(train, tmp_path, folder, **options):
    out = tmp_path / "continued"
    said = train(out, peft_path=folder, lora_dropout=None, **options)
    assert proof_of(out)["passed"]
    return adapter_of(out), said


def test_keep_trains_them_further(train, tmp_path, full):
    folder, _ = continued(train, tmp_path, full)
    assert config_of(folder)["modules_to_save"] == ["embed_tokens", "lm_head"]
    assert not torch.equal(embedding_of(folder), embedding_of(full))


def test_freeze_uses_and_saves_them_as_they_are(train, tmp_path, full):
    folder, said = continued(train, tmp_path, full, modules_to_save_policy="freeze")
    assert "modules_to_save embed_tokens, lm_head are used, frozen and saved again" in said
    assert torch.equal(embedding_of(folder), embedding_of(full))
    assert proof_of(tmp_path / "continued")["changes"]["num_tensors"] == 28
    assert log_of(tmp_path / "continued")[0]["loss"] < log_of(tmp_path / "full")[0]["loss"]


def test_drop_leaves_them_out(train, inputs, tmp_path, full):
    folder, said = continued(train, tmp_path, full, modules_to_save_policy="drop")
    assert "embed_tokens, lm_head are left out" in said
    assert config_of(folder)["modules_to_save"] is None
    assert not [key for key in tensors_of(folder) if "embed_tokens" in key or "lm_head" in key]


def test_reset_begins_again_with_the_bases(train, inputs, tmp_path, full):
    options = {"modules_to_save_policy": "reset", "max_steps": 1, "learning_rate": 1e-6}
    folder, said = continued(train, tmp_path, full, **options)
    assert "embed_tokens, lm_head are trained again from the base's" in said
    torch.testing.assert_close(embedding_of(folder), of_base(inputs.base), atol=1e-5, rtol=0)
    assert (embedding_of(full) - of_base(inputs.base)).abs().max() > 1e-3


def test_modules_can_be_added(made, train, inputs, tmp_path, sentences):
    made(tmp_path / "plain")
    folder, said = continued(train, tmp_path, adapter_of(tmp_path / "plain"), modules_to_save="lm_head")
    assert "lm_head is trained in full from the base's, new to this adapter" in said
    assert f"{PREFIX}lm_head.weight" in tensors_of(folder)
    said = train(tmp_path / "x", peft_path=folder, modules_to_save="embed_tokens", expect=2)
    sentences(said, "--modules_to_save embed_tokens")


def test_the_recipe_of_2023_is_continued_by_each_policy(train, inputs, tmp_path, full):
    config = config_of(full)
    (full / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": None}))
    folder, said = continued(train, tmp_path, full)
    assert "modules_to_save is null, but the file holds embed_tokens and lm_head: used, frozen, and saved again" in said
    assert config_of(folder)["modules_to_save"] is None
    assert torch.equal(embedding_of(folder), embedding_of(full))
    assert log_of(tmp_path / "continued")[0]["loss"] < log_of(tmp_path / "full")[0]["loss"]
    train(tmp_path / "dropped", peft_path=full, modules_to_save_policy="drop")
    assert not [key for key in tensors_of(adapter_of(tmp_path / "dropped")) if "embed_tokens" in key]
    said = train(tmp_path / "reset", peft_path=full, modules_to_save_policy="reset")
    assert "embed_tokens, lm_head are trained again from the base's" in said
    assert config_of(adapter_of(tmp_path / "reset"))["modules_to_save"] == ["embed_tokens", "lm_head"]
    train(tmp_path / "again", peft_path=full, **FULL)  # they are named, so they are trained further from the file's
    again = adapter_of(tmp_path / "again")
    assert config_of(again)["modules_to_save"] == ["embed_tokens", "lm_head"]
    assert 0 < (embedding_of(again) - embedding_of(full)).abs().max() < 0.1


def test_tied_bases_keep_one_matrix_through_it_all(train, run, inputs, tmp_path):
    base = tiny.tiny_llama(tmp_path / "tied", tie=True)
    tiny.tiny_sentencepiece(base)
    train(tmp_path / "first", model_name_or_path=base, **FULL)
    options = {"model_name_or_path": base, "peft_path": adapter_of(tmp_path / "first"), "lora_dropout": None}
    for policy in ("keep", "freeze", "reset"):
        train(tmp_path / policy, **options, modules_to_save_policy=policy)
        merged = merged_logits(run, base, [adapter_of(tmp_path / policy)], tmp_path / f"merged_{policy}")
        live = logits(with_peft(base, adapter_of(tmp_path / policy)))
        torch.testing.assert_close(merged, live, atol=2e-5, rtol=1e-5)


# ---- a new LoRA on top of another


@pytest.mark.parametrize("below", [{}, FULL, {"use_dora": True}], ids=["lora", "in_full", "dora"])
def test_a_stack_is_merged_in_its_order(made, train, run, inputs, tmp_path, below):
    made(tmp_path / "below", **below)
    lower = adapter_of(tmp_path / "below")
    said = train(tmp_path / "top", peft_path=lower, new_adapter=True, lora_rank=4, seed=7)
    assert "is merged into the base in memory; another LoRA comes on top" in said
    upper = adapter_of(tmp_path / "top")
    assert f"--peft_path {lower},{upper}" in said
    assert config_of(upper)["r"] == 4
    assert log_of(tmp_path / "top")[0]["loss"] < log_of(tmp_path / "below")[0]["loss"]

    whole = merged_logits(run, inputs.base, [lower, upper], tmp_path / "ab")
    alone = merged_logits(run, inputs.base, [upper], tmp_path / "b")  # the one below is found by the record
    torch.testing.assert_close(whole, alone, atol=0, rtol=0)
    middle = merged_logits(run, inputs.base, [lower], tmp_path / "a")
    stepwise = merged_logits(run, tmp_path / "a", [upper], tmp_path / "a_b")
    torch.testing.assert_close(whole, stepwise, atol=2e-5, rtol=1e-5)
    assert not torch.allclose(whole, middle, atol=1e-3)


def test_the_top_of_a_stack_is_refused_without_what_lies_below(made, train, run, inputs, tmp_path):
    made(tmp_path / "below")
    lower = adapter_of(tmp_path / "below")
    train(tmp_path / "top", peft_path=lower, new_adapter=True, seed=7)
    upper = adapter_of(tmp_path / "top")
    run("merge", "--model_name_or_path", inputs.base, "--peft_path", lower, "--output_dir", tmp_path / "a")
    train(tmp_path / "x", peft_path=upper, model_name_or_path=tmp_path / "a")
    record = json.loads((adapter_of(tmp_path / "x") / "yangtuo.json").read_text())
    assert (record["stack"], len(record["base"]["merged_before"])) == ([], 1)
    lower.rename(tmp_path / "gone")
    said = train(tmp_path / "z", peft_path=upper, expect=2)
    assert f"it was trained on top of {lower}" in said
    words = ["--model_name_or_path", inputs.base, "--peft_path", upper, "--output_dir", tmp_path / "y"]
    assert "which has to be merged first: yangtuo merge --peft_path THAT,THIS" in run("merge", *words, expect=2)


def test_the_top_of_a_stack_is_continued_and_stacked_upon(made, train, run, inputs, tmp_path):
    made(tmp_path / "below")
    lower = adapter_of(tmp_path / "below")
    train(tmp_path / "top", peft_path=lower, new_adapter=True, seed=7)
    said = train(tmp_path / "more", peft_path=adapter_of(tmp_path / "top"), lora_dropout=None)
    more = adapter_of(tmp_path / "more")
    assert f"{lower} is merged into the base in memory" in said
    assert f"--peft_path {lower},{more}" in said
    assert log_of(tmp_path / "more")[0]["loss"] < log_of(tmp_path / "top")[0]["loss"]
    said = train(tmp_path / "third", peft_path=more, new_adapter=True)
    third = adapter_of(tmp_path / "third")
    assert f"--peft_path {lower},{more},{third}" in said
    whole = merged_logits(run, inputs.base, [lower, more, third], tmp_path / "abc")
    torch.testing.assert_close(whole, merged_logits(run, inputs.base, [third], tmp_path / "c"), atol=0, rtol=0)


def test_merging_in_another_order_is_refused(made, train, run, inputs, tmp_path):
    made(tmp_path / "below")
    lower = adapter_of(tmp_path / "below")
    train(tmp_path / "top", peft_path=lower, new_adapter=True, seed=7)
    upper = adapter_of(tmp_path / "top")
    words = ["--model_name_or_path", inputs.base, "--peft_path", f"{upper},{lower}", "--output_dir", tmp_path / "y"]
    lower.rename(tmp_path / "moved")
    words[3] = f"{upper},{tmp_path / 'moved'}"
    assert "has to be merged first" in run("merge", *words, expect=2)


# ---- what is missing, and what the proofs find


def rewritten(folder, tensors):
    """The adapter with other tensors, and the record of what it was trained on."""
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    save_file(tensors, folder / "adapter_model.safetensors", metadata)


def test_a_dropped_key_is_refused_and_can_be_allowed(made, train, run, inputs, tmp_path):
    """Half of a pair may be missing, and LoRA of parts that the base has not may be left over: it does nothing."""
    made(tmp_path / "first")
    folder = adapter_of(tmp_path / "first")
    tensors = tensors_of(folder)
    lost = next(key for key in tensors if "q_proj.lora_B" in key)
    tower = "base_model.model.vision.blocks.0.qkv"
    more = {f"{tower}.lora_A.weight": torch.ones(8, 4), f"{tower}.lora_B.weight": torch.ones(4, 8)}
    rewritten(folder, {key: value for key, value in tensors.items() if key != lost} | more)
    odd = [f"{lost} is missing", f"{tower}.lora_A.weight belongs to nothing in this base"]
    words = ["--model_name_or_path", inputs.base, "--peft_path", folder, "--output_dir", tmp_path / "merged"]
    for said in (train(tmp_path / "second", peft_path=folder, expect=2), run("merge", *words, expect=2)):
        assert all(part in said for part in odd)
        assert "--allow_partial_adapter" not in said
    allowed = train(tmp_path / "second", peft_path=folder, allow_partial_adapter=True)
    for said in (allowed, run("merge", *words, "--allow_partial_adapter")):
        assert "taken nevertheless (--allow_partial_adapter)" in said
        assert all(part in said for part in odd)


DECIDING = {
    "a length of DoRA's": ({"use_dora": True}, lambda key: "lora_magnitude_vector" in key, None),
    "a full module": (FULL, lambda key: "lm_head.weight" in key, None),
    "half of the adapter under other names": (
        {},
        lambda key: ".layers.1." in key,
        lambda key: key.replace(".layers.1.", ".layers.7."),
    ),
    "all of it under other names": ({}, lambda key: True, lambda key: key.replace(".model.layers.", ".blocks.")),
    "something unknown": ({}, lambda key: key.endswith("layers.0.self_attn.q_proj.lora_A.weight"), lambda key: "extra"),
}


@pytest.mark.parametrize("kind", DECIDING)
def test_what_decides_the_result_is_refused_even_where_parts_are_allowed(made, train, run, inputs, tmp_path, kind):
    options, is_hit, renamed = DECIDING[kind]
    made(tmp_path / "first", **options)
    folder = adapter_of(tmp_path / "first")
    tensors = tensors_of(folder)
    hit = [key for key in sorted(tensors) if is_hit(key)][: None if renamed else 1]
    kept = {key: value for key, value in tensors.items() if key not in hit}
    rewritten(folder, kept | ({renamed(key): tensors[key] for key in hit} if renamed else {}))
    words = ["--model_name_or_path", inputs.base, "--peft_path", folder, "--output_dir", tmp_path / "merged"]
    told = "none of its tensors fits" if not kept else "and decides the result"
    refused = train(tmp_path / "second", peft_path=folder, allow_partial_adapter=True, expect=2)
    for said in (refused, run("merge", *words, "--allow_partial_adapter", expect=2)):
        assert told in said
        assert renamed or f"{hit[0]} is missing, and decides the result" in said
    assert not (tmp_path / "merged").exists()


def failing(train, monkeypatch, name, replacement, out):
    from yangtuo.training import verify

    monkeypatch.setattr(verify, name, replacement)
    said = train(out, expect=1)
    assert not adapter_of(out).exists()
    return said


def test_a_reload_with_another_loss_fails_the_run(train, monkeypatch, tmp_path):
    """What a broken save would do: zeros are loaded in the place of the trained B matrices."""
    from yangtuo.training import verify

    class Zeroed:
        @staticmethod
        def from_pretrained(base, folder):
            model = PeftModel.from_pretrained(base, folder)
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.data.zero_()
            return model

    out = tmp_path / "out"
    said = failing(train, monkeypatch, "PeftModel", Zeroed, out)
    assert "proof failed: reloaded from the disk into a fresh base, the loss on 16 rows is " in said
    assert (out / "sft_lora_model.failed-proof").is_dir()
    assert proof_of(out)["passed"] is False
    monkeypatch.setattr(verify, "PeftModel", PeftModel)
    train(out)
    assert proof_of(out)["passed"] is True


@pytest.mark.parametrize("what", ["lora_B", "lm_head"])
def test_what_peft_would_leave_out_of_the_file_is_refused_before_the_first_step(train, monkeypatch, tmp_path, what):
    """As PEFT of 2023 did under a replaced `state_dict`: the file is whole for itself, and lacks what was trained."""
    from yangtuo.model import adapter_state

    real = adapter_state.names_of_keys

    def fewer(adapter):
        lost = next(key for key in real(adapter) if what in key)
        return {key: name for key, name in real(adapter).items() if key != lost}

    monkeypatch.setattr(adapter_state, "without_a_place", lambda adapter: [])
    monkeypatch.setattr(adapter_state, "names_of_keys", fewer)
    said = train(tmp_path / "out", **FULL, expect=2)
    assert "error: this adapter could not be saved whole; train other modules: " in said
    assert f"{what}.weight is missing" in said
    assert not (tmp_path / "out" / "log.jsonl").exists()


def test_what_is_left_out_when_it_is_saved_fails_the_run(train, monkeypatch, tmp_path):
    from yangtuo.model import adapter_state

    real = adapter_state.to_file

    def fewer(adapter, weights):
        return {key: value for key, value in real(adapter, weights).items() if "lm_head" not in key}

    monkeypatch.setattr(adapter_state, "to_file", fewer)
    said = train(tmp_path / "out", **FULL, expect=1)
    assert "proof failed: the adapter to be saved is not whole: " in said
    assert "lm_head.weight is missing" in said
    assert not adapter_of(tmp_path / "out").exists()


def test_a_module_that_learns_nothing_fails_the_run(train, monkeypatch, tmp_path, sentences):
    from yangtuo.training import verify

    def one_is_idle(before, after):
        idle = next(name for name in after if "q_proj" in name).split(".lora_")[0]
        return found(before, {name: before[name] if name.startswith(idle) else value for name, value in after.items()})

    found = verify.changes
    said = failing(train, monkeypatch, "changes", one_is_idle, tmp_path / "out")
    sentences(said, "proof failed")
    # What the others learned is not lost.
    assert (tmp_path / "out" / "sft_lora_model.failed-proof" / "adapter_model.safetensors").is_file()
    assert proof_of(tmp_path / "out")["passed"] is False


def test_without_memory_for_a_second_base_the_one_in_memory_serves(train, monkeypatch, tmp_path):
    from yangtuo.engine import memory

    real = memory.free_bytes
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    train(tmp_path / "out", micro_batch_tokens=1024)
    monkeypatch.setattr(memory, "free_bytes", real)
    verify = proof_of(tmp_path / "out")
    assert verify["reload"]["into"] == "the base in memory"
    assert verify["passed"]
    assert verify["reload"]["without"] - verify["reload"]["in_memory"] > 0.05


# ---- a quantised base


@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_of_a_quantised_base_merges_into_the_whole_one(train, run, inputs, tmp_path, bits):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra qlora)")
    said = train(**{f"load_in_{bits}bit": True}, **FULL)
    assert f"frozen in {bits} bits" in said
    assert proof_of(tmp_path / "out")["passed"]
    assert log_of(tmp_path / "out")[-1]["loss"] < log_of(tmp_path / "out")[0]["loss"]
    merged = merged_logits(run, inputs.base, [adapter_of(tmp_path / "out")], tmp_path / "merged")
    live = logits(with_peft(inputs.base, adapter_of(tmp_path / "out")))
    torch.testing.assert_close(merged, live, atol=2e-5, rtol=1e-5)
