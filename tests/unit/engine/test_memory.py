import dataclasses
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config

from tests.unit.engine.small import model_of
from yangtuo.engine import memory
from yangtuo.engine.memory import (
    ModelShape,
    bytes_beside,
    choose_max_cells,
    free_bytes,
    keep_freed_memory,
    needs_checkpointing,
)

SHAPE = ModelShape(10, 100, 300, 100, 50, 5, width=2, rank=8, dropout=0.05, is_fused=False)
OF_LAYER = (800 + 8 + 20) + 3 * (500 + 100 + 300) + 2 * (200 + 100 + 900 + 56)
PLAIN = 10 * OF_LAYER + 600
CHECKPOINTED = 10 * 200 + OF_LAYER + 2 * (300 + 500)


def test_the_shape_is_read_from_the_configuration():
    shape = ModelShape.of(model_of("Llama").config, 4, 16, dropout=0.0)
    assert shape == ModelShape(2, 32, 48, 32, 16, 4, 4, 16, 0.0, False)


def test_a_configuration_with_other_names_gives_a_guess():
    config = SimpleNamespace(get_text_config=SimpleNamespace)
    assert ModelShape.of(config, 2) == ModelShape(32, 4096, 4 * 4096, 4096, 4096, 32, 2, 8, 0.05, False)
    gpt2 = GPT2Config(n_embd=36, n_layer=2)
    assert ModelShape.of(gpt2, 2) == ModelShape(2, 36, 144, 36, 36, 12, 2, 8, 0.05, False)


def test_the_text_part_of_a_configuration_counts():
    inner = SimpleNamespace(hidden_size=8, num_hidden_layers=3, intermediate_size=16, num_attention_heads=2)
    outer = SimpleNamespace(hidden_size=1, num_hidden_layers=1, get_text_config=lambda: inner)
    assert ModelShape.of(outer, 4) == ModelShape(3, 8, 16, 8, 8, 2, 4, 8, 0.05, False)


def test_bytes_of_a_cell():
    assert SHAPE.bytes_per_cell(checkpointing=False) == PLAIN
    assert SHAPE.bytes_per_cell(checkpointing=True) == CHECKPOINTED
    without = dataclasses.replace(SHAPE, dropout=0.0)
    saved = 3 * (500 + 100 + 300) - 2 * (200 + 100 + 300)
    assert without.bytes_per_cell(checkpointing=False) == PLAIN - 10 * saved
    fused = dataclasses.replace(SHAPE, is_fused=True)
    places = 0.05 * 9 * (500 + 100 + 300)
    assert fused.bytes_per_cell(checkpointing=False) == PLAIN - 10 * (saved - places)


def test_bytes_beside_the_cells():
    """7B with embedding and head: gradients, moments and copies of 409 M weights are 5.3 GiB, a chunk half of one."""
    assert bytes_beside(0, 256 << 20) == 512 << 20
    assert bytes_beside(409_000_000, 0) == 14 * 409_000_000


def test_as_many_cells_as_fit():
    def chosen(free, *, checkpointing=False, device="cpu"):
        return choose_max_cells(SHAPE, free, device, checkpointing=checkpointing)

    assert chosen(1000 * PLAIN) == 600
    assert chosen(1000 * PLAIN - PLAIN) == 599
    assert chosen(1000 * CHECKPOINTED, checkpointing=True) == 600
    assert chosen(1000 * PLAIN, checkpointing=True) > 600
    assert chosen(1000 * PLAIN, device="cuda") == 900


@pytest.mark.parametrize("free", [0, 1, PLAIN])
def test_at_least_one_cell(free):
    assert choose_max_cells(SHAPE, free, "cpu", checkpointing=False) == 1


@pytest.mark.parametrize(("device", "most"), [*memory.MOST_CELLS.items(), ("mps", memory.MOST_CELLS["cuda"])])
def test_no_more_than_a_device_gains_from(device, most):
    assert choose_max_cells(SHAPE, 10**15, device, checkpointing=False) == most


@pytest.mark.parametrize(("longest", "needed"), [(1, False), (600, False), (601, True)])
def test_checkpointing_where_the_longest_row_would_not_fit(longest, needed):
    assert needs_checkpointing(SHAPE, 1000 * PLAIN, "cpu", longest) is needed


def test_a_row_that_needs_no_checkpointing_is_within_a_micro_batch():
    """The two estimates agree."""
    for longest in (10, 500, 1000):
        for free in (100 * PLAIN, 1000 * PLAIN, 10_000 * PLAIN):
            fits = longest <= choose_max_cells(SHAPE, free, "cpu", checkpointing=False)
            assert fits is not needs_checkpointing(SHAPE, free, "cpu", longest)


def test_free_memory_of_this_machine():
    assert 0 < free_bytes(torch.device("cpu")) < 2**50


def test_freed_memory_is_kept_on_linux_only(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


def test_a_c_library_that_has_no_such_setting(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace())
    assert keep_freed_memory() is False


def test_what_is_asked_of_glibc(monkeypatch):
    asked = []

    def mallopt(parameter, value):
        asked.append((parameter, value))
        return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory() is True
    # malloc.h: M_MXFAST 1, M_TRIM_THRESHOLD -1, M_MMAP_THRESHOLD -3
    assert asked == [(1, 0), (-1, 2**31 - 1), (-3, 2**30)]


def test_a_refusal_is_told(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *_: 0))
    assert keep_freed_memory() is False


# ---- devices that are not here


@pytest.fixture
def device(monkeypatch):
    """An accelerator of 10 GB with 4 free, of which torch keeps 1 for tensors to come."""
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (4_000, 10_000))
    monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda device: 3_000)
    monkeypatch.setattr(torch.accelerator, "memory_allocated", lambda device: 2_000)
    return torch.device("xpu:0")


def test_free_memory_is_the_devices_own_with_what_torch_keeps_for_later(device):
    assert free_bytes(device) == 5_000


def test_a_device_without_an_account_uses_the_machines_memory(device, monkeypatch):
    def refuse(device):
        raise RuntimeError("no account")

    monkeypatch.setattr(torch.accelerator, "get_memory_info", refuse)
    assert free_bytes(device) > 1_000_000
