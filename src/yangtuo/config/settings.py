"""What the user asked for, complete and typed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

from yangtuo.config.options import TRAINING_OPTIONS, training_default
from yangtuo.config.schema import DataArguments, LoraArguments, ModelArguments, RunArguments

_SECRETS, _NOT_WRITTEN = {"hub_token"}, "(not written)"


@dataclass(frozen=True)
class TrainerArguments:
    """Fields of transformers' `TrainingArguments` that this program reads itself; the others are only passed on.

    Types are those of a value as it is parsed; a test compares them with the table of options.
    """

    output_dir: str | None
    resume_from_checkpoint: str | None
    do_train: bool
    do_eval: bool
    eval_strategy: str
    load_best_model_at_end: bool
    metric_for_best_model: str | None
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    gradient_accumulation_steps: int
    num_train_epochs: float
    max_steps: int
    learning_rate: float
    optim: str
    seed: int
    data_seed: int | None
    dataloader_drop_last: bool
    dataloader_num_workers: int
    dataloader_prefetch_factor: int | None
    dataloader_multiprocessing_context: str | None
    label_smoothing_factor: float
    neftune_noise_alpha: float | None
    bf16: bool
    fp16: bool
    use_cpu: bool
    torch_compile: bool
    ddp_backend: str | None
    ddp_timeout: int
    deepspeed: str | None
    fsdp: str | None
    logging_strategy: str
    logging_steps: float
    logging_first_step: bool
    report_to: str
    disable_tqdm: bool | None


@dataclass(frozen=True)
class Settings:
    """What the user asked for, complete.

    `training` holds the values of `TrainingArguments` fields that were given; `origins` says for each option that was
    given whether it came from the configuration file or the command line.
    """

    model: ModelArguments
    data: DataArguments
    lora: LoraArguments
    run: RunArguments
    training: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)

    def given(self, name: str) -> bool:
        """Whether the user set this option, rather than leaving its default."""
        return name in self.origins

    def value(self, name: str) -> Any:
        """The value of any option, given or default."""
        for group in (self.model, self.data, self.lora, self.run):
            if name in vars(group):
                return vars(group)[name]
        return self.training_value(name)

    @cached_property
    def trainer(self) -> TrainerArguments:
        """The fields of `TrainingArguments` that this program reads itself, given or default."""
        return TrainerArguments(**{field.name: self.training_value(field.name) for field in fields(TrainerArguments)})

    def training_value(self, name: str) -> Any:
        """The value of a `TrainingArguments` field, given or default."""
        return self.training.get(name, training_default(name))


def as_dict(settings: Settings) -> dict[str, dict[str, Any]]:
    """Every option with its value and origin ('default' where it was not given), for `run.json`."""
    values: dict[str, Any] = {}
    for group in (settings.model, settings.data, settings.lora, settings.run):
        values |= vars(group)
    values |= {name: settings.training_value(name) for name in TRAINING_OPTIONS}
    return {
        name: {
            "value": _NOT_WRITTEN if name in _SECRETS and value else _plain(value),
            "from": settings.origins.get(name, "default"),
        }
        for name, value in sorted(values.items())
    }


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line for `run.json`, its keys for hubs left out."""
    shown = []
    for before, word in pairwise(["", *words]):
        name, sign, _ = word.partition("=")
        if _option_of(before) in _SECRETS and not before.count("="):
            word = _NOT_WRITTEN
        elif sign and _option_of(name) in _SECRETS:
            word = f"{name}={_NOT_WRITTEN}"
        shown.append(word)
    return shown


def _option_of(word: str) -> str:
    return word.removeprefix("--").replace("-", "_") if word.startswith("--") else ""


def _plain(value: Any) -> Any:
    try:
        return cast(Any, json.loads(json.dumps(value)))
    except TypeError:
        return str(value)
