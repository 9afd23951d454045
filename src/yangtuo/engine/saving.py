"""Writing and reading what a run leaves: checkpoints, and adapter folders. Called by all processes, written by few."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from yangtuo.engine import checkpoint
from yangtuo.engine.processes import from_rank_0, largest, share_tensors
from yangtuo.engine.training_state import EngineState, OptimizerState, Tensors, gather_weights
from yangtuo.errors import CheckpointError, YangtuoError, one_line
from yangtuo.model import adapter_state
from yangtuo.model.adapter_state import Adapter
from yangtuo.model.prompt_files import PromptFiles
from yangtuo.model.provenance import WEIGHTS_FILE
from yangtuo.model.sharding import reshard, shape_of

_ROOM = 16 << 20  # bytes for what is small: configuration, positions, a log line


@dataclass(frozen=True)
class Saver:
    """What is saved, and by whom.

    Attributes:
        adapter: the trained model.
        prompt_files: saved with it.
        provenance: what the adapter is trained on, see `model.provenance`; saved with it.
        writes: whether this process writes; one does, or one a machine (`--save_on_each_node`).
        device: where tensors are exchanged.
    """

    adapter: Adapter
    prompt_files: PromptFiles
    provenance: Mapping[str, Any]
    writes: bool
    device: torch.device

    def write_adapter(self, engine_state: EngineState, folder: Path) -> None:
        """A PEFT folder, whole or not at all."""
        weights = self._all_weights(engine_state)

        def write() -> None:
            with checkpoint.written(folder, marked=False) as draft:
                self._write_adapter(draft, weights)

        self._on_writers(write)

    def write_checkpoint(
        self,
        engine_state: EngineState,
        folder: Path,
        position: dict[str, Any],
        trainer_state: str,
        *,
        with_optimizer: bool,
    ) -> None:
        """A complete checkpoint.

        Args:
            engine_state: to the engine.
            folder: its place.
            position: JSON values that are kept for `read`.
            trainer_state: transformers' own state, as JSON.
            with_optimizer: False for one that cannot be resumed from.

        Raises:
            CheckpointError: it cannot be written; on all ranks.
        """
        weights = self._all_weights(engine_state)
        state = engine_state.optimizer(on_this_rank=self.writes) if with_optimizer else OptimizerState({}, {})

        def write() -> None:
            sizes = [tensor.nbytes for tensors in (weights, state.tensors) for tensor in tensors.values()]
            checkpoint.check_room(folder, sum(sizes) + self.prompt_files.num_bytes() + _ROOM)
            with checkpoint.written(folder) as draft:
                self._write_adapter(draft, weights)
                (draft / checkpoint.TRAINER_STATE).write_text(trainer_state, encoding="utf-8")
                if with_optimizer:
                    save_file(
                        {name: value.contiguous() for name, value in state.tensors.items()}, draft / checkpoint.TENSORS
                    )
                    text = json.dumps({**position, "optimizer": state.numbers}, ensure_ascii=False, indent=1)
                    (draft / checkpoint.POSITION).write_text(text, encoding="utf-8")

        self._on_writers(write)

    def restore(self, engine_state: EngineState, folder: Path) -> dict[str, Any]:
        """Read a checkpoint, on rank 0, into the engine of all ranks; returns the position."""
        self.put_back_weights(engine_state, folder)
        position: dict[str, Any] = from_rank_0(lambda: checkpoint.read_position(folder))
        tensors = _on_rank_0(lambda: _load(folder / checkpoint.TENSORS))
        engine_state.put_optimizer(OptimizerState(share_tensors(tensors, self.device), position.pop("optimizer")))
        return position

    def put_back_weights(self, engine_state: EngineState, folder: Path | None) -> None:
        """The adapter in a folder only; None for zeros."""
        if folder is None:
            parameters = adapter_state.trained_parameters(self.adapter)
            engine_state.put_weights({name: torch.zeros(shape_of(p)) for name, p in parameters.items()})
            return
        names = adapter_state.names_of_keys(self.adapter)

        def read() -> Tensors:
            return adapter_state.from_file(self.adapter, _load(folder / WEIGHTS_FILE), names)

        engine_state.put_weights(share_tensors(_on_rank_0(read), self.device))

    def _all_weights(self, engine_state: EngineState) -> Tensors:
        reshard(self.adapter.model)
        kept = gather_weights(adapter_state.kept_parameters(self.adapter), on_this_rank=self.writes)
        return engine_state.weights(on_this_rank=self.writes) | kept

    def _write_adapter(self, folder: Path, weights: Tensors) -> None:
        adapter_state.save(self.adapter, folder, self.prompt_files, weights, self.provenance)

    def _on_writers(self, write: Callable[[], None]) -> None:
        """All ranks fail, or none."""
        failure: YangtuoError | None = None
        if self.writes:
            try:
                write()
            except YangtuoError as error:
                failure = error
        if largest([float(failure is not None)], self.device) == [0.0]:
            return
        if failure is None:
            failure = CheckpointError("another process could not write its files")
            failure.is_second_hand = True
        raise failure


def _on_rank_0(read: Callable[[], Tensors]) -> Tensors | None:
    """What rank 0 reads; None elsewhere. An error is raised on all."""
    box: list[Tensors] = []
    from_rank_0(lambda: box.append(read()))
    return box[0] if box else None


def _load(file: Path) -> Tensors:
    try:
        tensors: Tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError("{file}: cannot be read: {error}", file=file, error=one_line(error, 160)) from error
    return tensors
