"""Checkpoint folders appear whole or not at all, and are pruned only when a newer one is whole.

`checkpoint-N/` holds the adapter as a PEFT folder with its tokenizer, the optimizer's tensors, and JSON: never the
frozen base. It is written beside its place, flushed to disk, marked, and renamed.
"""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yangtuo import output
from yangtuo.errors import CheckpointError, YangtuoError
from yangtuo.i18n import Message

MARK = "complete.json"  # written last, so a checkpoint that has it has everything
POSITION, TENSORS, TRAINER_STATE = "training_state.json", "optimizer.safetensors", "trainer_state.json"


@contextlib.contextmanager
def written(target: Path, *, marked: bool = True) -> Iterator[Path]:
    """See `output.whole_folder`; `marked` puts the mark of a complete checkpoint into it.

    Raises:
        CheckpointError: the disk is full or refuses; what was there before is untouched.
    """
    with output.whole_folder(target, CheckpointError) as draft:
        yield draft
        if marked:
            mark_complete(draft)


def num_bytes(num_trained: int, *, only_model: bool) -> int:
    """Of a checkpoint, estimated: float32 weights and, as AdamW has them, two moments of each."""
    return num_trained * 4 * (1 if only_model else 3)


def check_room(folder: Path, num_bytes: int, error: type[YangtuoError] = CheckpointError) -> None:
    """Compare the disk's free space with what is to be written.

    Raises:
        YangtuoError: of the given kind; too little is free.
    """
    free = output.free_bytes(folder)
    if free < num_bytes:
        raise error(
            Message(
                "{folder}: {free} free on its disk, where a checkpoint of {needed} is to be written; free "
                "some, or give another --output_dir (a started run goes on with the same command)",
                folder=folder,
                free=_mebibytes(free),
                needed=_mebibytes(num_bytes),
            )
        )


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB" if num_bytes < 2**30 else f"{num_bytes / 2**30:,.1f} GiB"


def prune(output_dir: Path, limit: int | None, *, newest: Path, best: Path | None = None) -> None:
    """Delete the oldest checkpoints beyond the limit, none of which are `newest`, the last whole one, or `best`.

    `newest` is not the last one where a run was resumed from an earlier one by name.
    """
    if not limit or limit < 0:
        return
    found = _all(output_dir)
    whole = [path for path in found if is_complete(path)]
    if not whole:
        return
    needed = [path for path in (newest, best, whole[-1]) if path in whole]
    ranked = list(dict.fromkeys([*needed, *reversed(whole)]))
    kept = ranked[: max(limit, len(set(needed)))]
    for path in found:
        if path not in kept and step_of(path) <= step_of(whole[-1]):
            # The mark goes first: one that is deleted by half is not whole.
            (path / MARK).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def mark_complete(checkpoint: Path) -> None:
    """List the files, those of sub-folders too, and their sizes. For a folder that has no name yet, see `written`."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MARK]
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
    (checkpoint / MARK).write_text(json.dumps({"files": sizes}, indent=1), encoding="utf-8")


def is_complete(checkpoint: Path) -> bool:
    """Whether the mark is there and every file that it lists has its size."""
    try:
        files = json.loads((checkpoint / MARK).read_text(encoding="utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_position(checkpoint: Path) -> dict[str, Any]:
    """What is not a tensor: where the run was, and how its steps were cut."""
    value: dict[str, Any] = json.loads((checkpoint / POSITION).read_text(encoding="utf-8"))
    return value


def num_evaluations(checkpoint: Path) -> int:
    """How many its run had made; that of its own step may have come later."""
    state = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
    return sum("eval_loss" in entry for entry in state["log_history"])


@contextlib.contextmanager
def trainer_state_alone(text: str) -> Iterator[str]:
    """A folder for the time being with transformers' own state of a run and nothing else, for it to read."""
    with tempfile.TemporaryDirectory() as folder:
        with output.named(folder):
            (Path(folder) / TRAINER_STATE).write_text(text, encoding="utf-8")
        yield folder


def can_resume(checkpoint: Path) -> bool:
    """Whether it holds the optimizer too (`--save_only_model` leaves it out)."""
    return (checkpoint / TENSORS).exists() and (checkpoint / POSITION).exists()


def step_of(checkpoint: Path) -> int:
    """The step in its name."""
    match = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(match.group(1)) if match else -1


def latest_complete(output_dir: Path) -> Path | None:
    """The complete, resumable checkpoint of the highest step."""
    return next((path for path in reversed(_all(output_dir)) if is_complete(path) and can_resume(path)), None)


def _all(output_dir: Path) -> list[Path]:
    found = [path for path in output_dir.glob("checkpoint-*") if step_of(path) >= 0 and path.is_dir()]
    return sorted(found, key=step_of)
