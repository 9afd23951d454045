"""Rows taken out of a tensor, some of them several times, and the gradients of each added up again.

torch's own `index_select` adds such gradients in the dtype of the tensor (100 of them in bfloat16 are off by 1.2 %,
rounded once by 0.2 %), and on a GPU in an order that changes from run to run. Here each row's are summed in float32 in
the order of their places and rounded once, by the kernel of `embedding_bag`, for which a row of the source is a bag.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]


_ALIGNED = 16  # numbers; kernels read aligned memory faster


@dataclass(frozen=True)
class Places:
    """Which rows of a tensor of R rows are taken: arrays, or tensors of one device.

    Attributes:
        rows: int64 [N], the row that each place takes.
        order: int64 [M], places by row; fewer than N where some places have no gradient.
        begins: int64 [R], where each row's places begin in `order`.
    """

    rows: Any
    order: Any
    begins: Any

    @classmethod
    def of(cls, rows: Ints, num_rows: int, has_gradient: npt.NDArray[np.bool_] | None = None) -> "Places | None":
        """As arrays; None where each row is taken once, in order.

        `has_gradient`, bool [N], is False at places that get none, such as padding.
        """
        if len(rows) == num_rows and bool((rows == np.arange(num_rows)).all()):
            return None
        order = np.argsort(rows, kind="stable")
        if has_gradient is not None:
            order = order[has_gradient[order]]
        return cls(rows, order, np.searchsorted(rows[order], np.arange(num_rows)))


def take(source: torch.Tensor, places: Places | None) -> torch.Tensor:
    """[R, ...] -> [N, ...]; the source itself where no places are given."""
    if places is None:
        return source
    taken: torch.Tensor = _Take.apply(source, places.rows, places.order, places.begins)  # type: ignore[no-untyped-call]
    return taken


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, source: torch.Tensor, rows: torch.Tensor, order: torch.Tensor, begins: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(order, begins)
        return source.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        order, begins = ctx.saved_tensors
        summed = torch.embedding_bag(grad.flatten(1), order, begins, mode=0)[0]  # 0 is the sum
        return summed.view(-1, *grad.shape[1:]), None, None, None


def sent(places: Sequence[Places | None], device: torch.device) -> list[Places | None]:
    """The same as tensors on a device."""
    names = [field.name for field in fields(Places)]
    tensors = iter(sent_together([getattr(each, name) for each in places if each for name in names], device))
    return [Places(*(next(tensors) for _ in names)) if each else None for each in places]


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same where a copy to the device need not be waited for: CUDA copies larger ones from elsewhere in turns."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def sent_together(arrays: Sequence[Ints], device: torch.device) -> list[torch.Tensor]:
    """The same numbers on a device, by one copy, for which nothing waits."""
    if device.type == "cpu" or not arrays:
        return [torch.from_numpy(array) for array in arrays]
    sizes = [array.size for array in arrays]
    begins = np.cumsum([0, *(-(-size // _ALIGNED) * _ALIGNED for size in sizes)])
    joined = np.zeros(begins[-1], dtype=np.int64)
    for array, begin in zip(arrays, begins, strict=False):
        joined[begin : begin + array.size] = array.reshape(-1)
    on_device = pinned(torch.from_numpy(joined), device).to(device, non_blocking=True)
    parts = zip(arrays, begins.tolist(), sizes, strict=False)
    return [on_device[begin : begin + size].view(array.shape) for array, begin, size in parts]
