"""What Inductor makes of a decoder layer and of the loss: bytes and kernels of all but matrix products and attention.

A fake device cannot run a compiled layer, for which torch would write Triton code and time it. So one layer of the
model's own widths, with the run's LoRA, and a chunk of the loss are compiled for the CPU, and Inductor is
asked what it has fused: the bytes that each kernel reads and writes, counted from its buffers. The fusion is that of
Inductor's scheduler, for which devices are nearly alike; what a kernel of Triton reaches of the bandwidth is assumed to
be what torch's own reach.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from tests.fake_cuda.shapes import SHAPES
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.exc import InductorError
from torch._inductor.ir import MultiOutput
from torch._inductor.scheduler import BaseSchedulerNode, NopKernelSchedulerNode, Scheduler
from torch._inductor.virtualized import V
from transformers import LlamaConfig, LlamaForCausalLM

from yangtuo.config.schema import LoraArguments
from yangtuo.engine import attention, loss
from yangtuo.engine.attention import TreeRows
from yangtuo.model import adapters
from yangtuo.model.lora import FusedLinear
from yangtuo.model.narrow import keep_narrow

_TOKENS = (64, 128)  # of the two compilations, whose difference is what grows with the tokens


@dataclass(frozen=True)
class Half:
    """A layer's forward or backward: its kernels, and their bytes as fixed + cells x bytes_per_cell."""

    kernels: int
    bytes_per_cell: float
    fixed_bytes: float


@dataclass(frozen=True)
class Compiled:
    """What is compiled, without matrix products and attention.

    Attributes:
        forward: of a decoder layer.
        backward: of it.
        norm: after the layers, forward and backward.
        loss: of a chunk, by its predictions.
        kept_per_cell: bytes that a layer keeps for its backward, its result included.
    """

    forward: Half
    backward: Half
    norm: tuple[Half, Half]
    loss: Half
    kept_per_cell: float


@torch.library.custom_op("roofline::attention", mutates_args=())
def rows_end_to_end(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """In place of flash attention, whose numbers nobody looks at here."""
    return torch.zeros_like(q)


@rows_end_to_end.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(q)


@torch.library.custom_op("roofline::attention_backward", mutates_args=())
def rows_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v."""
    return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)


@rows_backward.register_fake
def _(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


rows_end_to_end.register_autograd(
    lambda ctx, grad: torch.ops.roofline.attention_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@dataclass
class Counts:
    """Of one compilation: (kernels, bytes) by whether it is the backward, and bytes that the forward gives."""

    of: dict[bool, tuple[int, int]] = field(default_factory=dict)
    kept: int = 0


def compiled(options: argparse.Namespace) -> Compiled:
    """Compile everything twice, at two numbers of tokens; a minute."""
    base = _base(options)
    layers = [_counted_layer(base, tokens) for tokens in _TOKENS]
    norms = [_counted(base.model.norm.forward, _hidden(base, tokens)) for tokens in _TOKENS]
    vocabulary = SHAPES[options.model]["vocab_size"]
    losses = [_counted_loss(vocabulary, rows) for rows in _TOKENS]
    kept = (layers[1].kept - layers[0].kept) / (_TOKENS[1] - _TOKENS[0])
    return Compiled(*_halves(layers), _halves(norms), _half(losses, is_backward=False), kept)


def _halves(counts: Sequence[Counts]) -> tuple[Half, Half]:
    return _half(counts, is_backward=False), _half(counts, is_backward=True)


def _half(counts: Sequence[Counts], *, is_backward: bool) -> Half:
    (kernels, bytes_few), (_, bytes_many) = (each.of[is_backward] for each in counts)
    slope = (bytes_many - bytes_few) / (_TOKENS[1] - _TOKENS[0])
    return Half(kernels, slope, bytes_few - slope * _TOKENS[0])


def _base(options: argparse.Namespace) -> LlamaForCausalLM:
    """Two layers of the model, with LoRA, as training has them."""
    sizes = {**SHAPES[options.model], "num_hidden_layers": 2, "vocab_size": 64}
    config = LlamaConfig(**sizes, max_position_embeddings=8192, dtype=torch.bfloat16)
    model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    lora = LoraArguments(lora_rank=options.rank, lora_dropout=options.dropout)
    adapter = adapters.attach_new(model, lora)
    base: LlamaForCausalLM = adapter.model.get_base_model()
    keep_narrow(adapter.model, base, torch.bfloat16)
    for module in base.modules():  # as where layers are compiled, and on a GPU: PEFT's own LoRA
        if isinstance(module, FusedLinear):
            module.may_fuse = False
    base.set_attn_implementation(attention.PREFIX_SHARED)
    adapter.model.train()
    return base


def _hidden(base: LlamaForCausalLM, tokens: int) -> torch.Tensor:
    return torch.zeros(1, tokens, base.config.hidden_size, dtype=torch.bfloat16, requires_grad=True)


def _counted(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Counts:
    torch._dynamo.reset()
    counts = Counts()
    run = torch.compile(function, dynamic=True, fullgraph=True, backend=_backend(counts))
    with torch.autocast("cpu", torch.bfloat16):
        result = run(*args, **kwargs)
        first = result[0] if isinstance(result, tuple) else result
        if first.requires_grad:
            first.sum().backward()
    return counts


def _counted_loss(vocabulary: int, rows: int) -> Counts:
    with torch.no_grad():
        logits = torch.zeros(rows, vocabulary, dtype=torch.bfloat16)
        targets, weights = torch.zeros(rows, dtype=torch.int64), torch.ones(rows)
        return _counted(loss._losses_and_slopes, logits, targets, weights, 0.0)


def _counted_layer(base: LlamaForCausalLM, tokens: int) -> Counts:
    cells, hidden = np.arange(tokens), _hidden(base, tokens)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor = torch.ops.roofline.attention(q, k, v)
        return result

    def has_varlen(device: torch.device, dtype: torch.dtype | None = None) -> bool:
        return True

    with mock.patch.object(attention, "varlen_attn", attend), mock.patch.object(attention, "has_varlen", has_varlen):
        tree = TreeRows.of((cells[: tokens // 2], cells[tokens // 2 :]), tokens, hidden.device)
        places = base.model.rotary_emb(hidden, torch.from_numpy(cells)[None])
        forward = base.model.layers[1].forward
        return _counted(forward, hidden, attention_mask=None, position_embeddings=places, tree=tree)


class _Planned(Exception):
    """Inductor has fused what it will; the code that it would write now, and have compiled, is not needed."""


def _backend(counts: Counts) -> Callable[[Any, Any], Any]:
    """Inductor up to its plan, which is counted; the graph itself is then run as it is."""

    def stop(scheduler: Scheduler) -> None:
        nodes = [node for node in scheduler.nodes if _is_counted(node)]
        sizes = sum(node.get_read_write_buffers_sizes() for node in nodes)
        counts.of[V.graph.is_backward] = (len(nodes), sizes)
        raise _Planned

    def count(graph: torch.fx.GraphModule, inputs: Any, *, is_backward: bool = False, **how: Any) -> Any:
        as_it_is = copy.deepcopy(graph)
        with mock.patch.object(Scheduler, "codegen", stop):
            try:
                compile_fx_inner(graph, inputs, is_backward=is_backward, **how)
            except InductorError as error:
                if not isinstance(error.inner_exception, _Planned):
                    raise

        def run(*args: Any) -> Any:
            results = as_it_is.forward(*args)
            if not is_backward:
                counts.kept = _new_bytes(results, args)
            return results

        return make_boxed_func(run)

    return lambda graph, inputs: compile_fx(graph, inputs, inner_compile=count)


def _new_bytes(results: Sequence[Any], given: Sequence[Any]) -> int:
    """Of storages that were not given."""
    storages = [
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in each if isinstance(t, torch.Tensor)}
        for each in (results, given)
    ]
    return sum(size for place, size in storages[0].items() if place not in storages[1])


def _is_counted(node: BaseSchedulerNode) -> bool:
    """Whether it is a kernel, and neither a matrix product nor attention."""
    if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, MultiOutput):
        return False
    name = str(getattr(node.node, "python_kernel_name", "")) if node.is_extern() else ""
    return not ("attention" in name or "mm" in name or "linear" in name)
