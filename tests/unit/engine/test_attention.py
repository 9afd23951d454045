import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from tests.unit.engine.small import examples_of
from yangtuo.engine import attention as module
from yangtuo.engine.attention import LayerMask, TreeRows, layer_mask, prefix_shared_attention
from yangtuo.engine.gather import Places, sent
from yangtuo.engine.layout import share

HEADS, GROUPS, WIDTH = 4, 2, 8
CPU = torch.device("cpu")
FAMILIES = {
    "one row": [([1, 2, 3], [4, 5])],
    "nothing in common": [([1, 2], [3, 4]), ([5, 6], [7, 8])],
    "of equal length": [([1, 2, 3], [4, 5]), ([1, 2, 3], [6, 7]), ([1, 2, 8], [6, 7])],
    "of all lengths": [
        ([1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ([1, 2, 3], [4, 5, 6, 20, 21, 22, 23, 24, 25, 26, 27]),
        ([1, 2, 3], [4]),
        ([1, 2], [9]),
        ([1, 2, 3], [4, 5, 6]),
        ([1, 2, 3], [4, 5, 6]),
        ([30], list(range(31, 51))),
    ],
}


@pytest.fixture(params=FAMILIES)
def rows(request):
    """Sequences of cells, and how many cells there are."""
    examples = examples_of(*FAMILIES[request.param])
    layout = share(examples, range(len(examples)), np.ones(len(examples)))
    return layout.sequences, layout.num_cells


def drawn(num_cells, *, width=WIDTH):
    """Query, key and value of every cell; gradients wanted."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(HEADS, WIDTH), (GROUPS, WIDTH), (GROUPS, width)]
    return [torch.randn(1, heads, num_cells, size, generator=generator).requires_grad_() for heads, size in shapes]


def row_by_row(q, k, v, rows, allowed=None, softcap=None, scaling=WIDTH**-0.5):
    """Plain arithmetic on each row alone: for each row [L, H, E]."""
    results = []
    for row in rows:
        cells = torch.from_numpy(row)
        q_HLD = q[0, :, cells]
        k_HLD, v_HLE = (tensor[0, :, cells].repeat_interleave(HEADS // GROUPS, 0) for tensor in (k, v))
        products = q_HLD @ k_HLD.transpose(1, 2) * scaling
        if softcap:
            products = softcap * torch.tanh(products / softcap)
        places = torch.arange(len(row))
        visible = places[:, None] >= places[None, :]
        if allowed is not None:
            visible &= allowed(places[:, None], places[None, :])
        weights = products.masked_fill(~visible, -torch.inf).softmax(-1)
        results.append((weights @ v_HLE).transpose(0, 1))
    return results


def assert_rows_agree(result, expected, rows):
    """Every row, at every place, whoever else has that cell."""
    for row, of_row in zip(rows, expected, strict=True):
        torch.testing.assert_close(result[0, torch.from_numpy(row)], of_row, rtol=1e-4, atol=1e-5)


def assert_gradients_agree(result, expected, rows, inputs):
    """Of a sum in which every cell counts differently, each row's cells once for each row."""
    slopes = [
        torch.randn(of_row.shape, generator=torch.Generator().manual_seed(i)) for i, of_row in enumerate(expected)
    ]
    of_tree = sum((result[0, torch.from_numpy(row)] * slope).sum() for row, slope in zip(rows, slopes, strict=True))
    of_rows = sum((of_row * slope).sum() for of_row, slope in zip(expected, slopes, strict=True))
    for one, other in zip(torch.autograd.grad(of_tree, inputs), torch.autograd.grad(of_rows, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


KINDS = {
    "causal": (None, {}),
    "window": (LayerMask(sliding_window_causal_mask_function(3), 3), {"allowed": lambda q, k: q - k < 3}),
    "softcap": (None, {"softcap": 2.0}),
    "window and softcap": (
        LayerMask(sliding_window_causal_mask_function(2), 2),
        {"softcap": 2.0, "allowed": lambda q, k: q - k < 2},
    ),
    "a scale of its own": (None, {"scaling": 0.7}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_as_if_it_stood_alone(kind, rows):
    sequences, num_cells = rows
    seen, how = KINDS[kind]
    q, k, v = inputs = drawn(num_cells)
    options = {name: how[name] for name in ("softcap", "scaling") if name in how}
    tree = TreeRows.of(sequences, num_cells, CPU)
    result, weights = prefix_shared_attention(None, q, k, v, seen, tree=tree, **options)
    assert weights is None
    assert result.shape == (1, num_cells, HEADS, WIDTH)
    expected = row_by_row(q, k, v, sequences, **how)
    assert_rows_agree(result, expected, sequences)
    assert_gradients_agree(result, expected, sequences, inputs)


def test_values_wider_than_keys(rows):
    sequences, num_cells = rows
    q, k, v = drawn(num_cells, width=12)
    result, _ = prefix_shared_attention(None, q, k, v, None, tree=TreeRows.of(sequences, num_cells, CPU))
    assert_rows_agree(result, row_by_row(q, k, v, sequences), sequences)


def test_against_torch_on_one_row():
    q, k, v = drawn(6)
    tree = TreeRows.of([np.arange(6)], 6, CPU)
    expected = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    result, _ = prefix_shared_attention(None, q, k, v, None, tree=tree)
    torch.testing.assert_close(result, expected.transpose(1, 2))


def test_shared_heads_are_repeated_where_no_kernel_takes_them(monkeypatch):
    """As on a T4, or in float32 on any GPU; asking for groups there keeps the products of all pairs."""
    q, k, v = drawn(6)
    tree = TreeRows.of([np.arange(6)], 6, CPU)
    usual, _ = prefix_shared_attention(None, q, k, v, None, tree=tree)
    asked = []
    real = functional.scaled_dot_product_attention

    def attention(*tensors, **how):
        asked.append((how["enable_gqa"], [tensor.shape[1] for tensor in tensors[:3]]))
        return real(*tensors, **how)

    monkeypatch.setattr(module.functional, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(module, "_has_kernel_for_groups", lambda q, mask: False)
    repeated, _ = prefix_shared_attention(None, q, k, v, None, tree=tree)
    assert asked == [(False, [HEADS, HEADS, HEADS])]
    torch.testing.assert_close(repeated, usual)


@pytest.mark.parametrize(
    ("capability", "dtype", "has_mask", "has_one"),
    [
        ((8, 0), torch.bfloat16, False, True),
        ((8, 0), torch.bfloat16, True, False),
        ((8, 0), torch.float32, False, False),
        ((7, 5), torch.float16, False, False),
    ],
)
def test_which_kernel_takes_shared_heads(capability, dtype, has_mask, has_one, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    query = SimpleNamespace(is_cuda=True, dtype=dtype, shape=(1, 4, 8, 64), device=torch.device("cuda:0"))
    assert module._has_kernel_for_groups(query, torch.ones(1) if has_mask else None) is has_one


def test_a_window_changes_rows_longer_than_it_and_no_others():
    """The negative control of the window: it is not ignored."""
    q, k, v = drawn(6)
    tree = TreeRows.of([np.arange(6)], 6, CPU)

    def attended(window):
        seen = LayerMask(sliding_window_causal_mask_function(window), window)
        return prefix_shared_attention(None, q, k, v, seen, tree=tree)[0]

    plain, _ = prefix_shared_attention(None, q, k, v, None, tree=tree)
    torch.testing.assert_close(attended(6), plain)
    torch.testing.assert_close(attended(3)[:, :3], plain[:, :3])
    assert (attended(3)[:, 3:] - plain[:, 3:]).abs().amax((0, 2, 3)).min() > 1e-3


def test_a_wrong_place_to_take_a_result_from_is_noticed(rows):
    """The negative control of all of these."""
    sequences, num_cells = rows
    q, k, v = drawn(num_cells)
    tree = TreeRows.of(sequences, num_cells, CPU)
    expected = row_by_row(q, k, v, sequences)
    usual = np.arange(num_cells) if tree.blocks.back is None else tree.blocks.back.rows.numpy()
    num_places = sum(rows * length for rows, length in tree.blocks.shapes)
    for cell in range(num_cells):
        back = usual.copy()
        back[cell] = back[(cell + 1) % num_cells]
        (sent_back,) = sent([Places.of(back, num_places)], CPU)
        wrong = dataclasses.replace(tree, blocks=dataclasses.replace(tree.blocks, back=sent_back))
        result, _ = prefix_shared_attention(None, q, k, v, None, tree=wrong)
        with pytest.raises(AssertionError):
            assert_rows_agree(result, expected, sequences)


def kernel_of_rows(q, k, v, offsets, same, longest, also, *, scale, window_size, enable_gqa):
    """What torch's `varlen_attn` computes, which only a GPU has."""
    assert window_size == (-1, 0)
    assert longest == int(offsets.diff().max())
    rows = [slice(begin, end) for begin, end in itertools.pairwise(offsets.tolist())]
    parts = ([tensor[row].transpose(0, 1)[None] for tensor in (q, k, v)] for row in rows)
    attention = functional.scaled_dot_product_attention
    results = [attention(*part, is_causal=True, scale=scale, enable_gqa=enable_gqa) for part in parts]
    return torch.cat([result[0].transpose(0, 1) for result in results])


@pytest.fixture
def with_kernel(monkeypatch):
    monkeypatch.setattr(module, "has_varlen", lambda device: True)
    monkeypatch.setattr(module, "_takes", lambda query: True)
    monkeypatch.setattr(module, "varlen_attn", kernel_of_rows)


def test_rows_end_to_end_as_if_each_stood_alone(rows, with_kernel):
    sequences, num_cells = rows
    q, k, v = inputs = drawn(num_cells)
    result, _ = prefix_shared_attention(None, q, k, v, None, tree=TreeRows.of(sequences, num_cells, CPU))
    expected = row_by_row(q, k, v, sequences)
    assert_rows_agree(result, expected, sequences)
    assert_gradients_agree(result, expected, sequences, inputs)


def test_rows_that_share_nothing_are_not_copied(with_kernel, monkeypatch):
    """Whatever the order in which the data has them; a shared cell is the negative control."""
    monkeypatch.setattr(module, "take", lambda tensor, places: pytest.fail("copied") if places else tensor)
    q, k, v = drawn(7)
    apart = TreeRows.of([np.arange(4, 7), np.arange(4)], 7, CPU)
    assert prefix_shared_attention(None, q, k, v, None, tree=apart)[0].shape == (1, 7, HEADS, WIDTH)
    with pytest.raises(pytest.fail.Exception, match="copied"):
        prefix_shared_attention(None, q, k, v, None, tree=TreeRows.of([np.array([0, 4, 5, 6]), np.arange(4)], 7, CPU))


def test_a_cell_sees_its_own_row_and_nothing_else(rows):
    sequences, num_cells = rows
    q, k, v = drawn(num_cells)
    result, _ = prefix_shared_attention(None, q, k, v, None, tree=TreeRows.of(sequences, num_cells, CPU))
    before = {cell: set(row[: t + 1].tolist()) for row in sequences for t, cell in enumerate(row.tolist())}
    for cell in range(num_cells):
        (grad,) = torch.autograd.grad(result[0, cell].sum(), v, retain_graph=True)
        assert set(grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist()) == before[cell]


def test_dropout_leaves_out_weights_and_keeps_the_mean():
    q, k, v = drawn(6)
    tree = TreeRows.of([np.arange(6)], 6, CPU)
    plain, _ = prefix_shared_attention(None, q, k, v, None, tree=tree)
    for softcap in (None, 1e6):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            results = [
                prefix_shared_attention(None, q, k, v, None, tree=tree, dropout=0.2, softcap=softcap)[0].detach()
                for _ in range(2000)
            ]
        assert not torch.equal(results[0], results[1])
        torch.testing.assert_close(torch.stack(results).mean(0), plain, rtol=0.1, atol=0.1)


# ---- where rows have their tokens


def test_blocks_rows_and_the_way_back(with_kernel):
    sequences = [np.array([0, 1, 4]), np.array([0, 1, 2, 3]), np.array([5])]
    tree = TreeRows.of(sequences, 6, CPU)
    blocks, rows = tree.blocks, tree.end_to_end
    assert blocks.shapes == ((2, 4), (1, 1))
    assert blocks.places.rows.tolist() == [0, 1, 2, 3, 0, 1, 4, 4, 5]
    assert blocks.places.rows[blocks.back.rows].tolist() == list(range(6))
    assert blocks.places.order.tolist() == [0, 4, 1, 5, 2, 3, 6, 8], "the padding has no gradient"
    assert rows.places.rows.tolist() == [0, 1, 2, 3, 0, 1, 4, 5]
    assert rows.places.rows[rows.back.rows].tolist() == list(range(6))
    assert rows.offsets.tolist() == [0, 4, 7, 8]
    assert rows.offsets.dtype == torch.int32
    assert tree.longest == 4


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [([8, 8, 8], [3]), ([8, 7, 7], [3]), ([8, 4], [1, 1]), ([16, 15, 1, 1], [2, 2]), ([5], [1])],
)
def test_rows_of_similar_length_form_a_block(lengths, sizes):
    begins = np.cumsum([0, *lengths])
    sequences = [np.arange(begin, begin + length) for begin, length in zip(begins, lengths, strict=False)]
    shapes = TreeRows.of(sequences, sum(lengths), CPU).blocks.shapes
    assert [rows for rows, _ in shapes] == sizes
    padded = sum(rows * length for rows, length in shapes)
    assert padded - sum(lengths) <= padded / 8


@pytest.mark.parametrize("has_kernel", [True, False])
def test_on_a_device_as_a_whole(has_kernel, monkeypatch):
    monkeypatch.setattr(module, "has_varlen", lambda device: has_kernel)
    tree = TreeRows.of([np.arange(3), np.array([0, 3])], 4, torch.device("meta"))
    ways = [tree.blocks, tree.end_to_end] if has_kernel else [tree.blocks]
    assert (tree.end_to_end is not None) is has_kernel
    for way in ways:
        for places in (way.places, way.back):
            assert {tensor.device.type for tensor in dataclasses.astuple(places)} == {"meta"}
    assert tree.longest == 3


# ---- what a layer may see


def test_a_causal_layer_needs_no_mask():
    assert LayerMask().mask(5, torch.device("cpu")) is None
    assert layer_mask(mask_function=causal_mask_function, batch_size=1).mask(5, torch.device("cpu")) is None


def test_a_window_needs_one_beyond_its_reach_only():
    seen = layer_mask(mask_function=sliding_window_causal_mask_function(2), local_size=2)
    assert seen.is_causal(2)
    assert not seen.is_causal(3)
    assert seen.mask(2, torch.device("cpu")) is None
    assert seen.mask(3, torch.device("cpu")).tolist() == [
        [True, False, False],
        [True, True, False],
        [False, True, True],
    ]


def test_a_function_of_unknown_reach_is_always_asked():
    seen = layer_mask(mask_function=lambda batch, head, query, key: query >= key)
    assert not seen.is_causal(1)
    assert seen.mask(2, torch.device("cpu")).tolist() == [[True, False], [True, True]]
