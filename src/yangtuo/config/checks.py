"""What is wrong with settings, as far as the options alone tell; all problems at once."""

import math
from collections.abc import Iterator
from dataclasses import replace

from yangtuo.config import trainer_values
from yangtuo.config.choices import ATTENTIONS, DataOrder
from yangtuo.config.json_values import json_object
from yangtuo.config.options import TRAINING_OPTIONS
from yangtuo.config.settings import Settings
from yangtuo.config.words import did_you_mean
from yangtuo.errors import UsageError
from yangtuo.i18n import Message


def settle(settings: Settings) -> Settings:
    """Check what can be checked from the options alone, all problems at once, and settle what depends on others."""
    problems = list(_problems(settings))
    if problems:
        raise UsageError.of_problems(Message("options"), problems)
    training = dict(settings.training)
    if not training.get("do_train") and not training.get("do_eval"):
        training["do_train"] = True
    if training.get("eval_strategy") == "steps" and not training.get("eval_steps"):
        training["eval_steps"] = settings.trainer.logging_steps  # as transformers; ours logs every step
    data = settings.data
    if training.pop("train_sampling_strategy", None) == "sequential":
        data = replace(data, data_order=DataOrder.SEQUENTIAL)
    return replace(settings, data=data, training=training)


def _ranges(settings: Settings) -> Iterator[str]:
    data, lora = settings.data, settings.lora
    part = data.validation_split_percentage
    if part is not None and not 0 < part < 100:
        yield Message("--validation_split_percentage {part}: above 0 and below 100", part=part)
    if not 0 <= lora.lora_dropout < 1:
        yield Message("--lora_dropout {lora_dropout}: from 0 to below 1", lora_dropout=lora.lora_dropout)
    if not 0 < lora.lora_alpha < math.inf:
        yield Message("--lora_alpha {lora_alpha:g}: above 0", lora_alpha=lora.lora_alpha)
    for name in ("save_minutes", "watchdog_minutes"):
        if not getattr(settings.run, name) >= 0:
            yield Message("--{name} {value:g}: at least 0", name=name, value=getattr(settings.run, name))


def _early_stopping(settings: Settings) -> Iterator[str]:
    patience, threshold = settings.run.early_stopping_patience, settings.run.early_stopping_threshold
    if not 0 <= threshold < math.inf:
        yield Message("--early_stopping_threshold {threshold:g}: at least 0", threshold=threshold)
    if patience is None:
        if settings.given("early_stopping_threshold"):
            yield Message("--early_stopping_threshold: only with --early_stopping_patience")
        return
    if patience < 1:
        yield Message("--early_stopping_patience {patience}: at least 1", patience=patience)
    if settings.trainer.eval_strategy == "no":
        yield Message(
            "--early_stopping_patience needs evaluations: give --eval_strategy steps (and --eval_steps) or epoch"
        )


def _problems(settings: Settings) -> Iterator[str]:
    data, lora = settings.data, settings.lora
    yield from _ranges(settings)
    yield from _early_stopping(settings)
    if data.dataset_dir and data.train_file:
        yield Message("--dataset_dir and --train_file: give one of them")
    if settings.training.get("do_train") is False and not settings.trainer.do_eval:
        yield Message("--do_train False without --do_eval: nothing to do")
    if not (settings.run.micro_batch_tokens == "auto" or settings.run.micro_batch_tokens.isdecimal()):
        yield Message(
            "--micro_batch_tokens {micro_batch_tokens}: auto, or a number of tokens",
            micro_batch_tokens=settings.run.micro_batch_tokens,
        )
    elif settings.run.micro_batch_tokens != "auto" and int(settings.run.micro_batch_tokens) < 1:
        yield Message(
            "--micro_batch_tokens {micro_batch_tokens}: at least 1", micro_batch_tokens=settings.run.micro_batch_tokens
        )
    yield from filter(None, [json_object("chat_template_kwargs", data.chat_template_kwargs)[1]])
    yield from _attention(settings.model.attn_implementation)
    if settings.run.sample_prompts and settings.trainer.eval_strategy == "no" and not settings.trainer.do_eval:
        yield Message(
            "--sample_prompts {sample_prompts}: prompts are answered at each evaluation; give --eval_strategy "
            "steps and --eval_steps, and --validation_file or --validation_split_percentage",
            sample_prompts=settings.run.sample_prompts,
        )
    strategy = settings.training.get("train_sampling_strategy")
    if strategy and settings.given("data_order") and (strategy == "sequential") != (data.data_order == "sequential"):
        yield Message(
            "--train_sampling_strategy {strategy} and --data_order {data_order}: give one of them",
            strategy=strategy,
            data_order=data.data_order,
        )
    workers = data.preprocessing_num_workers
    batch = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    counts = {
        "max_seq_length": (data.max_seq_length, 2),
        "lora_rank": (lora.lora_rank, 1),
        "preprocessing_num_workers": (1 if workers is None else workers, 1),
        "sample_tokens": (settings.run.sample_tokens, 1),
        "max_rows": (1 if data.max_rows is None else data.max_rows, 1),
        **{name: (settings.training_value(name), 1) for name in batch},
    }
    for name, (value, least) in counts.items():
        if value < least:
            yield Message("--{name} {value}: at least {least}", name=name, value=value, least=least)
    yield from trainer_values.problems({name: settings.training_value(name) for name in TRAINING_OPTIONS})


def _attention(named: str | None) -> Iterator[str]:
    if named and "/" not in named and named not in ATTENTIONS:
        hint = did_you_mean(
            named, ATTENTIONS, Message("expected one of {attentions}", attentions=", ".join(ATTENTIONS))
        )
        yield Message("--{option} {value}: {hint}", option="attn_implementation", value=named, hint=hint)
