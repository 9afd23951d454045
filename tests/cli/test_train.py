"""Whole runs on a tiny model: what is written, what is said, and that plain PEFT can load it."""

import itertools
import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.command import evaluations_of, log_of, yangtuo
from yangtuo.engine.trainer import StepTrainer
from yangtuo.training import run


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_a_new_lora_loads_in_plain_peft_and_changes_the_model(train, inputs, tmp_path):
    train()
    base = AutoModelForCausalLM.from_pretrained(inputs.base)
    ids = torch.arange(3, 40)[None]
    before = base(ids).logits
    tuned = PeftModel.from_pretrained(base, tmp_path / "out" / "sft_lora_model")
    assert not torch.allclose(before, tuned(ids).logits, atol=1e-4)
    tensors = adapter(tmp_path / "out" / "sft_lora_model")
    assert len(tensors) == 2 * 2 * 7  # A and B, layers, projections
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(tensor.abs().max() > 0 for tensor in tensors.values())


def test_the_tokenizer_lies_beside_the_adapter_byte_for_byte(train, inputs, tmp_path):
    train()
    saved = tmp_path / "out" / "sft_lora_model" / "tokenizer.model"
    assert saved.read_bytes() == (inputs.base / "tokenizer.model").read_bytes()


def test_log_has_every_step_and_the_screen_the_steps_asked_for(train, tmp_path):
    said = train(logging_steps=2, max_steps=5, logging_first_step=True)
    log = log_of(tmp_path / "out")
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5]
    assert [line.split()[1] for line in said.splitlines() if line.startswith("step ")] == ["1/5", "2/5", "4/5"]
    assert all(entry["rows"] == 4 and entry["num_tokens"] > entry["num_supervised_tokens"] > 0 for entry in log)
    assert log[0]["learning_rate"] == pytest.approx(0.01)
    assert {"grad_norm", "tokens_per_s", "step_seconds", "epoch"} <= log[0].keys()


def test_run_json_says_what_was_asked_and_where_from(train, tmp_path):
    train(seed=123, warmup_ratio=0.5)
    run = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert run["state"] == "finished"
    assert run["seed"] == 123
    assert run["arguments"]["seed"] == {"value": 123, "from": "command line"}
    assert run["arguments"]["warmup_steps"] == {"value": 0.5, "from": "command line"}
    assert run["arguments"]["weight_decay"] == {"value": 0.0, "from": "default"}
    assert "--warmup_ratio is now called --warmup_steps" in run["notes"]


def test_evaluation_counts_every_token_once_whatever_the_batch(train, inputs, tmp_path):
    losses = []
    for rows in (1, 2, 5):
        out = tmp_path / f"eval{rows}"
        train(out, do_train=True, do_eval=True, validation_file=inputs.validation, per_device_eval_batch_size=rows)
        (evaluation,) = evaluations_of(out)
        losses.append(evaluation["eval_loss"])
        assert evaluation["rows"] == 5
        assert evaluation["perplexity"] == pytest.approx(2.718281828 ** evaluation["eval_loss"], rel=1e-6)
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-6)


def test_validation_split_holds_out_rows(train, tmp_path):
    said = train(do_train=True, do_eval=True, validation_split_percentage=0.25)
    assert "  6 rows set aside for evaluation" in said
    assert "data, train: 18 of 24 rows" in said
    assert "data, validation: 6 of 6 rows" in said


def test_validation_file_in_the_training_folder_is_left_out(train, inputs, tmp_path):
    shutil.copytree(inputs.data, tmp_path / "data")
    shutil.copy(inputs.validation, tmp_path / "data" / "valid.json")
    said = train(
        dataset_dir=tmp_path / "data", do_train=True, do_eval=True, validation_file=tmp_path / "data" / "valid.json"
    )
    assert "lies in the training folder and is left out of training" in said
    assert "data, train: 24 of 24 rows" in said


def test_only_evaluating(train, inputs, tmp_path):
    said = train(do_eval=True, validation_file=inputs.validation)
    assert "only evaluating" in said
    assert (tmp_path / "out" / "eval_results.json").is_file()
    assert not (tmp_path / "out" / "sft_lora_model").exists()


def test_fewer_rows_than_a_step_trains_on_them_and_says_so(train, tmp_path):
    said = train(per_device_train_batch_size=32, max_steps=2)
    assert "24 rows are fewer than the 32 of one step: every step is a whole epoch of 24 rows" in said
    assert [entry["rows"] for entry in log_of(tmp_path / "out")] == [24, 24]


def test_last_step_of_an_epoch_is_short_and_nothing_carries_over(train, tmp_path):
    train(per_device_train_batch_size=5, gradient_accumulation_steps=2, max_steps=6)
    assert [entry["rows"] for entry in log_of(tmp_path / "out")] == [10, 10, 4, 10, 10, 4]


def test_continuing_needs_no_lora_options_and_contradictions_are_named(train, tmp_path):
    first = tmp_path / "first"
    train(first, lora_rank=4, lora_alpha=16)
    train(tmp_path / "second", peft_path=first / "sft_lora_model", lora_dropout=None)
    assert adapter(tmp_path / "second" / "sft_lora_model").keys() == adapter(first / "sft_lora_model").keys()
    assert log_of(tmp_path / "second")[0]["loss"] < log_of(first)[0]["loss"]
    said = train(tmp_path / "third", peft_path=first / "sft_lora_model", lora_rank=8, trainable="q_proj", expect=2)
    assert "--lora_rank 8: the adapter has 4" in said
    assert "--trainable q_proj: the adapter has down_proj,gate_proj," in said
    equal = {"lora_rank": 4, "lora_alpha": 16}
    train(tmp_path / "fourth", peft_path=first / "sft_lora_model", **equal)


def test_dropout_of_the_command_line_is_used_when_continuing(train, tmp_path):
    train(tmp_path / "first", lora_dropout=0.5)
    said = train(tmp_path / "second", peft_path=tmp_path / "first" / "sft_lora_model", lora_dropout=0.1)
    assert "lora_dropout: 0.1 as asked for, the adapter had 0.5" in said
    config = json.loads((tmp_path / "second" / "sft_lora_model" / "adapter_config.json").read_text())
    assert config["lora_dropout"] == 0.1


def test_modules_to_save_are_trained_and_saved(train, inputs, tmp_path):
    train(modules_to_save="embed_tokens,lm_head", gradient_checkpointing=True)
    tensors = adapter(tmp_path / "out" / "sft_lora_model")
    base = load_file(inputs.base / "model.safetensors")
    for name in ("model.embed_tokens", "lm_head"):
        saved = tensors[f"base_model.model.{name}.weight"]
        assert saved.shape == base[f"{name}.weight"].shape
        assert not torch.equal(saved, base[f"{name}.weight"])


def test_seed_recipe_null_modules_to_save_freezes_and_keeps_the_embeddings(train, tmp_path):
    """The seed page's advice for little memory: edit adapter_config.json by hand."""
    train(tmp_path / "first", modules_to_save="embed_tokens,lm_head")
    folder = tmp_path / "first" / "sft_lora_model"
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "modules_to_save": None}))
    said = train(tmp_path / "second", peft_path=folder, lora_dropout=None)
    assert "modules_to_save is null, but the file holds embed_tokens and lm_head" in said
    before, after = adapter(folder), adapter(tmp_path / "second" / "sft_lora_model")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == ("lora" not in name), name


def test_vocabulary_grows_to_the_tokenizer(train, inputs, tmp_path):
    shutil.copytree(inputs.base, tmp_path / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    (tmp_path / "tokenizer" / "added_tokens.json").write_text(json.dumps({"[PAD]": 480}))
    said = train(tokenizer_name_or_path=tmp_path / "tokenizer", modules_to_save="embed_tokens,lm_head")
    assert "rows added for the tokenizer, 480 -> 481" in said
    tensors = adapter(tmp_path / "out" / "sft_lora_model")
    assert tensors["base_model.model.model.embed_tokens.weight"].shape[0] == 481


@pytest.mark.parametrize("tie", [False, True])
def test_new_rows_alone_are_trained_saved_and_continued(train, tmp_path, tie):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tests import tiny

    base = tiny.tiny_llama(tmp_path / "base", num_rows=400, tie=tie)
    options = {"model_name_or_path": base, "tokenizer_name_or_path": tiny.tiny_sentencepiece(tmp_path / "tokenizer")}
    said = train(**options, train_new_tokens_only=True)
    assert "the 80 new rows of the vocabulary" in said
    assert "not trained" not in said
    tensors = adapter(tmp_path / "out" / "sft_lora_model")
    rows = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    assert {tuple(tensor.shape) for tensor in rows.values()} == {(80, 32)}
    assert len(rows) == (1 if tie else 2)
    assert all((tensor != tensor[0]).any() for tensor in rows.values())  # they began as one mean

    plain = AutoModelForCausalLM.from_pretrained(base)
    before = plain.get_input_embeddings().weight.detach().clone()
    plain.resize_token_embeddings(480, mean_resizing=False)
    tuned = PeftModel.from_pretrained(plain, tmp_path / "out" / "sft_lora_model").merge_and_unload()
    after = tuned.get_input_embeddings().weight
    assert torch.equal(after[:400], before)
    assert torch.equal(after[400:], rows["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"])

    options |= {"peft_path": tmp_path / "out" / "sft_lora_model"}
    train(tmp_path / "second", **options)
    second = adapter(tmp_path / "second" / "sft_lora_model")
    assert second.keys() == tensors.keys()
    assert not any(torch.equal(second[name], tensors[name]) for name in rows)
    assert log_of(tmp_path / "second")[0]["loss"] < log_of(tmp_path / "out")[0]["loss"]


@pytest.mark.parametrize("verb", ["train", "check"])
def test_new_rows_are_refused_where_no_row_has_their_tokens(verb, run, inputs, tmp_path):
    from tests import tiny

    tokenizer = tiny.tiny_sentencepiece(tmp_path / "tokenizer")
    words = {"四逆汤": 480, "桂枝汤": 481}
    (tokenizer / "added_tokens.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    options = {"tokenizer_name_or_path": tokenizer, "train_new_tokens_only": True}
    options |= {"max_steps": 1} if verb == "train" else {"max_steps": None, "output_dir": None}
    place = tmp_path / "out" if verb == "train" else None
    said = run(verb, *inputs.options(place, **options), expect=2)
    assert "--train_new_tokens_only: none of the 2 tokens that the base has no row for (四逆汤, 桂枝汤) occurs" in said
    assert not (tmp_path / "out").exists()
    data = tiny.write_rows(tmp_path / "a.json", [*tiny.rows(5), {"instruction": "什么方？", "output": "桂枝汤。"}])
    said = run(verb, *inputs.options(place, **options, dataset_dir=data))
    assert "occurs in the rows" not in said


def test_new_rows_are_refused_where_there_are_none_or_all_are_trained(train, tmp_path):
    from tests import tiny

    said = train(train_new_tokens_only=True, expect=2)
    assert "the tokenizer has 480 tokens and the base 480 rows, so none is new" in said
    said = train(train_new_tokens_only=True, modules_to_save="embed_tokens", expect=2)
    assert "'embed_tokens' is in --modules_to_save" in said
    train()
    said = train(tmp_path / "b", peft_path=tmp_path / "out" / "sft_lora_model", train_new_tokens_only=True, expect=2)
    assert "--train_new_tokens_only True: the adapter has False" in said
    base = tiny.tiny_llama(tmp_path / "base", num_rows=400)
    options = {"model_name_or_path": base, "tokenizer_name_or_path": tiny.tiny_sentencepiece(tmp_path / "tokenizer")}
    train(tmp_path / "c", **options, train_new_tokens_only=True)
    folder = tmp_path / "c" / "sft_lora_model"
    config = json.loads((folder / "adapter_config.json").read_text())
    config["trainable_token_indices"]["lm_head"][-1] = 480
    (folder / "adapter_config.json").write_text(json.dumps(config))
    said = train(tmp_path / "d", **options, peft_path=folder, expect=2)
    assert "it has a row for token 480, this base and tokenizer have 480 rows" in said


def test_an_adapter_of_another_base_is_refused(train, inputs, tmp_path):
    from tests import tiny

    train(tmp_path / "first", modules_to_save="embed_tokens,lm_head")
    other = tiny.tiny_llama(tmp_path / "other", num_rows=500)
    tiny.tiny_sentencepiece(other)
    options = {"peft_path": tmp_path / "first" / "sft_lora_model", "model_name_or_path": other}
    said = train(tmp_path / "second", **options, expect=2)
    assert f"was trained on {inputs.base} (480 rows, fingerprint " in said
    assert f"this is {other} (500 rows, fingerprint " in said
    assert "has other values" in said
    said = train(tmp_path / "second", **options, force_base=True, expect=2)
    assert "taken nevertheless (--force_base)" in said
    assert "does not fit this base and tokenizer" in said
    assert "embed_tokens.weight has shape [480, 32], this base needs [500, 32]" in said


def test_a_cut_off_adapter_file_is_refused(train, tmp_path):
    train(tmp_path / "first")
    file = tmp_path / "first" / "sft_lora_model" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    said = train(tmp_path / "second", peft_path=file.parent, expect=2)
    assert "cannot be read, perhaps cut short" in said


def test_fp16_on_a_cpu_is_replaced_and_said_once(train, tmp_path):
    said = train(fp16=True, torch_dtype="float16")
    assert len(re.findall("precision: (?:float32|bfloat16) instead of ", said)) == 1  # some CPUs have bfloat16


def test_attention_by_cudnn_is_off_since_it_plans_anew_for_every_shape(train, tmp_path):
    torch.backends.cuda.enable_cudnn_sdp(True)
    train(max_steps=2)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.fixture
def scale(monkeypatch):
    """Give training a loss scale, as --fp16 does on a GPU; with a scaler of 2^127 the gradients overflow float32."""

    def use(**how):
        class Scaled(StepTrainer):
            def create_accelerator_and_postprocess(self):
                super().create_accelerator_and_postprocess()
                self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, **how)

        monkeypatch.setattr(run, "StepTrainer", Scaled)

    return use


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_a_step_that_overflows_is_skipped_said_and_not_counted_by_the_schedule(train, tmp_path, scale, optim):
    scale(backoff_factor=2.0**-30)
    said = train(
        optim=optim, max_steps=8, lr_scheduler_type="linear", warmup_steps=0, learning_rate=1e-3, max_grad_norm=0
    )
    steps = log_of(tmp_path / "out")
    skipped = [bool(entry.get("skipped")) for entry in steps]
    assert skipped[0]
    assert not skipped[-1]
    assert said.count("skipped, since gradients overflowed float16") == sum(skipped)
    taken = [0, *itertools.accumulate(not is_so for is_so in skipped)][:-1]
    assert [entry["learning_rate"] for entry in steps] == pytest.approx([1e-3 * (8 - num) / 8 for num in taken])


def test_a_run_whose_steps_all_overflow_fails_with_that_reason(train, tmp_path, scale):
    scale(backoff_factor=0.999)
    said = train(expect=1, max_steps=3, max_grad_norm=0)
    assert "every step was skipped, since its gradients overflowed float16; give --bf16" in said
    assert "was the learning rate 0" not in said


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(train, inputs, tmp_path):
    said = train(learning_rate=1e30, max_grad_norm=0, max_steps=8, expect=1, optim="sgd")
    assert "the loss is not finite; rows " in said
    assert ".json row " in said


def test_finished_run_is_recognised_and_a_changed_one_is_not_overwritten(train, tmp_path):
    out = tmp_path / "out"
    train(out, seed=1)
    before = adapter(out / "sft_lora_model")
    assert "holds this very run, finished" in train(out, seed=2, overwrite_output_dir=True)
    said = train(out, learning_rate=0.02, expect=2)
    assert "learning_rate: 0.01 there, 0.02 here" in said
    said = train(out, learning_rate=0.02, overwrite_output_dir=True)
    assert "output folder: the former" in said
    (moved,) = [path for path in tmp_path.iterdir() if path.name.startswith("out.")]
    after = adapter(moved / "sft_lora_model")
    assert all(torch.equal(before[name], after[name]) for name in before)


EVALUATED = {"do_train": True, "do_eval": True, "eval_strategy": "steps", "eval_steps": 2}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"validation_file": "other.json"}, 'validation: [["valid.json", '),
        ({"eval_steps": 1}, "eval_steps: 2.0 there, 1.0 here"),
        ({"do_eval": None}, "do_eval: true there, false here"),
        ({"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 2}, "load_best_model_at_end: false"),
        ({"torch_dtype": "float32"}, 'torch_dtype: null there, "float32" here'),
    ],
)
def test_a_command_that_asks_for_another_result_is_not_the_finished_run(change, says, train, inputs, tmp_path):
    other = tiny.write_rows(tmp_path / "other.json", tiny.rows(31)[29:])
    change = {name: other if value == "other.json" else value for name, value in change.items()}
    train(**EVALUATED, validation_file=inputs.validation)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    said = train(**{**EVALUATED, "validation_file": inputs.validation, **change}, expect=2)
    assert "holds a run of another recipe" in said
    assert says in said
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_the_finished_run_says_what_of_a_command_is_without_effect(train, tmp_path, sentences):
    train(seed=1)
    said = train(seed=2, logging_steps=3, save_total_limit=1, eval_steps=7)
    assert "holds this very run, finished" in said
    assert "--seed 2 has no effect: the finished run had 1" in said
    for name in ("logging_steps", "save_total_limit"):
        assert f"--{name} has no effect: the run is finished, and this option changes no result" in said
    sentences(said, "--eval_steps has")


def test_an_unfinished_run_does_not_go_on_with_another_validation_set(train, inputs, tmp_path):
    """What is best by one set is not best by another."""
    other = tiny.write_rows(tmp_path / "other.json", tiny.rows(31)[29:])
    train(**EVALUATED, validation_file=inputs.validation, save_strategy="steps", save_steps=2)
    run = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    (tmp_path / "out" / "run.json").write_text(json.dumps({**run, "state": "running"}), encoding="utf-8")
    said = train(**EVALUATED, validation_file=other, save_strategy="steps", save_steps=2, expect=2)
    assert 'validation: [["valid.json", ' in said


def test_a_folder_that_holds_no_run_is_refused(train, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("precious")
    assert "not empty, and no run.json" in train(expect=2)
    assert (tmp_path / "out" / "thesis.docx").read_text() == "precious"


@pytest.mark.parametrize("modules_to_save", [None, "embed_tokens,lm_head"])
def test_killed_run_resumes_bit_for_bit(train, inputs, tmp_path, modules_to_save, monkeypatch):
    """Killed after its checkpoint at step 4 of 8, with dropout: curve and adapter are those of an unkilled run."""
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "lora_dropout": 0.1, "seed": 7}
    options["modules_to_save"] = modules_to_save
    train(tmp_path / "whole", **options)
    train(tmp_path / "killed", **options)
    killed = tmp_path / "killed"
    shutil.rmtree(killed / "sft_lora_model")
    shutil.rmtree(killed / "checkpoint-8")
    run = json.loads((killed / "run.json").read_text())
    (killed / "run.json").write_text(json.dumps({**run, "state": "running"}))
    # Less memory than before would cut steps otherwise, and so draw another dropout.
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=4_000_000))
    said = train(killed, **{**options, "seed": 99})
    assert "micro-batches of at most 1,024 tokens" in said
    assert "resuming from" in said
    assert "seed: 7, of the run that goes on, instead of 99" in said
    curves = [
        [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in log_of(tmp_path / name)]
        for name in ("whole", "killed")
    ]
    assert curves[0] == curves[1]
    ours, theirs = adapter(killed / "sft_lora_model"), adapter(tmp_path / "whole" / "sft_lora_model")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_partial_checkpoint_is_not_resumed_from(train, tmp_path):
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4}
    train(**options)
    out = tmp_path / "out"
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**run, "state": "running"}))
    (out / "checkpoint-8" / "optimizer.safetensors").write_bytes(b"cut")
    assert "checkpoint-4" in train(**options)


def test_json_tokenizer_folder(train, inputs, tmp_path):
    from tests import tiny

    base = tiny.tiny_llama(tmp_path / "base", num_rows=500, tie=True)
    tiny.tiny_json_tokenizer(base)
    said = train(model_name_or_path=base, modules_to_save="embed_tokens,lm_head")
    assert "spare rows stay as they are" in said
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out" / "sft_lora_model")
    assert torch.isfinite(tuned(torch.arange(3, 40)[None]).logits).all()


def test_yaml_file_and_flags_over_it(inputs, tmp_path):
    words = inputs.options(tmp_path / "out")
    file = tmp_path / "run.yaml"
    file.write_text("".join(f"{name[2:]}: {value}\n" for name, value in zip(words[::2], words[1::2], strict=True)))
    done = yangtuo("train", file, "--max_steps", 2)
    assert done.code == 0, done.said
    assert len(log_of(tmp_path / "out")) == 2


def test_a_checkpoint_comes_after_some_minutes_whatever_save_steps_is(train, tmp_path):
    """The seed page saves every 500 of its 100 steps."""
    train(save_strategy="steps", save_steps=500, save_minutes=0.00001)
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {f"checkpoint-{n}" for n in (1, 2, 3, 4)}
    train(tmp_path / "never", save_strategy="steps", save_steps=500, save_minutes=0)
    assert {path.name for path in (tmp_path / "never").glob("checkpoint-*")} == {"checkpoint-4"}


def test_evaluating_in_the_folder_of_a_finished_training_is_refused(train, inputs, tmp_path):
    train()
    said = train(do_eval=True, validation_file=inputs.validation, expect=2)
    assert "do_train: true there, false here" in said


def test_a_run_that_changes_no_weight_fails(train, tmp_path):
    """With one step, a warm-up of any length makes that step's learning rate 0."""
    said = train(max_steps=1, warmup_ratio=0.03, lr_scheduler_type="cosine", expect=1)
    assert "no trained weight has changed" in said
    assert not (tmp_path / "out" / "sft_lora_model").exists()


STEADY = {"lr_scheduler_type": "constant", "warmup_steps": 0}


@pytest.mark.parametrize("tie", [False, True])
def test_a_run_that_made_the_model_worse_fails_its_proof(tie, train, inputs, tmp_path):
    base = tiny.tiny_llama(tmp_path / "base", tie=tie)
    tiny.tiny_sentencepiece(base)
    full = {"modules_to_save": "embed_tokens,lm_head", "max_steps": 6}
    said = train(learning_rate=1, force_learning_rate=True, model_name_or_path=base, **full, **STEADY, expect=1)
    assert re.search(r"trained on went from 6\.\d+ to \d+\.\d+: the run made the model worse; try a tenth of the", said)
    assert sorted(path.name for path in (tmp_path / "out").glob("sft_lora*")) == ["sft_lora_model.failed-proof"]
    proof = json.loads((tmp_path / "out" / "proof.json").read_text(encoding="utf-8"))
    assert not proof["passed"]
    assert proof["gain"]["at_end"] > proof["gain"]["at_start"] + 1
    assert proof["reload"]["reloaded"] == pytest.approx(proof["reload"]["in_memory"], rel=1e-4)


def test_a_run_that_taught_nothing_in_many_steps_fails_its_proof(train, tmp_path):
    said = train(learning_rate=1e-9, max_steps=24, **STEADY, expect=1)
    assert "in 24 steps, no more than rounding does: the run taught the model nothing" in said


def test_few_steps_may_teach_little_and_a_small_gain_is_one(train, tmp_path):
    said = train(learning_rate=1e-9, max_steps=3, **STEADY)
    assert "which may be rounding alone; 3 steps are too few to tell" in said
    train(tmp_path / "more", learning_rate=1e-4, max_steps=24, **STEADY)
    gain = json.loads((tmp_path / "more" / "proof.json").read_text(encoding="utf-8"))["gain"]
    assert 0.001 < gain["at_start"] - gain["at_end"] < 0.1


def test_an_adapter_that_had_converged_may_be_continued(train, inputs, tmp_path):
    rows = [
        {"instruction": "你是谁？", "input": "", "output": "我是羊。"},
        {"instruction": "好吗？", "input": "", "output": "好。"},
    ]
    data = tiny.write_rows(tmp_path / "rows.json", rows)
    options = {"dataset_dir": None, "train_file": data, "modules_to_save": "embed_tokens,lm_head", **STEADY}
    train(tmp_path / "first", learning_rate=0.01, max_steps=80, **options)
    again = {**options, "peft_path": tmp_path / "first" / "sft_lora_model"}
    train(tmp_path / "second", learning_rate=0.003, max_steps=20, **again)
    gain = json.loads((tmp_path / "second" / "proof.json").read_text(encoding="utf-8"))["gain"]
    assert gain["is_continued"]
    assert gain["at_start"] < 0.2
    train(tmp_path / "ruined", learning_rate=3, force_learning_rate=True, max_steps=6, **again, expect=1)


def test_the_trial_of_the_shortcuts_is_kept(train, tmp_path):
    said = train()
    for name in ("run.json", "proof.json"):
        kept = json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"))["shortcuts"]
        assert (kept["compared"], kept["dtype"], kept["refused"]) == ("gradient", "float32", {})
        assert set(kept["distances"]) == {"fused LoRA", "own head", "shared prefixes"}
        assert all(distance < 1e-5 for distance in kept["distances"].values())
    assert "engine: shortcuts tried by the gradient in float32" in said


def test_a_named_tokenizer_has_to_agree_with_the_adapters_on_the_data(train, inputs, tmp_path):
    from tests import tiny

    train(tmp_path / "first")
    adapter_folder = tmp_path / "first" / "sft_lora_model"
    same = tiny.tiny_sentencepiece(tmp_path / "same")
    (same / "added_tokens.json").write_text(json.dumps({"<extra>": 479}))  # another file, the same ids
    train(tmp_path / "second", peft_path=adapter_folder, tokenizer_name_or_path=same)
    other = tiny.tiny_json_tokenizer(tmp_path / "other")
    chosen = {"tokenizer_name_or_path": other, "template": "alpaca_zh"}
    said = train(tmp_path / "third", peft_path=adapter_folder, **chosen, expect=2)
    assert "gives other ids for this data than the adapter's own" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [({"optim": "adamw_bnb_8bit"}, "bitsandbytes"), ({"report_to": "wandb"}, "wandb")],
)
def test_optional_packages_are_asked_for_before_the_weights_are_loaded(train, change, says):
    import importlib.util

    if importlib.util.find_spec(says):
        pytest.skip(f"{says} is installed here")
    assert f"the package {says} is not installed; pip install {says}" in train(**change, expect=2)


@pytest.mark.parametrize("modules_to_save", [None, "embed_tokens,lm_head"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_bfloat16_where_a_processor_has_it(train, inputs, tmp_path, monkeypatch, modules_to_save, stored):
    """The processor is made to claim it; the arithmetic is then emulated, slow and the same."""
    from yangtuo.model import processor

    monkeypatch.setattr(
        processor, "detect_hardware", lambda use_cpu: processor.Hardware("cpu", bfloat16=True, float16=False)
    )
    options = {"modules_to_save": modules_to_save, "validation_file": inputs.validation, "do_eval": True}
    said = train(tmp_path / "out", **options, do_train=True, bf16=True, torch_dtype=stored, gradient_checkpointing=True)
    assert f"frozen in {stored}" in said
    tensors = adapter(tmp_path / "out" / "sft_lora_model")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    train(tmp_path / "exact", **options, do_train=True)
    curves = [[entry["loss"] for entry in log_of(tmp_path / name)] for name in ("out", "exact")]
    assert curves[0] == pytest.approx(curves[1], abs=0.05)
    assert curves[0] != curves[1]
    only_evaluating = {**options, "peft_path": tmp_path / "out" / "sft_lora_model", "lora_dropout": None}
    train(tmp_path / "eval", **only_evaluating, bf16=True, torch_dtype=stored)


def test_another_adapter_or_base_of_the_same_size_is_another_recipe(train, inputs, tmp_path):
    from tests import tiny

    for seed in (1, 2):
        train(tmp_path / f"first{seed}", seed=seed)
    continued = {"lora_dropout": None, "peft_path": tmp_path / "first1" / "sft_lora_model"}
    train(**continued)
    said = train(**{**continued, "peft_path": tmp_path / "first2" / "sft_lora_model"}, expect=2)
    assert "peft_path: " in said
    other = tiny.tiny_llama(tmp_path / "other", seed=5)
    tiny.tiny_sentencepiece(other)
    said = train(**continued, model_name_or_path=other, force_base=True, expect=2)
    assert 'base: "' in said


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("metric", [None, "perplexity", "eval_loss"])
def test_the_lowest_is_the_best_and_decides_the_final_adapter(train, tmp_path, limit, metric):
    """The last checkpoint stays, whatever the limit: until the run has ended it may be killed."""
    from tests import tiny

    # Answers of other letters, which the training rows soon make less likely.
    rows = [{"instruction": row["instruction"], "input": "", "output": "XQ&% ZJ#@" * 4} for row in tiny.rows(29)[24:]]
    evaluate = {"validation_file": tiny.write_rows(tmp_path / "others.json", rows), "do_train": True, "do_eval": True}
    evaluate |= {"max_steps": 8, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    train(**evaluate, load_best_model_at_end=True, metric_for_best_model=metric, save_total_limit=limit)
    losses = [entry["eval_loss"] for entry in evaluations_of(tmp_path / "out")]
    assert losses[0] < min(losses[1:])
    told = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert told["eval_loss"] == losses[0]  # of the weights that are saved, and not computed twice
    kept = {path.name: adapter(path) for path in (tmp_path / "out").glob("checkpoint-*")}
    assert kept.keys() == {"checkpoint-2", "checkpoint-8"}
    final, best = adapter(tmp_path / "out" / "sft_lora_model"), adapter(tmp_path / "out" / "best")
    for name in final:
        assert torch.equal(final[name], kept["checkpoint-2"][name])
        assert torch.equal(best[name], kept["checkpoint-2"][name])


def test_what_is_saved_by_the_best_alone_is_the_best(train, inputs, tmp_path):
    evaluate = {"validation_file": inputs.validation, "eval_strategy": "steps", "eval_steps": 2}
    train(**evaluate, save_strategy="best", max_steps=6)
    losses = {entry["step"]: entry["eval_loss"] for entry in evaluations_of(tmp_path / "out")}
    assert losses[2] > losses[4] > losses[6]
    names = {path.name for path in (tmp_path / "out").glob("checkpoint-*")}
    assert names == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}


def test_evaluations_are_as_far_apart_as_the_screens_lines(train, inputs, tmp_path):
    train(validation_file=inputs.validation, eval_strategy="steps", logging_steps=2)
    assert [entry["step"] for entry in evaluations_of(tmp_path / "out")] == [2, 4]


@pytest.mark.parametrize("verb", ["train", "check"])
def test_values_that_are_looked_at_late_are_refused_before_anything_is_read(run, inputs, tmp_path, verb):
    changes = {"metric_for_best_model": "eval_accuracy", "report_to": "tensorbord", "dataset_dir": "no/such/folder"}
    said = run(verb, *inputs.options(tmp_path / "out", **changes), expect=2)
    assert [line.split(":")[0].strip() for line in said.splitlines()] == [
        "error",
        "--metric_for_best_model eval_accuracy",
        "--report_to tensorbord",
    ]
    assert not (tmp_path / "out").exists()


def test_a_schedule_that_cannot_be_made_is_refused_before_the_weights_are_loaded(train, tmp_path, sentences):
    said = train(lr_scheduler_type="polynomial", lr_scheduler_kwargs='{"lr_end": 1}', expect=2)
    sentences(said, "--lr_scheduler_type polynomial")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"trainable": "all-linear"},  # in a LLaMA, the seven projections of the default
        {"label_smoothing_factor": 0.1},
        {"neftune_noise_alpha": 5},
        {"optim": "adafactor"},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": '{"min_lr": 1e-3}'},
        {"max_steps": None, "num_train_epochs": 1, "save_strategy": "epoch", "logging_strategy": "epoch"},
        {"attn_implementation": "eager"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_options_that_change_the_curve(train, tmp_path, change):
    train(tmp_path / "plain")
    train(tmp_path / "changed", **change)
    curves = [[entry["loss"] for entry in log_of(tmp_path / name)] for name in ("plain", "changed")]
    if change.keys() & {"attn_implementation", "trainable"}:
        assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    else:
        assert curves[0] != curves[1]


def test_validation_options_without_evaluation_are_said(train, inputs):
    said = train(validation_file=inputs.validation, validation_split_percentage=0.1)
    for name in ("validation_file", "validation_split_percentage"):
        assert f"--{name} has no effect: neither --do_eval nor --eval_strategy is given" in said
