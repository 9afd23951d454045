"""The folder that a command makes: its own, with room for what comes, and a draft until it is whole."""

import shutil
from pathlib import Path

from yangtuo.errors import RunFolderError

_SPARE_BYTES = 64 << 20  # tokenizer and other small files


def check_new(out: Path, option: str) -> None:
    """Refuse a folder that holds something.

    Raises:
        RunFolderError: it does, or is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"--{option} {out}: not empty; choose a folder that is empty or absent")


def check_space(out: Path, num_bytes: int, option: str) -> None:
    """Compare the disk's free space with what is to be written.

    Raises:
        RunFolderError: too little is free.
    """
    existing = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes + _SPARE_BYTES:
        raise RunFolderError(
            f"--{option} {out}: {num_bytes / 1e9:,.2f} GB are needed, {free / 1e9:,.2f} GB are free there"
        )


def make_draft(draft: Path, option: str) -> None:
    """Make the folder in which the work is done before it gets its name.

    Raises:
        RunFolderError: it is there already, or cannot be made.
    """
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
    except FileExistsError:
        raise RunFolderError(
            f"{draft} exists: another command is writing there, or one was killed; if none runs, remove that folder"
        ) from None
    except OSError as error:
        raise RunFolderError(f"{draft}: cannot be made: {error.strerror}; choose another --{option}") from error
