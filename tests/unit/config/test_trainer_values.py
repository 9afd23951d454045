"""Values that transformers would look at late are looked at with the command line, by the names that it has."""

import inspect

import pytest
import torch
from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR
from transformers.trainer_optimizer import _OPTIMIZER_HANDLERS, OptimizerContext

from tests.unit.config.test_parser import refused, settings_of
from yangtuo.config.options import TRAINING_OPTIONS
from yangtuo.config.trainer_values import CHECKPOINTING, OPTIMIZERS, SCHEDULES, TRACKERS, tracker_names
from yangtuo.engine.optimizer import rehearse
from yangtuo.engine.trainer import StepTrainer
from yangtuo.errors import UsageError

PLATEAU = ("--lr_scheduler_type", "reduce_lr_on_plateau", "--eval_strategy", "epoch")


def parameters_of(function):
    return {name for name, one in inspect.signature(function).parameters.items() if one.kind is not one.VAR_KEYWORD}


# ---- the names are those of transformers and torch


def test_trackers_are_those_of_transformers():
    assert TRACKERS.keys() == INTEGRATION_TO_CALLBACK.keys()


def test_schedules_are_those_of_transformers():
    assert SCHEDULES.keys() == {kind.value for kind in TYPE_TO_SCHEDULER_FUNCTION}
    assert SCHEDULES.keys() == set(TRAINING_OPTIONS["lr_scheduler_type"].choices)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_what_a_schedule_takes(kind):
    special = {"reduce_lr_on_plateau": torch.optim.lr_scheduler.ReduceLROnPlateau, "greedy": GreedyLR}
    functions = {each.value: function for each, function in TYPE_TO_SCHEDULER_FUNCTION.items()}
    taken = parameters_of(special.get(kind, functions[kind]))
    assert set(SCHEDULES[kind].split()) == taken - {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}


class Asked(dict):
    """Remembers what is looked for in it."""

    def __init__(self):
        super().__init__(nothing="0")  # not empty, which would be looked at no further
        self.names = set()

    def get(self, name, default=None):
        self.names.add(name)
        return default

    pop = get

    def __contains__(self, name):
        self.names.add(name)
        return False


@pytest.mark.parametrize("optim", TRAINING_OPTIONS["optim"].choices)
def test_what_an_optimizer_takes(optim, tmp_path):
    if any(part in optim for part in ("lomo", "galore", "apollo")):
        pytest.skip("refused by its name")
    args, asked = TrainingArguments(str(tmp_path), optim=optim, use_cpu=True), Asked()
    context = OptimizerContext(args=args, model=None, optimizer_kwargs={}, adam_kwargs={}, optim_args=asked)
    try:
        _OPTIMIZER_HANDLERS[optim](context)
    except (ImportError, ValueError) as error:
        pytest.skip(str(error))
    assert asked.names == set(OPTIMIZERS.get(optim, "").split())


def test_what_checkpointing_takes():
    taken = set(inspect.signature(torch.utils.checkpoint.checkpoint).parameters)
    named = taken - {"function", "args", "context_fn", "kwargs"}  # a function is no JSON
    assert set(CHECKPOINTING) == named | {"preserve_rng_state"}  # which its documentation names


# ---- what is said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--metric_for_best_model", "eval_accuracy"],
            "--metric_for_best_model eval_accuracy: evaluation here measures loss and perplexity; give one of them",
        ),
        (["--metric_for_best_model", "eval_los"], "--metric_for_best_model eval_los: did you mean 'eval_loss'?"),
        (["--metric_for_best_model", "perplexty"], "--metric_for_best_model perplexty: did you mean 'perplexity'?"),
        (["--metric_for_best_model", "rows"], None),
        (
            ["--greater_is_better"],
            "--greater_is_better True: a lower loss or perplexity is the better one; leave it out",
        ),
        (["--load_best_model_at_end"], "--load_best_model_at_end: it needs --eval_strategy steps or epoch"),
        (["--save_strategy", "best"], "--save_strategy best: it needs --eval_strategy steps or epoch"),
        (["--lr_scheduler_type", "greedy"], "--lr_scheduler_type greedy: it needs --eval_strategy steps or epoch"),
        (
            ["--load_best_model_at_end", "--eval_strategy", "epoch"],
            "--load_best_model_at_end: what is evaluated has to be saved; --eval_strategy epoch and --save_strategy "
            "steps have to be the same",
        ),
        (
            ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "200"],
            "--load_best_model_at_end: --save_steps 500 has to be a multiple of --eval_steps 200",
        ),
        (["--report_to", "tensorbord"], "--report_to tensorbord: did you mean 'tensorboard'?"),
        (
            ["--report_to", "paper"],
            f"--report_to paper: expected some of {', '.join(TRACKERS)}, all, none",
        ),
        (["--lr_scheduler_kwargs", "x"], "--lr_scheduler_kwargs x: broken JSON: Expecting value: line 1 column 1"),
        (["--lr_scheduler_kwargs", "[1]"], "--lr_scheduler_kwargs [1]: expected a JSON object"),
        (
            ["--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", '{"num_cycle": 2}'],
            "--lr_scheduler_kwargs: num_cycle: did you mean 'num_cycles'?",
        ),
        (
            ["--lr_scheduler_type", "constant", "--lr_scheduler_kwargs", '{"num_cycles": 2}'],
            "--lr_scheduler_kwargs: num_cycles: --lr_scheduler_type constant takes none",
        ),
        (
            ["--lr_scheduler_type", "cosine_with_min_lr"],
            "--lr_scheduler_type cosine_with_min_lr: give one of min_lr and min_lr_rate: --lr_scheduler_kwargs "
            "'{\"min_lr\": 1e-05}'",
        ),
        (
            ["--lr_scheduler_type", "warmup_stable_decay"],
            "--lr_scheduler_type warmup_stable_decay: give num_decay_steps: --lr_scheduler_kwargs "
            "'{\"num_decay_steps\": 100}'",
        ),
        (["--optim_args", "x"], "--optim_args x: expected name=value, several separated by commas"),
        (["--optim_args", "a=1"], "--optim_args: a: --optim adamw_torch_fused takes none"),
        (["--optim", "sgd", "--optim_args", "momentum=high"], "--optim_args momentum=high: expected a number"),
        (
            ["--gradient_checkpointing_kwargs", '{"use_reentrent": true}'],
            "--gradient_checkpointing_kwargs: use_reentrent: did you mean 'use_reentrant'?",
        ),
        (
            ["--fsdp_config", "no/such.json"],
            "--fsdp_config no/such.json: no such file; give a JSON file or a JSON object",
        ),
        (["--learning_rate", "nan"], "--learning_rate nan: at least 0"),
        (["--adam_beta2", "1"], "--adam_beta2 1.0: from 0 to below 1"),
        (["--seed=-1"], "--seed -1: from 0 to below 4294967296"),
        (["--ddp_timeout", "0"], "--ddp_timeout 0: at least 1"),
        (["--max_steps", "0"], "--max_steps 0: at least 1, or -1 for --num_train_epochs"),
        (["--num_train_epochs", "0"], "--num_train_epochs 0.0: above 0, or give --max_steps"),
        (["--save_steps", "2.5"], "--save_steps 2.5: a whole number, or below 1 a part of all steps"),
        (["--eval_strategy", "steps", "--eval_steps=-1"], "--eval_steps -1.0: at least 0"),
        (["--eval_strategy", "steps", "--logging_steps", "0"], "--eval_strategy steps: give --eval_steps"),
        (
            ["--dataloader_prefetch_factor", "2"],
            "--dataloader_prefetch_factor: it needs --dataloader_num_workers 1 or more",
        ),
    ],
)
def test_a_value_that_transformers_would_look_at_late(words, message):
    said = refused(*words)
    assert said.startswith(f"options: {message or '--metric_for_best_model rows: evaluation'}")
    assert "\n" not in said


def test_all_wrong_trackers_at_once():
    assert refused("--report_to", "wandbs, tensorboard,swanlb").splitlines() == [
        "options (2 problems):",
        "  --report_to wandbs: did you mean 'wandb'?",
        "  --report_to swanlb: did you mean 'swanlab'?",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["--metric_for_best_model", "eval_perplexity", "--greater_is_better", "False"],
        ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "250"],
        ["--load_best_model_at_end", "--eval_strategy", "epoch", "--save_strategy", "best"],
        [*PLATEAU, "--lr_scheduler_kwargs", '{"factor": 0.5, "patience": 1}'],
        ["--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", '{"min_lr_rate": 0.1}'],
        ["--optim", "sgd", "--optim_args", "momentum=0.9, nesterov=true"],
        ["--report_to", "none"],
        ["--report_to", "all"],
        ["--save_steps", "0.25", "--num_train_epochs", "0", "--max_steps", "4"],
        ["--neftune_noise_alpha", "0", "--warmup_steps", "0.1", "--seed", str(2**32 - 1)],
    ],
)
def test_what_can_be_used_is_taken(words):
    settings_of(*words)


def test_evaluation_is_by_default_as_often_as_logging():
    words = ("--eval_strategy", "steps", "--logging_steps", "20")
    assert settings_of(*words).training["eval_steps"] == 20
    assert settings_of(*words, "--eval_steps", "50").training["eval_steps"] == 50
    assert "eval_steps" not in settings_of("--logging_steps", "20").training


def test_names_of_trackers():
    assert tracker_names("none") == tracker_names("") == []
    assert tracker_names("wandb, tensorboard,wandb") == ["wandb", "tensorboard"]


# ---- the rehearsal


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": "two"}},
            "--lr_scheduler_type cosine cannot be made: could not convert string to float: 'two'",
        ),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1}},
            "--lr_scheduler_type polynomial cannot be made: lr_end (1) must be smaller than initial lr (5e-05)",
        ),
        (
            {"optim": "sgd", "optim_args": "momentum=0.9,dampening=0.1,nesterov=true"},
            "--optim sgd cannot be made: Nesterov momentum requires a momentum and zero dampening",
        ),
    ],
)
def test_what_the_optimizer_or_the_schedule_refuses(values, message, tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, **values)
    with pytest.raises(UsageError) as caught:
        rehearse(StepTrainer.get_optimizer_cls_and_kwargs, args)
    assert str(caught.value) == message


def test_what_can_be_made_passes_the_rehearsal(tmp_path):
    for values in ({}, {"optim": "adafactor"}, {"lr_scheduler_type": "cosine", "warmup_steps": 0.1}):
        args = TrainingArguments(str(tmp_path), use_cpu=True, **values)
        rehearse(StepTrainer.get_optimizer_cls_and_kwargs, args)
