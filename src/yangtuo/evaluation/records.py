"""What a model said and how likely it found what it read, one JSON line each; an evaluation that was killed goes on.

A line is written when its batch is done. The first line says which model it is; lines of tasks that are not asked for
any more stay and are not looked at, so a changed task is measured anew and the others are not.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yangtuo import output
from yangtuo.errors import WriteError, differences
from yangtuo.i18n import Listed, Message

logger = logging.getLogger(__name__)

Entry = Mapping[str, Any]


class Records:
    """Of one model."""

    def __init__(self, path: Path, model: Mapping[str, Any]):
        """`model` says what decides the lines beside their task; a file of another one is renamed, and said.

        Raises:
            WriteError: the file cannot be written.
        """
        self._path = path
        header = json.loads(json.dumps({"model": model}))
        there, entries = _read(path)
        if there is not None and there != header:
            told = Listed(
                differences(there.get("model") or {}, header["model"], Message("there"), Message("here")), "; "
            )
            aside = output.free_name(path.with_name(f"{path.stem}.former{path.suffix}"))
            with output.named(path):
                path.rename(aside)
            logger.warning("%s is of another model (%s); it is now %s", path, told, aside)
            there, entries = None, []
        with output.whole_file(path) as file:  # whole lines alone: the last may have been cut by a kill
            file.writelines(_line(entry) for entry in [header, *entries])
        self._found = {(entry["task"], entry["key"]): entry for entry in entries}

    def knows(self, task: str, key: str) -> bool:
        """Whether this was measured already."""
        return (task, key) in self._found

    def get(self, task: str, key: str) -> Entry:
        """What was measured."""
        return self._found[task, key]

    def add(self, task: str, entries: Iterable[Entry]) -> None:
        """Write what a batch has given; each entry has its `key`.

        Raises:
            WriteError: they cannot be written.
        """
        new = [{"task": task, **entry} for entry in entries]
        with output.named(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, new)))
            file.flush()
            os.fsync(file.fileno())
        self._found |= {(task, entry["key"]): entry for entry in new}


def _read(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The header and the entries; None where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return None, []
    except OSError as error:
        raise WriteError("{path}: cannot be read: {reason}", path=path, reason=output.reason(error)) from error
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    if not found or not isinstance(found[0], dict) or "model" not in found[0]:
        return None if not any(lines) else {}, []
    return found[0], [one for one in found[1:] if isinstance(one, dict) and {"task", "key"} <= one.keys()]


def _line(entry: Entry) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"
