"""Layers that cannot share prefixes, told by their names before anything is tried.

A prefix that several rows share stands once, and the rows stand one behind the other on one line. Attention is told
who may see whom. A layer that carries a state along the line (recurrent, convolutional), or whose attention does more
than a masked softmax (sinks, indexers), is not.
"""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from yangtuo.i18n import Message
from yangtuo.model.mixers import carries_state

# Of transformers 5.23's ALLOWED_LAYER_TYPES, those that `attention.prefix_shared_attention` computes, and those that
# look at one token at a time.
_SHARE = {"full_attention", "sliding_attention", "chunked_attention", "attention", "moe", "sparse", "dense"}


def reason_not_to_share(model: PreTrainedModel) -> str | None:
    """Why rows of this causal language model cannot share prefixes, as far as its layers' names tell; None if they may.

    Source: `layer_types` of transformers' configurations; the classes of its models of 2024 to 2026.
    """
    return next(_reasons(model), None)


def _reasons(model: PreTrainedModel) -> Iterator[str]:
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - _SHARE
    if kinds:
        yield Message("it has layers of the kind {kinds}", kinds=", ".join(sorted(map(str, kinds))))
    for module in (model.get_decoder() or model).modules():
        name = type(module).__name__
        if carries_state(module):
            yield Message("its {name} carries a state from token to token", name=name)
        if isinstance(getattr(module, "sinks", None), nn.Parameter):
            yield Message("its {name} has attention sinks", name=name)
