"""Notes each operation below autograd, and which storages of the device are live."""

import re
import weakref
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tests.fake_cuda.trace import Op, Value

_VIEWS = {
    *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "detach_", "diagonal", "expand", "narrow"),
    *("lift_fresh", "permute", "reshape", "select", "set_", "slice", "split", "split_with_sizes", "squeeze", "t"),
    *("is_same_size", "transpose", "unbind", "unsqueeze", "view", "view_as"),
}
_WAITS = {
    *("_unique2", "bincount", "equal", "is_nonzero", "masked_select", "nonzero", "unique_consecutive", "unique_dim"),
}
_BLOCK = 512  # bytes: torch's allocator for CUDA gives no less, and multiples of it
_NUMBERS = re.compile(r"\.\d+\.")


class Recorder(TorchDispatchMode):
    """Live bytes are counted from the first operation on; operations are noted while `is_on`.

    Attributes:
        ops: what was noted.
        is_on: whether operations are noted.
        phase: what they are noted under.
        live: bytes of the device that are taken now.
        peak: the most since `begin`.
        peak_by: at the peak, bytes by what made them.
        peak_at: phase and operation of the peak.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.is_on, self.phase, self._name = False, "", ""
        self.live = self.peak = 0
        self.peak_at, self._at_peak = ("", ""), dict[int, tuple[int, tuple[str, str, str]]]()
        self._sizes: dict[int, tuple[int, tuple[str, str, str]]] = {}
        self._references: dict[int, weakref.ref[Any]] = {}
        self._paths: list[str] = []
        self._path_of_node: dict[int, str] = {}

    def begin(self) -> None:
        """Note operations from here on."""
        self.is_on, self.peak = True, self.live

    def attach(self, model: nn.Module) -> None:
        """Know which module's forward is running."""

        def enter(name: str) -> Any:
            return lambda module, args: self._paths.append(name)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if self._paths:
                self._paths.pop()

        for name, module in model.named_modules():
            module.register_forward_pre_hook(enter(name))
            module.register_forward_hook(leave, always_call=True)

    def live_by(self) -> Counter[tuple[str, str, str]]:
        """Bytes that are live, by path without numbers, operation and dtype of what made them."""
        return _summed(self._sizes)

    @property
    def peak_by(self) -> Counter[tuple[str, str, str]]:
        """The same at the peak."""
        return _summed(self._at_peak)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        self._name = func._schema.name.split("::")[1]
        given = (args, {name: value for name, value in kwargs.items() if name != "out"})  # that is written only
        ins = [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]
        node, path = self._place()
        out = _run(func, self._name, ins, args, kwargs)
        outs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        for tensor in outs:
            self._see(tensor, path)
        if self.is_on:
            self.ops.append(self._noted(func, args, kwargs, (node, path), (ins, outs), out))
        return out

    def _noted(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        place: tuple[str, str],
        tensors: tuple[list[torch.Tensor], list[torch.Tensor]],
        out: Any,
    ) -> Op:
        ins, outs = tensors
        is_view = self._name in _VIEWS or _is_alias(func)
        return Op(
            phase="recomputed" if self.phase == "backward" and self._paths else self.phase,
            name=self._name,
            path=place[1],
            node=place[0],
            outs=tuple(map(_value, outs)),
            ins=tuple(map(_value, ins)),
            flop=_flop(func, args, out) if "attn" not in self._name else 0,
            read=0 if is_view else sum(map(_touched, ins)),
            written=0 if is_view else sum(map(_touched, outs)),
            is_view=is_view,
            wait=_wait(self._name, args, kwargs, ins, outs),
            live=self.live,
        )

    def _place(self) -> tuple[str, str]:
        """Autograd's node and the module's path; a forward, a recomputed one too, tells autograd's nodes its path.

        A node has its number before its operation runs; what runs later without a node of its own finds that number
        too, and does not change it.
        """
        node = torch._C._current_autograd_node()
        path = self._paths[-1] if self._paths else ""
        if node is None or path:
            self._path_of_node.setdefault(torch.autograd._get_sequence_nr() - 1, path)
            return "", path
        return node.name(), self._path_of_node.get(node._sequence_nr(), "")

    def _see(self, tensor: torch.Tensor, path: str) -> None:
        if tensor.device.type != "cuda":
            return
        if tensor.layout is torch.sparse_coo:
            self._see(tensor._indices(), path)
            self._see(tensor._values(), path)
            return
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._references:
            return
        size = -(-storage.nbytes() // _BLOCK) * _BLOCK
        self._sizes[key] = (size, (_NUMBERS.sub(".*.", path), self._name, str(tensor.dtype)[6:]))
        self._references[key] = weakref.ref(storage, lambda _: self._forget(key))
        self.live += size
        if self.live > self.peak:
            self.peak, self.peak_at = self.live, (self.phase, self._name)
            if self.is_on:
                self._at_peak = dict(self._sizes)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)[0]
        del self._references[key]


def _run(func: Any, name: str, ins: list[torch.Tensor], args: Any, kwargs: Any) -> Any:
    """The operation's own answer, except where it would need a number that nobody has computed."""
    if name == "_local_scalar_dense":
        dtype = ins[0].dtype
        return False if dtype is torch.bool else 1.0 if dtype.is_floating_point else 0
    if name == "add_" and len(ins) == 2 and ins[1].layout is torch.sparse_coo:
        return args[0]
    return func(*args, **kwargs)


def _flop(func: Any, args: Any, out: Any) -> int:
    """Of a matrix product."""
    count = flop_registry.get(func._overloadpacket)
    return count(*(arg for arg in args if not isinstance(arg, torch.dtype)), out_val=out) if count else 0


def _is_alias(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)


def _value(tensor: torch.Tensor) -> Value:
    return Value(tuple(tensor.shape), str(tensor.dtype)[6:], tensor.device.type)


def _touched(tensor: torch.Tensor) -> int:
    """Bytes of the elements that are really there."""
    if tensor.layout is not torch.strided:
        return 0
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count


def _wait(name: str, args: Any, kwargs: Any, ins: list[torch.Tensor], outs: list[torch.Tensor]) -> str:
    """What the host waits for; a copy that it does not wait for is told too, with the end "non_blocking"."""
    if not any(tensor.device.type == "cuda" for tensor in (*ins, *outs)):
        return ""
    if name in ("_to_copy", "copy_"):
        source, target = ins[0 if name == "_to_copy" else -1].device.type, outs[0].device.type
        is_free = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        how = "non_blocking" if is_free else "blocking"
        return "" if source == target else f"{source} to {target}, {how}"
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        is_mask = any(t.dtype in (torch.bool, torch.uint8) for t in args[1] if isinstance(t, torch.Tensor))
        return "boolean index" if is_mask else ""
    if name == "_local_scalar_dense":
        return "item" if ins[0].device.type == "cuda" else ""
    return name if name in _WAITS else ""


def _summed(sizes: dict[int, tuple[int, tuple[str, str, str]]]) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    for size, made_by in sizes.values():
        found[made_by] += size
    return found
