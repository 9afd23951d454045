"""The benchmark's own command, at a shape that takes seconds."""

import json
import subprocess
import sys

import pytest

from tests.fake_cuda import device
from tests.fake_cuda.conftest import ROOT


@pytest.mark.skipif(bool(device.why_not()), reason=device.why_not())
def test_what_compiled_layers_move_is_counted(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, "benchmarks/roofline.py", "--model", "tiny", "--rows", "64x2", "--torch_compile"]
    done = subprocess.run([*command, "--json", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    kinds = json.loads(out.read_text())["kinds"]
    assert kinds["compiled: all else of the layers"]["GB"] > 0
    assert not {"RMSNorm", "LoRA dropout", "SwiGLU"} & kinds.keys()
