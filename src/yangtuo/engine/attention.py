"""Attention along the rows of a prefix tree, as functions that transformers' models call.

Registered under the name `PREFIX_SHARED` with transformers' attention and mask interfaces (public since 4.48); no
model's code is touched. Queries, keys and values are gathered from the tree into rows, attended causally row by row,
and each cell's result is taken back from one of its rows: all rows that share a cell agree on it.

Cost is linear in the number of rows. No mask over the whole micro-batch exists: on a GPU of Ampere or later in 16 bit,
torch's `varlen_attn` takes the rows end to end; elsewhere rows of similar length form a block for torch's SDPA.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

PREFIX_SHARED = "prefix_shared"
_MOST_PADDING = 0.125  # part of a block that may be padding; a block is one kernel call, an element is arithmetic

MaskFunction = Callable[[Any, Any, Any, Any], Any]


@dataclass(frozen=True)
class LayerMask:
    """What a layer may see: a function (batch, head, query, key) -> bool of transformers, and its reach if bounded."""

    function: MaskFunction = causal_mask_function
    window: int | None = None

    def is_causal(self, length: int) -> bool:
        """Whether a row of that length is attended causally, without more."""
        return self.function is causal_mask_function or (self.window is not None and length <= self.window)

    def mask(self, length: int, device: torch.device) -> torch.Tensor | None:
        """Which key each query sees, bool [L, L], for rows of L tokens; None where plain causal attention is meant."""
        if self.is_causal(length):
            return None
        places = torch.arange(length, device=device)
        return torch.as_tensor(self.function(0, 0, places[:, None], places[None, :]), device=device)


def layer_mask(*, mask_function: MaskFunction, local_size: int | None = None, **kwargs: Any) -> LayerMask:
    """Hand a layer's mask over as the function it is: `prefix_shared_attention` asks it about places within a row.

    So windows and chunks, which models state by such functions, hold for every row as if it stood alone.
    """
    return LayerMask(mask_function, local_size)


@dataclass(frozen=True)
class Block:
    """Rows of similar length: int64 [b, L] cells of their tokens; the end of a short row repeats its last cell."""

    cells: torch.Tensor


@dataclass(frozen=True)
class TreeRows:
    """Where the rows of a prefix tree of T cells have their tokens.

    Attributes:
        blocks: the rows, grouped by length.
        back: int64 [T], for each cell one place in the blocks' flattened and joined results.
        flat: int64 [S], cells of all rows end to end.
        flat_back: int64 [T], for each cell one place in `flat`.
        offsets: int32 [rows + 1], begins of the rows in `flat`.
        longest: tokens of the longest row.
    """

    blocks: tuple[Block, ...]
    back: torch.Tensor
    flat: torch.Tensor
    flat_back: torch.Tensor
    offsets: torch.Tensor
    longest: int

    @classmethod
    def of(cls, sequences: Sequence[npt.NDArray[np.int64]], num_cells: int) -> "TreeRows":
        """Group rows by length; `sequences` as in `layout.Layout`."""
        by_length = sorted(sequences, key=len, reverse=True)
        blocks, back, begin = [], np.zeros(num_cells, dtype=np.int64), 0
        for group in _groups([len(row) for row in by_length]):
            rows = by_length[group]
            longest = len(rows[0])
            cells = np.stack([np.pad(row, (0, longest - len(row)), mode="edge") for row in rows])
            for i, row in enumerate(rows):
                back[row] = begin + i * longest + np.arange(len(row))
            blocks.append(Block(torch.from_numpy(cells)))
            begin += cells.size
        flat = np.concatenate(sequences)
        flat_back = np.zeros(num_cells, dtype=np.int64)
        flat_back[flat] = np.arange(len(flat))
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in sequences])]).astype(np.int32)
        return cls(
            tuple(blocks),
            torch.from_numpy(back),
            torch.from_numpy(flat),
            torch.from_numpy(flat_back),
            torch.from_numpy(offsets),
            len(by_length[0]),
        )

    def to(self, device: torch.device) -> "TreeRows":
        """The same on another device."""
        blocks = tuple(Block(block.cells.to(device, non_blocking=True)) for block in self.blocks)

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        back, flat, flat_back, offsets = map(moved, (self.back, self.flat, self.flat_back, self.offsets))
        return TreeRows(blocks, back, flat, flat_back, offsets, self.longest)


def _groups(lengths: Sequence[int]) -> list[slice]:
    """Slices of a falling list of lengths, each with little padding when filled up to its first."""
    groups, begin, real = [], 0, 0
    for i, length in enumerate(lengths):
        real += length
        if i > begin and real < (1 - _MOST_PADDING) * lengths[begin] * (i + 1 - begin):
            groups.append(slice(begin, i))
            begin, real = i, length
    return [*groups, slice(begin, len(lengths))]


def prefix_shared_attention(  # noqa: PLR0913  # transformers decides what it is called with
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: LayerMask | None,
    *,
    tree: TreeRows,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers' models call for each layer.

    Args:
        module: the layer's attention; not used.
        query: [1, H, T, D].
        key: [1, G, T, D]; H is a multiple of G.
        value: [1, G, T, E].
        attention_mask: what the layer may see, as `layer_mask` has handed it over.
        tree: the rows, given to the model's forward by `loss.weighted_sum`.
        dropout: probability for each attention weight.
        scaling: factor of the products; None for 1 / sqrt(D).
        softcap: bound of the products (Gemma 2), or None.
        kwargs: what else a model passes on; windows are in the mask already.

    Returns:
        [1, T, H, E], and no attention weights.
    """
    visible = attention_mask or LayerMask()
    by_cell = tuple(tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, H, D]
    is_plain = visible.is_causal(tree.longest) and not softcap and not dropout
    if is_plain and _has_varlen(query) and query.shape[-1] == value.shape[-1]:
        q, k, v = (tensor.index_select(0, tree.flat) for tensor in by_cell)
        result = varlen_attn(
            *(q, k, v, tree.offsets, tree.offsets, tree.longest, tree.longest),
            scale=scaling,
            window_size=(-1, 0),  # causal
            enable_gqa=q.shape[1] != k.shape[1],
        )
        assert isinstance(result, torch.Tensor)
        return result.index_select(0, tree.flat_back)[None], None
    parts = []
    for block in tree.blocks:
        q, k, v = (_rows_of(tensor, block.cells) for tensor in by_cell)
        mask = visible.mask(q.shape[2], q.device)
        if softcap:
            how = (softcap, q.shape[-1] ** -0.5 if scaling is None else scaling, dropout)
            result = _softcapped(q, k, v, mask, how)
        else:
            if q.shape[1] != k.shape[1] and not _has_kernel_for_groups(q, mask):
                repeats = q.shape[1] // k.shape[1]
                k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
            result = functional.scaled_dot_product_attention(
                *(q, k, v, mask, dropout), is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
        parts.append(result.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).index_select(0, tree.back)[None], None


def _has_varlen(query: torch.Tensor) -> bool:
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _has_kernel_for_groups(query: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether heads may share keys and values without the products of all pairs being kept: by flash attention.

    The other memory-efficient kernel of torch 2.13 wants as many of them as heads.
    """
    return not query.is_cuda or (mask is None and _has_varlen(query))


def _rows_of(by_cell: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """[T, H, D] and [b, L] -> [b, H, L, D]."""
    return by_cell.index_select(0, cells.reshape(-1)).view(*cells.shape, *by_cell.shape[1:]).transpose(1, 2)


def _softcapped(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    how: tuple[float, float, float],
) -> torch.Tensor:
    """Bound products by softcap x tanh(products / softcap) before the softmax, which no kernel of torch's SDPA has.

    Source: Gemma 2 report (arXiv:2408.00118), section 2.
    """
    softcap, scaling, dropout = how
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    products = softcap * torch.tanh(q @ k.transpose(2, 3) * (scaling / softcap))
    if mask is None:
        mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=q.device).tril()
    weights = products.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32).to(v.dtype)
    return functional.dropout(weights, dropout) @ v


AttentionInterface.register(PREFIX_SHARED, prefix_shared_attention)
AttentionMaskInterface.register(PREFIX_SHARED, layer_mask)
