import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.unit.engine.small import examples_of, model_of
from yangtuo.config.schema import LoraArguments
from yangtuo.engine import calibration
from yangtuo.engine.calibration import Measured, _longest_rows, calibrate, cells_that_fit
from yangtuo.engine.loss import SupervisedLoss
from yangtuo.engine.steps import Execution, Planner
from yangtuo.errors import OutOfMemoryError
from yangtuo.model import adapters

AUTO = Execution(False, 1, is_auto=True, may_checkpoint=True)


@pytest.mark.parametrize(
    ("usable", "expected"),
    [
        (7_200_000, 7100),  # 100 kB are there anyway, 1,000 bytes a cell
        (720_000, 620),
        (0, 0),
    ],
)
def test_the_line_is_followed_to_the_free_memory(usable, expected):
    assert cells_that_fit([(200, 300_000), (1000, 1_100_000)], usable) == pytest.approx(expected, abs=1)


def test_two_measurements_of_one_size_do_not_promise_the_world():
    """Rows so long that both had one: half of the mean cost a cell is the least that is believed."""
    assert cells_that_fit([(512, 512_000), (512, 512_000)], 7_200_000) <= 512 + (7_200_000 - 512_000) / 500


@pytest.mark.parametrize(("tokens", "rows"), [(1, [2]), (10, [2]), (12, [2, 0]), (99, [2, 0, 1])])
def test_the_longest_rows(tokens, rows):
    planner = Planner(examples_of(([1, 2, 3], [4, 5]), ([1, 2], [3]), ([1, 2, 3, 4], [5, 6, 7])))
    assert np.array_equal(planner.num_tokens, [5, 3, 7])
    assert _longest_rows(planner, tokens) == rows


class Device:
    """An accelerator's account of its memory: what a forward and backward of so many cells take, by formula."""

    def __init__(self, monkeypatch, *, free, of_cell, limit=10**15):
        self.free, self.of_cell, self.limit, self.computed = free, of_cell, limit, []
        monkeypatch.setattr(calibration, "kept_bytes", self.kept_bytes)
        monkeypatch.setattr(calibration, "free_bytes", lambda device: self.free)
        monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)

    def kept_bytes(self, compute, device):
        compute()  # really, on the CPU
        batch = compute.args[0]
        cells, measured = batch.input_ids.numel(), compute.func.__self__
        kind = "checkpointed" if measured.checkpoints else "plain"
        self.computed.append((kind, cells))
        taken = 100_000 + self.of_cell[kind] * cells
        if taken > self.limit:
            raise RuntimeError("XPU out of memory")
        return taken


ROWS = Planner(examples_of(*(([i, *range(1, 40)], [*range(2, 60)]) for i in range(30))))  # of 98 tokens


@pytest.fixture
def subject():
    adapter = adapters.attach_new(model_of("Llama", max_position_embeddings=512), LoraArguments(lora_rank=2))
    base = adapter.model.get_base_model()
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, autocast=lambda: torch.autocast("cpu", enabled=False)
    )
    return Measured(adapter.model, base, SupervisedLoss(base), accelerator, goes_back=True)


def test_what_fits_is_measured_with_the_optimizers_moments_left_free(subject, monkeypatch):
    device = Device(monkeypatch, free=10_000_000, of_cell={"plain": 1000})
    found = calibrate(subject, ROWS, AUTO)
    num_trained = sum(p.numel() for p in subject.base.parameters() if p.requires_grad)
    assert found.max_cells == pytest.approx(((10e6 - 8 * num_trained) * 0.9 - 1e5) / 1000, abs=1)
    assert not found.is_auto
    assert device.computed == [("plain", 196), ("plain", 980)]
    assert all(p.grad is None for p in subject.base.parameters())


def test_checkpointing_is_turned_on_where_the_longest_row_would_not_fit(subject, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    device = Device(monkeypatch, free=4_000_000, of_cell={"plain": 100_000, "checkpointed": 1000})
    assert calibrate(subject, ROWS, AUTO).max_cells > 98
    assert [kind for kind, _ in device.computed] == ["plain"] * 2 + ["checkpointed"] * 2
    assert "gradient checkpointing: on, since a row of 98 tokens would not fit otherwise" in caplog.text


def test_running_out_while_measuring_is_a_measurement(subject, monkeypatch):
    Device(monkeypatch, free=10**9, of_cell={"plain": 1000}, limit=500_000)
    assert calibrate(subject, ROWS, AUTO).max_cells == 196


def test_running_out_where_others_wait_ends_the_process(subject, monkeypatch):
    forward = Measured(subject.model, subject.base, subject.loss, subject.accelerator, goes_back=False)
    Device(monkeypatch, free=10**9, of_cell={"plain": 1000}, limit=10)
    with pytest.raises(RuntimeError, match="out of memory"):
        calibrate(forward, ROWS, AUTO)


@pytest.mark.parametrize("may", [True, False])
def test_a_row_that_does_not_fit_is_one_line(may, subject, monkeypatch):
    Device(monkeypatch, free=2 << 30, of_cell={"plain": 10**9, "checkpointed": 10**9}, limit=10**5)
    execution = Execution(False, 1, is_auto=True, may_checkpoint=may)
    remedy = "" if may else "--gradient_checkpointing, or "
    with pytest.raises(OutOfMemoryError) as raised:
        calibrate(subject, ROWS, execution)
    assert str(raised.value) == (
        "a row of 98 tokens needs more memory than the 2.0 GiB that are free (about 0 tokens would fit); "
        f"give {remedy}a smaller --max_seq_length"
    )


def test_where_gradients_are_exchanged_the_forward_alone_is_computed(subject, monkeypatch):
    forward = Measured(subject.model, subject.base, subject.loss, subject.accelerator, goes_back=False)
    Device(monkeypatch, free=10_000_000, of_cell={"plain": 1000})
    num_trained = sum(p.numel() for p in subject.base.parameters() if p.requires_grad)
    assert calibrate(forward, ROWS, AUTO).max_cells == pytest.approx(
        ((10e6 - 12 * num_trained) * 0.9 / 1.25 - 1e5) / 1000, abs=1
    )
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **how: pytest.fail("a backward"))
    with torch.no_grad():  # the head's own gradient is computed with the loss, inside the forward
        assert calibrate(forward, ROWS, AUTO).max_cells > 98
