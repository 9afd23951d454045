"""Attention over a prefix tree against plain causal attention of each row, computed by itself."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yangtuo.data.examples import Examples
from yangtuo.engine.attention import LayerMask
from yangtuo.engine.layout import share
from yangtuo.inference.tree_attention import OwnTokens, tree_attention

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=14), min_size=1, max_size=9)  # few ids: many share
HEADS = st.sampled_from([(1, 1), (4, 2), (4, 1), (3, 3)])
WINDOWS = st.one_of(st.none(), st.integers(1, 6))
SOFTCAPS = st.sampled_from([None, 0.7, 30.0])


def in_window(window):
    if window is None:
        return LayerMask()
    return LayerMask(lambda batch, head, query, key: (key <= query) & (key > query - window), window)


def plainly(query, key, value, window, scaling, softcap):
    """[H, n, D], [G, n, D], [G, n, E] of one row -> [n, H, E], by the definition of attention."""
    num_heads, length, width = query.shape
    repeats = num_heads // key.shape[0]
    scale = scaling or 1 / width**0.5
    result = torch.zeros(length, num_heads, value.shape[2], dtype=query.dtype)
    for head in range(num_heads):
        for place in range(length):
            first = 0 if window is None else max(0, place - window + 1)
            products = key[head // repeats, first : place + 1] @ query[head, place] * scale
            if softcap:
                products = softcap * torch.tanh(products / softcap)
            weights = torch.exp(products - products.max())
            result[place, head] = weights / weights.sum() @ value[head // repeats, first : place + 1]
    return result


@settings(max_examples=60, deadline=None)
@given(ROWS, HEADS, WINDOWS, SOFTCAPS, st.sampled_from([None, 0.3]))
def test_each_row_is_attended_as_if_it_stood_alone(rows, heads, window, softcap, scaling):
    layout = share(Examples.of_rows(rows, [np.ones(len(row)) for row in rows]), range(len(rows)), np.ones(len(rows)))
    assert layout.sequences is not None
    assert layout.num_cells == len({tuple(row[: n + 1]) for row in rows for n in range(len(row))})
    draws = torch.Generator().manual_seed(len(rows))
    query, key, value = (
        torch.randn(1, count, layout.num_cells, width, generator=draws, dtype=torch.float64)
        for count, width in ((heads[0], 4), (heads[1], 4), (heads[1], 5))
    )
    tree = OwnTokens.of(layout.sequences, layout.num_cells, torch.device("cpu"))
    found, weights = tree_attention(
        torch.nn.Module(), query, key, value, in_window(window), tree=tree, scaling=scaling, softcap=softcap
    )
    assert weights is None
    assert found.shape == (1, layout.num_cells, heads[0], 5)
    for cells in layout.sequences:
        own = (tensor[0][:, cells] for tensor in (query, key, value))
        # Products with a bound are weighed in float32.
        torch.testing.assert_close(found[0, cells], plainly(*own, window, scaling, softcap), atol=1e-5, rtol=1e-5)


@given(ROWS)
def test_each_cell_asks_once(rows):
    layout = share(Examples.of_rows(rows, [np.ones(len(row)) for row in rows]), range(len(rows)), np.ones(len(rows)))
    tree = OwnTokens.of(layout.sequences, layout.num_cells, torch.device("cpu"))
    queries = torch.cat([block.queries for block in tree.blocks])
    assert queries[tree.back].tolist() == list(range(layout.num_cells))
    padding = sum(len(block.queries) for block in tree.blocks) - layout.num_cells
    assert padding <= layout.num_cells


def test_without_a_mask_of_the_layer_rows_are_causal():
    """A negative control: what stands behind a token does not change what is attended at it."""
    layout = share(Examples.of_rows([[1, 2, 3]], [np.ones(3)]), [0], np.ones(1))
    tree = OwnTokens.of(layout.sequences, 3, torch.device("cpu"))
    query, key, value = torch.randn(3, 1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    before = tree_attention(torch.nn.Module(), query, key, value, None, tree=tree)[0]
    key[:, :, 2] += 1
    after = tree_attention(torch.nn.Module(), query, key, value, None, tree=tree)[0]
    torch.testing.assert_close(before[0, :2], after[0, :2])
    assert not torch.allclose(before[0, 2], after[0, 2])
