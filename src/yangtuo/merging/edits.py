"""Adapters into their base: the arithmetic, and the streaming through files.

The arithmetic is `fold`, a function of tensors: a weight, and what the adapters do to it in order, gives the merged
weight in float32. Rounding to the stored dtype happens once, at the end.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from yangtuo.errors import RunFailure
from yangtuo.model.stored_weights import Group, StoredWeights
from yangtuo.model.weight_files import MOST_SHARD_BYTES, Spec, bytes_of, shards, write_index, write_shard


class _SameShape:
    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """Of the weight after it."""
        return before


@dataclass(frozen=True)
class LowRank(_SameShape):
    """W + scale * up @ down; with DoRA's magnitude m, each row of that scaled to the length m.

    Source: https://arxiv.org/abs/2106.09685 and https://arxiv.org/abs/2402.09353 (equation 5).

    Attributes:
        up: [out, rank], PEFT's lora_B (of an embedding: its lora_A, transposed).
        down: [rank, in], PEFT's lora_A.
        scale: alpha / rank, or alpha / sqrt(rank) for rsLoRA.
        magnitude: [out], None without DoRA.
    """

    up: torch.Tensor
    down: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None = None

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """float32 [out, in] -> the same, in place."""
        weight.addmm_(self.up.float(), self.down.float(), alpha=self.scale)
        if self.magnitude is not None:
            weight *= (self.magnitude.float() / torch.linalg.norm(weight, dim=1))[:, None]
        return weight


@dataclass(frozen=True)
class ExpertsLowRank(_SameShape):
    """W[e] + scale * up[e] @ down[e] for the experts of a layer, which are one tensor.

    Attributes:
        up: [experts, out, rank].
        down: [experts, rank, in].
        scale: see `LowRank`.
        is_transposed: the weight is [experts, in, out].
    """

    up: torch.Tensor
    down: torch.Tensor
    scale: float
    is_transposed: bool

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """float32 [experts, out, in] -> the same, in place."""
        for own, up, down in zip(weight, self.up, self.down, strict=True):
            (own.T if self.is_transposed else own).addmm_(up.float(), down.float(), alpha=self.scale)
        return weight


@dataclass(frozen=True)
class BiasDelta(_SameShape):
    """bias + scale * value: the bias of PEFT's lora_B."""

    value: torch.Tensor
    scale: float

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """float32 [out] -> the same, in place."""
        return weight.add_(self.value.float(), alpha=self.scale)


@dataclass(frozen=True)
class Replace:
    """The adapter's own copy in place of the weight."""

    value: torch.Tensor

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """Of the weight after it."""
        return tuple(self.value.shape)

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """Any -> the copy, as the adapter has it."""
        return self.value


@dataclass(frozen=True)
class ReplaceRows(_SameShape):
    """The adapter's own rows in place of some."""

    indices: tuple[int, ...]
    values: torch.Tensor

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """float32 [rows, width] -> the same, in place."""
        return weight.index_copy_(0, torch.tensor(self.indices), self.values.float())


@dataclass(frozen=True)
class Grow:
    """Rows for new tokens, each the mean of the old ones, as training starts with them."""

    num_rows: int

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """Of the weight after it."""
        return (self.num_rows, *before[1:])

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """float32 [old rows, width] -> [num_rows, width]."""
        new = weight.mean(0, keepdim=True).expand(self.num_rows - len(weight), -1)
        return torch.cat([weight, new])


Edit = LowRank | ExpertsLowRank | BiasDelta | Replace | ReplaceRows | Grow


def fold(weight: torch.Tensor, edits: Sequence[Edit]) -> torch.Tensor:
    """The weight after all edits, float32. Not to be written to: it may be the one given, or the adapter's."""
    last_whole = max((i for i, edit in enumerate(edits) if isinstance(edit, Replace)), default=None)
    if last_whole is not None:  # nothing before it is left
        whole = edits[last_whole]
        weight, edits = whole.apply(weight), edits[last_whole + 1 :]
    value = weight.to(torch.float32, copy=bool(edits))
    for edit in edits:
        value = edit.apply(value)
    return value


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are, without a temporary of its size."""
    return all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor)) if tensor.numel() else True


@dataclass(frozen=True)
class WeightEdits:
    """What the tensors of a base become after some adapters.

    Attributes:
        sources: name of each tensor of the resulting model -> the tensor of the base that it comes from.
        edits: what is done to it; tensors not named stay as they are.
        num_rows: rows of embedding and head.
        embedding: name of the embedding's weight.
        head: name of the head's weight.
        is_tied: the head is the embedding, and has no tensor of its own.
    """

    sources: Mapping[str, str]
    edits: Mapping[str, tuple[Edit, ...]]
    num_rows: int
    embedding: str
    head: str
    is_tied: bool

    def stored_name(self, name: str) -> str:
        """The embedding's for a head that is tied to it."""
        return self.embedding if self.is_tied and name == self.head else name

    def value(self, base: StoredWeights, name: str) -> torch.Tensor:
        """The tensor in float32."""
        stored = self.stored_name(name)
        return fold(base.get(self.sources[stored]), self.edits.get(stored, ()))

    def groups(self, base: StoredWeights) -> list[Group]:
        """What is written, in the names of the base's files: all that lies in them, and a head that is tied no more."""
        kept = [group for group in base.groups if not group.targets or group.targets[0] in self.sources]
        if self.head in self.sources and self.head not in base.specs:
            kept.append(Group({base.name_in_files(self.head): ""}, (self.head,)))
        return kept

    def is_edited(self, group: Group) -> bool:
        """Whether an adapter changes one of its tensors."""
        return any(target in self.edits for target in group.targets)

    def specs(self, base: StoredWeights, dtype: torch.dtype | None) -> dict[str, Spec]:
        """Of the files to be written; `dtype` None: as stored in the base."""
        found = {}
        for group in self.groups(base):
            for name in group.sources:
                of_model = self.sources[group.targets[0]] if name not in base.files.specs else None
                spec = base.specs[of_model] if of_model else base.files.specs[name]
                shape = spec.shape
                for edit in self.edits.get(group.targets[0], ()) if len(group.targets) == 1 else ():
                    shape = edit.shape(shape)
                found[name] = Spec(shape, dtype if dtype and spec.dtype.is_floating_point else spec.dtype)
        return found


@dataclass(frozen=True)
class Written:
    """`files`: SHA-256 by file name. `base_sha256`: of the names and bytes of all tensors that were read."""

    files: Mapping[str, str]
    base_sha256: str


def write(
    base: StoredWeights,
    chain: WeightEdits,
    folder: Path,
    dtype: torch.dtype | None,
    *,
    most_bytes: int = MOST_SHARD_BYTES,
) -> Written:
    """Stream the base through the chain into safetensors files; what belongs together is in memory at a time.

    Raises:
        ModelError: what was changed cannot be taken apart as the base has it.
        RunFailure: a file cannot be written, or a value does not fit the dtype.
    """
    specs = chain.specs(base, dtype)
    files = shards(specs, most_bytes)
    group_of = {name: group for group in chain.groups(base) for name in group.sources}
    digest, apart = hashlib.sha256(), dict[str, torch.Tensor]()

    def value(name: str) -> torch.Tensor:
        group = group_of[name]
        stored = base.files.get(name) if name in base.files.specs else base.get(chain.sources[group.targets[0]])
        digest.update(name.encode())
        digest.update(bytes_of(stored))
        if not chain.is_edited(group):
            return _cast(stored, specs[name], name)
        if name not in apart:
            apart.clear()  # the tensors of a group come one after the other
            changed = {target: _rounded(chain.value(base, target), specs[name].dtype, name) for target in group.targets}
            apart.update(group.taken_apart(changed, base.model))
        return apart.pop(name)

    hashes = {
        file: write_shard(folder / file, specs, names, value)
        for file, names in tqdm(files.items(), "merging", unit="shard", leave=False, disable=None, file=sys.stderr)
    }
    write_index(folder, specs, files)
    return Written(hashes, digest.hexdigest())


def _cast(stored: torch.Tensor, spec: Spec, name: str) -> torch.Tensor:
    return stored if stored.dtype == spec.dtype else _rounded(stored, spec.dtype, name)


def _rounded(value: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    rounded = value.to(dtype)
    if not is_finite(rounded) and is_finite(value):
        raise RunFailure(
            "{name}: values up to {float:.3g} do not fit {dtype}; give --dtype bfloat16 or float32",
            name=name,
            float=float(value.abs().max()),
            dtype=str(dtype).removeprefix("torch."),
        )
    return rounded
