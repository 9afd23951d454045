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

from yangtuo.engine.gather import Places, sent, sent_together, take

PREFIX_SHARED = "prefix_shared"
_NARROW = (torch.bfloat16, torch.float16)
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
class Blocks:
    """Rows of similar length beside each other; the end of a short row repeats its last cell.

    Attributes:
        shapes: rows and length of each block.
        places: the cells that the blocks take, one block after the other.
        back: for each cell one place in the blocks' results.
    """

    shapes: tuple[tuple[int, int], ...]
    places: Places | None
    back: Places | None


@dataclass(frozen=True)
class EndToEnd:
    """Rows one after the other.

    Attributes:
        places: the cells that the rows take; None where no two rows share a cell, so that cells are rows end to end.
        back: for each cell one place in the rows.
        offsets: int32 [rows + 1], where rows begin.
    """

    places: Places | None
    back: Places | None
    offsets: torch.Tensor


@dataclass(frozen=True)
class TreeRows:
    """Where the rows of a prefix tree of T cells have their tokens, as tensors of one device.

    Attributes:
        blocks: the rows, grouped by length.
        end_to_end: the same rows end to end, for a device with a kernel for it; else None.
        longest: tokens of the longest row.
    """

    blocks: Blocks
    end_to_end: EndToEnd | None
    longest: int

    @classmethod
    def of(cls, sequences: Sequence[npt.NDArray[np.int64]], num_cells: int, device: torch.device) -> "TreeRows":
        """`sequences` as in `layout.Layout`."""
        shapes, *of_blocks = _block_places(sequences, num_cells)
        if not has_varlen(device):
            places, back = sent(of_blocks, device)
            return cls(Blocks(shapes, places, back), None, max(map(len, sequences)))
        # In the order of their last cells, rows that share none are the cells themselves.
        rows = sorted(sequences, key=lambda row: int(row[-1]))
        cells = np.concatenate(rows)
        back_of_cell = np.zeros(num_cells, dtype=np.int64)
        back_of_cell[cells] = np.arange(len(cells))
        of_rows = [Places.of(cells, num_cells), Places.of(back_of_cell, len(cells))]
        (offsets,) = sent_together([np.cumsum([0, *map(len, rows)])], device)
        places, back, flat_places, flat_back = sent([*of_blocks, *of_rows], device)
        end_to_end = EndToEnd(flat_places, flat_back, offsets.int())
        return cls(Blocks(shapes, places, back), end_to_end, max(map(len, sequences)))


def _block_places(
    sequences: Sequence[npt.NDArray[np.int64]], num_cells: int
) -> tuple[tuple[tuple[int, int], ...], Places | None, Places | None]:
    """Shapes, places and way back of `Blocks`, as arrays."""
    by_length = sorted(sequences, key=len, reverse=True)
    shapes, cells, is_real, back = [], [], [], np.zeros(num_cells, dtype=np.int64)
    num_places = 0
    for group in _groups([len(row) for row in by_length]):
        rows = by_length[group]
        longest = len(rows[0])
        shapes.append((len(rows), longest))
        for row in rows:
            cells.append(np.pad(row, (0, longest - len(row)), mode="edge"))
            is_real.append(np.arange(longest) < len(row))
            back[row] = num_places + np.arange(len(row))
            num_places += longest
    # What a padded place computes is not taken back, and none of the row's real tokens sees it.
    places = Places.of(np.concatenate(cells), num_cells, np.concatenate(is_real))
    return tuple(shapes), places, Places.of(back, num_places)


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
    by_cell = tuple(tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # [T, H, D]
    is_plain = visible.is_causal(tree.longest) and not softcap and not dropout
    if is_plain and tree.end_to_end and _takes(query) and query.shape[-1] == value.shape[-1]:
        return _end_to_end(by_cell, tree.end_to_end, tree.longest, scaling).unsqueeze(0), None
    how = _How(scaling, softcap, dropout)
    return _in_blocks(by_cell, tree.blocks, visible, how).unsqueeze(0), None


@dataclass(frozen=True)
class _How:
    """See `prefix_shared_attention`."""

    scaling: float | None
    softcap: float | None
    dropout: float


@torch.compiler.disable  # type: ignore[untyped-decorator]  # micro-batches have another number of blocks each, and with it another graph
def _in_blocks(by_cell: tuple[torch.Tensor, ...], blocks: Blocks, visible: LayerMask, how: _How) -> torch.Tensor:
    """[T, H, D] of queries, keys and values -> [T, H, E]."""
    sizes = [rows * length for rows, length in blocks.shapes]
    taken = [torch.split(take(tensor, blocks.places), sizes) for tensor in by_cell]
    parts = []
    for shape, *of_block in zip(blocks.shapes, *taken, strict=True):
        q, k, v = (tensor.unflatten(0, shape).transpose(1, 2) for tensor in of_block)  # [b, H, L, D]
        mask = visible.mask(q.shape[2], q.device)
        if how.softcap:
            result = _softcapped(q, k, v, mask, how.softcap, how)
        else:
            if q.shape[1] != k.shape[1] and not _has_kernel_for_groups(q, mask):
                repeats = q.shape[1] // k.shape[1]
                k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
            result = functional.scaled_dot_product_attention(
                *(q, k, v, mask, how.dropout),
                is_causal=mask is None,
                scale=how.scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        parts.append(result.transpose(1, 2).flatten(0, 1))
    return take(torch.cat(parts), blocks.back)


def _end_to_end(by_cell: tuple[torch.Tensor, ...], rows: EndToEnd, longest: int, scaling: float | None) -> torch.Tensor:
    """[T, H, D] of queries, keys and values -> [T, H, D]."""
    q, k, v = (take(tensor, rows.places) for tensor in by_cell)
    result = varlen_attn(
        *(q, k, v, rows.offsets, rows.offsets, longest, longest),
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(result, torch.Tensor)
    return take(result, rows.back)


def has_varlen(device: torch.device, dtype: torch.dtype | None = None) -> bool:
    """Whether rows may go end to end through torch's `varlen_attn`: on Ampere or later, and in 16 bits."""
    is_able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return is_able and (dtype is None or dtype in _NARROW)


def _takes(query: torch.Tensor) -> bool:
    """Whether the kernel for rows end to end takes these numbers, on a device that has it."""
    return query.shape[-1] <= 256 and query.shape[-1] % 8 == 0 and query.dtype in _NARROW


def _has_kernel_for_groups(query: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether heads may share keys and values without the products of all pairs being kept: by flash attention.

    The other memory-efficient kernel of torch 2.13 wants as many of them as heads.
    """
    return not query.is_cuda or (mask is None and _takes(query) and has_varlen(query.device))


def _softcapped(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, softcap: float, how: _How
) -> torch.Tensor:
    """Bound products by softcap x tanh(products / softcap) before the softmax, which no kernel of torch's SDPA has.

    Source: Gemma 2 report (arXiv:2408.00118), section 2.
    """
    scaling = q.shape[-1] ** -0.5 if how.scaling is None else how.scaling
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    products = softcap * torch.tanh(q @ k.transpose(2, 3) * (scaling / softcap))
    if mask is None:
        mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=q.device).tril()
    weights = products.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32).to(v.dtype)
    return functional.dropout(weights, how.dropout) @ v


AttentionInterface.register(PREFIX_SHARED, prefix_shared_attention)
AttentionMaskInterface.register(PREFIX_SHARED, layer_mask)
