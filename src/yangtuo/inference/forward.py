"""A loaded model reads many rows in one forward pass: as a prefix tree, on padded lines, or one by one.

Which of them a model bears is tried on it, as the engine of training does with its own shortcuts: by the loss of
each token of two short rows, against the model's own way. A model with recurrent layers, or one that does more to its
logits than its configuration says, is right all the same; it is only slower.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from yangtuo.data.examples import Examples
from yangtuo.engine import tolerance
from yangtuo.engine.comparison import device_of, distance
from yangtuo.engine.head import Head
from yangtuo.engine.layer_kinds import reason_not_to_share
from yangtuo.engine.layout import Layout, pad, share, without_ends
from yangtuo.errors import OutOfMemoryError, is_out_of_memory, one_line
from yangtuo.i18n import Listed, Message
from yangtuo.inference.load import LoadedModel
from yangtuo.inference.tree_attention import TREE, OwnTokens

logger = logging.getLogger(__name__)

_Found = TypeVar("_Found")

# Of models that refuse another attention, or do not hand its arguments on.
_REFUSALS = (RuntimeError, ValueError, TypeError, ImportError, LookupError, AttributeError)


class Rows(StrEnum):
    """How rows are laid out."""

    TREE = "as a prefix tree"
    PADDED = "on padded lines"
    SINGLE = "one by one"


_WAYS = {
    Rows.TREE: Message("rows are read as a prefix tree"),
    Rows.PADDED: Message("rows are read padded"),
    Rows.SINGLE: Message("rows are read one by one"),
}


@dataclass(frozen=True)
class Way:
    """How a model's rows are computed.

    Attributes:
        rows: how they are laid out.
        uses_decoder: what stands below the head is called, and the head for the wanted places only.
    """

    rows: Rows
    uses_decoder: bool


class RowReader:
    """Forward passes of one model over rows.

    Attributes:
        loaded: the model.
        device: where it computes.
        way: how rows are computed, tried on the model.
    """

    def __init__(self, loaded: LoadedModel):
        self.loaded, self.device = loaded, device_of(loaded.model)
        self._attention = loaded.model.config._attn_implementation
        self.way = self._tried()

    def lay_out(self, examples: Examples, rows: Sequence[int] | np.ndarray[Any, Any]) -> Layout:
        """The rows as this model reads them; predictions where they have a loss, and no cell behind the last one."""
        if self.way.rows is Rows.TREE:
            return without_ends(share(examples, rows, np.ones(len(rows))))
        return pad(examples, rows, np.ones(len(rows)))

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """The weights of this model, and its attention for rows laid out so; afterwards all is as it was."""
        with self.loaded.in_place(), torch.no_grad():
            if self.way.rows is Rows.TREE:
                self.loaded.model.set_attn_implementation(TREE)
            try:
                yield
            finally:
                if self.way.rows is Rows.TREE:
                    self.loaded.model.set_attn_implementation(self._attention)

    def hidden(self, layout: Layout, cache: DynamicCache | None = None) -> torch.Tensor:
        """What enters the head, [B * T, H]; with a cache, the cells' keys and values are in it afterwards."""
        output = _decoder(self.loaded.model)(**self._inputs(layout), past_key_values=cache, use_cache=cache is not None)
        hidden: torch.Tensor = output[0]
        return hidden.flatten(0, 1)

    def before_logits(self, layout: Layout) -> torch.Tensor:
        """One forward over a layout; what `logits_of` makes logits from."""
        if self.way.uses_decoder:
            return self.hidden(layout)
        logits: torch.Tensor = self.loaded.model(**self._inputs(layout), use_cache=False).logits
        return logits.flatten(0, 1)

    def logits_of(self, before: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """[N, V] in float32, of the chosen cells [N], as the model gives them."""
        chosen = before[cells]
        return (Head(self.loaded.model).logits(chosen) if self.way.uses_decoder else chosen).float()

    @property
    def num_logits(self) -> int:
        """Rows of the vocabulary."""
        return int(self.loaded.model.get_input_embeddings().weight.shape[0])

    def _inputs(self, layout: Layout) -> dict[str, Any]:
        sizes = layout.input_ids.shape
        mask = np.ones(sizes, dtype=np.int64) if layout.attention_mask is None else layout.attention_mask
        inputs: dict[str, Any] = {
            "input_ids": torch.from_numpy(layout.input_ids).to(self.device),
            "position_ids": torch.from_numpy(layout.position_ids).to(self.device),
            "attention_mask": torch.from_numpy(mask).bool().to(self.device),
        }
        if layout.sequences is not None:
            inputs["tree"] = OwnTokens.of(layout.sequences, layout.num_cells, self.device)
        return inputs

    # ---- what the model bears

    def _tried(self) -> Way:
        """The fastest way that gives the losses of the model's own."""
        model, trial = self.loaded.model, _two_rows(self.loaded)
        own = Way(Rows.SINGLE, uses_decoder=False)
        self.way = own
        expected = self._losses(trial)
        reasons: list[Message] = []
        for rows in (Rows.TREE, Rows.PADDED, Rows.SINGLE):
            reason = reason_not_to_share(model) if rows is Rows.TREE else None
            for uses_decoder in (True, False):
                if reason or (rows is Rows.TREE and not uses_decoder):
                    continue
                self.way = Way(rows, uses_decoder)
                reason = self._refusal(trial, expected)
                if reason is None:
                    if reasons:
                        logger.warning("engine: %s: %s", _WAYS[rows], Listed(reasons, "; "))
                    return self.way
            reasons.append(Message("{way}: {reason}", way=_WAYS[rows], reason=reason))
        return own

    def _refusal(self, trial: Examples, expected: list[torch.Tensor]) -> str | None:
        limit = tolerance.token_losses_limit(self.loaded.model.dtype)
        try:
            off = distance(self._losses(trial), expected)
        except _REFUSALS as error:
            if is_out_of_memory(error):
                raise
            return one_line(error, 120)
        if off <= limit:
            return None
        if not math.isfinite(off):
            return "NaN"
        return Message("token losses would be off by {off:.2g}, rounding explains {limit:.2g}", off=off, limit=limit)

    def _losses(self, trial: Examples) -> list[torch.Tensor]:
        """Of all tokens but the first, row by row, each prediction once."""
        together = [[0, 1]] if self.way.rows is not Rows.SINGLE else [[0], [1]]
        found = []
        with self.reading():
            for rows in together:
                layout = self.lay_out(trial, rows)
                cells = torch.from_numpy(layout.cells).to(self.device)
                logits = self.logits_of(self.before_logits(layout), cells)
                targets = torch.from_numpy(layout.targets).to(self.device)
                losses = functional.cross_entropy(logits, targets, reduction="none")
                found += [losses[order] for order in places_of_rows(layout, trial)]
        return found


def in_parts(
    numbers: Sequence[int],
    compute: Callable[[Sequence[int]], _Found],
    device: torch.device,
    too_large: Callable[[int], str],
) -> Iterator[_Found]:
    """What is computed of rows together; where memory runs out, of one half of them and then of the other.

    Args:
        numbers: of the rows.
        compute: for some of them.
        device: whose memory it is.
        too_large: what to say of a single row that does not fit.

    Raises:
        OutOfMemoryError: even one row does not fit.
    """
    try:
        found = compute(numbers)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(numbers) == 1:
            raise OutOfMemoryError(too_large(numbers[0])) from error
    else:
        yield found
        return
    if device.type != "cpu":
        torch.accelerator.empty_cache()
    for half in (numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]):
        yield from in_parts(half, compute, device, too_large)


def places_of_rows(layout: Layout, examples: Examples) -> list[np.ndarray[Any, Any]]:
    """For each row of a layout, which predictions are those of its tokens with a loss, in order."""
    width = int(layout.targets.max(initial=0)) + 1
    known = layout.cells * width + layout.targets  # sorted, since a layout's predictions are
    found = []
    for line, row in enumerate(layout.rows):
        ids, _ = examples.row(row)
        at = np.flatnonzero(examples.row_weights(row)[1:])
        own = line * layout.input_ids.shape[1] + at if layout.sequences is None else layout.sequences[line][at]
        found.append(np.searchsorted(known, own * width + ids[at + 1]))
    return found


def _decoder(model: PreTrainedModel) -> Any:
    decoder = model.get_decoder()
    if decoder is None or decoder is model:
        raise ValueError("transformers does not name this model's decoder")
    return decoder


def _two_rows(loaded: LoadedModel) -> Examples:
    """16 and 20 ids, all but the first with a loss; the second begins as the first and ends otherwise."""
    draws = np.random.default_rng(0)
    ids = draws.integers(0, loaded.num_rows, 36)
    a, b = ids[:16], np.concatenate([ids[:8], ids[16:28]])
    if b[8] == a[8]:
        b[8] = (int(b[8]) + 1) % loaded.num_rows
    return Examples.of_rows([a, b], [np.ones(len(a)), np.ones(len(b))])
