"""The folder that a command makes: its own, with room for what comes, and a draft until it is whole and proven."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from yangtuo import writing
from yangtuo.config import words
from yangtuo.errors import ProofError, RunFolderError, WriteError

_SPARE_BYTES = 64 << 20  # tokenizer and other small files


def check_new(out: Path, option: str) -> None:
    """Refuse a folder that holds something.

    Raises:
        RunFolderError: it does, or is a file, or lies where libraries cannot name it.
    """
    if not words.is_text(str(out.absolute())):
        raise RunFolderError(f"--{option} {out.absolute()}: its name is not UTF-8; choose a folder elsewhere")
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"--{option} {out}: a file; choose a folder that is empty or absent")
    if out.exists() and any(out.iterdir()):
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


@contextmanager
def new_folder(out: Path, option: str) -> Iterator[Path]:
    """A draft folder, which gets its name when the block ends well.

    What fails its proof is kept under another name; with any other failure nothing stays.

    Raises:
        RunFolderError: the draft is there already, or cannot be made.
        WriteError: something cannot be written.
        ProofError: with the name under which it is kept.
    """
    out = out.absolute()
    draft = out.with_name(f"{out.name}.unfinished")
    _make(draft, option)
    try:
        yield draft
        if out.exists():
            out.rmdir()  # empty, as checked at the start
        draft.rename(out)
    except ProofError as error:
        raise ProofError(f"{error}; do not use what was written, it is in {set_aside(draft, out)}") from error
    except (OSError, SafetensorError) as error:
        raise WriteError(f"{draft}: cannot be written: {writing.reason(error)}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def set_aside(draft: Path, out: Path) -> Path:
    """Rename what failed its proof after the file or folder that it was to be; returns the new name."""
    failed, number = out.with_name(f"{out.name}.failed-proof"), 1
    while failed.exists():
        number += 1
        failed = out.with_name(f"{out.name}.failed-proof-{number}")
    return draft.rename(failed)


def _make(draft: Path, option: str) -> None:
    if draft.exists():
        raise RunFolderError(
            f"{draft} exists: another command is writing there, or one was killed; if none runs, remove that folder"
        )
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
    except OSError as error:
        why = f"{error.filename} is a file" if isinstance(error, FileExistsError) else error.strerror
        raise RunFolderError(f"{draft}: cannot be made: {why}; choose another --{option}") from error
