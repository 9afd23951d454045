"""Compiled layers: how many graphs there are, and that a wrong or a failing one is not used."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional

from tests.unit.engine.small import examples_of, model_of
from yangtuo.config.schema import LoraArguments
from yangtuo.data.examples import Examples
from yangtuo.engine import attention, compiled, probe
from yangtuo.engine.batch_tensors import Batch
from yangtuo.engine.layout import share
from yangtuo.engine.loss import SupervisedLoss, weighted_sum
from yangtuo.engine.probe import COMPILED
from yangtuo.engine.steps import Execution
from yangtuo.model import adapters
from yangtuo.model.lora import FusedLinear

OF_THE_FRONT_END = (".torch.jit", "The .grad attribute", ".*autograd.function")
pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in OF_THE_FRONT_END]

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _afresh(monkeypatch):
    """Graphs as torch's front end makes them; no code is generated, which needs a compiler."""
    torch.compiler.reset()
    counters.clear()
    monkeypatch.setattr(compiled, "_BACKEND", "eager")
    yield
    torch.compiler.reset()


def adapter_of(dropout=0.1):
    adapter = adapters.attach_new(model_of("Llama"), LoraArguments(lora_rank=2, lora_dropout=dropout))
    base = adapter.model.get_base_model()
    for module in base.modules():
        if isinstance(module, FusedLinear):
            module.may_fuse = False
    return adapter.model, base, SupervisedLoss(base)


@torch.library.custom_op("tests::kernel_of_rows", mutates_args={})
def kernel_of_rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """What torch's `varlen_attn` computes, which only a GPU has."""
    rows = [slice(begin, end) for begin, end in itertools.pairwise(offsets.tolist())]
    parts = ([tensor[row].transpose(0, 1)[None] for tensor in (q, k, v)] for row in rows)
    attended = [functional.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True) for part in parts]
    return torch.cat([result[0].transpose(0, 1) for result in attended])


kernel_of_rows.register_fake(lambda q, k, v, offsets: torch.empty_like(q))
kernel_of_rows.register_autograd(lambda ctx, grad: (grad, None, None, None))  # its values do not matter here


def micro_batches(num, *, common):
    """Of other numbers of rows and lengths each; `common` tokens are the same in all rows of one, and no others."""
    rng = np.random.default_rng(0)
    prefix = rng.integers(3, 60, common)
    for _ in range(num):
        num_rows = int(rng.integers(9, 14))
        rows = [np.concatenate([prefix, [3 + i], rng.integers(3, 60, rng.integers(5, 60))]) for i in range(num_rows)]
        examples = Examples.of_rows(rows, [np.arange(len(row)) > common for row in rows])
        yield Batch.of(share(examples, range(len(rows)), np.ones(len(rows))), CPU)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_graph_for_micro_batches_of_all_sizes(checkpointing, monkeypatch):
    """The first layer, whose input has no gradient, is another one; so are rows that share nothing."""
    monkeypatch.setattr(attention, "has_varlen", lambda device, dtype=None: True)
    monkeypatch.setattr(attention, "_takes", lambda query: True)
    monkeypatch.setattr(
        attention, "varlen_attn", lambda q, k, v, offsets, *rest, **how: kernel_of_rows(q, k, v, offsets)
    )
    model, base, loss = adapter_of()
    base.set_attn_implementation(attention.PREFIX_SHARED)
    if checkpointing:
        base.activation_checkpointing_enable()
    compiled.compile_each(compiled.layers_of(base))
    graphs = []
    for batch in (*micro_batches(4, common=9), *micro_batches(3, common=0)):
        weighted_sum(model.train(), loss, batch).backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert not counters["graph_break"]
    of_layer = 1 if checkpointing else 2
    assert graphs == [of_layer] * 4 + [2 * of_layer] * 3


def test_blocks_of_rows_stay_outside_the_graphs():
    """As on a CPU: their number changes from one micro-batch to the next."""
    model, base, loss = adapter_of()
    base.set_attn_implementation(attention.PREFIX_SHARED)
    compiled.compile_each(compiled.layers_of(base))
    graphs = []
    for batch in micro_batches(5, common=9):
        weighted_sum(model.train(), loss, batch).backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[1:] == graphs[1:2] * 4


EXAMPLES = examples_of(([1, *range(11, 30)], [40, 41, 42, 2]), ([1, *range(30, 55)], [43, 44, 45, 2]))


def chosen():
    model, base, loss = adapter_of(dropout=0.0)
    found = probe.choose_shortcuts(model, base, loss, EXAMPLES, Execution(True, 1000, compiles=True))
    return found, base, loss


def is_compiled(base):
    return all(layer._compiled_call_impl is not None for layer in compiled.layers_of(base))


def test_used_where_the_gradient_is_the_same():
    found, base, _ = chosen()
    assert found.is_compiled
    assert found.distances[COMPILED] < 1e-5
    assert is_compiled(base)
    assert found.allowed(Execution(True, 1000, compiles=True)).compiles


def wrong(graph, inputs):
    def call(*args):
        first, *others = graph(*args)
        return (first * 1.02 if first.is_floating_point() else first, *others)

    return call


def without_compiler(graph, inputs):
    raise RuntimeError("no C++ compiler was found")


@pytest.mark.parametrize(
    ("backend", "why"),
    [(wrong, "the gradient would be off by"), (without_compiler, "no C++ compiler was found")],
)
def test_not_used_where_it_is_wrong_or_cannot_be(backend, why, monkeypatch, caplog):
    monkeypatch.setattr(compiled, "_BACKEND", backend)
    found, base, _ = chosen()
    assert not found.is_compiled
    assert "engine: layers are not compiled: " in caplog.text
    assert why in found.refused[COMPILED]
    assert not is_compiled(base)
    assert found.allowed(Execution(True, 1000, compiles=True)) == Execution(True, 1000)


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")
def test_the_loss_as_one_graph():
    """By Inductor itself, on a CPU."""
    model, base, loss = adapter_of(dropout=0.0)
    batch = next(micro_batches(1, common=9))
    base.set_attn_implementation(attention.PREFIX_SHARED)
    results = []
    for is_on in (False, True):
        loss.compile(is_on=is_on)
        model.zero_grad()
        total = weighted_sum(model.eval(), loss, batch)
        total.backward()
        results.append([total.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
