"""What a run is watched for, by entries of log.jsonl."""

import math

import pytest
import torch

from yangtuo.engine.early_stopping import EarlyStopping, EvaluationHistory, evaluations_without_gain, metrics_at
from yangtuo.engine.monitor import TrainingMonitor, no_gradient

FALLING = [3.0 - 0.05 * i + 0.1 * (-1) ** i for i in range(30)]


def steps_of(losses, **changes):
    values = {"grad_norm": 1.0, "learning_rate": 1e-3, "step_seconds": 2.0, **changes}
    return [{"step": i, "loss": loss, **values} for i, loss in enumerate(losses, 1)]


def events_of(entries):
    monitor, found = TrainingMonitor(), []
    for entry in entries:
        told = monitor.evaluation(entry) if "eval_loss" in entry else monitor.step(entry)
        found += [(entry["step"], event.name) for event in told]
    return found


def test_a_run_that_goes_well_says_nothing():
    assert events_of(steps_of(FALLING, cpu_wait=0.05)) == []


def test_a_spike_is_said_once_and_at_its_step():
    assert events_of(steps_of([*FALLING, 9.0, *FALLING[-5:], 9.0])) == [(31, "loss_spike")]


def test_losses_that_differ_by_their_rows_are_no_spike():
    assert events_of(steps_of([1.0, 3.0] * 10 + [4.0])) == []


def test_a_loss_above_its_start_for_long_is_said_with_the_rate():
    entries = steps_of([2.0] * 5 + [3.0] * 10)
    assert events_of(entries) == [(15, "loss_above_start")]
    monitor = TrainingMonitor(entries[:-1])
    (event,) = monitor.step(entries[-1])
    assert "at most 2.0000 in the first 5 steps, 3.0000 in the last 10" in event.text
    assert "1.0e-03" in event.text
    assert events_of(steps_of([2.0] * 5 + [2.05] * 20)) == []


def test_a_run_that_goes_wrong_in_its_first_steps():
    """As SmolLM2 at a rate of 0.05: the first five are no measure of a start."""
    losses = [3.3, 5.0, 11.0, 19.3, 50.0, 74.1, 55.0, 39.9, 30.0, 21.5, 18.0, 14.6, 12.0, 10.7, 9.5]
    assert (15, "loss_above_start") in events_of(steps_of(losses))
    assert "loss_above_start" not in dict(map(reversed, events_of(steps_of([1.0, 3.0] * 10))))


def test_a_loss_that_is_no_number_is_not_compared():
    assert events_of(steps_of([2.0, None, 2.0, *[None] * 12])) == []


@pytest.mark.parametrize(("last", "found"), [(1e-4, [(15, "gradient_vanished")]), (0.01, [])])
def test_gradients_that_vanish(last, found):
    entries = steps_of([2.0] * 20)
    for entry in entries[12:]:
        entry["grad_norm"] = last
    assert events_of(entries)[:1] == found


@pytest.mark.parametrize(("number", "found"), [(6, [(12, "skipped_steps")]), (5, [])])
def test_skipped_steps(number, found):
    entries = steps_of([2.0] * 12)
    for entry in entries[12 - number :]:
        entry["skipped"] = True
    assert events_of(entries) == found


@pytest.mark.parametrize(("wait", "seconds", "found"), [(0.5, 2.0, True), (0.1, 2.0, False), (0.5, 0.1, False)])
def test_a_shared_processor_is_said_with_what_helps(wait, seconds, found, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monitor, told = TrainingMonitor(), []
    for entry in steps_of([2.0] * 6, cpu_wait=wait, step_seconds=seconds):
        told += monitor.step(entry)
    assert [event.name for event in told] == ["shared_processor"] * found
    if found:
        assert "50% of the last steps' time" in told[0].text
        assert "OMP_NUM_THREADS=1" in told[0].text


def test_who_has_one_thread_is_not_told_to_take_one(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monitor, told = TrainingMonitor(), []
    for entry in steps_of([2.0] * 6, cpu_wait=0.5, step_seconds=2.0):
        told += monitor.step(entry)
    assert told[0].text.endswith("; end the others")


def evaluations(losses, training):
    entries = []
    for i, loss in enumerate(losses, 1):
        entries += [{"step": 10 * i, "loss": training[i - 1], "step_seconds": 1.0}, {"step": 10 * i, "eval_loss": loss}]
    return entries


@pytest.mark.parametrize(
    ("losses", "training", "found"),
    [
        ([2.0, 1.5, 1.6, 1.8], [2.0, 1.5, 1.2, 1.0], [(40, "over_fitting")]),
        ([2.0, 1.5, 1.6, 1.5, 1.6], [2.0, 1.5, 1.2, 1.0, 0.9], []),  # up and down
        ([2.0, 1.5, 1.501, 1.502], [2.0, 1.5, 1.2, 1.0], []),  # by less than a hundredth
        ([2.0, 1.5, 1.6, 1.8], [2.0, 1.5, 2.5, 2.6], []),  # training is no better: something else
    ],
)
def test_over_fitting(losses, training, found):
    assert events_of(evaluations(losses, training)) == found


def test_a_resumed_run_knows_what_was_said():
    entries = steps_of([*FALLING, 9.0])
    monitor = TrainingMonitor([*entries, {"step": 31, "event": "loss_spike", "text": "..."}])
    assert monitor.step(steps_of([9.0 * 3])[0] | {"step": 32}) == []


def test_modules_without_a_gradient_are_named():
    found = no_gradient(
        {
            "base_model.model.model.layers.0.q_proj.lora_A.weight": torch.zeros(2, 2),
            "base_model.model.model.layers.0.q_proj.lora_B.weight": torch.ones(2, 2),
            "base_model.model.model.layers.0.v_proj.lora_A.weight": torch.zeros(2, 2),
            "base_model.model.model.layers.0.v_proj.lora_B.weight": None,
            "base_model.model.model.embed_tokens.modules_to_save.weight": torch.eye(3).to_sparse(),
            "base_model.model.model.layers.0.mlp.experts.3.lora_B.weight": None,
            "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.zeros(2, 2),
        }
    )
    assert [event.name for event in found] == ["no_gradient"]
    assert "1 of 4 trained modules" in found[0].text
    assert "layers.0.v_proj;" in found[0].text
    assert no_gradient({"a.lora_B.weight": torch.ones(1)}) == []


@pytest.mark.parametrize(
    ("values", "threshold", "count"),
    [
        ([], 0.0, 0),
        ([3.0], 0.0, 0),
        ([3.0, 2.0, 2.0], 0.0, 1),
        ([3.0, 2.0, 2.5, 2.1], 0.0, 2),
        ([3.0, 2.95, 2.9, 2.85], 0.1, 3),  # each by less; the best moves all the same, as in transformers
        ([3.0, math.nan, 2.0], 0.0, 0),
        ([3.0, 2.0, math.nan], 0.0, 1),
    ],
)
def test_evaluations_without_a_gain(values, threshold, count):
    assert evaluations_without_gain(values, threshold) == count
    assert as_transformers(values, threshold) == count


def as_transformers(values, threshold):
    """The count of its own callback, with the best metric as its trainer keeps it."""
    from types import SimpleNamespace

    from transformers import EarlyStoppingCallback

    callback = EarlyStoppingCallback(100, threshold)
    args, state = SimpleNamespace(greater_is_better=False), SimpleNamespace(best_metric=None)
    for value in values:
        callback.check_metric_value(args, state, None, value)
        best = math.inf if state.best_metric is None else state.best_metric
        state.best_metric = value if value < best else best
    return callback.early_stopping_patience_counter


def test_the_history_goes_on_from_the_log():
    log = [{"step": 2, "eval_loss": 2.0, "perplexity": 7.4}, {"step": 4, "eval_loss": None, "perplexity": None}]
    history = EvaluationHistory(EarlyStopping(2, 0.0), log)
    assert not history.is_over()
    assert not history.add({"eval_loss": 2.5, "eval_perplexity": 12.2})
    assert history.is_over()
    assert "2 evaluations in a row have not bettered the loss 2.0000 before them" in history.why_over(6, 20)
    assert history.add({"eval_loss": 1.5, "eval_perplexity": 4.5})
    assert not history.is_over()
    assert not EvaluationHistory(EarlyStopping(), log * 50).is_over()


def test_metrics_of_a_step_are_those_of_its_last_evaluation():
    history = [{"step": 2, "eval_loss": 2.0}, {"step": 2, "eval_loss": 1.0, "epoch": 1}, {"step": 4, "loss": 3.0}]
    assert metrics_at(2, history) == {"eval_loss": 1.0}
    assert metrics_at(4, history) == {}
