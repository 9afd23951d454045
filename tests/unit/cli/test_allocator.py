"""When a process is started once more without glibc's cache of small blocks."""

import os
import sys

import pytest

from yangtuo.cli import allocator


@pytest.mark.parametrize(
    ("environment", "libc", "has_driver", "expected"),
    [
        ({}, "glibc", False, True),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, "glibc", False, True),
        ({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}, "glibc", False, False),  # the user's own, or done already
        ({}, "", False, False),
        ({}, "glibc", True, False),
    ],
)
def test_when(environment, libc, has_driver, expected):
    assert allocator.is_wanted(environment, libc, has_driver=has_driver) is expected


@pytest.fixture
def started(monkeypatch):
    """What would be started; as if this process were `python yangtuo train a.yaml`."""
    calls = []
    monkeypatch.setattr("os.execv", lambda path, words: calls.append((path, words)))
    monkeypatch.setattr(sys, "argv", ["yangtuo", "train", "a.yaml"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "yangtuo", "train", "a.yaml"])
    monkeypatch.setattr(allocator, "_has_driver", lambda: False)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    return calls


def test_the_same_words_are_started_and_other_tunables_stay(started, monkeypatch):
    allocator.restart_without_thread_cache(["train", "a.yaml"])
    assert started == [(sys.executable, [sys.executable, "-X", "dev", "yangtuo", "train", "a.yaml"])]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=2:glibc.malloc.tcache_count=0"
    allocator.restart_without_thread_cache(["train", "a.yaml"])  # as the process that was started would
    assert len(started) == 1


def test_not_for_other_verbs_nor_where_this_process_was_started_by_other_words(started, monkeypatch):
    allocator.restart_without_thread_cache(["check", "a.yaml"])
    allocator.restart_without_thread_cache([])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "tests.forker"])
    allocator.restart_without_thread_cache(["train", "a.yaml"])
    assert started == []


def test_with_a_driver_only_where_the_processor_is_asked_for(started, monkeypatch):
    monkeypatch.setattr(allocator, "_has_driver", lambda: True)
    allocator.restart_without_thread_cache(["train", "a.yaml"])
    assert started == []
    allocator.restart_without_thread_cache(["train", "a.yaml", "--use_cpu"])
    assert len(started) == 1
