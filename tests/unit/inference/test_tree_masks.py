"""Attention over the rows of a tree: each cell's result is that of plain attention over its own row."""

import numpy as np
import pytest
import torch

from yangtuo.engine.attention import LayerMask
from yangtuo.inference import tree_attention as tested
from yangtuo.inference.tree_attention import OwnTokens, tree_attention

# 0 1 2 3 | 4 5 behind 0 1 | 6 behind 0 1 4 | 7 8, a row of its own
ROWS = [np.array(row) for row in ([0, 1, 2, 3], [0, 1, 4, 5], [0, 1, 4, 6], [7, 8])]
NUM_CELLS = 9


def windowed(batch, head, query, key):
    return (key <= query) & (key > query - 2)


def tensors(heads, groups):
    draws = torch.Generator().manual_seed(0)
    sizes = ((heads, 8), (groups, 8), (groups, 6))
    return [torch.randn(1, number, NUM_CELLS, width, generator=draws) for number, width in sizes]


def by_row(query, key, value, window, softcap):
    """The definition: each row alone, one query after the other, in float64."""
    repeats = query.shape[1] // key.shape[1]
    found = torch.zeros(1, NUM_CELLS, query.shape[1], value.shape[3], dtype=torch.float64)
    for row in ROWS:
        for place, cell in enumerate(row):
            seen = row[max(0, place + 1 - window) : place + 1]
            for head in range(query.shape[1]):
                products = key[0, head // repeats, seen].double() @ query[0, head, cell].double() / 8**0.5
                if softcap:
                    products = softcap * torch.tanh(products / softcap)
                found[0, cell, head] = products.softmax(0) @ value[0, head // repeats, seen].double()
    return found.float()


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize(("visible", "window"), [(None, 99), (LayerMask(windowed, 2), 2)])
@pytest.mark.parametrize("softcap", [None, 0.5])
def test_each_cell_attends_over_its_own_row(heads, groups, visible, window, softcap):
    query, key, value = tensors(heads, groups)
    tree = OwnTokens.of(ROWS, NUM_CELLS, torch.device("cpu"))
    for _ in range(2):  # the second layer takes the masks of the first
        found, _ = tree_attention(torch.nn.Module(), query, key, value, visible, tree=tree, softcap=softcap)
        torch.testing.assert_close(found, by_row(query, key, value, window, softcap), atol=2e-6, rtol=1e-5)


def test_layers_that_see_otherwise_have_masks_of_their_own():
    query, key, value = tensors(4, 4)
    tree = OwnTokens.of(ROWS, NUM_CELLS, torch.device("cpu"))
    for visible, window in ((None, 99), (LayerMask(windowed, 2), 2), (None, 99)):
        found, _ = tree_attention(torch.nn.Module(), query, key, value, visible, tree=tree)
        torch.testing.assert_close(found, by_row(query, key, value, window, None), atol=2e-6, rtol=1e-5)


def test_rows_that_share_nothing_need_no_mask():
    tree = OwnTokens.of([np.arange(4), np.arange(4, 8)], 8, torch.device("cpu"))
    assert [block.is_whole for block in tree.blocks] == [True]
    query, key, value = (tensor[:, :, :8] for tensor in tensors(4, 2))
    found, _ = tree_attention(torch.nn.Module(), query, key, value, None, tree=tree)
    assert tree.masks == {}
    alone = torch.nn.functional.scaled_dot_product_attention(
        query[:, :, 4:], key[:, :, 4:], value[:, :, 4:], is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(found[:, 4:], alone.transpose(1, 2), atol=1e-6, rtol=1e-5)


def test_masks_that_would_take_much_memory_are_made_for_each_layer(monkeypatch):
    monkeypatch.setattr(tested, "_MOST_PRODUCTS", 4)
    tree = OwnTokens.of(ROWS, NUM_CELLS, torch.device("cpu"))
    query, key, value = tensors(4, 4)
    found, _ = tree_attention(torch.nn.Module(), query, key, value, None, tree=tree)
    assert sum(mask.numel() for mask in tree.masks.values()) <= 4
    torch.testing.assert_close(found, by_row(query, key, value, 99, None), atol=2e-6, rtol=1e-5)
