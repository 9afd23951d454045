"""Every engine gives the curve and the adapter of one process, and what it saves is whole."""

import json
import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.command import REPOSITORY, log_of, run, yangtuo
from tests.distributed.launch import LAUNCHED, RUN, Running, adapter, assert_same, needs, train

SHARDED = "the base in memory"
EVALUATE = {"do_train": True, "do_eval": True, "eval_strategy": "steps", "eval_steps": 4}


@pytest.fixture(scope="module", params=[None, "embed_tokens,lm_head"], ids=["lora", "modules_to_save"])
def reference(request, inputs, tmp_path_factory):
    """One process, the whole step at once."""
    out = tmp_path_factory.mktemp("reference") / "out"
    options = {**EVALUATE, "modules_to_save": request.param, "validation_file": inputs.validation}
    done = yangtuo("train", *inputs.options(out, **{**RUN, **options, "per_device_train_batch_size": 8}))
    assert done.code == 0, done.said
    return out, options


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    """The folder of one process's run with these options, made once for all engines."""
    made = {}

    def of(**options):
        key = tuple(options.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp("alone") / "out"
            values = {**RUN, **options, "per_device_train_batch_size": 8}
            done = yangtuo("train", *inputs.options(made[key], **values))
            assert done.code == 0, done.said
        return made[key]

    return of


@pytest.mark.parametrize("name", ["ddp", "zero2", "zero3", "fsdp2"])
def test_an_engine_gives_the_result_of_one_process(name, engines, reference, inputs, tmp_path):
    reference_out, options = reference
    # The head is called often, and ranks have unequal numbers of predictions.
    done = train(inputs, tmp_path / "out", engines[name], env={"SMALL_CHUNKS": "1", "MEASURED": "1"}, **options)
    assert "by a measurement of the memory" in done.said
    position = json.loads((tmp_path / "out" / "checkpoint-8" / "training_state.json").read_text())
    assert (position["engine"], position["world_size"]) == (engines[name].kind, 2)  # not another one in its place
    assert_same(tmp_path / "out", reference_out)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["memory_plan"]["fits"]
    proof = json.loads((tmp_path / "out" / "proof.json").read_text())
    is_sharded = name in ("zero3", "fsdp2")
    assert (proof["passed"], proof["reload"]["into"]) == (True, SHARDED if is_sharded else "a fresh base")
    assert proof["reload"]["without"] - proof["reload"]["in_memory"] > 0.05
    ids, logits = torch.arange(3, 40)[None], []
    for folder in (tmp_path / "out" / "best", reference_out / "best"):
        logits.append(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(inputs.base), folder)(ids).logits)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["zero3", "fsdp2"])
def test_an_adapter_is_continued_under_an_engine(name, engines, reference, alone, inputs, tmp_path):
    """From what another engine has saved; its first loss tells that it was read."""
    reference_out, options = reference
    options = {**options, "modules_to_save": None, "peft_path": reference_out / "sft_lora_model", "max_steps": 2}
    train(inputs, tmp_path / "out", engines[name], **options)
    ours, theirs = ([entry["loss"] for entry in log_of(out)] for out in (tmp_path / "out", alone(**options)))
    assert ours == pytest.approx(theirs, abs=2e-6)
    assert theirs[0] < log_of(reference_out)[0]["loss"] - 0.05
    assert adapter(tmp_path / "out").keys() == adapter(reference_out).keys()


def test_the_negative_control(engines, reference, inputs, tmp_path):
    """Other rows in a step, and the comparison fails."""
    reference_out, options = reference
    train(inputs, tmp_path / "out", engines["ddp"], **{**options, "data_seed": 1})
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "out", reference_out)


@pytest.fixture(scope="module")
def fewer_rows(tmp_path_factory):
    """A base with fewer rows than the tokenizer has tokens."""
    return tiny.tiny_llama(tmp_path_factory.mktemp("fewer") / "base", num_rows=400)


@pytest.mark.parametrize("name", ["ddp", "zero2", "fsdp2"])
def test_new_rows_alone(name, engines, alone, fewer_rows, inputs, tmp_path):
    options = {"model_name_or_path": fewer_rows, "tokenizer_name_or_path": inputs.base, "train_new_tokens_only": True}
    train(inputs, tmp_path / "out", engines[name], env={"SMALL_CHUNKS": "1"}, **options)
    assert_same(tmp_path / "out", alone(**options))


@pytest.mark.parametrize("name", ["ddp", "zero2"])
def test_a_quantised_base_under_an_engine(name, engines, alone, inputs, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra qlora)")
    options = {"load_in_4bit": True}
    train(inputs, tmp_path / "out", engines[name], **options)
    assert_same(tmp_path / "out", alone(**options))
    assert json.loads((tmp_path / "out" / "proof.json").read_text())["reload"]["into"] == "a fresh base"


@pytest.mark.parametrize("name", ["ddp", "zero2"])
def test_two_learning_rates_under_an_engine(name, engines, alone, inputs, tmp_path):
    """LoRA+ on DoRA: groups of weights, of matrices and of vectors, in checkpoints too."""
    options = {"use_dora": True, "loraplus_lr_ratio": 4}
    train(inputs, tmp_path / "out", engines[name], **options)
    ours, theirs = ([entry["loss"] for entry in log_of(out)] for out in (tmp_path / "out", alone(**options)))
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"load_in_4bit": True}, "--load_in_4bit needs the base whole in each process, which ZeRO-3 divides"),
        ({"init_lora_weights": "pissa"}, "--init_lora_weights pissa needs the base whole in each process"),
    ],
)
def test_what_needs_a_whole_base_is_refused_under_zero3(options, words, engines, inputs, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra qlora)")
    needs(engines["zero3"])
    done = yangtuo("train", *inputs.options(tmp_path / "out", **options), *engines["zero3"].options)
    assert done.code == 2
    assert words in done.said


def test_deepspeed_without_a_launcher(engines, inputs, tmp_path):
    """DeepSpeed by itself would look for MPI."""
    needs("DEEPSPEED")
    done = yangtuo("train", *inputs.options(tmp_path / "out", max_steps=2), *engines["zero2"].options)
    assert done.code == 0, done.said
    assert len(log_of(tmp_path / "out")) == 2


@pytest.mark.parametrize("name", ["ddp", "zero2", "zero3", "fsdp2"])
def test_bfloat16_trains_float32_masters(name, engines, alone, inputs, tmp_path):
    """Played on a processor without it, which is slow and right; with embedding and head, which ZeRO-3 minds.

    Beside the same in float32 by one process, whose curve every engine has.
    """
    options = {"modules_to_save": "embed_tokens,lm_head", "bf16": True, "max_steps": 4}
    train(inputs, tmp_path / "out", engines[name], env={"BFLOAT16": "1"}, **options)
    plain = alone(**{**options, "bf16": None})
    ours, theirs = ([entry["loss"] for entry in log_of(out)] for out in (tmp_path / "out", plain))
    assert ours == pytest.approx(theirs, abs=5e-2)
    assert ours != pytest.approx(theirs, abs=1e-5)
    assert {tensor.dtype for tensor in adapter(tmp_path / "out").values()} == {torch.float32}
    assert any((tensor != tensor.bfloat16().float()).any() for tensor in adapter(tmp_path / "out").values())


@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_seed_pages_command_with_its_deepspeed_file(num_processes, inputs, tmp_path):
    """--fp16 and an old min_loss_scale included; no compiler is asked for. Two processes by a start, one by forks."""
    needs("DEEPSPEED")
    file = REPOSITORY / "scripts" / "ds_zero2_no_offload.json"
    old = json.loads(file.read_text())
    old["fp16"]["min_loss_scale"] = 1e-10
    (tmp_path / "old.json").write_text(json.dumps(old))
    words = [
        *("--nnodes", 1, "--nproc_per_node", num_processes, LAUNCHED),
        *inputs.options(tmp_path / "out", max_steps=2, fp16=True, torch_dtype="float16", gradient_checkpointing=True),
        *("--deepspeed", tmp_path / "old.json", "--modules_to_save", "embed_tokens,lm_head"),
    ]
    env = {"OMP_NUM_THREADS": "1", "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"), "CXX": "/bin/false"}
    if num_processes == 2:
        done = run(["torchrun", *words], env=env)
    else:
        with Running([sys.executable, "-m", "torch.distributed.run", *words], env=env) as running:
            done = running.end()
    assert done.code == 0, done.said
    assert done.said.count("min_loss_scale 1e-10 counts as 1") == 1
    assert len(log_of(tmp_path / "out")) == 2
    assert not (tmp_path / "extensions").exists()


def test_fsdp_on_a_cpu_is_refused_by_the_product(engines, inputs, tmp_path):
    """accelerate would run DDP and end with success."""
    options = [word for word in engines["fsdp2"].options]
    done = yangtuo("train", *inputs.options(tmp_path / "out"), *options)
    assert done.code == 2
    assert "accelerate runs plain DDP in its place on a CPU" in done.said
