"""Files and folders that appear whole or not at all: drafts, flushes, renames, free space, what is moved aside.

The only module that does any of this. Also what is said when something cannot be written, as on a full disk.
"""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from yangtuo.errors import ProofError, RunFolderError, UsageError, WriteError, YangtuoError, one_line
from yangtuo.i18n import Message

OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_SPARE_BYTES = 64 << 20  # tokenizer and other small files
_DRAFT, _FORMER = ".writing", ".former"  # ends of names; a leading dot hides them from everything that lists a folder


def reason(error: Exception) -> str:
    """Why something cannot be written, in a few words."""
    text = getattr(error, "strerror", None) or one_line(error, 200)
    short = re.fullmatch(r"(\d+) requested and (\d+) written", text)  # numpy, which does not say why
    if short is None:
        return text
    return Message("only {written} of {all} values could be written; is the disk full?", written=short[2], all=short[1])


@contextlib.contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Name the file that the block writes, should it fail.

    Raises:
        WriteError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise WriteError("{path}: cannot be written: {reason}", path=path, reason=reason(error)) from error


def check_place(path: Path, option: str) -> None:
    """Refuse the name of a file that cannot be made, before any work is done for it.

    Raises:
        UsageError: a folder, or in none, or where nothing may be written.
    """
    if path.is_dir():
        raise UsageError("--{option} {path}: a folder; give the name of a file", option=option, path=path)
    if not path.absolute().parent.is_dir():
        raise UsageError(
            "--{option} {path}: {strerror}; make the folder {parent} first",
            option=option,
            path=path,
            strerror=os.strerror(errno.ENOENT),
            parent=path.parent,
        )
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise UsageError("--{option} {path}: may not be written; choose another place", option=option, path=path)


@contextlib.contextmanager
def alone(lock: Path, told: str) -> Iterator[None]:
    """Hold a file while the block works, so that no other process does the same; the file is gone afterwards.

    Args:
        lock: the file.
        told: what to say where another process holds it.

    Raises:
        RunFolderError: another process does.
        WriteError: nothing may be written there.
    """
    held = FileLock(lock, blocking=False, fallback_to_soft=False)
    try:
        held.acquire()
    except Timeout:
        raise RunFolderError(told) from None
    except NotImplementedError:  # a file system without locks: then nobody can tell
        yield
        return
    except OSError as error:
        raise WriteError("{parent}: cannot be written: {reason}", parent=lock.parent, reason=reason(error)) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)
        held.release()


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


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one piece: it is the old one or the new one, never a part.

    Raises:
        WriteError: it cannot be written.
    """
    with whole_file(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@contextlib.contextmanager
def whole_folder(target: Path, kind: type[YangtuoError] | None) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the block ends well, and nothing when it does not.

    All of it is on the disk before it gets its name. A folder of that name is replaced; should the process be killed
    in between, `recover` ends what it has begun.

    Args:
        target: the folder's name.
        kind: of the error when the disk is full or refuses; None for the OSError itself, and for what can be made
            again, which is not waited for until it is on the disk.

    Raises:
        YangtuoError: of that kind; what was written is gone, what was there before is untouched.
    """
    draft, former = (target.with_name(f".{target.name}{end}") for end in (_DRAFT, _FORMER))
    try:
        for left_over in (draft, former):  # of a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        if kind:
            for path in (*sorted(draft.rglob("*"), reverse=True), draft):
                flush(path)
        if target.exists():
            target.rename(former)
        draft.rename(target)
        if kind:
            flush(target.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        if kind is None:
            raise
        raise kind(Message("{target}: cannot be written: {reason}", target=target, reason=reason(error))) from error
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    shutil.rmtree(former, ignore_errors=True)


def recover(folder: Path) -> None:
    """End what a killed process was writing: what had only to be renamed takes its place, all else goes."""
    for former in folder.glob(f".*{_FORMER}"):
        target = folder / former.name.removesuffix(_FORMER)[1:]
        draft = folder / f".{target.name}{_DRAFT}"
        if not target.exists():
            (draft if draft.exists() else former).rename(target)
    for left_over in (*folder.glob(f".*{_DRAFT}"), *folder.glob(f".*{_FORMER}")):
        if left_over.is_dir():
            shutil.rmtree(left_over, ignore_errors=True)
        else:
            left_over.unlink(missing_ok=True)


def flush(path: Path, *, from_cache: bool = False) -> None:
    """Have a file or folder on the disk; with `from_cache`, out of the system's cache where that can be asked for."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if from_cache and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Free space where the path lies, or would."""
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def is_text(word: str) -> bool:
    """Whether it can be written as UTF-8; names of files need not."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def check_new(out: Path, option: str) -> None:
    """Refuse a folder that holds something.

    Raises:
        RunFolderError: it does, or is a file, or lies where libraries cannot name it.
    """
    if not is_text(str(out.absolute())):
        raise RunFolderError(
            "--{option} {out}: its name is not UTF-8; choose a folder elsewhere", option=option, out=out.absolute()
        )
    if out.exists() and not out.is_dir():
        raise RunFolderError(
            "--{option} {out}: a file; choose a folder that is empty or absent", option=option, out=out
        )
    if out.exists() and any(out.iterdir()):
        raise RunFolderError(
            "--{option} {out}: not empty; choose a folder that is empty or absent", option=option, out=out
        )


def check_space(out: Path, num_bytes: int, option: str) -> None:
    """Compare the disk's free space with what is to be written.

    Raises:
        RunFolderError: too little is free.
    """
    free = free_bytes(out)
    if free < num_bytes + _SPARE_BYTES:
        raise RunFolderError(
            "--{option} {out}: {num_bytes:,.2f} GB are needed, {free:,.2f} GB are free there",
            option=option,
            out=out,
            num_bytes=num_bytes / 1e9,
            free=free / 1e9,
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
    _make(draft, option, is_folder=True)
    with _proven(draft, out):
        yield draft
        if out.exists():
            out.rmdir()  # empty, as checked at the start
        draft.rename(out)


@contextlib.contextmanager
def new_file(out: Path, option: str) -> Iterator[Path]:
    """The same for one file; a file that has got that name meanwhile is not replaced.

    Raises:
        RunFolderError: file or draft is there already, or the draft cannot be made.
        WriteError: something cannot be written.
        ProofError: with the name under which it is kept.
    """
    check_absent(out, option)
    draft = out.with_name(f"{out.name}.unproven")
    _make(draft, option, is_folder=False)
    with _proven(draft, out):
        yield draft
        check_absent(out, option)
        draft.rename(out)
    flush(out.parent)


def set_aside(draft: Path, out: Path) -> Path:
    """Rename what failed its proof after the file or folder that it was to be; returns the new name."""
    return draft.rename(free_name(out.with_name(f"{out.name}.failed-proof")))


def free_name(path: Path) -> Path:
    """This name, or the first with a number behind it that nothing has."""
    name, number = path, 1
    while name.exists():
        number += 1
        name = path.with_name(f"{path.name}-{number}")
    return name


@contextlib.contextmanager
def _proven(draft: Path, out: Path) -> Iterator[None]:
    try:
        yield
    except ProofError as error:
        raise ProofError(
            "{error}; do not use what was written, it is in {set_aside}", error=error, set_aside=set_aside(draft, out)
        ) from error
    except (OSError, SafetensorError) as error:
        raise WriteError("{draft}: cannot be written: {reason}", draft=draft, reason=reason(error)) from error
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def check_absent(out: Path, option: str) -> None:
    """Refuse a name that something has.

    Raises:
        RunFolderError: it is there.
    """
    if out.exists():
        raise RunFolderError("--{option} {out}: exists; choose another name, or remove it", option=option, out=out)


def _make(draft: Path, option: str, *, is_folder: bool) -> None:
    taken = Message(
        "{draft} exists: another command is writing there, or one was killed; if none runs, remove it", draft=draft
    )
    if draft.exists():
        raise RunFolderError(taken)
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        if is_folder:
            draft.mkdir()
        else:
            draft.touch(exist_ok=False)
    except OSError as error:
        if draft.exists():
            raise RunFolderError(taken) from error
        why = error.strerror
        if isinstance(error, FileExistsError):
            why = Message("{filename} is a file", filename=error.filename)
        raise RunFolderError(
            "{draft}: cannot be made: {why}; choose another --{option}", draft=draft, why=why, option=option
        ) from error
