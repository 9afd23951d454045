"""Files that appear whole or not at all, and what is said when they cannot be written, as on a full disk.

Folders do the same in `engine.checkpoint.written` and `export.new_folder`.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from yangtuo.errors import UsageError, WriteError

OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


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
