"""Disk, memory, processors and limits, by values."""

from pathlib import Path

import pytest

from yangtuo.diagnosis import machine
from yangtuo.diagnosis.machine import (
    memory_limit,
    of_cache_folder,
    of_current_folder,
    of_encoding,
    of_memory,
    of_open_files,
    of_processors,
    of_shared_memory,
    of_temporary_folder,
    of_wsl,
    processor_quota,
)

MIB, GIB = 1 << 20, 1 << 30
HERE = Path("/data/here")


@pytest.mark.parametrize(
    ("is_writable", "free", "state", "says"),
    [
        (True, 100 * GIB, "ok", "/data/here, 100.0 GiB free"),
        (True, 2 * GIB, "note", "2.0 GiB free"),
        (True, 3 * MIB, "problem", "3 MiB free, the disk is full"),
        (False, 100 * GIB, "problem", "may not be written"),
    ],
)
def test_the_current_folder(is_writable, free, state, says):
    found = of_current_folder(HERE, is_writable=is_writable, free=free)
    assert found.state == state
    assert says in found.found
    assert bool(found.remedy) == (state != "ok")


@pytest.mark.parametrize(
    ("path", "is_writable", "free", "says", "remedy"),
    [
        (HERE, True, 100 * GIB, "/data/here, 100.0 GiB free", ""),
        (HERE, True, GIB, "1.0 GiB free", "set HF_HOME to a folder on another disk"),
        (HERE, False, GIB, "may not be written", "set HF_HOME to a folder of your own"),
        (None, False, 0, "no home folder", "set HOME or HF_HOME to a folder"),
    ],
)
def test_folders_that_are_kept(path, is_writable, free, says, remedy):
    found = of_cache_folder("models", path, is_writable=is_writable, free=free, variable="HF_HOME")
    assert found.state == ("note" if remedy else "ok")
    assert says in found.found
    assert remedy in found.remedy


def test_temporary_files():
    assert of_temporary_folder("/tmp").state == "ok"
    found = of_temporary_folder(None)
    assert (found.state, "TMPDIR" in found.remedy) == ("problem", True)


@pytest.mark.parametrize(
    ("available", "limit", "state", "says"),
    [
        (50, None, "ok", "50.0 GiB of 64.0 GiB available"),
        (50, 64, "ok", "50.0 GiB of 64.0 GiB"),
        (50, 16, "note", "16.0 GiB of the machine's 64.0 GiB by a cgroup"),
        (4, None, "note", "4.0 GiB of 64.0 GiB available"),
    ],
)
def test_memory(available, limit, state, says):
    found = of_memory(64 * GIB, available * GIB, limit and limit * GIB)
    assert (found.state, says in found.found, bool(found.remedy)) == (state, True, state == "note")


@pytest.mark.parametrize(
    ("usable", "quota", "given", "is_cpu", "remedy"),
    [
        (8, None, None, True, ""),
        (8, None, "8", True, ""),
        (8, None, "1", True, "unset OMP_NUM_THREADS"),
        (8, None, "1", False, ""),
        (64, 4.0, None, True, "export OMP_NUM_THREADS=4"),
        (64, 0.5, None, False, "export OMP_NUM_THREADS=1"),
        (64, 4.0, "4", True, ""),
        (64, 0.5, "1", True, ""),
        (64, 4.0, "1", True, "export OMP_NUM_THREADS=4"),
        (8, None, "many", True, ""),
    ],
)
def test_processors(usable, quota, given, is_cpu, remedy):
    found = of_processors(usable, quota, given, is_cpu=is_cpu)
    assert found.state == ("note" if remedy else "ok")
    assert remedy in found.remedy


@pytest.mark.parametrize(("total", "states"), [(None, []), (64 * MIB, ["note"]), (8 * GIB, ["ok"])])
def test_shared_memory(total, states):
    findings = of_shared_memory(total)
    assert [one.state for one in findings] == states
    assert all("--shm-size" in one.remedy for one in findings if one.state == "note")


@pytest.mark.parametrize(
    ("soft", "hard", "states", "remedy"),
    [
        (None, None, [], ""),
        (1024, 1048576, ["note"], "ulimit -n 65536;"),
        (1024, -1, ["note"], "ulimit -n 65536;"),
        (1024, 8192, ["note"], "ulimit -n 8192;"),
        (1024, 1024, ["note"], "ulimit -n 4096 (as root first, above 1024"),
        (4096, 4096, ["ok"], ""),
        (-1, -1, ["ok"], ""),
    ],
)
def test_open_files(soft, hard, states, remedy):
    findings = of_open_files(soft, hard)
    assert [one.state for one in findings] == states
    assert all(remedy in one.remedy for one in findings)


@pytest.mark.parametrize(
    ("release", "folder", "states", "says"),
    [
        ("6.8.0-45-generic", "/mnt/c/data", [], ""),
        ("4.4.0-19041-Microsoft", "/home/a", ["note"], "version 1"),
        ("5.15.153.1-microsoft-standard-WSL2", "/home/a", ["ok"], "version 2"),
        ("5.15.153.1-microsoft-standard-WSL2", "/mnt/c/Users", ["note"], "in a folder of Windows (/mnt/c/Users)"),
        ("5.15.153.1-microsoft-standard-WSL2", "/mnt/data", ["ok"], "version 2"),
    ],
)
def test_wsl(release, folder, states, says):
    findings = of_wsl(release, Path(folder))
    assert [one.state for one in findings] == states
    assert all(says in one.found for one in findings)


@pytest.mark.parametrize(
    ("of_files", "of_output", "state"),
    [("UTF-8", "utf-8", "ok"), ("utf8", "UTF_8", "ok"), ("ANSI_X3.4-1968", "utf-8", "note"), ("UTF-8", "gbk", "note")],
)
def test_encoding(of_files, of_output, state):
    assert of_encoding(of_files, of_output).state == state


def written(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_limits_of_a_container_by_cgroups_of_version_2(tmp_path):
    """A container sees its own cgroup as the root; a job of slurm lies in a tree."""
    written(tmp_path, memory__max=16 * GIB, cpu__max="200000 100000")
    assert memory_limit(tmp_path, "0::/\n") == 16 * GIB
    assert processor_quota(tmp_path, "0::/\n") == 2.0
    written(tmp_path / "system" / "job", memory__max=8 * GIB, cpu__max="max 100000")
    assert memory_limit(tmp_path, "0::/system/job\n") == 8 * GIB
    assert processor_quota(tmp_path, "0::/system/job\n") == 2.0


def test_limits_by_cgroups_of_version_1(tmp_path):
    own = "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/a\n0::/\n"
    written(tmp_path / "memory", memory__limit_in_bytes=9223372036854771712)
    written(tmp_path / "cpu", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert memory_limit(tmp_path, own) is None
    assert processor_quota(tmp_path, own) is None
    written(tmp_path / "memory" / "a" / "b", memory__limit_in_bytes=4 * GIB)
    written(tmp_path / "cpu" / "a", cpu__cfs_quota_us=150000, cpu__cfs_period_us=100000)
    assert memory_limit(tmp_path, own) == 4 * GIB
    assert processor_quota(tmp_path, own) == 1.5


def test_without_cgroups_there_is_no_limit(tmp_path):
    assert memory_limit(tmp_path, "") is None
    assert processor_quota(tmp_path, "0::/\n") is None


def test_this_machine_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = [one.name for one in machine.disk()]
    assert names == ["current folder", "encoded rows", "temporary files"]
    assert machine.models_folder(Path("~/.cache/huggingface/hub")).found.startswith("this user has no home folder")
    assert machine.models_folder(tmp_path / "a" / "b").found.startswith(f"{tmp_path}/a/b")
    assert {"memory", "processors", "encoding"} <= {one.name for one in machine.limits({}, is_cpu=True)}
    assert list(tmp_path.iterdir()) == []


def test_a_current_folder_that_was_removed(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    found, *_ = machine.disk()
    assert (found.name, found.state) == ("current folder", "problem")
    machine.limits({}, is_cpu=True)


def test_a_home_of_another_user(monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.output, "free_bytes", refused)
    found = machine.models_folder(Path("/root/.cache/huggingface/hub"))
    assert (found.state, found.found) == ("note", "/root/.cache/huggingface/hub may not be written")


def test_no_folder_for_temporary_files(monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(machine.tempfile, "gettempdir", none)
    assert [one.state for one in machine.disk() if one.name == "temporary files"] == ["problem"]
