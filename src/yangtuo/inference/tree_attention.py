"""Attention over the rows of a prefix tree for reading alone: each cell asks once, for the first row that has it.

In training (`engine.attention`) every row attends over all of its tokens, since each takes part in the gradient. Here
a prefix that many rows share asks once, and what a row has of its own looks back at the whole row. So the shots of a
few-shot question, or a system prompt, cost their attention once. Registered under the name `TREE` with transformers'
attention and mask interfaces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from yangtuo.engine.attention import LayerMask, layer_mask

TREE = "prefix_tree"
_MOST_PADDING = 0.25  # part of a block's products that may be padding
_MOST_PRODUCTS = 1 << 24  # of a block, a head: its mask is that large

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Rows with about as many own tokens and about as many in all.

    Attributes:
        queries: int64 [b * q], cells that ask; a short row repeats its last.
        keys: int64 [b * k], cells of the whole rows; a short row repeats its last, which no real token sees.
        places: int64 [b, q], place of each query in its row.
        num_keys: k.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    places: torch.Tensor
    num_keys: int


@dataclass(frozen=True)
class OwnTokens:
    """For the rows of a tree of T cells, which cells ask in which block.

    Attributes:
        blocks: of rows.
        back: int64 [T], for each cell its place among all blocks' queries.
    """

    blocks: tuple[Block, ...]
    back: torch.Tensor

    @classmethod
    def of(cls, sequences: Sequence[Ints], num_cells: int, device: torch.device) -> "OwnTokens":
        """`sequences` as in `engine.layout.Layout`: for each row its cells in order, numbered as rows come."""
        rows = _with_own(sequences)
        blocks, back, num_places = [], np.zeros(num_cells, dtype=np.int64), 0
        for group in _groups([(len(row) - shared, len(row)) for row, shared in rows]):
            own = [row[shared:] for row, shared in rows[group]]
            most, longest = max(map(len, own)), max(len(row) for row, _ in rows[group])
            queries = np.stack([np.pad(cells, (0, most - len(cells)), mode="edge") for cells in own])
            keys = np.stack([np.pad(row, (0, longest - len(row)), mode="edge") for row, _ in rows[group]])
            firsts, lasts = np.array([(shared, len(row) - 1) for row, shared in rows[group]]).T
            places = np.minimum(firsts[:, None] + np.arange(most), lasts[:, None])
            for n, cells in enumerate(own):
                back[cells] = num_places + n * most + np.arange(len(cells))
            num_places += queries.size
            sent = [torch.from_numpy(array).to(device) for array in (queries.reshape(-1), keys.reshape(-1), places)]
            blocks.append(Block(sent[0], sent[1], sent[2], longest))
        return cls(tuple(blocks), torch.from_numpy(back).to(device))


def _with_own(sequences: Sequence[Ints]) -> list[tuple[Ints, int]]:
    """Rows that have cells of their own, with how many of their first ones rows before have; the largest first."""
    rows, num_asked = [], 0
    for row in sorted(sequences, key=lambda row: int(row[-1])):
        num_shared = int(np.searchsorted(row, num_asked))
        if num_shared < len(row):
            rows.append((row, num_shared))
            num_asked = int(row[-1]) + 1
    return sorted(rows, key=lambda pair: (len(pair[0]) - pair[1], len(pair[0])), reverse=True)


def _groups(sizes: Sequence[tuple[int, int]]) -> list[slice]:
    """Slices of a list of (own tokens, tokens), falling, each with little padding when filled up."""
    groups, begin, real = [], 0, 0
    most = longest = 0
    for i, (own, length) in enumerate(sizes):
        most_now, longest_now = max(most, own), max(longest, length)
        products = most_now * longest_now * (i + 1 - begin)
        too_much = real + own * length < (1 - _MOST_PADDING) * products or products > _MOST_PRODUCTS
        if i > begin and too_much:
            groups.append(slice(begin, i))
            begin, real, most_now, longest_now = i, 0, own, length
        real += own * length
        most, longest = most_now, longest_now
    return [*groups, slice(begin, len(sizes))]


def tree_attention(  # noqa: PLR0913  # transformers decides what it is called with
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: LayerMask | None,
    *,
    tree: OwnTokens,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers' models call for each layer; nothing is drawn, and nothing has a gradient.

    Args:
        module: the layer's attention; not used.
        query: [1, H, T, D].
        key: [1, G, T, D]; H is a multiple of G.
        value: [1, G, T, E].
        attention_mask: what the layer may see, see `engine.attention.layer_mask`.
        tree: the rows, given to the model's forward.
        scaling: factor of the products; None for 1 / sqrt(D).
        softcap: bound of the products (Gemma 2), or None.
        kwargs: what else a model passes on; windows are in the mask already.

    Returns:
        [1, T, H, E], and no attention weights.
    """
    visible = attention_mask or LayerMask()
    by_cell = tuple(tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # [T, H, D]
    parts = []
    for block in tree.blocks:
        b = len(block.places)
        queries = _taken(by_cell[0], block.queries, b)  # [b, H, q, D]
        keys, values = (_taken(tensor, block.keys, b) for tensor in by_cell[1:])
        parts.append(_attended(queries, keys, values, _mask(visible, block), (scaling, softcap)))
    result = torch.cat(parts).index_select(0, tree.back)
    return result.unsqueeze(0), None


def _taken(by_cell: torch.Tensor, cells: torch.Tensor, num_rows: int) -> torch.Tensor:
    """[T, H, D] -> [b, H, n, D]."""
    return by_cell.index_select(0, cells).view(num_rows, -1, *by_cell.shape[1:]).transpose(1, 2)


def _mask(visible: LayerMask, block: Block) -> torch.Tensor:
    """Which key each query sees, bool [b, 1, q, k]."""
    keys = torch.arange(block.num_keys, device=block.places.device)
    return torch.as_tensor(visible.function(0, 0, block.places[:, :, None], keys[None, None, :]))[:, None]


def _attended(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, how: tuple[float | None, float | None]
) -> torch.Tensor:
    """[b, H, q, D], [b, G, k, D] and [b, G, k, E] -> [b * q, H, E]."""
    scaling, softcap = how
    # A CPU's kernel reads heads that share keys where they stand; CUDA's that take a mask would not.
    reads_groups = q.device.type == "cpu" and not softcap
    if q.shape[1] != k.shape[1] and not reads_groups:
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    if softcap:
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        products = softcap * torch.tanh(q @ k.transpose(2, 3) * (scale / softcap))
        weights = products.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32).to(v.dtype)
        result = weights @ v
    else:
        result = functional.scaled_dot_product_attention(q, k, v, mask, scale=scaling, enable_gqa=reads_groups)
    return result.transpose(1, 2).flatten(0, 1)


AttentionInterface.register(TREE, tree_attention)
AttentionMaskInterface.register(TREE, layer_mask)
