"""YAML and JSON in which no key stands twice: their readers take the last one without a word."""

import json
from collections.abc import Sequence
from typing import Any

import yaml

from yangtuo.i18n import Listed, Message


class UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a mapping with a key twice, by a ValueError with line and both values."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See PyYAML."""
        problems: list[str] = []
        seen: dict[Any, str] = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                told = _twice(key.value, seen[key.value], _written(value))
                problems.append(Message("line {line}: {told}", line=key.start_mark.line + 1, told=told))
            seen[key.value] = _written(value)
        if problems:
            raise ValueError(Listed(problems, "; "))
        return super().construct_mapping(node, deep)


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """For `object_pairs_hook` of `json.loads`.

    Raises:
        ValueError: a key stands twice, with both values.
    """
    found: dict[str, Any] = {}
    problems = []
    for key, value in pairs:
        if key in found:
            problems.append(_twice(key, *(json.dumps(one, ensure_ascii=False) for one in (found[key], value))))
        found[key] = value
    if problems:
        raise ValueError(Listed(problems, "; "))
    return found


def _twice(key: str, first: str, second: str) -> str:
    return Message(
        "the key {key!r} stands twice, as {first} and {second}; keep one of them", key=key, first=first, second=second
    )


def _written(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else "a list or a mapping"
