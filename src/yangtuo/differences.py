"""Two records of JSON values compared, for messages."""

import json
from collections.abc import Mapping
from typing import Any

_SHOWN, _PART = 70, 34  # characters of a value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], of_old: str, of_new: str) -> list[str]:
    """What differs between two mappings of JSON values, each with both; of lists of pairs, the pairs that differ."""
    return [
        f"{name}: {_short(a)} {of_old}, {_short(b)} {of_new}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        for a, b in [_apart(old.get(name), new.get(name))]
    ]


def _apart(old: Any, new: Any) -> tuple[Any, Any]:
    if isinstance(old, list) and isinstance(new, list) and old and new:
        return [one for one in old if one not in new], [one for one in new if one not in old]
    return old, new


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_PART]}...{text[-_PART:]}"
