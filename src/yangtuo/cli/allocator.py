"""How glibc keeps memory in a run on a CPU, where that has to be known before the process starts."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

VERBS = frozenset({"train", "demo"})
_NAME = "GLIBC_TUNABLES"
_KEY = "glibc.malloc.tcache_count"


def restart_without_thread_cache(words: Sequence[str]) -> None:
    """Start this process once more, before anything heavy is imported, with glibc's cache of small blocks turned off.

    Where torch asks for an aligned block, glibc cuts a few bytes off both its ends. Kept in that cache they stay apart
    from the block when it is freed, and its hole is then too small for the next tensor of the same size: a run on a CPU
    took up to 9 % more memory, and how much could not be foreseen (docs/log.md). `engine.memory.keep_freed_memory` does
    the rest. The process number, the streams and the folder stay. Nothing happens elsewhere than on glibc, with a GPU's
    driver, for other verbs, where the variable is set already, or in a process that was not started by these words.

    Source: "Memory Allocation Tunables" in glibc's manual.
    """
    if not (words and words[0] in VERBS) or not sys.argv[1:] or sys.orig_argv[-len(sys.argv[1:]) :] != sys.argv[1:]:
        return
    if not is_wanted(os.environ, platform.libc_ver()[0], has_driver=_has_driver() and "--use_cpu" not in words):
        return
    os.environ[_NAME] = ":".join(filter(None, [os.environ.get(_NAME, ""), f"{_KEY}=0"]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_wanted(environment: Mapping[str, str], libc: str, *, has_driver: bool) -> bool:
    """Whether a process with that environment is to be started once more."""
    return libc == "glibc" and not has_driver and _KEY not in environment.get(_NAME, "")


def _has_driver() -> bool:
    return any(Path(name).exists() for name in ("/proc/driver/nvidia/version", "/dev/dxg", "/dev/kfd"))
