"""What this machine gives a run: disk, memory, processors, shared memory, open files; WSL, and the encoding of text."""

import locale
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from yangtuo import output
from yangtuo.diagnosis.finding import Finding, note, ok, problem, size
from yangtuo.i18n import Message
from yangtuo.model.folders import cache_folder

_NEEDED_BYTES = 64 << 20  # an adapter of a small model
_ROOM_BYTES = 5 << 30  # three checkpoints of a 7B's LoRA with its embedding and head in 16 bits
_SHARED_BYTES = 1 << 30
_OPEN_FILES = 4096
_NO_LIMIT = 1 << 60  # of cgroups of version 1, which write a number just below 2**63
_CGROUPS = Path("/sys/fs/cgroup")


def of_current_folder(path: Path | None, *, is_writable: bool, free: int) -> Finding:
    """Of the folder in which a run's output usually lies; None for one that was removed meanwhile."""
    name, elsewhere = Message("current folder"), Message("free some, or go to a folder on another disk")
    if path is None:
        return problem(
            name, Message("it was removed, or may not be looked into"), Message("go to another folder: cd ~")
        )
    if not is_writable:
        return problem(
            name, Message("{path} may not be written", path=path), Message("go to a folder of your own: cd ~")
        )
    if free < _NEEDED_BYTES:
        return problem(name, Message("{path}: {free} free, the disk is full", path=path, free=size(free)), elsewhere)
    if free < _ROOM_BYTES:
        return note(
            name,
            Message("{path}: {free} free", path=path, free=size(free)),
            Message("checkpoints of a large model may not fit; {elsewhere}", elsewhere=elsewhere),
        )
    return ok(name, Message("{path}, {free} free", path=path, free=size(free)))


def of_cache_folder(name: str, path: Path | None, *, is_writable: bool, free: int, variable: str) -> Finding:
    """Of a folder where something is kept between runs; `variable` of the environment moves it."""
    if path is None:
        return note(
            name,
            Message("this user has no home folder; nothing is kept between runs"),
            Message("set HOME or {variable} to a folder", variable=variable),
        )
    if not is_writable:
        return note(
            name,
            Message("{path} may not be written", path=path),
            Message("set {variable} to a folder of your own", variable=variable),
        )
    if free < _ROOM_BYTES:
        return note(
            name,
            Message("{path}: {free} free", path=path, free=size(free)),
            Message("free some, or set {variable} to a folder on another disk", variable=variable),
        )
    return ok(name, Message("{path}, {free} free", path=path, free=size(free)))


def of_temporary_folder(path: str | None) -> Finding:
    """Of the one that Python found, None where it found none."""
    if path is None:
        return problem(
            Message("temporary files"),
            Message("no folder takes them"),
            Message("free some of /tmp, or set TMPDIR to a folder with room"),
        )
    return ok(Message("temporary files"), path)


def of_memory(total: int, available: int, limit: int | None) -> Finding:
    """Of main memory; `limit` is that of the container or the job, None without one."""
    if limit is not None and limit < total:
        remedy = Message("a run that takes more is killed without a word; raise it (docker run --memory), or mind it")
        return note(
            Message("memory"),
            Message("{limit} of the machine's {total} by a cgroup", limit=size(limit), total=size(total)),
            remedy,
        )
    told = Message("{available} of {total} available", available=size(available), total=size(total))
    if available < total / 4:
        return note(Message("memory"), told, Message("other programs have the rest; end some (top shows them)"))
    return ok(Message("memory"), told)


def of_processors(usable: int, quota: float | None, given: str | None, *, is_cpu: bool) -> Finding:
    """Of processor cores.

    Args:
        usable: that this process may use.
        quota: cores' worth of time that a cgroup gives, None without a limit.
        given: OMP_NUM_THREADS.
        is_cpu: a run trains on them.
    """
    name = Message("processors")
    threads = int(given) if given and given.isdecimal() else usable
    if quota is not None and threads > max(1, quota):
        remedy = Message(
            "export OMP_NUM_THREADS={quota}: more threads than that wait for each other", quota=max(1, int(quota))
        )
        return note(
            name,
            Message(
                "{usable}, of which a cgroup gives {quota:g}; torch would use {threads} threads",
                usable=usable,
                quota=quota,
                threads=threads,
            ),
            remedy,
        )
    if is_cpu and given and threads < usable and (quota is None or threads < int(quota)):
        return note(
            name,
            Message(
                "{usable}, of which OMP_NUM_THREADS={given} uses {threads}", usable=usable, given=given, threads=threads
            ),
            "unset OMP_NUM_THREADS" if quota is None else f"export OMP_NUM_THREADS={int(quota)}",
        )
    return ok(name, f"{usable}, OMP_NUM_THREADS={given}" if given else str(usable))


def of_shared_memory(total: int | None) -> list[Finding]:
    """Of /dev/shm, where it is: workers that load data hand rows over in it, and NCCL gradients."""
    if total is None:
        return []
    if total < _SHARED_BYTES:
        remedy = Message("docker run --shm-size=8g, or --ipc=host; until then --dataloader_num_workers 0")
        return [
            note(
                Message("shared memory"),
                Message("/dev/shm has {total}", total=size(total)),
                Message("{remedy}, and NCCL_SHM_DISABLE=1 on several GPUs", remedy=remedy),
            )
        ]
    return [ok(Message("shared memory"), Message("/dev/shm has {total}", total=size(total)))]


def of_open_files(soft: int | None, hard: int | None) -> list[Finding]:
    """Of the limit of file descriptors; None where the system has no such limit, -1 for no limit."""
    if soft is None or hard is None:
        return []
    if 0 <= soft < _OPEN_FILES:
        wanted = 65536 if hard < 0 else min(65536, max(hard, _OPEN_FILES))
        raised = f"ulimit -n {wanted}"
        if 0 <= hard < _OPEN_FILES:
            raised = Message("{raised} (as root first, above {hard}: ulimit -Hn 65536)", raised=raised, hard=hard)
        return [
            note(
                Message("open files"),
                Message("{soft} at a time", soft=soft),
                Message("{raised}; else workers may end with 'Too many open files'", raised=raised),
            )
        ]
    return [ok(Message("open files"), Message("no limit") if soft < 0 else Message("{soft:,} at a time", soft=soft))]


def of_wsl(release: str, folder: Path) -> list[Finding]:
    """Of the Windows Subsystem for Linux, by the kernel's name; nothing elsewhere."""
    if "microsoft" not in release.lower():
        return []
    if "wsl2" not in release.lower():
        remedy = Message("in Windows: wsl --set-version NAME 2 (wsl -l lists the names)")
        return [note("WSL", Message("version 1 ({release}), where no GPU can be used", release=release), remedy)]
    if re.match(r"/mnt/[a-z](/|$)", str(folder)):
        remedy = Message("files of Windows are read many times slower; keep model, data and output in ~")
        return [note("WSL", Message("version 2, in a folder of Windows ({folder})", folder=folder), remedy)]
    return [ok("WSL", Message("version 2; half of Windows' memory unless .wslconfig says otherwise"))]


def of_encoding(of_files: str, of_output: str) -> Finding:
    """Of text, by the locale."""
    wrong = [one for one in (of_files, of_output) if one.lower().replace("-", "").replace("_", "") != "utf8"]
    if wrong:
        remedy = Message(
            "export LANG=C.UTF-8 (or PYTHONUTF8=1): Chinese is else shown as ?, and names of files may fail"
        )
        return note(Message("encoding"), Message("{wrong}, not UTF-8", wrong=wrong[0]), remedy)
    return ok(Message("encoding"), "UTF-8")


def memory_limit(cgroups: Path, own: str) -> int | None:
    """The least limit on the way from this process's cgroup to the root, in bytes; None without one.

    Args:
        cgroups: where they are mounted.
        own: /proc/self/cgroup.
    """
    names = ("memory.max", "memory.limit_in_bytes")  # of version 2, of version 1
    texts = [text for folder in _folders(cgroups, own, "memory") for name in names if (text := _read(folder / name))]
    limits = [int(text) for text in texts if text.isdigit() and int(text) < _NO_LIMIT]
    return min(limits, default=None)


def processor_quota(cgroups: Path, own: str) -> float | None:
    """Cores' worth of time, see `memory_limit`."""
    quotas = []
    for folder in _folders(cgroups, own, "cpu"):
        both = (_read(folder / "cpu.max") or "").split()
        both = both or [_read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        if len(both) == 2 and all(text.isdigit() and int(text) for text in both):
            quotas.append(int(both[0]) / int(both[1]))
    return min(quotas, default=None)


def _folders(cgroups: Path, own: str, controller: str) -> Iterator[Path]:
    """Of this process's cgroups, inner ones first."""
    for line in own.splitlines():
        _, kinds, place = (*line.split(":", 2), "", "")[:3]
        if kinds and controller not in kinds.split(","):
            continue
        root = cgroups / controller if kinds else cgroups
        path = Path(place.lstrip("/"))
        yield from (root / part for part in (path, *path.parents))  # the last is the root, all that a container sees


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def disk() -> list[Finding]:
    """Of this machine's folders."""
    here = _current_folder()
    return [
        of_current_folder(
            here, is_writable=os.access(here or "", os.W_OK), free=output.free_bytes(here) if here else 0
        ),
        _kept(Message("encoded rows"), cache_folder(), "XDG_CACHE_HOME"),
        of_temporary_folder(_temporary()),
    ]


def models_folder(path: Path) -> Finding:
    """Of the folder where models are kept that are fetched by name."""
    return _kept(Message("fetched models"), None if str(path).startswith("~") else path, "HF_HOME")


def limits(environment: Mapping[str, str], *, is_cpu: bool) -> list[Finding]:
    """Of memory, processors and what else a container or a shell limits."""
    memory, own = psutil.virtual_memory(), _read(Path("/proc/self/cgroup")) or ""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = processor_quota(_CGROUPS, own)
    return [
        of_memory(memory.total, memory.available, memory_limit(_CGROUPS, own)),
        of_processors(usable, quota, environment.get("OMP_NUM_THREADS"), is_cpu=is_cpu),
        *of_shared_memory(_total(Path("/dev/shm"))),
        *of_open_files(*_open_files()),
        *of_wsl(platform.release(), _current_folder() or Path()),
        of_encoding(locale.getencoding(), getattr(sys.stdout, "encoding", None) or "utf-8"),
    ]


def _kept(name: str, path: Path | None, variable: str) -> Finding:
    if path is None:
        return of_cache_folder(name, path, is_writable=False, free=0, variable=variable)
    try:
        existing = next(place for place in (path, *path.absolute().parents) if place.exists())
        is_writable, free = os.access(existing, os.W_OK), output.free_bytes(path)
    except PermissionError:  # as of /root, where HOME names it and the user is another
        is_writable, free = False, 0
    return of_cache_folder(name, path, is_writable=is_writable, free=free, variable=variable)


def _current_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None


def _temporary() -> str | None:
    try:
        return tempfile.gettempdir()  # writes a file into each that it tries
    except FileNotFoundError:
        return None


def _total(path: Path) -> int | None:
    if not path.is_dir():
        return None
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize


def _open_files() -> tuple[int | None, int | None]:
    try:
        import resource
    except ImportError:  # Windows
        return None, None
    return resource.getrlimit(resource.RLIMIT_NOFILE)
