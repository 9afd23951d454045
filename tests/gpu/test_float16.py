"""Float16 and its loss scale: kept over a resume, and steps that overflow are known as skipped."""

import json
import shutil

from tests.distributed.launch import assert_bit_identical

# Of every scaler that is made with the default; torch's own is 2^16.
SCALE = """
import torch
device, _, *rest = torch.amp.GradScaler.__init__.__defaults__
torch.amp.GradScaler.__init__.__defaults__ = (device, {scale}, *rest)
"""


def test_float16_goes_on_with_its_loss_scale(train, tmp_path):
    options = {"fp16": True, "save_strategy": "steps", "save_steps": 3, "lora_dropout": 0.1, "full_determinism": True}
    train("whole", **options)
    train("out", **options)
    shutil.rmtree(tmp_path / "out" / "sft_lora_model")
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    run = tmp_path / "out" / "run.json"
    run.write_text(json.dumps({**json.loads(run.read_text()), "state": "running"}))
    position = json.loads((tmp_path / "out" / "checkpoint-3" / "training_state.json").read_text())
    assert position["optimizer"]["scaler"]["scale"] > 0
    assert "resuming from" in train("out", **options).done.said
    assert_bit_identical(tmp_path / "out", tmp_path / "whole")


def test_steps_that_overflow_are_known_as_skipped_and_training_goes_on(train):
    """The scale is halved at each, so that the first steps overflow and the later ones do not; the schedule waits."""
    run = train("out", fp16=True, max_steps=40, first=SCALE.format(scale=2.0**40))
    skipped = [step.get("skipped", False) for step in run.steps]
    first_taken = skipped.index(False)
    assert skipped[0]
    assert first_taken < 35
    assert not skipped[-1]
    assert run.done.said.count("skipped, since gradients overflowed float16") == sum(skipped)
    rates = [step["learning_rate"] for step in run.steps]
    assert len(set(rates[:first_taken])) == 1
    assert rates[-1] < rates[0]
    assert run.losses[-1] < run.losses[0]


def test_a_usual_scale_skips_nothing(train):
    """Negative control: not every step of float16 is told as skipped."""
    assert not any(step.get("skipped") for step in train("out", fp16=True).steps)


def test_a_run_of_nothing_but_skipped_steps_fails_with_the_reason(train):
    done = train("out", fp16=True, max_steps=3, expect=1, first=SCALE.format(scale=2.0**100)).done
    assert "every step was skipped, since its gradients overflowed float16" in done.said
    assert "Traceback" not in done.said
