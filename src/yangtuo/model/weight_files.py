"""The weights of a model folder, one tensor at a time: reading what is there, writing safetensors shards.

Neither side ever holds a shard in memory. A shard is written tensor by tensor behind a header that is known
beforehand (https://github.com/huggingface/safetensors#format); read tensors are pages of the file.
"""

import hashlib
import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from yangtuo import output
from yangtuo.errors import ModelError, WriteError, one_line

INDEX_FILE = "model.safetensors.index.json"
_LAYOUTS = (  # as transformers looks for them, safetensors first
    ("model.safetensors", INDEX_FILE),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_NAMES = {  # of safetensors
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
MOST_SHARD_BYTES = 4 << 30
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
# Pages that were read through a mapping count as memory of this process until it is closed.
_MOST_MAPPED_BYTES = 1 << 29


@dataclass(frozen=True)
class Spec:
    """Shape and dtype of a tensor on disk."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Its size on disk."""
        return math.prod(self.shape) * self.dtype.itemsize


class WeightFiles:
    """The tensors of a model folder, by name, in the order of the files.

    Attributes:
        folder: the folder.
        specs: shape and dtype of every tensor.
    """

    def __init__(self, folder: Path, specs: Mapping[str, Spec], files: Mapping[str, Path]):
        self.folder = folder
        self.specs = specs
        self._files = files
        self._open: tuple[Path, Any] | None = None
        self._num_mapped = 0

    def get(self, name: str) -> torch.Tensor:
        """A tensor as stored. Its values are pages of the file: not to be written to.

        Raises:
            ModelError: the file has become unreadable.
        """
        source = self._source(name, self.specs[name].num_bytes)
        try:
            tensor: torch.Tensor = source[name] if isinstance(source, dict) else source.get_tensor(name)
        except (SafetensorError, KeyError, OSError, ValueError) as error:
            raise self._unreadable(name, error) from error
        return tensor.detach().contiguous()

    def row(self, name: str, i: int) -> torch.Tensor:
        """One row of a tensor, without reading the others.

        Raises:
            ModelError: the file has become unreadable.
        """
        source = self._source(name, 0)
        try:
            row: torch.Tensor = source[name][i] if isinstance(source, dict) else source.get_slice(name)[i : i + 1][0]
        except (SafetensorError, KeyError, OSError, ValueError, IndexError) as error:
            raise self._unreadable(name, error) from error
        return row.detach()

    def _source(self, name: str, num_bytes: int) -> Any:
        path = self._files[name]
        if self._open is None or self._open[0] != path or self._num_mapped + num_bytes > _MOST_MAPPED_BYTES:
            self._open = None  # the old mapping goes before the new one comes
            self._open, self._num_mapped = (path, _opened(path)), 0
        self._num_mapped += num_bytes
        return self._open[1]

    def _unreadable(self, name: str, error: Exception) -> ModelError:
        return ModelError(
            "{files}: {name} cannot be read: {error}", files=self._files[name], name=name, error=_short(error)
        )


def open_weights(folder: Path) -> WeightFiles:
    """Look at the files of a model folder; headers only.

    Raises:
        ModelError: no weights there, a file missing, cut short or with code in it.
    """
    for single, index in _LAYOUTS:
        if (folder / index).is_file():
            paths = _indexed(folder, index)
        elif (folder / single).is_file():
            paths = [folder / single]
        else:
            continue
        specs: dict[str, Spec] = {}
        files: dict[str, Path] = {}
        for path in paths:
            for name, spec in _specs(path).items():
                specs[name], files[name] = spec, path
        return WeightFiles(folder, specs, files)
    raise ModelError(
        "{folder}: no weights there; expected model.safetensors or pytorch_model.bin, or their index", folder=folder
    )


def _indexed(folder: Path, index: str) -> list[Path]:
    try:
        names = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, OSError) as error:
        raise ModelError("{folder}: cannot be read: {error}", folder=folder / index, error=_short(error)) from error
    paths = [folder / file for file in dict.fromkeys(names.values())]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ModelError(
            "{folder}: {index} names files that are not there: {missing}",
            folder=folder,
            index=index,
            missing=", ".join(missing[:4]),
        )
    found = {name for path in paths for name in _specs(path)}
    if absent := sorted(names.keys() - found):
        raise ModelError(
            "{folder}: {index} names tensors that are in no file: {absent}",
            folder=folder,
            index=index,
            absent=", ".join(absent[:4]),
        )
    return paths


def _specs(path: Path) -> dict[str, Spec]:
    source = _opened(path)
    if isinstance(source, dict):
        return {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in source.items()}
    slices = {name: source.get_slice(name) for name in source.offset_keys()}
    unknown = {value.get_dtype() for value in slices.values()} - _DTYPES.keys()
    if unknown:
        raise ModelError(
            "{path}: tensors in {unknown}; a merge needs the 16-bit or float32 base",
            path=path,
            unknown=", ".join(sorted(unknown)),
        )
    return {name: Spec(tuple(value.get_shape()), _DTYPES[value.get_dtype()]) for name, value in slices.items()}


def _opened(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safe_open(path, framework="pt")
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            "{path}: cannot be read, perhaps cut short: {error}", path=path, error=_short(error)
        ) from error
    except pickle.UnpicklingError as error:  # what torch.load raises for a file with code in it
        raise ModelError(
            "{path}: refused, it is no plain file of tensors: {error}", path=path, error=_short(error)
        ) from error
    return {str(name): value for name, value in tensors.items()}


def _short(error: BaseException) -> str:
    return one_line(error, 160)


def shards(specs: Mapping[str, Spec], most_bytes: int) -> dict[str, list[str]]:
    """File name -> its tensors, in order, each file of at most `most_bytes` unless one tensor alone is larger."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if groups[-1] and size + spec.num_bytes > most_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += spec.num_bytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def write_shard(
    path: Path, specs: Mapping[str, Spec], names: Sequence[str], value: Callable[[str], torch.Tensor]
) -> str:
    """Write one safetensors file, asking for one tensor after the other; returns its SHA-256.

    The file is on the disk when this returns, and out of the system's cache where it can be asked for: who reads it
    again reads the disk.

    Raises:
        WriteError: it cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + specs[name].num_bytes
        header[name] = {
            "dtype": _NAMES[specs[name].dtype],
            "shape": list(specs[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:
            for part in (len(text).to_bytes(8, "little"), text):
                digest.update(part)
                file.write(part)
            for name in names:
                data = bytes_of(value(name))
                digest.update(data)
                file.write(data)
                del data
        output.flush(path, from_cache=True)
    except OSError as error:
        raise WriteError("{path}: cannot be written: {reason}", path=path, reason=output.reason(error)) from error
    return digest.hexdigest()


def write_index(folder: Path, specs: Mapping[str, Spec], files: Mapping[str, Sequence[str]]) -> None:
    """The index beside several shards; nothing where there is one file only."""
    if len(files) == 1:
        return
    weight_map = {name: file for file, names in files.items() for name in names}
    total = sum(spec.num_bytes for spec in specs.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    (folder / INDEX_FILE).write_text(text + "\n", encoding="utf-8")


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The raw bytes, without a copy where it lies in one piece."""
    data: memoryview = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data
