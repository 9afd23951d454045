"""What `--help` says of a run's options: the dozen that most runs give, and every other by its name, in groups.

`--help all` has a sentence for each, those of transformers in its own words.
"""

import argparse
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from yangtuo.config.options import OPTIONS, Option
from yangtuo.config.trainer_options import RARE, ArgHandling
from yangtuo.i18n import columns_of, tr

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
    line = " ".join([prog, *map(_placed, arguments), *([tr("[options]")] if options else [])])
    parts = [tr("usage: {line}").format(line=line)]
    if about:
        parts.append(tr(about.strip()))
    if below:
        parts.append(
            "\n".join([tr("each with a --help of its own:"), *(_line(a.dest, tr(a.help or "")) for a in below)])
        )
    for title, some in ((tr("arguments"), [] if below else arguments), (tr("options"), options)):
        if some:
            lines = [_line(a.option_strings[0] if a.option_strings else _name(a), _sentence(a)) for a in some]
            parts.append("\n".join([_heading(title), *lines]))
    return "\n\n".join(parts) + "\n"


def run_help(prog: str, about: str | None, own: Sequence[argparse.Action]) -> str:
    """The help of a verb that takes a run's options too; `own` are those of the verb alone."""
    parts = [verb_help(f"{prog} [run.yaml]", about, own).rstrip() if own else _usage(prog)]
    if about and not own:
        parts.append(tr(about.strip()))
    common = [_line(f"--{o.name}", tr(o.help or ""), o.default) for o in map(OPTIONS.__getitem__, _COMMON)]
    parts.append("\n".join([tr("what most runs give:"), *common]))
    others = []
    for group, names in _by_group():
        wrapped = textwrap.wrap(" ".join(f"--{name}" for name in names), _WIDTH - 4, break_on_hyphens=False)
        others += [f"  {_heading(tr(group))}", *(f"    {line}" for line in wrapped)]
    parts.append("\n".join([tr("and by group:"), *others]))
    parts.append(
        tr(
            "{prog} --help all has a sentence on each. run.yaml, or .json, has the same names; flags override it."
        ).format(prog=prog)
    )
    return "\n\n".join(parts) + "\n"


def _usage(prog: str) -> str:
    return tr("usage: {line}").format(line=f"{prog} [run.yaml] {tr('[options]')}")


def _heading(text: str) -> str:
    return f"{text}:" if text.isascii() else f"{text}："


def _name(action: argparse.Action) -> str:
    return str(action.metavar or action.dest)


def _verbs_below(action: argparse.Action) -> list[argparse.Action]:
    return action._choices_actions if isinstance(action, argparse._SubParsersAction) else []


def _placed(action: argparse.Action) -> str:
    several = "..." if action.nargs in ("+", "*", argparse.PARSER) else ""
    return f"[{_name(action)}]" if action.nargs in ("?", "*") else f"{_name(action)}{several}"


def _sentence(action: argparse.Action) -> str:
    words = ""
    if action.choices and action.option_strings:
        words = tr(" One of: {choices}.").format(choices=", ".join(map(str, action.choices)))
    return f"{tr(action.help or '') % vars(action)}{words}"


def _line(name: str, text: str | None, default: object = None) -> str:
    told = text or ""
    if default not in (None, "", False):
        told += tr(" Default: {default}.").format(default=default)
    first, *rest = _wrapped(told, _WIDTH - _COLUMN) or [""]
    head = f"  {name}"
    start = f"{head:<{_COLUMN}}{first}" if len(head) < _COLUMN else f"{head}\n{'':{_COLUMN}}{first}"
    return "\n".join([start, *(f"{'':{_COLUMN}}{line}" for line in rest)])


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many columns; a Chinese character takes two, and lines may end behind it."""
    if text.isascii():
        return textwrap.wrap(text, width)
    lines, columns, begin = [], 0, 0
    last_break = 0
    for i, character in enumerate(text):
        is_wide = unicodedata.east_asian_width(character) in "WF"
        columns += 2 if is_wide else 1
        if columns > width and last_break > begin:
            lines.append(text[begin:last_break].strip())
            begin = last_break
            columns = columns_of(text[begin : i + 1])
        follows = text[i + 1 : i + 2]
        if (character == " " or is_wide) and follows not in _NOT_FIRST:
            last_break = i + 1
    return [*lines, text[begin:].strip()]


_NOT_FIRST = tuple("，。；：！？、）》”…")  # of a line


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
