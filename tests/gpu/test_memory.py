"""Memory of a GPU: when what is free is asked, and what happens when nothing is."""

import pytest
import torch

from tests.command import REPOSITORY, run
from tests.distributed.launch import engine_files
from tests.gpu.conftest import RUN
from yangtuo.engine.calibration import cells_that_fit, kept_bytes

# Writes how much torch has taken each time when a run asks what is free.
ASKED = """
import torch
from yangtuo.engine import memory
real = memory.free_bytes
def free_bytes(device):
    with open({place!r}, "a") as file:
        print(torch.cuda.memory_allocated(device), file=file)
    return real(device)
memory.free_bytes = free_bytes
"""


def at_most(num_bytes):
    """Code that leaves a process so much of the device."""
    total = torch.cuda.get_device_properties(0).total_memory
    return f"import torch; torch.cuda.set_per_process_memory_fraction({num_bytes / total})"


def test_free_memory_is_read_when_the_model_is_there(base, train, tmp_path):
    """Before that, an empty device would be taken for a free one."""
    place = tmp_path / "asked"
    train("out", first=ASKED.format(place=str(place)))
    of_base = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    assert int(place.read_text().splitlines()[0]) > 0.9 * of_base


def test_memory_that_runs_out_halves_the_micro_batch(train):
    """Real: the process may have 40 MB of the device, and all rows are asked for at once."""
    options = {"max_seq_length": 384, "modules_to_save": "embed_tokens,lm_head"}
    plain = train("plain", **options)
    short = train("short", **options, first=at_most(40e6), micro_batch_tokens=100_000)
    assert "out of memory: step" in short.done.said
    assert short.losses == pytest.approx(plain.losses, abs=1e-3)


def test_a_base_that_does_not_fit_is_one_line(train):
    """The process may have 1 MB."""
    done = train("out", expect=1, first=at_most(1e6)).done
    told = [line for line in done.err.splitlines() if line.startswith("error")]
    assert len(told) == 1
    assert "out of memory" in told[0]
    assert "Traceback" not in done.said


@pytest.mark.parametrize("name", ["zero2", "zero3", "fsdp2"])
def test_memory_is_measured_where_a_step_cannot_be_redone(name, inputs, base, tmp_path):
    if name.startswith("zero"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (extra deepspeed)")
    engine = engine_files(tmp_path)[name]
    options = inputs.options(tmp_path / "out", **{**RUN, "model_name_or_path": base})
    launcher = ["torchrun", "--standalone", "--nproc_per_node", 1, REPOSITORY / "scripts" / "run_clm_sft_with_peft.py"]
    done = run([*launcher, *options, *engine.options])
    assert done.code == 0, done.said
    assert "by a measurement of the memory" in done.said


def test_kept_bytes_are_those_of_the_forward():
    device = torch.device("cuda")
    x = torch.zeros(1 << 20, device=device)
    assert kept_bytes(lambda: x * 2, device) == 4 << 20
    assert cells_that_fit([(1000, 1 << 20), (2000, 2 << 20)], 100 << 20) > 10_000
