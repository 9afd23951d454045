"""Command line and configuration file -> `Settings`.

A file's keys are turned into the flags that they stand for and parsed first, so a file and a command line obey the
same rules and a flag overrides the file. Nothing here looks at the hardware, the data or the model, and nothing but
`--help` loads transformers: what only looks at data must start fast.
"""

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

from yangtuo.config import files
from yangtuo.config.checks import settle
from yangtuo.config.help import run_help
from yangtuo.config.old_options import GONE, RENAMED, WITHOUT_EFFECT
from yangtuo.config.options import OPTIONS, TRAINING_OPTIONS, add, training_default
from yangtuo.config.schema import OUR_GROUPS
from yangtuo.config.settings import Settings
from yangtuo.config.trainer_options import ArgHandling
from yangtuo.config.words import Parser, in_wide_quotes, not_text, tell_doubled, value_meant, wide_signs
from yangtuo.errors import UsageError
from yangtuo.i18n import Listed, Message

logger = logging.getLogger(__name__)


class _Parser(Parser):
    """The parser of a training run's options: short help unless `--help all` asks for a sentence on each."""

    is_short = False

    def format_help(self) -> str:
        own = [action for action in self._actions if action.dest not in _OF_A_RUN]
        return run_help(self.prog, self.description, own)

    def format_long_help(self) -> str:
        """Every option; those of transformers in its own words, which takes seconds to load."""
        from yangtuo.config.transformers_help import SENTENCES

        for action in self._actions:
            if action.help is None:
                action.help = SENTENCES.get(action.dest)
        return argparse.ArgumentParser.format_help(self)


class _Help(argparse.Action):
    """`--help`, and `--help all`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        print(parser.format_long_help() if values else parser.format_help(), end="")  # noqa: T201  # the answer
        parser.exit()


_OF_A_RUN = {*OPTIONS, *RENAMED, *WITHOUT_EFFECT, *GONE, "help", "config"}


def build_parser(
    prog: str,
    add_own_options: Callable[[argparse.ArgumentParser], None] | None = None,
    description: str | None = None,
) -> _Parser:
    """The parser of every verb that takes a training run's options; `add_own_options` adds the verb's."""
    parser = _Parser(
        prog,
        conflict_handler="resolve",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        add_help=False,
        description=description,
        usage=f"{prog} [run.yaml] [options]",
    )
    parser.add_argument("-h", "--help", action=_Help, nargs="?", choices=["all"], help="all: every option.")
    parser.add_argument("config", nargs="?", help="YAML or JSON file with the same names; flags override it.")
    if add_own_options:
        add_own_options(parser)
    groups: dict[str, Any] = {}
    for option in OPTIONS.values():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        add(groups[option.group], option)
    old = parser.add_argument_group("names of earlier versions")
    for name, today in RENAMED.items():
        old.add_argument(f"--{name}", nargs="?", const="true", help=f"now --{today}")
    for name in (*WITHOUT_EFFECT, *GONE):
        old.add_argument(f"--{name}", nargs="?", const="true", help=WITHOUT_EFFECT.get(name) or GONE[name])
    return parser


def parse(argv: Sequence[str], parser: _Parser, *, origin: str = "command line") -> tuple[Settings, argparse.Namespace]:
    """Parse a command line; `origin` is what `run.json` calls it.

    Returns:
        The settings, and the namespace with the verb's own options (those that are no dataclass field).

    Raises:
        UsageError: all unknown options at once, each with the nearest known name; a wrong value; a refused option.
    """
    own = _own_defaults(parser)
    flags, problems = _parse_known(parser, argv)
    config = flags.pop("config", None)
    if config and problems and _follows_unknown(config, argv, parser):
        config = None
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
    origins = {name: origin if name in flags else "configuration file" for name in given}
    problems += [*_refused(given), *_look_alikes(given)]
    problems += not_text({f"--{name}": value for name, value in given.items() if name not in _ANY_NAME})
    problems += in_wide_quotes({f"--{name}": value for name, value in given.items() if name not in _LISTS})
    if problems:
        raise UsageError.of_problems(Message("options"), problems)
    for name in given.keys() & OPTIONS.keys():
        if OPTIONS[name].handling is ArgHandling.FIXED:
            logger.warning("--%s has no effect: %s", name, OPTIONS[name].reason)
    training = {name: value for name, value in given.items() if name in TRAINING_OPTIONS}
    model, data, lora, run = (_build(group, given) for group in OUR_GROUPS)
    settings = Settings(model, data, lora, run, training, origins)
    rest = {name: given.get(name, default) for name, default in own.items()}
    return settle(settings), argparse.Namespace(**rest)


def _follows_unknown(word: str, argv: Sequence[str], parser: _Parser) -> bool:
    """Whether a word is the value of an option that there is not, and no configuration file: `--train_fil law.json`."""
    before = argv[max(0, argv.index(word) - 1)] if word in argv else ""
    return before.startswith("--") and "=" not in before and before not in parser.known_options()


def _own_defaults(parser: argparse.ArgumentParser) -> dict[str, Any]:
    return {a.dest: a.default for a in parser._actions if a.dest not in _OF_A_RUN}


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
        problems += [Message("{told}: give one of them", told=told) for told in parser.doubled]
    else:
        tell_doubled(parser.doubled)
    for option in autos:
        other = given.setdefault(option[2:], _AUTO)
        problems += (
            [Message("{option} auto and {option} {other}: give one of them", option=option, other=other)]
            if other is not _AUTO
            else []
        )
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
            problems.append(
                Message("--{name} and --{today} are the same option; give one of them", name=name, today=today)
            )
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
                    "--warmup_ratio {value}: a ratio lies from 0 to below 1; --warmup_steps takes a count", value=value
                )
            return ratio
        if target.startswith("per_device"):
            return int(value)
    except ValueError as error:
        raise UsageError("--{name}: {value!r} is not a number", name=name, value=value) from error
    if target == "use_cpu":
        return value.lower() in ("true", "1", "yes")
    return value


def _refused(given: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    for name, value in given.items():
        rule = OPTIONS.get(name)
        if rule and rule.handling is ArgHandling.REFUSED and value != training_default(name):
            problems.append(
                Message("--{name} {value}: not supported: {reason}", name=name, value=value, reason=rule.reason)
            )
    strategy = given.get("train_sampling_strategy", "random")
    if strategy not in ("random", "sequential"):
        told = Message("--train_sampling_strategy {value}: {reason}", value=strategy, reason=GONE["group_by_length"])
        problems.append(told)
    optim = str(given.get("optim", ""))
    if "lomo" in optim or "galore" in optim or "apollo" in optim:
        problems.append(
            Message(
                "--optim {optim}: it trains full weights, here LoRA matrices are trained; try adamw_torch", optim=optim
            )
        )
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
            yield Message(
                "--{name} {given}: {signs}; did you mean {meant!r}?",
                name=name,
                given=given[name],
                signs=Listed(wide_signs(given[name]) or [Message("not all ASCII")], "; "),
                meant=meant,
            )
