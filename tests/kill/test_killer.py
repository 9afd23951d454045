"""The killer ends a process where it is told to."""

import subprocess
import sys

import pytest

from tests.command import REPOSITORY
from tests.kill import killer

PROGRAM = """
import os, shutil, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from tests.kill.killer import arm
out = Path(sys.argv[1])
arm(out, sys.argv[2], at=int(sys.argv[3]), way=sys.argv[4], num_bytes=10)
out.mkdir()
(out / "a").write_text("first " * 9)
with (out / "a").open("a") as file:
    file.write("second " * 9)
(out / "a").read_text()
(out.parent / "beside").write_text("x")
(out / "draft").mkdir()
save_file({"w": np.ones(99, np.float32)}, out / "draft" / "w.safetensors")
(out / "draft").rename(out / "whole")
shutil.rmtree(out / "whole")
"""
WEIGHTS = 8 + 64 + 99 * 4  # the length of the header, the header, the data
WRITES = [
    *("mkdir .", "open a", "open a", "mkdir draft", "rename draft whole"),
    *("remove whole/w.safetensors", "rmdir whole"),
]


def play(tmp_path, at=0, way="kill"):
    """The exit code, and what is left with its size."""
    words = [tmp_path / "out", tmp_path / "writes", at, way]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, words)], cwd=REPOSITORY, check=False)
    left = {path: path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file()}
    return done.returncode, {str(path.relative_to(tmp_path / "out")): size for path, size in left.items()}


def test_every_write_into_the_folder_is_counted_and_no_other(tmp_path):
    assert play(tmp_path) == (0, {"a": 117})
    assert killer.read(tmp_path / "writes") == WRITES


@pytest.mark.parametrize(
    ("at", "way", "left"),
    [
        (1, "kill", {}),
        (2, "kill", {}),
        (3, "kill", {"a": 54}),
        (5, "kill", {"a": 117, "draft/w.safetensors": WEIGHTS}),
        (6, "kill", {"a": 117, "whole/w.safetensors": WEIGHTS}),
        (7, "kill", {"a": 117}),
        (2, "tear", {"a": 10}),
        (3, "tear", {"a": 64}),
    ],
)
def test_where_it_ends(tmp_path, at, way, left):
    code, found = play(tmp_path, at, way)
    assert code == {"kill": -9, "tear": -25}[way]
    assert found == left
    assert killer.read(tmp_path / "writes") == WRITES[:at]


def test_it_ends_in_the_middle_of_what_rust_writes(tmp_path):
    """safetensors writes under a name of its own, and renames."""
    code, found = play(tmp_path, 4, "tear")
    assert code == -25
    (name,) = found.keys() - {"a"}
    assert name.startswith("draft/.tmp")
