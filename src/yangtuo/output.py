"""Files that appear whole or not at all, and what is said when they cannot be written, as on a full disk.

So do folders: those that a command makes here, checkpoints in `engine.checkpoint`.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from yangtuo.errors import ProofError, RunFolderError, UsageError, WriteError

OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_SPARE_BYTES = 64 << 20  # tokenizer and other small files


def reason(error: Exception) -> str:
    """Why something cannot be written, in a few words."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    short = re.fullmatch(r"(\d+) requested and (\d+) written", text)  # numpy, which does not say why
    return f"only {short[2]} of {short[1]} values could be written; is the disk full?" if short else text


@contextlib.contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Name the file that the block writes, should it fail.

    Raises:
        WriteError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {reason(error)}") from error


def check_place(path: Path, option: str) -> None:
    """Refuse the name of a file that cannot be made, before any work is done for it.

    Raises:
        UsageError: a folder, or in none, or where nothing may be written.
    """
    if path.is_dir():
        raise UsageError(f"--{option} {path}: a folder; give the name of a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--{option} {path}: {os.strerror(errno.ENOENT)}; make the folder {path.parent} first")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise UsageError(f"--{option} {path}: may not be written; choose another place")


@contextlib.contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file (text in UTF-8; with mode "wb", bytes) that gets its name when the block ends well.

    When it does not, nothing is left, and what had the name before still has it. A device or a pipe is written as it
    is. A name that is not UTF-8 is written as its escapes, which JSON reads as the same name.

    Raises:
        WriteError: it cannot be written.
    """
    is_plain = path.is_file() or not path.exists()
    place = path.resolve() if is_plain else path  # a link stays one
    draft = place.with_name(f".{place.name}.writing") if is_plain else place
    how = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
    with named(path):
        try:
            with draft.open(mode, **how) as file:  # type: ignore[call-overload]
                yield file
            if is_plain:
                draft.replace(place)
        except BaseException:
            if is_plain:
                draft.unlink(missing_ok=True)
            raise


def is_text(word: str) -> bool:
    """Whether it can be written as UTF-8; names of files need not."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def check_new(out: Path, option: str) -> None:
    """Refuse a folder that holds something.

    Raises:
        RunFolderError: it does, or is a file, or lies where libraries cannot name it.
    """
    if not is_text(str(out.absolute())):
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


@contextlib.contextmanager
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
        raise WriteError(f"{draft}: cannot be written: {reason(error)}") from error
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
