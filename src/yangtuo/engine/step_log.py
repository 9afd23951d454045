"""`log.jsonl`: one JSON object a step, floats in full, and one an evaluation."""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from yangtuo import output
from yangtuo.errors import WriteError


class StepLog:
    """Appends to a run's log; every line is on its way to disk before the next step begins."""

    def __init__(self, path: Path, *, last_step: int = 0, num_evaluations: int | None = None, writes: bool = True):
        """Open for appending, cut back to a checkpoint: what a resumed run repeats is not logged twice.

        Args:
            path: the file.
            last_step: the checkpoint's; 0 for an empty log.
            num_evaluations: those before it, since a step may be evaluated after its checkpoint; None for all.
            writes: False on all ranks but one; those only read.
        """
        self._path, self._writes = path, writes
        kept = _kept(path, last_step, num_evaluations) if last_step else []
        if writes:
            with output.whole_file(path) as file:
                file.writelines(map(_line, kept))
        self.num_skipped = sum(bool(entry.get("skipped")) for entry in kept)
        self.samples = [entry for entry in kept if "samples" in entry]  # answers to --sample_prompts
        self.losses = [entry["loss"] for entry in kept if "loss" in entry]  # of the steps before
        self.entries = kept  # those before

    def write(self, entry: dict[str, Any]) -> None:
        """Add one line.

        Raises:
            WriteError: it cannot be written, and no part of it is.
        """
        if not self._writes:
            return
        size = self._path.stat().st_size if self._path.is_file() else 0
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(entry))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self._path, size)
            raise WriteError(
                "{path}: cannot be written: {reason}; make room, and the same command goes on from the last checkpoint",
                path=self._path,
                reason=output.reason(error),
            ) from error


def _kept(path: Path, last_step: int, num_evaluations: int | None) -> list[dict[str, Any]]:
    entries = [entry for entry in _lines(path) if entry["step"] <= last_step]
    places = [i for i, entry in enumerate(entries) if "eval_loss" in entry]
    is_whole = num_evaluations is None or num_evaluations >= len(places)
    first = len(entries) if is_whole else places[num_evaluations or 0]
    # The samples of an evaluation stand behind it.
    return [entry for i, entry in enumerate(entries) if i < first or not entry.keys() & {"eval_loss", "samples"}]


def _line(entry: dict[str, Any]) -> str:
    # JSON has no NaN; other programs could not read the line.
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
    return json.dumps(plain, ensure_ascii=False) + "\n"


def _lines(path: Path) -> list[dict[str, Any]]:
    entries = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break  # the line that was being written when the run was killed
            if not isinstance(entry, dict) or "step" not in entry:
                break
            entries.append(entry)
    return entries
