"""`yangtuo doctor`: what it says of this machine as it is, and with exit code 2 of one that could not train."""

import json
import os

import pytest

from tests.cli.test_no_home import NOBODY
from tests.command import run, yangtuo
from tests.unit.diagnosis.test_environment import server
from yangtuo.cli import doctor
from yangtuo.diagnosis.diagnose import Diagnosis
from yangtuo.diagnosis.finding import note, ok, problem

# Packages of their own processes take seconds; one test has them.
QUICK = """
from dataclasses import replace
from yangtuo.diagnosis import packages
packages.OPTIONAL = tuple(replace(one, trial="") for one in packages.OPTIONAL)
"""


def looked(*words, code=0, first="", **options):
    done = yangtuo("doctor", *words, first=f"{QUICK}\n{first}", **options)
    assert done.code == code, done.said
    assert "Traceback" not in done.said
    return done


def by_name(done):
    return {one["name"]: one for one in json.loads(done.out)["findings"]}


def test_this_machine_can_train_and_packages_are_tried(tmp_path):
    done = yangtuo("doctor", cwd=tmp_path)
    assert done.code == 0, done.said
    lines = done.out.splitlines()
    assert lines[-1].startswith("verdict: ready to train on ")
    assert lines[:2] == ["versions", next(line for line in lines if line.startswith("✓  Python "))]
    assert {line[:1] for line in lines if line[1:3] == "  "} <= {"✓", "!", " "}
    assert done.err.splitlines() == ["doctor: imports what a run imports, and tries packages; some seconds"]
    assert list(tmp_path.iterdir()) == []


def test_json_has_the_same_findings(tmp_path):
    told = json.loads(looked("--json", cwd=tmp_path).out)
    assert told["can_train"] is True
    assert told["verdict"].startswith("ready to train on ")
    lines = [line for line in looked(cwd=tmp_path).out.splitlines() if line[:2] in ("✓ ", "! ")]
    assert [one["name"] for one in told["findings"]] == [line[2:].split("  ")[0].strip() for line in lines]
    assert [one["state"] for one in told["findings"]] == [{"✓": "ok", "!": "note"}[line[0]] for line in lines]
    groups = ["versions", "device", "optional packages", "disk", "limits", "environment"]
    assert list(dict.fromkeys(one["group"] for one in told["findings"])) == groups
    assert all(set(one) == {"group", "name", "state", "found", "remedy"} for one in told["findings"])


def test_what_a_launcher_left_in_the_environment(tmp_path):
    left = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    done = looked("--json", code=2, env=left, cwd=tmp_path)
    assert by_name(done)["launch"]["state"] == "problem"
    assert json.loads(done.out)["can_train"] is False
    (error,) = [line for line in done.err.splitlines() if line.startswith("error")]
    assert "doctor: training could not start: launch: WORLD_SIZE=2, RANK=0, MASTER_ADDR=127.0.0.1" in error
    assert "unset WORLD_SIZE RANK MASTER_ADDR" in error


def test_a_gpu_that_torch_cannot_use(tmp_path):
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12\n")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Tesla V100-SXM2-16GB, 16384 MiB, 535.183.01'\n")
    program.chmod(0o755)
    broken = f"""
import torch
from pathlib import Path
from yangtuo.model import gpu
gpu._DRIVER = Path({str(tmp_path / "version")!r})
torch.cuda.is_available = torch.accelerator.is_available = lambda: False
"""
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "0"}
    done = looked(code=2, first=broken, env=env, cwd=tmp_path)
    assert "verdict: training could not start" in done.out.splitlines()[-1]
    (line,) = [line for line in done.out.splitlines() if line.startswith("✗ ")]
    assert "this machine has an NVIDIA GPU (driver 535.183.01)" in line
    assert "Tesla V100-SXM2-16GB" in line
    assert "pip install torch==" in done.err
    assert "--use_cpu" in done.err


def test_a_torch_that_cannot_be_imported_and_one_request_to_the_hub(tmp_path):
    (tmp_path / "stub" / "torch").mkdir(parents=True)
    (tmp_path / "stub" / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open')\n")
    path = os.pathsep.join([str(tmp_path / "stub"), *filter(None, [os.environ.get("PYTHONPATH")])])
    seen = []
    with server(200, seen) as url:
        env = {"PYTHONPATH": path, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0"}
        quiet = run(["yangtuo", "doctor"], env=env, cwd=tmp_path)
        assert (quiet.code, seen) == (2, [])
        done = run(["yangtuo", "doctor", "--json", "--online"], env=env, cwd=tmp_path)
    assert done.code == 2, done.said
    assert "Traceback" not in done.said
    found = by_name(done)
    assert found["torch"]["state"] == "problem"
    assert "cannot be imported: OSError: libcudart.so.13: cannot open" in found["torch"]["found"]
    assert found["torch"]["remedy"].startswith("pip install --force-reinstall torch==")
    assert found["GPU"]["state"] == "note"
    assert found["online"]["found"].startswith("127.0.0.1 answers (200)")
    assert found["model hub"]["found"].startswith("the mirror 127.0.0.1")
    assert len(seen) == 1


def test_a_user_without_a_home(tmp_path):
    done = looked(first=NOBODY, cwd=tmp_path)
    (line,) = [line for line in done.out.splitlines() if line.startswith("!  encoded rows ")]
    assert "no home folder" in line


def test_it_fits_into_80_columns(capsys, monkeypatch):
    found = Diagnosis(
        {
            "versions": [ok("Python", "3.11 " * 40), note("a-rather-long-name", "found " * 30, "do " * 60)],
            "device": [problem("GPU", "x" * 200, "y" * 200)],
        },
        "the CPU",
    )
    monkeypatch.setattr(doctor, "_WIDE", 80)
    doctor._show(found)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.strip().startswith("→ do do")] != []
    assert lines[-1] == "verdict: training could not start; see the points with a cross above"


@pytest.mark.parametrize("words", [["--jsn"], ["now"]])
def test_called_wrongly(words, tmp_path):
    assert "error: yangtuo doctor" in looked(*words, code=2, cwd=tmp_path).err
