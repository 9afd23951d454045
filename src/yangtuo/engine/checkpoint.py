"""Which checkpoints of a run are whole. Writing them is transformers' business, marking them is ours."""

import json
import re
from pathlib import Path

EXECUTION = "execution.json"
MARK = "complete.json"  # written last, so a checkpoint that has it has everything


def mark_complete(checkpoint: Path) -> None:
    """List the files, those of sub-folders too, and their sizes; the mark appears in one piece."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MARK]
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
    draft = checkpoint / f".{MARK}"
    draft.write_text(json.dumps({"files": sizes}, indent=1), encoding="utf-8")
    draft.rename(checkpoint / MARK)


def mark_incomplete(checkpoint: Path) -> None:
    """Take the mark away before the checkpoint is written once more."""
    (checkpoint / MARK).unlink(missing_ok=True)


def is_complete(checkpoint: Path) -> bool:
    """Whether the mark is there and every file that it lists has its size."""
    try:
        files = json.loads((checkpoint / MARK).read_text(encoding="utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write_max_cells(checkpoint: Path, max_cells: int) -> None:
    """Keep how steps were cut: a resumed run draws the same dropout only in the same micro-batches."""
    (checkpoint / EXECUTION).write_text(json.dumps({"micro_batch_tokens": max_cells}), encoding="utf-8")


def read_max_cells(checkpoint: Path) -> int | None:
    """What `write_max_cells` has kept; None in checkpoints of an earlier version."""
    try:
        return int(json.loads((checkpoint / EXECUTION).read_text(encoding="utf-8"))["micro_batch_tokens"])
    except FileNotFoundError:
        return None


def can_resume(checkpoint: Path) -> bool:
    """Whether it holds the optimizer too (`--save_only_model` leaves it out)."""
    return any((checkpoint / name).exists() for name in ("optimizer.pt", "latest"))


def step_of(checkpoint: Path) -> int:
    """The step in its name."""
    match = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(match.group(1)) if match else -1


def latest_complete(output_dir: Path) -> Path | None:
    """The complete, resumable checkpoint of the highest step."""
    found = [path for path in output_dir.glob("checkpoint-*") if step_of(path) >= 0 and path.is_dir()]
    whole = [path for path in found if is_complete(path) and can_resume(path)]
    return max(whole, key=step_of, default=None)
