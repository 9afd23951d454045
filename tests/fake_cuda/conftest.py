"""One child process records everything, once for all processes of the tests."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.fake_cuda import device

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def traces(tmp_path_factory):
    """`recordings.setups`, recorded: by name."""
    if reason := device.why_not():
        pytest.skip(reason)
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    out = folder / "fake_cuda.pickle"
    with FileLock(folder / "fake_cuda.lock"):
        if not out.is_file():
            library = device.build(folder)
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            command = [sys.executable, "-m", "tests.fake_cuda.recordings", str(library), str(out)]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-1000:]
    return pickle.loads(out.read_bytes())
