"""Attention on a GPU: the kernel of 16 bit, the blocks of all else, and the memory that they take."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from yangtuo.engine import attention
from yangtuo.engine.attention import LayerMask, TreeRows, prefix_shared_attention
from yangtuo.engine.calibration import kept_bytes

ROWS = [np.arange(40), np.concatenate([np.arange(16), np.arange(40, 70)]), np.arange(70, 75)]
CELLS = 75


def drawn(num_cells, *, device="cuda", dtype=torch.float32, heads=4, groups=2):
    torch.manual_seed(0)
    return [
        torch.randn(1, number, num_cells, 32).to(device, dtype).requires_grad_() for number in (heads, groups, groups)
    ]


def result_and_gradients(inputs, tree, mask=None):
    output, _ = prefix_shared_attention(None, *inputs, mask, tree=tree)
    return output, *torch.autograd.grad(output.float().square().sum(), inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernel_agrees_with_rows_one_by_one(dtype, monkeypatch):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("varlen_attn needs Ampere or later")
    tree = TreeRows.of(ROWS, CELLS, torch.device("cuda"))
    results = []
    for has_kernel in (True, False):
        monkeypatch.setattr(attention, "_takes", lambda query, has=has_kernel: has)
        results.append(result_and_gradients(drawn(CELLS, dtype=dtype), tree))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=2e-2)


MASKS = {"causal": None, "a window of 12": LayerMask(sliding_window_causal_mask_function(12), 12)}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_gpu_gives_what_the_cpu_gives(mask):
    results = []
    for device in ("cpu", "cuda"):
        tree = TreeRows.of(ROWS, CELLS, torch.device(device))
        results.append(result_and_gradients(drawn(CELLS, device=device), tree, mask))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-4, atol=1e-4)


def test_a_window_is_not_a_causal_mask():
    """Negative control of the test above: a mask that is not applied would be seen."""
    tree = TreeRows.of(ROWS, CELLS, torch.device("cuda"))
    windowed, causal = (result_and_gradients(drawn(CELLS), tree, mask)[0] for mask in MASKS.values())
    assert (windowed - causal).abs().max() > 0.1


LONG, HEADS = 2048, 8
ALL_PAIRS = HEADS * LONG * LONG * 4  # bytes of [H, L, L] in float32


@pytest.mark.parametrize(
    "mask",
    [LayerMask(causal_mask_function), LayerMask(sliding_window_causal_mask_function(512), 512)],
    ids=["causal", "windowed"],
)
def test_grouped_heads_in_float32_make_no_product_of_all_pairs(mask):
    """With `enable_gqa`, torch has only the plain computation for them, which keeps [H, L, L] for each layer."""
    tree = TreeRows.of([np.arange(LONG)], LONG, torch.device("cuda"))
    inputs = drawn(LONG, heads=HEADS)
    assert kept_bytes(lambda: result_and_gradients(inputs, tree, mask), torch.device("cuda")) < ALL_PAIRS / 2
    with sdpa_kernel(SDPBackend.MATH):  # negative control: the plain computation does make them
        assert kept_bytes(lambda: result_and_gradients(inputs, tree, mask), torch.device("cuda")) > ALL_PAIRS
