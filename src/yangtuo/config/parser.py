"""Command line and configuration file -> `Settings`.

A file's keys are turned into the flags that they stand for and parsed first, so a file and a command line obey the
same rules and a flag overrides the file. Nothing here looks at the hardware, the data or the model, and nothing but
`--help` loads transformers: what only looks at data must start fast.
"""

import argparse
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, cast, get_type_hints

from yangtuo.config import files, trainer_values
from yangtuo.config.old_options import GONE, RENAMED, WITHOUT_EFFECT
from yangtuo.config.options import TRAINING_OPTIONS, add, options_of, training_default
from yangtuo.config.schema import (
    ATTENTIONS,
    OUR_GROUPS,
    DataArguments,
    DataOrder,
    LoraArguments,
    ModelArguments,
    RunArguments,
)
from yangtuo.config.trainer_options import TRAINING_ARGUMENTS, ArgHandling
from yangtuo.config.words import Parser, did_you_mean, not_text, tell_doubled, value_meant
from yangtuo.errors import UsageError

logger = logging.getLogger(__name__)


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

    def training_value(self, name: str) -> Any:
        """The value of a `TrainingArguments` field, given or default."""
        return self.training.get(name, training_default(name))


class _Parser(Parser):
    """The parser of a training run's options, which fetches transformers' help when it is asked."""

    is_short = False
    explains_training = True

    def format_help(self) -> str:
        if self.explains_training:
            from yangtuo.config.training_help import SENTENCES

            for action in self._actions:
                if action.help is None:
                    action.help = SENTENCES.get(action.dest)
        return super().format_help()


def build_parser(
    prog: str,
    add_own_options: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    explains_training: bool = True,
) -> _Parser:
    """The parser of every verb that takes a training run's options.

    Its `--help` describes the options of transformers and those of earlier versions too, which takes seconds, or, with
    `explains_training` False, only says that they are taken.
    """
    parser = _Parser(
        prog,
        conflict_handler="resolve",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.explains_training = explains_training
    for group in OUR_GROUPS:
        for option in options_of(group):
            add(parser, option)
    for option in TRAINING_OPTIONS.values():
        rule = TRAINING_ARGUMENTS[option.name]
        refused = rule.handling is ArgHandling.REFUSED
        add(parser, replace(option, help=f"Not supported: {rule.reason}." if refused else None))
    parser.add_argument("config", nargs="?", help="YAML or JSON file with the same names; flags override it.")
    old = parser.add_argument_group("names of earlier versions")
    for name, today in RENAMED.items():
        old.add_argument(f"--{name}", nargs="?", const="true", help=f"now --{today}")
    for name in (*WITHOUT_EFFECT, *GONE):
        old.add_argument(f"--{name}", nargs="?", const="true", help=WITHOUT_EFFECT.get(name) or GONE[name])
    if explains_training:
        parser.description = "Options of yangtuo first, then those of transformers' TrainingArguments."
    else:
        parser.epilog = "Every other option of yangtuo train is taken too; yangtuo train --help lists them."
        for action in parser._actions:
            if action.dest in {*TRAINING_OPTIONS, *RENAMED, *WITHOUT_EFFECT, *GONE}:
                action.help = argparse.SUPPRESS
    if add_own_options:
        add_own_options(parser)
    return parser


def parse(argv: Sequence[str], parser: _Parser) -> tuple[Settings, argparse.Namespace]:
    """Parse a command line.

    Returns:
        The settings, and the namespace with the verb's own options (those that are no dataclass field).

    Raises:
        UsageError: all unknown options at once, each with the nearest known name; a wrong value; a refused option.
    """
    own = _own_defaults(parser)
    flags, problems = _parse_known(parser, argv)
    config = flags.pop("config", None)
    if config and Path(config).suffix.lower() not in files.SUFFIXES:
        if not problems:  # else it is the value of an unknown option
            problems += parser.unknown([config])
        config = None
    from_file, more = _parse_known(parser, files.as_flags(config, parser), of_file=True) if config else ({}, [])
    problems += more
    for part in (from_file, flags):
        _drop_empty(part)
        problems += _apply_old_names(part)
    given = {name: value for name, value in {**from_file, **flags}.items() if value is not _AUTO}
    origins = {name: "command line" if name in flags else "configuration file" for name in given}
    problems += [*_refused(given), *_look_alikes(given)]
    problems += not_text({f"--{name}": value for name, value in given.items() if name not in _ANY_NAME})
    if problems:
        raise UsageError.of_problems("options", problems)
    for name in given.keys() & TRAINING_ARGUMENTS.keys():
        if TRAINING_ARGUMENTS[name].handling is ArgHandling.FIXED:
            logger.warning("--%s has no effect: %s", name, TRAINING_ARGUMENTS[name].reason)
    training = {name: value for name, value in given.items() if name in TRAINING_OPTIONS}
    model, data, lora, run = (_build(group, given) for group in OUR_GROUPS)
    settings = Settings(model, data, lora, run, training, origins)
    rest = {name: given.get(name, default) for name, default in own.items()}
    return _settle(settings), argparse.Namespace(**rest)


def _own_defaults(parser: argparse.ArgumentParser) -> dict[str, Any]:
    known = {f.name for group in OUR_GROUPS for f in fields(group)}
    known |= {*TRAINING_OPTIONS, *RENAMED, *WITHOUT_EFFECT, *GONE, "help", "config"}
    return {a.dest: a.default for a in parser._actions if a.dest not in known}


# transformers knows true and false only; left out, the engine decides.
_AUTO_BY_DEFAULT = ("--gradient_checkpointing", "--activation_checkpointing")
_AUTO = object()


def _without_autos(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without the options that are `auto`, and those options."""
    words: list[str] = []
    autos = []
    for word in argv:
        if word == "auto" and words and words[-1] in _AUTO_BY_DEFAULT:
            autos.append(words.pop())
        elif word in {f"{option}=auto" for option in _AUTO_BY_DEFAULT}:
            autos.append(word.removesuffix("=auto"))
        else:
            words.append(word)
    return words, autos


def _parse_known(parser: _Parser, argv: Sequence[str], *, of_file: bool = False) -> tuple[dict[str, Any], list[str]]:
    """What was given, and a message for each word that no option takes; a file has no reason to say a thing twice."""
    words, autos = _without_autos(argv)
    # A namespace that already has every name: argparse then fills in no default, so what was given can be told.
    unset = object()
    blank = argparse.Namespace(**{action.dest: unset for action in parser._actions})
    namespace, unknown = parser.parse_known_args(words, blank)
    given = {name: value for name, value in vars(namespace).items() if value is not unset and value is not None}
    problems = list(parser.unknown(unknown))
    if of_file:
        problems += [f"{told}: give one of them" for told in parser.doubled]
    else:
        tell_doubled(parser.doubled)
    for option in autos:
        other = given.setdefault(option[2:], _AUTO)
        problems += [f"{option} auto and {option} {other}: give one of them"] if other is not _AUTO else []
    return given, problems


def _drop_empty(given: dict[str, Any]) -> None:
    # An empty system prompt asks for none, where the template has one of its own.
    for name in [name for name, value in given.items() if value == "" and name != "system_prompt"]:
        logger.warning("--%s is empty and counts as not given", name)
        del given[name]


def _apply_old_names(given: dict[str, Any]) -> list[str]:
    """Turn old names into today's, in place; returns a message for each that cannot be."""
    problems = [f"--{name}: {GONE[name]}" for name in given if name in GONE and given[name] not in ("False", "false")]
    for name in GONE:
        given.pop(name, None)
    for name in [name for name in given if name in WITHOUT_EFFECT]:
        logger.warning("--%s has no effect: %s", name, WITHOUT_EFFECT[name])
        del given[name]
    for name in [name for name in given if name in RENAMED]:
        today, value = RENAMED[name], given.pop(name)
        if today in given:
            problems.append(f"--{name} and --{today} are the same option; give one of them")
            continue
        given[today] = _convert(name, value)
        logger.warning("--%s is now called --%s", name, today)
    return problems


def _convert(name: str, value: str) -> Any:
    target = RENAMED[name]
    try:
        if target == "warmup_steps":
            ratio = float(value)
            if not 0 <= ratio < 1:
                raise UsageError(
                    f"--warmup_ratio {value}: a ratio lies from 0 to below 1; --warmup_steps takes a count"
                )
            return ratio
        if target.startswith("per_device"):
            return int(value)
    except ValueError as error:
        raise UsageError(f"--{name}: {value!r} is not a number") from error
    if target == "use_cpu":
        return value.lower() in ("true", "1", "yes")
    return value


def _refused(given: Mapping[str, Any]) -> list[str]:
    problems = []
    for name, value in given.items():
        rule = TRAINING_ARGUMENTS.get(name)
        if rule and rule.handling is ArgHandling.REFUSED and value != training_default(name):
            problems.append(f"--{name} {value}: not supported: {rule.reason}")
    strategy = given.get("train_sampling_strategy", "random")
    if strategy not in ("random", "sequential"):
        problems.append(f"--train_sampling_strategy {strategy}: {GONE['group_by_length']}")
    optim = str(given.get("optim", ""))
    if "lomo" in optim or "galore" in optim or "apollo" in optim:
        problems.append(f"--optim {optim}: it trains full weights, here LoRA matrices are trained; try adamw_torch")
    return problems


def _build(group: type, given: Mapping[str, Any]) -> Any:
    values = {f.name: given[f.name] for f in fields(group) if f.name in given}
    hints = get_type_hints(group)
    return group(**{name: _typed(hints[name], value) for name, value in values.items()})


def _typed(hint: Any, value: Any) -> Any:
    return hint(value) if isinstance(hint, type) and issubclass(hint, StrEnum) else value


# Their parts are separated by commas, and are words of ASCII.
_LISTS = ("trainable", "modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform")


# A file's name may be any bytes; all others go to libraries that want text.
_ANY_NAME = ("dataset_dir", "train_file", "validation_file", "mix", "data_cache_dir", "out", "html")


def _look_alikes(given: Mapping[str, Any]) -> Iterator[str]:
    for name in _LISTS:
        meant = value_meant(str(given.get(name, "")))
        if meant:
            yield f"--{name} {given[name]}: not all ASCII; did you mean {meant!r}?"


def _settle(settings: Settings) -> Settings:
    """Check what can be checked from the options alone, all problems at once, and settle what depends on others."""
    problems = list(_problems(settings))
    if problems:
        raise UsageError.of_problems("options", problems)
    training = dict(settings.training)
    if not training.get("do_train") and not training.get("do_eval"):
        training["do_train"] = True
    if training.get("eval_strategy") == "steps" and not training.get("eval_steps"):
        training["eval_steps"] = settings.training_value("logging_steps")  # as transformers; ours logs every step
    data = settings.data
    if training.pop("train_sampling_strategy", None) == "sequential":
        data = replace(data, data_order=DataOrder.SEQUENTIAL)
    return replace(settings, data=data, training=training)


def _ranges(settings: Settings) -> Iterator[str]:
    data, lora = settings.data, settings.lora
    part = data.validation_split_percentage
    if part is not None and not 0 < part < 100:
        yield f"--validation_split_percentage {part}: above 0 and below 100"
    if not 0 <= lora.lora_dropout < 1:
        yield f"--lora_dropout {lora.lora_dropout}: from 0 to below 1"
    if not 0 < lora.lora_alpha < math.inf:
        yield f"--lora_alpha {lora.lora_alpha:g}: above 0"
    for name in ("save_minutes", "watchdog_minutes"):
        if not getattr(settings.run, name) >= 0:
            yield f"--{name} {getattr(settings.run, name):g}: at least 0"


def _problems(settings: Settings) -> Iterator[str]:
    data, lora = settings.data, settings.lora
    yield from _ranges(settings)
    if data.dataset_dir and data.train_file:
        yield "--dataset_dir and --train_file: give one of them"
    if settings.training.get("do_train") is False and not settings.training.get("do_eval"):
        yield "--do_train False without --do_eval: nothing to do"
    if not (settings.run.micro_batch_tokens == "auto" or settings.run.micro_batch_tokens.isdecimal()):
        yield f"--micro_batch_tokens {settings.run.micro_batch_tokens}: auto, or a number of tokens"
    elif settings.run.micro_batch_tokens != "auto" and int(settings.run.micro_batch_tokens) < 1:
        yield f"--micro_batch_tokens {settings.run.micro_batch_tokens}: at least 1"
    yield from _attention(settings.model.attn_implementation)
    strategy = settings.training.get("train_sampling_strategy")
    if strategy and settings.given("data_order") and (strategy == "sequential") != (data.data_order == "sequential"):
        yield f"--train_sampling_strategy {strategy} and --data_order {data.data_order}: give one of them"
    workers = data.preprocessing_num_workers
    batch = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    counts = {
        "max_seq_length": (data.max_seq_length, 2),
        "lora_rank": (lora.lora_rank, 1),
        "preprocessing_num_workers": (1 if workers is None else workers, 1),
        "max_rows": (1 if data.max_rows is None else data.max_rows, 1),
        **{name: (settings.training_value(name), 1) for name in batch},
    }
    for name, (value, least) in counts.items():
        if value < least:
            yield f"--{name} {value}: at least {least}"
    yield from trainer_values.problems({name: settings.training_value(name) for name in TRAINING_OPTIONS})


def _attention(named: str | None) -> Iterator[str]:
    if named and "/" not in named and named not in ATTENTIONS:
        hint = did_you_mean(named, ATTENTIONS, f"expected one of {', '.join(ATTENTIONS)}")
        yield f"--attn_implementation {named}: {hint}"


def as_dict(settings: Settings) -> dict[str, dict[str, Any]]:
    """Every option with its value and origin ('default' where it was not given), for `run.json`."""
    values: dict[str, Any] = {}
    for group in (settings.model, settings.data, settings.lora, settings.run):
        values |= vars(group)
    values |= {name: settings.training_value(name) for name in TRAINING_OPTIONS}
    secret = {"hub_token"}
    return {
        name: {
            "value": "(not written)" if name in secret and value else _plain(value),
            "from": settings.origins.get(name, "default"),
        }
        for name, value in sorted(values.items())
    }


def _plain(value: Any) -> Any:
    try:
        return cast(Any, json.loads(json.dumps(value)))
    except TypeError:
        return str(value)
