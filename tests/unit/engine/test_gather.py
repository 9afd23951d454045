import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yangtuo.engine import gather
from yangtuo.engine.gather import Places, sent, sent_together, take

CPU = torch.device("cpu")


def taken(source, rows, **how):
    (places,) = sent([Places.of(np.asarray(rows), len(source), **how)], CPU)
    return take(source, places)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), min_size=1))))
def test_as_index_select_forward_and_backward(case):
    num_rows, rows = case
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(num_rows, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    slope = torch.randn(len(rows), 2, 3, generator=generator, dtype=torch.float64)
    results = [taken(source, rows), source.index_select(0, torch.tensor(rows))]
    assert torch.equal(*results)
    gradients = [torch.autograd.grad((result * slope).sum(), source)[0] for result in results]
    torch.testing.assert_close(*gradients)


def test_gradients_of_a_row_are_rounded_once():
    """The negative control is torch's own, which rounds at each of 400 additions."""
    generator = torch.Generator().manual_seed(0)
    slope = torch.randn(400, 1000, generator=generator).bfloat16()
    source = torch.zeros(2, 1000, dtype=torch.bfloat16, requires_grad=True)
    rows = np.zeros(400, dtype=np.int64)
    exact = slope.double().sum(0)

    def off(result):
        (grad,) = torch.autograd.grad(result, source, slope)
        assert not grad[1].any()
        return float((grad[0].double() - exact).norm() / exact.norm())

    assert off(taken(source, rows)) == pytest.approx(float((exact.bfloat16() - exact).norm() / exact.norm()), rel=0.05)
    one_by_one = torch.zeros(1000, dtype=torch.bfloat16)
    for row in slope:
        one_by_one += row
    assert float((one_by_one - exact).norm() / exact.norm()) > 0.01


def test_no_place_at_all_is_a_gradient_of_zeros():
    source = torch.ones(3, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(taken(source, np.zeros(0, dtype=np.int64)).sum(), source)
    assert grad.tolist() == [[0, 0]] * 3


def test_every_row_once_in_order_is_no_copy():
    assert Places.of(np.arange(4), 4) is None
    source = torch.zeros(4)
    assert take(source, None) is source
    for rows in (np.arange(3), np.array([1, 0, 2, 3]), np.array([0, 0, 2, 3])):
        assert Places.of(rows, 4) is not None


def test_places_without_a_gradient_get_none():
    source = torch.zeros(2, 1, requires_grad=True)
    result = taken(source, [0, 1, 1], has_gradient=np.array([True, True, False]))
    (grad,) = torch.autograd.grad(result, source, torch.ones(3, 1))
    assert grad.flatten().tolist() == [1, 1]


def test_one_copy_for_all_numbers(monkeypatch):
    """On a device; the tensors begin at multiples of 16 numbers."""
    arrays = [np.arange(3), np.arange(6).reshape(2, 3), np.arange(0), np.arange(20)]
    copies = []
    real = torch.Tensor.to

    def to(tensor, device, **how):
        copies.append((device, how))
        return real(tensor, CPU)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    device = torch.device("cuda:0")
    sent_to_it = sent_together(arrays, device)
    assert copies == [(device, {"non_blocking": True})]
    assert [tensor.tolist() for tensor in sent_to_it] == [array.tolist() for array in arrays]
    assert all(tensor.storage_offset() % gather._ALIGNED == 0 for tensor in sent_to_it)
    assert sent_together([], device) == []
