"""What `--help` says of a run's options: the dozen that most runs give, and every other by its name, in groups.

`--help all` has a sentence for each, those of transformers in its own words.
"""

import argparse
import textwrap
from collections.abc import Iterator, Sequence

from yangtuo.config.options import OPTIONS, Option
from yangtuo.config.trainer_options import RARE, ArgHandling

_WIDTH, _COLUMN = 100, 34
_COMMON = (
    *("model_name_or_path", "dataset_dir", "validation_file", "output_dir", "peft_path", "template", "max_seq_length"),
    *("lora_rank", "modules_to_save", "learning_rate", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps"),
)


def verb_help(prog: str, about: str | None, actions: Sequence[argparse.Action]) -> str:
    """The help of a verb: what it does, its arguments, and its options with a sentence each."""
    arguments = [action for action in actions if not action.option_strings]
    options = [action for action in actions if action.option_strings]
    below = [one for action in arguments for one in _verbs_below(action)]
    parts = [" ".join([f"usage: {prog}", *map(_placed, arguments), *(["[options]"] if options else [])])]
    if about:
        parts.append(about.strip())
    if below:
        parts.append("\n".join(["each with a --help of its own:", *(_line(a.dest, a.help) for a in below)]))
    for title, some in (("arguments", [] if below else arguments), ("options", options)):
        if some:
            lines = [_line(a.option_strings[0] if a.option_strings else _name(a), _sentence(a)) for a in some]
            parts.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(parts) + "\n"


def run_help(prog: str, about: str | None, own: Sequence[argparse.Action]) -> str:
    """The help of a verb that takes a run's options too; `own` are those of the verb alone."""
    parts = [verb_help(f"{prog} [run.yaml]", about, own).rstrip() if own else f"usage: {prog} [run.yaml] [options]"]
    if about and not own:
        parts.append(about.strip())
    common = [_line(f"--{o.name}", o.help, o.default) for o in map(OPTIONS.__getitem__, _COMMON)]
    parts.append("\n".join(["what most runs give:", *common]))
    others = []
    for group, names in _by_group():
        wrapped = textwrap.wrap(" ".join(f"--{name}" for name in names), _WIDTH - 4, break_on_hyphens=False)
        others += [f"  {group}:", *(f"    {line}" for line in wrapped)]
    parts.append("\n".join(["and by group:", *others]))
    parts.append(
        f"{prog} --help all has a sentence on each. run.yaml, or .json, has the same names; flags override it."
    )
    return "\n\n".join(parts) + "\n"


def _name(action: argparse.Action) -> str:
    return str(action.metavar or action.dest)


def _verbs_below(action: argparse.Action) -> list[argparse.Action]:
    return action._choices_actions if isinstance(action, argparse._SubParsersAction) else []


def _placed(action: argparse.Action) -> str:
    several = "..." if action.nargs in ("+", "*", argparse.PARSER) else ""
    return f"[{_name(action)}]" if action.nargs in ("?", "*") else f"{_name(action)}{several}"


def _sentence(action: argparse.Action) -> str:
    words = f" One of: {', '.join(map(str, action.choices))}." if action.choices and action.option_strings else ""
    return f"{(action.help or '') % vars(action)}{words}"


def _line(name: str, text: str | None, default: object = None) -> str:
    told = f"{text or ''}" + ("" if default in (None, "", False) else f" Default: {default}.")
    first, *rest = textwrap.wrap(told, _WIDTH - _COLUMN) or [""]
    head = f"  {name}"
    start = f"{head:<{_COLUMN}}{first}" if len(head) < _COLUMN else f"{head}\n{'':{_COLUMN}}{first}"
    return "\n".join([start, *(f"{'':{_COLUMN}}{line}" for line in rest)])


def _by_group() -> Iterator[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for option in OPTIONS.values():
        if option.name not in _COMMON and _is_offered(option):
            groups.setdefault(option.group, []).append(option.name)
    last = groups.pop(RARE)
    yield from groups.items()
    yield RARE, last


def _is_offered(option: Option) -> bool:
    return option.handling not in (ArgHandling.REFUSED, ArgHandling.FIXED)
