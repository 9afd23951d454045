"""Which shortcuts a model bears is tried on it, not looked up in a list.

Two short rows with a common beginning are computed in the model's own way, padded and with its own head, and then with
each shortcut. A shortcut is used where the losses agree. So a model with a convolution, a recurrent layer, learned
positions or something done to its logits is right all the same; it is only slower.
"""

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from yangtuo.data.examples import Examples
from yangtuo.engine.attention import PREFIX_SHARED
from yangtuo.engine.batches import Batch
from yangtuo.engine.layout import Layout, pad, share
from yangtuo.engine.loss import SupervisedLoss, weighted_sum

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}  # relative, of a sum over 40 tokens
_WEIGHTS = np.array([1.0, 0.7])  # so that rows that are mixed up do not add up to the same


def choose_shortcuts(
    model: nn.Module, base: PreTrainedModel, loss: SupervisedLoss, examples: Examples, *, may_share: bool
) -> bool:
    """Set `loss.uses_own_head` and the base's attention; returns whether rows may share prefixes.

    Args:
        model: as the engine has wrapped it.
        base: the causal language model inside.
        loss: its loss function.
        examples: the data set; two rows are made of its first ones.
        may_share: False where the user has named an attention code, or the run needs rows on lines of their own.
    """
    rows = two_rows(examples)
    device = next(base.parameters()).device
    was_training = model.training
    model.eval()

    def value(layout: Layout) -> float:
        with torch.no_grad():
            return float(weighted_sum(model, loss, Batch.of(layout, device)))

    loss.uses_own_head = False
    expected = value(pad(rows, [0, 1], _WEIGHTS))
    tolerance = _TOLERANCE.get(_computed_in(base), 2e-2) * abs(expected)
    loss.uses_own_head = loss.knows_decoder
    if not loss.knows_decoder:
        logger.warning("engine: transformers does not name this model's decoder; all logits are computed at once")
    elif not abs(value(pad(rows, [0, 1], _WEIGHTS)) - expected) <= tolerance:
        loss.uses_own_head = False
        logger.warning("engine: the logits of this model are more than its head's output; they are computed at once")
    shares = may_share and _shares(base, lambda: abs(value(share(rows, [0, 1], _WEIGHTS)) - expected) <= tolerance)
    model.train(was_training)
    return shares


def _shares(base: PreTrainedModel, agrees: Callable[[], bool]) -> bool:
    before = base.config._attn_implementation
    try:
        base.set_attn_implementation(PREFIX_SHARED)
        if agrees():
            return True
        reason = "its loss would be another one"
    except (RuntimeError, ValueError, TypeError, ImportError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
    base.set_attn_implementation(before)
    logger.warning("engine: rows are padded, since this model cannot share prefixes (%s)", reason)
    return False


def _computed_in(base: PreTrainedModel) -> torch.dtype:
    kind = next(base.parameters()).device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base.dtype


def two_rows(examples: Examples) -> Examples:
    """16 and 20 tokens of the data, all but the first supervised; the second begins as the first and ends otherwise."""
    ids = np.resize(examples.input_ids[:64], 64)
    a, b = ids[:16], np.concatenate([ids[:8], ids[30:42]])
    if b[8] == a[8]:  # data that repeats itself: the second row would go on as the first
        b[8] = 0 if a[8] else 1
    return Examples.of_rows([a, b], [np.ones(len(a)), np.ones(len(b))])
