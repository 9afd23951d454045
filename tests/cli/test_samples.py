"""`--sample_prompts` in whole runs: what is in log.jsonl, whose answers they are, and that training does not notice."""

import contextlib
import json
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.command import evaluations_of, forked, log_of
from tests.distributed.launch import engine_files, needs
from yangtuo.config.schema import ModelArguments
from yangtuo.data.records import Turn
from yangtuo.inference.generate import Generator, Sampling
from yangtuo.inference.load import Places, open_model
from yangtuo.model.processor import Hardware
from yangtuo.training import samples

QUESTIONS = ("请介绍长城的第1个特点。", "春天来了吗？")
TOKENS = 12


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(QUESTIONS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def options(inputs, prompts):
    """Evaluated at steps 2 and 4 of 4."""
    return {
        "do_train": True,
        "do_eval": True,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "validation_file": inputs.validation,
        "sample_prompts": prompts,
        "sample_tokens": TOKENS,
    }


def entries_of(out):
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "samples" in entry]


def answers_of(base, adapter=None):
    """As `yangtuo chat` asks, greedily."""
    places = Places(base, adapter)
    opened = open_model(places, ModelArguments(), None, Hardware("cpu", bfloat16=False, float16=False))
    generators = [Generator(opened.loaded, opened.template, Sampling(TOKENS)) for _ in QUESTIONS]
    asked = [[Turn("user", question, trained=False)] for question in QUESTIONS]
    return [one.answer(one.prompt(turns)).text.strip() for one, turns in zip(generators, asked, strict=True)]


def curve(out):
    losses = [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in log_of(out)]
    return losses, [(entry["step"], entry["eval_loss"]) for entry in evaluations_of(out)]


def weights(out):
    return load_file(out / "sft_lora_model" / "adapter_model.safetensors")


def assert_same_run(out, other):
    assert curve(out) == curve(other)
    ours, theirs = weights(out), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_each_evaluation_has_the_answers_of_the_base_and_of_now(train, inputs, options, tmp_path):
    said = train(**options)
    out = tmp_path / "out"
    start, middle, end = entries_of(out)
    assert [entry["step"] for entry in (start, middle, end)] == [0, 2, 4]
    base, tuned = answers_of(inputs.base), answers_of(inputs.base, out / "sft_lora_model")
    assert base != tuned
    for entry in (start, middle, end):
        assert [one["prompt"] for one in entry["samples"]] == list(QUESTIONS)
        assert [one["base"] for one in entry["samples"]] == base
        assert entry["ended_share"] == sum(one["ended"] for one in entry["samples"]) / 2
    assert [one["answer"] for one in start["samples"]] == base
    assert [one["answer"] for one in end["samples"]] == tuned
    told = said.splitlines()
    assert [line.split("  ")[0] for line in told if "  samples: " in line] == ["step 0", "step 2", "step 4"]
    assert sum(line.startswith("     base: ") for line in told) == 6
    assert sum(line.startswith("     now: ") for line in told) == 4


def test_an_answer_that_the_end_token_ends(train, inputs, options, tmp_path):
    """A base without anything but the end token to say."""
    base = shutil.copytree(inputs.base, tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(inputs.base)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        model.lm_head.weight[2] = 1.0
    model.save_pretrained(base)
    train(model_name_or_path=base, learning_rate=1e-8, **options)
    for entry in entries_of(tmp_path / "out"):
        assert entry["ended_share"] == 1.0
        assert [(one["answer"], one["ended"]) for one in entry["samples"]] == [("", True)] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_dropout": 0.1, "gradient_checkpointing": True},
        {"lora_dropout": 0.1, "modules_to_save": "embed_tokens,lm_head", "eval_on_start": True},
        {"attn_implementation": "eager", "neftune_noise_alpha": 5},
    ],
    ids=["checkpointing", "modules_to_save", "noise"],
)
def test_training_does_not_notice(changes, train, options, tmp_path):
    train(tmp_path / "plain", **{**options, **changes, "sample_prompts": None, "sample_tokens": None})
    train(tmp_path / "sampled", **options, **changes)
    assert [entry["step"] for entry in entries_of(tmp_path / "sampled")] == [0, 2, 4]
    assert_same_run(tmp_path / "sampled", tmp_path / "plain")


def test_training_would_notice(train, options, tmp_path, monkeypatch):
    """The negative control of the test above: a switch that leaves a weight of the model otherwise than it was."""

    @contextlib.contextmanager
    def careless(model, attention, real=samples.answering):
        with real(model, attention):
            yield
        with torch.no_grad():
            model.get_input_embeddings().weight[5:].mul_(1.001)

    train(tmp_path / "plain", **{**options, "sample_prompts": None, "sample_tokens": None})
    monkeypatch.setattr(samples, "answering", careless)
    with contextlib.suppress(AssertionError):  # the proof fails too, since the base has changed
        train(tmp_path / "sampled", **options)
    assert curve(tmp_path / "sampled") != curve(tmp_path / "plain")


def test_no_random_number_is_drawn(train, options, monkeypatch):
    seen = []

    def states():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    def watched(self, step, real=samples.Samples._sample):
        before = states()
        real(self, step)
        seen.append(before == states())

    monkeypatch.setattr(samples.Samples, "_sample", watched)
    train(**options)
    assert seen == [True] * 3


def test_a_resumed_run_reads_the_first_answers_from_its_log(train, options, tmp_path):
    options |= {"save_strategy": "steps", "save_steps": 2, "lora_dropout": 0.1}
    train(tmp_path / "whole", **options)
    killed = shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(killed / "sft_lora_model")
    shutil.rmtree(killed / "checkpoint-4")
    run = json.loads((killed / "run.json").read_text())
    (killed / "run.json").write_text(json.dumps({**run, "state": "running"}))
    said = train(killed, **options)
    assert "resuming from" in said
    assert [line.split("  ")[0] for line in said.splitlines() if "  samples: " in line] == ["step 4"]
    ours, theirs = ([{**entry, "runtime": 0} for entry in entries_of(tmp_path / name)] for name in ("killed", "whole"))
    assert ours == theirs
    assert_same_run(killed, tmp_path / "whole")


def test_a_run_that_gets_samples_later_has_none_of_its_start(train, options, tmp_path):
    options |= {"save_strategy": "steps", "save_steps": 2}
    out = tmp_path / "out"
    train(**{**options, "sample_prompts": None, "sample_tokens": None})
    shutil.rmtree(out / "sft_lora_model")
    shutil.rmtree(out / "checkpoint-4")
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**run, "state": "running"}))
    said = train(**options)
    assert said.count("samples: this run did not begin with these prompts") == 1
    (entry,) = entries_of(out)
    assert (entry["step"], [one["base"] for one in entry["samples"]]) == (4, [None, None])


def test_a_continued_adapter_begins_with_its_own_answers(train, inputs, options, tmp_path):
    adapter = tiny.tiny_adapter(tmp_path / "adapter", inputs.base)
    said = train(peft_path=adapter, **options)
    start = entries_of(tmp_path / "out")[0]
    assert [one["base"] for one in start["samples"]] == answers_of(inputs.base, adapter) != answers_of(inputs.base)
    assert "     start: " in said


def test_rows_of_the_validation_set(train, inputs, options, tmp_path):
    train(**{**options, "sample_prompts": "validation:3"})
    rows = {row["instruction"]: row for row in json.loads(inputs.validation.read_text(encoding="utf-8"))}
    for entry in entries_of(tmp_path / "out"):
        assert len(entry["samples"]) == 3
        for one in entry["samples"]:
            assert one["reference"] == rows[one["prompt"].split("\n")[0]]["output"]


def test_only_an_evaluation(train, inputs, options, tmp_path):
    train(**{**options, "do_train": None, "eval_strategy": None, "eval_steps": None})
    (entry,) = entries_of(tmp_path / "out")
    assert entry["step"] == 0
    assert [one["answer"] for one in entry["samples"]] == answers_of(inputs.base)


@pytest.mark.parametrize("name", ["ddp", "zero2"])
def test_of_two_processes_the_first_answers(name, inputs, options, tmp_path):
    engine = engine_files(tmp_path)[name]
    needs(engine)
    words = inputs.options(tmp_path / "out", per_device_train_batch_size=2, **options)
    done = forked("train", *words, *engine.options, env={"OMP_NUM_THREADS": "1"}, num_processes=2, timeout=150)
    assert done.code == 0, done.said
    found = entries_of(tmp_path / "out")
    assert [entry["step"] for entry in found] == [0, 2, 4]
    assert [one["base"] for one in found[-1]["samples"]] == answers_of(inputs.base)
    tuned = answers_of(inputs.base, tmp_path / "out" / "sft_lora_model")
    assert [one["answer"] for one in found[-1]["samples"]] == tuned
    assert done.said.count("step 4  samples: ") == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), TypeError("no cache")])
def test_a_model_that_cannot_answer_is_trained_all_the_same(error, train, options, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    train(tmp_path / "plain", **{**options, "sample_prompts": None, "sample_tokens": None})
    monkeypatch.setattr(Generator, "answer", fail)
    said = train(**options)
    assert said.count("samples: left out from step 0 on: no ") == 1
    assert entries_of(tmp_path / "out") == []
    assert_same_run(tmp_path / "out", tmp_path / "plain")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sample_prompts": "gone.txt"}, "gone.txt: no such file"),
        ({"do_eval": None, "eval_strategy": None, "eval_steps": None}, "give --eval_strategy steps"),
        ({"validation_file": None}, "evaluation needs --validation_file"),
        ({"sample_prompts": "validation:99"}, "give 1 to 16"),
        ({"sample_tokens": 0}, "--sample_tokens 0: at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_the_weights(changes, told, train, options, tmp_path, sentences):
    said = train(expect=2, **{**options, **changes})
    assert "frozen in" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert told in line
    sentences(said, about="error: ")


def test_check_says_it_too(run, inputs, options, tmp_path):
    words = inputs.options(tmp_path / "out", **{**options, "sample_prompts": "gone.txt"})
    assert "--sample_prompts gone.txt: no such file" in run("check", *words, expect=2)
