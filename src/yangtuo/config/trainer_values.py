"""What is wrong with values of `TrainingArguments` that transformers looks at late, or never.

It finds out when the weights are loaded, at the first evaluation or at the first save. Imports neither torch nor
transformers, since `check` reads it. Tests compare the names here with those that transformers has.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from yangtuo.config.json_values import json_object
from yangtuo.config.words import did_you_mean
from yangtuo.i18n import Message

Values = Mapping[str, Any]  # every field of `TrainingArguments`, given or default

METRICS = ("loss", "perplexity")  # of those that evaluation reports, the ones that say how good the model is

# What each may be given beside the optimizer and the steps; other names are an error when the schedule is made.
SCHEDULES = {
    "linear": "",
    "cosine": "num_cycles",
    "cosine_with_restarts": "num_cycles",
    "polynomial": "lr_end power",
    "constant": "",
    "constant_with_warmup": "",
    "inverse_sqrt": "timescale",
    "reduce_lr_on_plateau": "mode factor patience threshold threshold_mode cooldown min_lr eps",
    "cosine_with_min_lr": "num_cycles min_lr min_lr_rate",
    "cosine_warmup_with_min_lr": "num_cycles min_lr min_lr_rate warmup_lr_rate",
    "warmup_stable_decay": "num_decay_steps num_stable_steps warmup_type decay_type min_lr_ratio num_cycles",
    "greedy": "mode factor patience threshold threshold_mode cooldown warmup min_lr max_lr eps verbose smooth "
    "window_size reset_start",
}
_BY_EVALUATION = ("reduce_lr_on_plateau", "greedy")

# Other names are ignored by transformers. Those of bitsandbytes' RMSprop would reach it as text, which it refuses.
OPTIMIZERS = {
    "sgd": "momentum dampening weight_decay nesterov",
    "adagrad": "lr_decay weight_decay eps",
    "rmsprop": "momentum alpha eps weight_decay centered",
    **dict.fromkeys(
        ("ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit"),
        "beta1 beta2 beta3 alpha eps t_alpha t_beta3",
    ),
    "adamw_anyprecision": "use_kahan_summation momentum_dtype variance_dtype compensation_buffer_dtype",
    "grokadamw": "alpha_init lamb gamma grokking_signal_decay_rate gradient_clipping",
    "adamw_torch_4bit": "block_size bf16_stochastic_round",
    "adamw_torch_8bit": "block_size bf16_stochastic_round",
    "schedule_free_radam": "weight_lr_power r",
    "schedule_free_adamw": "weight_lr_power r",
    "schedule_free_sgd": "weight_lr_power r",
    "stable_adamw": "max_lr kahan_sum decouple_lr",
}
_SWITCHES = ("nesterov", "centered", "use_kahan_summation", "bf16_stochastic_round", "kahan_sum", "decouple_lr")

# Of torch.utils.checkpoint, as far as JSON can spell them.
CHECKPOINTING = ("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "early_stop")

# Each with the packages that it needs; a|b is either.
# What pip calls modules that have another name there.
TO_INSTALL = {
    "azureml": "azureml-core",
    "optimi": "torch-optimi",
    "torchdistx": "git+https://github.com/pytorch/torchdistx",
}
TRACKERS = {
    "azure_ml": "azureml",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet_ml",
    "dagshub": "dagshub mlflow",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "kubeflow": "",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard|tensorboardX",
    "trackio": "trackio",
    "wandb": "wandb",
}


def tracker_names(report_to: str) -> list[str]:
    """The names in `--report_to`; `all` stands for itself, `none` for nothing."""
    names = dict.fromkeys(name.strip() for name in report_to.split(","))
    return [name for name in names if name not in ("", "none")]


def problems(values: Values) -> Iterator[str]:
    """What is said of each value that cannot be used."""
    yield from _bounds(values)
    yield from _steps(values)
    yield from _best(values)
    yield from _schedule(values)
    yield from _optimizer(values)
    yield from _checkpointing(values)
    yield from _trackers(str(values["report_to"]))


_BOUNDS = {  # least, and a bound that is not reached; None is no value
    **dict.fromkeys(("learning_rate", "weight_decay", "adam_epsilon", "neftune_noise_alpha"), (0, math.inf)),
    **dict.fromkeys(("warmup_steps", "dataloader_num_workers"), (0, math.inf)),
    **dict.fromkeys(("ddp_timeout", "dataloader_prefetch_factor"), (1, math.inf)),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), (0, 1)),
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32)),  # of numpy
}


def _bounds(values: Values) -> Iterator[str]:
    for name, (least, end) in _BOUNDS.items():
        value = values[name]
        if value is not None and not least <= value < end:
            if end == math.inf:
                yield Message("--{name} {value}: at least {least}", name=name, value=value, least=least)
            else:
                yield Message(
                    "--{name} {value}: from {least} to below {end}", name=name, value=value, least=least, end=end
                )
    if values["max_steps"] == 0:
        yield Message("--max_steps 0: at least 1, or -1 for --num_train_epochs")
    elif values["max_steps"] < 0 and not 0 < values["num_train_epochs"] < math.inf:
        yield Message(
            "--num_train_epochs {num_train_epochs}: above 0, or give --max_steps",
            num_train_epochs=values["num_train_epochs"],
        )
    if values["dataloader_prefetch_factor"] is not None and values["dataloader_num_workers"] == 0:
        yield Message("--dataloader_prefetch_factor: it needs --dataloader_num_workers 1 or more")


def _steps(values: Values) -> Iterator[str]:
    if values["eval_strategy"] == "steps" and not values["eval_steps"] and values["logging_steps"] <= 0:
        yield Message("--eval_strategy steps: give --eval_steps")
    for kind in ("save", "eval"):
        steps = values[f"{kind}_steps"]
        if values[f"{kind}_strategy"] != "steps" or steps is None:
            continue
        if not 0 <= steps < math.inf:
            yield Message("--{kind}_steps {steps}: at least 0", kind=kind, steps=steps)
        elif steps > 1 and steps != int(steps):
            yield Message(
                "--{kind}_steps {steps}: a whole number, or below 1 a part of all steps", kind=kind, steps=steps
            )


def _best(values: Values) -> Iterator[str]:
    """Of the choice of the best weights, and of all else that needs evaluations."""
    metric = values["metric_for_best_model"]
    if metric is not None and metric.removeprefix("eval_") not in METRICS:
        known = [*METRICS, *(f"eval_{name}" for name in METRICS)]
        hint = did_you_mean(metric, known, Message("evaluation here measures loss and perplexity; give one of them"))
        yield Message("--{option} {value}: {hint}", option="metric_for_best_model", value=metric, hint=hint)
    if values["greater_is_better"]:
        yield Message("--greater_is_better True: a lower loss or perplexity is the better one; leave it out")
    evaluations, saves = values["eval_strategy"], values["save_strategy"]
    wanting = {
        "--load_best_model_at_end": values["load_best_model_at_end"],
        "--save_strategy best": saves == "best",
        f"--lr_scheduler_type {values['lr_scheduler_type']}": values["lr_scheduler_type"] in _BY_EVALUATION,
    }
    if evaluations == "no":
        yield from (
            Message("{option}: it needs --eval_strategy steps or epoch", option=option)
            for option, wants in wanting.items()
            if wants
        )
    elif values["load_best_model_at_end"] and saves != "best":
        yield from _best_is_saved(values)


def _best_is_saved(values: Values) -> Iterator[str]:
    evaluations, saves = values["eval_strategy"], values["save_strategy"]
    each, step = values["save_steps"], values["eval_steps"] or values["logging_steps"]
    if evaluations != saves:
        yield Message(
            "--load_best_model_at_end: what is evaluated has to be saved; --eval_strategy {evaluations} and "
            "--save_strategy {saves} have to be the same",
            evaluations=evaluations,
            saves=saves,
        )
    elif evaluations == "steps" and each >= 1 and step >= 1 and each % step:
        yield Message(
            "--load_best_model_at_end: --save_steps {each:g} has to be a multiple of --eval_steps {step:g}",
            each=each,
            step=step,
        )


def _schedule(values: Values) -> Iterator[str]:
    kind = values["lr_scheduler_type"]
    given, wrong = json_object("lr_scheduler_kwargs", values["lr_scheduler_kwargs"])
    if wrong:
        yield wrong
        return
    yield from _unknown("lr_scheduler_kwargs", given, SCHEDULES[kind].split(), f"--lr_scheduler_type {kind}")
    if "with_min_lr" in kind and len({"min_lr", "min_lr_rate"} & given.keys()) != 1:
        yield Message(
            "--lr_scheduler_type {kind}: give one of min_lr and min_lr_rate: {example}",
            kind=kind,
            example=_example("min_lr", 1e-5),
        )
    if kind == "warmup_stable_decay" and "num_decay_steps" not in given:
        yield Message(
            "--lr_scheduler_type {kind}: give num_decay_steps: {example}",
            kind=kind,
            example=_example("num_decay_steps", 100),
        )


def _example(name: str, value: float) -> str:
    return f"--lr_scheduler_kwargs '{json.dumps({name: value})}'"


def _optimizer(values: Values) -> Iterator[str]:
    kind, text = values["optim"], values["optim_args"]
    if not text:
        return
    pairs = [pair.strip().partition("=") for pair in text.split(",")]
    broken = [name for name, equals, value in pairs if not (name and equals and value) or "=" in value]
    if broken:
        yield Message("--optim_args {text}: expected name=value, several separated by commas", text=text)
        return
    given = {name.strip(): value.strip() for name, _, value in pairs}
    known = OPTIMIZERS.get(kind, "").split()
    yield from _unknown("optim_args", given, known, f"--optim {kind}")
    for name, value in given.items():
        if name in known and name not in _SWITCHES and not name.endswith("_dtype") and not _is_number(value):
            yield Message("--optim_args {name}={value}: expected a number", name=name, value=value)


def _checkpointing(values: Values) -> Iterator[str]:
    for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        given, wrong = json_object(name, values[name])
        yield from [wrong] if wrong else _unknown(name, given, CHECKPOINTING, "torch's checkpointing")
    path = values["fsdp_config"]
    if path and not path.startswith("{") and not Path(path).is_file():
        yield Message("--fsdp_config {path}: no such file; give a JSON file or a JSON object", path=path)


def _trackers(report_to: str) -> Iterator[str]:
    known = (*TRACKERS, "all", "none")
    for name in tracker_names(report_to):
        if name not in known:
            hint = did_you_mean(name, known, Message("expected some of {known}", known=", ".join(known)))
            yield Message("--{option} {value}: {hint}", option="report_to", value=name, hint=hint)


def _unknown(option: str, given: Collection[str], known: Collection[str], taker: str) -> Iterator[str]:
    otherwise = Message("{taker} takes {known}", taker=taker, known=", ".join(known) or Message("none"))
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known, otherwise)
            yield Message("--{option}: {name}: {hint}", option=option, name=name, hint=hint)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
