"""Each decoder layer as one compiled graph, for micro-batches of all sizes (`--torch_compile`).

Only layers, not the model: layers of a kind have one graph in common, so that starting takes a minute and not ten, and
a graph with symbolic sizes is made once, not anew for each micro-batch. What lies between norms, rotations, LoRA and
activations then goes through memory once; matrix products and attention stay what they are.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from yangtuo.engine.attention import has_varlen
from yangtuo.model.layer_values import value_of

_BACKEND = "inductor"
_MOST_GRAPHS = 32  # of one kind of layer: in training and evaluation, with and without shared cells, the first layer's


def layers_of(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The decoder layers of a transformers model."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def are_computed_twice(model: nn.Module) -> bool:
    """Whether layers are under gradient checkpointing."""
    return any(layer.gradient_checkpointing for layer in layers_of(model))


def with_norm(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers and the norm after them."""
    decoder = model.get_decoder()
    norms = [] if decoder is None else [each for each in decoder.children() if type(each).__name__.endswith("Norm")]
    return [*layers_of(model), *norms]


def compile_each(layers: Sequence[nn.Module]) -> None:
    """Have the layers compiled when they are called next."""
    torch._dynamo.config.recompile_limit = _MOST_GRAPHS
    for layer in layers:
        layer.compile(backend=_BACKEND, dynamic=True)


def has_one_graph(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether attention along a tree is part of a layer's graph; blocks of rows are computed outside of it.

    A layer with gradient checkpointing is either one graph or none.
    """
    text = model.config.get_text_config()
    others = ("sliding_window", "attention_chunk_size", "attn_logit_softcapping", "attention_dropout")
    return has_varlen(device, dtype) and not any(value_of(text, name) for name in others)


def as_they_were(layers: Sequence[nn.Module]) -> None:
    """Undo `compile_each`; torch 2.13 has no public way."""
    for layer in layers:
        layer._compiled_call_impl = None
    torch.compiler.reset()
