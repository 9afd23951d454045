"""What transformers' Trainer is given: the user's values where it does the work, fixed ones where we do.

So the learning rate goes from `--learning_rate` through `Settings.training` into `TrainingArguments`, of which
transformers makes optimizer and schedule.
"""

import copy
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, TrainingArguments

from yangtuo.config.options import OPTIONS
from yangtuo.config.settings import Settings, as_dict
from yangtuo.config.trainer_options import ArgHandling
from yangtuo.engine.early_stopping import EarlyStopping
from yangtuo.engine.progress import Logging
from yangtuo.errors import MissingDependencyError, UsageError, one_line
from yangtuo.model.processor import Hardware, Precision
from yangtuo.training import engines


class ShownArguments(TrainingArguments):  # type: ignore[misc]
    """The Trainer's arguments, which trackers show as the run's: with all that the user gave, as it was meant."""

    shown: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As trackers ask for them."""
        return dict(super().to_dict()) | (self.shown or {})


def training_arguments(
    settings: Settings, precision: Precision, hardware: Hardware, config: PreTrainedConfig, output_dir: Path
) -> TrainingArguments:
    """What transformers is given: the user's values where it does the work, fixed ones where we do.

    Raises:
        UsageError: transformers refuses a value.
        MissingDependencyError: an engine that is not installed.
    """
    values = {name: value for name, value in settings.training.items() if OPTIONS[name].handling is ArgHandling.PASSED}
    for name in ("", "_kwargs"):  # today's name of the same option, so that no warning is printed
        old = values.pop(f"gradient_checkpointing{name}", None)
        if old is not None:
            values.setdefault(f"activation_checkpointing{name}", old)
    if "fsdp" in values:
        values["fsdp"] = engines.fsdp(values["fsdp"])
    for name in ("dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context"):
        values[name] = settings.training_value(name)
    # Buffers (rotary frequencies) are the same everywhere; sending them in a forward would leave a rank that ran out of
    # memory before it, and its peers, in different collectives.
    values.setdefault("ddp_broadcast_buffers", False)
    # Only a mixture of experts leaves trained weights out of a step; looking for them walks the graph each time.
    values.setdefault("ddp_find_unused_parameters", any("experts" in name for name in config.to_dict()))
    if values.get("save_strategy") == "best":
        values.setdefault("metric_for_best_model", "loss")
    values |= {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": settings.trainer.per_device_train_batch_size,
        "per_device_eval_batch_size": settings.trainer.per_device_eval_batch_size,
        "gradient_accumulation_steps": 1,  # a batch of the Trainer is a whole step already
        "bf16": precision.bf16,
        "fp16": precision.fp16,
        "use_cpu": hardware.device == "cpu",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "greater_is_better": False,  # of loss and perplexity; by itself, transformers would look for the largest one
        "disable_tqdm": True,
        "report_to": "none",  # see `engine.trackers`
        "deepspeed": copy.deepcopy(engines.deepspeed(settings.trainer.deepspeed)),
        "remove_unused_columns": False,
        "do_train": settings.trainer.do_train,
        "do_eval": settings.trainer.do_eval,
    }
    try:
        arguments = ShownArguments(**values)
    except (ValueError, TypeError) as error:
        raise UsageError(one_line(error)) from error
    except ImportError as error:
        raise MissingDependencyError(one_line(error)) from error
    arguments.shown = _shown(settings)
    return arguments


def _shown(settings: Settings) -> dict[str, Any]:
    """Our own options, and those of transformers whose work we do: the Trainer is told of one step accumulated."""
    actual = ("bf16", "fp16", "use_cpu")  # known to the Trainer as they have become
    ours = [name for name, option in OPTIONS.items() if option.handling is ArgHandling.OURS and name not in actual]
    return {name: entry["value"] for name, entry in as_dict(settings).items() if name in ours}


def logging_of(settings: Settings) -> Logging:
    """When the screen is told."""
    return Logging(
        strategy=settings.trainer.logging_strategy,
        steps=settings.trainer.logging_steps if settings.given("logging_steps") else 0,
        first_step=settings.trainer.logging_first_step or not settings.given("logging_first_step"),
    )


def early_stopping_of(settings: Settings) -> EarlyStopping:
    """When the run ends before its last step."""
    metric = (settings.trainer.metric_for_best_model or "loss").removeprefix("eval_")
    return EarlyStopping(settings.run.early_stopping_patience, settings.run.early_stopping_threshold, metric)
