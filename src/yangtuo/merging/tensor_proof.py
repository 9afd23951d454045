"""The first proof that a merged folder is its base with its adapters: every value on the disk.

It takes the arithmetic at its word, and reads the tensors that belong together at a time.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tqdm import tqdm

from yangtuo.errors import ModelError, ProofError
from yangtuo.merging.edits import WeightEdits
from yangtuo.model.dtypes import ROUNDING
from yangtuo.model.stored_weights import Group, StoredWeights

# Sums of thousands of float32 products differ by some roundings where a library orders them otherwise.
SUMMING = 2.0**-21
_BLOCK_VALUES = 1 << 20  # compared at a time: temporaries stay small, and in the processor's cache


@dataclass(frozen=True)
class TensorProof:
    """Every tensor of the merged folder, read again from the disk.

    Attributes:
        num_tensors: how many there are.
        num_changed: how many the adapters change; the others are bit-equal to the base (rounded, where the dtype is
            another).
        num_lost: of those changed, how many came out equal to the base: the change is below the dtype's rounding.
        max_error: the largest distance from base + scale * B A in float32, as a part of what rounding to the dtype
            allows; at most 1.
    """

    num_tensors: int
    num_changed: int
    num_lost: int
    max_error: float


def prove_tensors(
    base: StoredWeights, chain: WeightEdits, merged: StoredWeights, dtype: torch.dtype | None
) -> TensorProof:
    """Compare all tensors with what they must be.

    Raises:
        ProofError: the first that is not; or a file that cannot be read.
    """
    wanted, found = chain.specs(base, dtype), merged.files.specs
    if found != wanted:
        different = [name for name in (*wanted, *found) if found.get(name) != wanted.get(name)]
        raise ProofError(
            "proof failed: {different}: {found} instead of {wanted}",
            different=different[0],
            found=found.get(different[0]),
            wanted=wanted[different[0]],
        )
    num_lost, worst = 0, 0.0
    groups = tqdm(chain.groups(base), "proof by tensors", unit="tensor", leave=False, disable=None, file=sys.stderr)
    for group in groups:
        if not chain.is_edited(group):
            _check_untouched(group, base, chain, merged)
            continue
        for name in group.targets:
            value, source = _read_again(merged.get, name), base.get(chain.sources[name])
            distance = _distance(value, chain.value(base, name))
            if not distance <= 1:
                raise ProofError(
                    "proof failed: {name} is {distance:.3g} times as far from base + scale * B A as rounding allows",
                    name=name,
                    distance=distance,
                )
            worst = max(worst, distance)
            num_lost += source.shape == value.shape and _bit_equal(value, source.to(value.dtype))
    return TensorProof(len(wanted), len(chain.edits), num_lost, worst)


def _check_untouched(group: Group, base: StoredWeights, chain: WeightEdits, merged: StoredWeights) -> None:
    for name in group.sources:
        value = _read_again(merged.files.get, name)
        source = base.files.get(name) if name in base.files.specs else base.get(chain.sources[group.targets[0]])
        if not _bit_equal(value, source.to(value.dtype)):
            raise ProofError("proof failed: {name} is touched by no adapter, yet differs from the base", name=name)


def _read_again(get: Callable[[str], torch.Tensor], name: str) -> torch.Tensor:
    try:
        return get(name)
    except ModelError as error:
        raise ProofError("proof failed: {error}", error=error) from error


def _bit_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(_bits(one), _bits(other))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _distance(value: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest distance as a part of what is allowed; NaN where there is one in either."""
    kind = torch.finfo(value.dtype)
    largest = max(abs(float(bound)) for bound in torch.aminmax(expected))
    slack = SUMMING * largest + kind.smallest_normal * kind.eps
    relative = ROUNDING[value.dtype]
    worst = torch.zeros(())
    for found, wanted in zip(blocks(value), blocks(expected), strict=True):
        allowed = wanted.abs().mul_(relative).add_(slack)
        worst = torch.maximum(worst, (found.float() - wanted).abs_().div_(allowed).max())
    return float(worst)


def blocks(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Its values in pieces of that size."""
    return torch.split(tensor.reshape(-1), _BLOCK_VALUES)
