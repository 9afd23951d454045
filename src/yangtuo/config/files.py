"""A YAML or JSON file of options -> the command line that says the same, so that both obey the same rules."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from yangtuo.config.unique_keys import UniqueKeys, unique
from yangtuo.config.words import Parser, nearest
from yangtuo.errors import UsageError, one_line
from yangtuo.i18n import Message

SUFFIXES = (".yaml", ".yml", ".json")


class _Yaml(UniqueKeys):
    """YAML 1.2's scalars: only true and false are booleans (`save_strategy: no` is a word), and 1e-4 is a number."""


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def as_flags(path: str, parser: Parser) -> list[str]:
    """A configuration file as the command line that says the same.

    Raises:
        UsageError: the file cannot be read, or a list stands where an option takes one value.
    """
    flags, problems = flags_of(*_read(path), parser)
    if problems:
        raise UsageError.of_problems(Message("configuration file {path}", path=path), problems)
    return flags


def flags_of(values: Mapping[Any, Any], written: Mapping[Any, Any], parser: Parser) -> tuple[list[str], list[str]]:
    """Values by the names of options as the command line that says the same, and what is wrong with them.

    Args:
        values: of options; None counts as not given.
        written: those that are words or numbers as they stand in a file (007 is no 7); others are written by `str`.
        parser: knows the options; a name that it does not know is handed on, for it to say so.
    """
    known = parser.known_options()
    takes_list = {a.dest for a in parser._actions if a.nargs == "+"}
    flags: list[str] = []
    problems: list[str] = []
    for name, value in values.items():
        if value is None:
            continue
        if not isinstance(name, str) or name == "config":
            problems.append(Message("{name!r} is no option", name=name))
        elif not name.isascii() and (near := nearest(name, known)):
            meant = " or ".join(repr(one.lstrip("-")) for one in near)
            problems.append(
                Message(
                    "unknown option {name!r}, which is not all ASCII; did you mean {meant}?", name=name, meant=meant
                )
            )
        elif f"--{name}" not in known:
            flags.append(f"--{name}")  # argparse names it, with those of the command line
        elif isinstance(value, list) and name in ("trainable", "modules_to_save"):
            flags.append(f"--{name}={','.join(map(str, value))}")
        elif isinstance(value, list) and name in takes_list:
            flags += [f"--{name}", *map(str, value)]
        elif isinstance(value, list):
            problems.append(Message("{name} takes one value, found a list of {num}", name=name, num=len(value)))
        else:
            flags.append(f"--{name}={json.dumps(value) if isinstance(value, Mapping) else written.get(name, value)}")
    return flags, problems


def _read(path: str) -> tuple[Mapping[Any, Any], Mapping[Any, Any]]:
    """The file's values, and those that are words or numbers as they stand in it (007 is no 7)."""
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8")
        is_json = source.suffix.lower() == ".json"
        values = json.loads(text, object_pairs_hook=unique) if is_json else yaml.load(text, _Yaml)
        written = {} if is_json else yaml.load(text, yaml.BaseLoader)
    except OSError as error:
        raise UsageError("configuration file {path}: {strerror}", path=path, strerror=error.strerror) from error
    except (yaml.YAMLError, ValueError) as error:
        why = _wide_colon(text) if isinstance(error, yaml.YAMLError) else ""
        raise UsageError("configuration file {path}: {why}", path=path, why=why or one_line(error)) from error
    if not isinstance(values, Mapping):
        why = _wide_colon(text) or Message("expected 'name: value' lines, found {name}", name=type(values).__name__)
        raise UsageError("configuration file {path}: {why}", path=path, why=why)
    return values, written


def _wide_colon(text: str) -> str:
    """What is said of a line whose colon is not YAML's, as Chinese input methods write it."""
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r"\s*([\w-]+)\s*：", line)
        if found:
            return Message(
                "line {number}: {line!r} has a full-width colon; write '{found}: ' and the value",
                number=number,
                line=line.strip(),
                found=found[1],
            )
    return ""
