"""A layout as tensors on a device."""

from dataclasses import dataclass

import torch

from yangtuo.engine.attention import TreeRows
from yangtuo.engine.layout import Layout


@dataclass(frozen=True)
class Batch:
    """Tensors of a `Layout`, with the same names, shapes and types.

    Attributes:
        input_ids: int64 [B, T].
        position_ids: int64 [B, T]; None where the model counts them itself.
        row_lengths: int64 [B, T].
        attention_mask: bool [B, T].
        tree: the rows' places, where lines are not rows.
        keep: int64 [K].
        positions: int64 [N].
        targets: int64 [N].
        weights: float32 [N].
        rows: rows of the data set.
        most_predictions: of this micro-batch on any rank, at most; all cut theirs into as many chunks.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    row_lengths: torch.Tensor
    attention_mask: torch.Tensor
    tree: TreeRows | None
    keep: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    rows: tuple[int, ...]
    most_predictions: int

    @classmethod
    def of(cls, layout: Layout, device: torch.device) -> "Batch":
        """Copy a layout to a device; nothing waits for the copies."""
        tree = None if layout.sequences is None else TreeRows.of(layout.sequences, layout.num_cells).to(device)
        # A tree gets a mask of ones too: without any, transformers looks for packed rows in the positions.
        mask = torch.ones(layout.input_ids.shape, dtype=torch.bool)
        if layout.attention_mask is not None:
            mask = torch.from_numpy(layout.attention_mask).bool()

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        return cls(
            input_ids=moved(torch.from_numpy(layout.input_ids)),
            position_ids=moved(torch.from_numpy(layout.position_ids)),
            row_lengths=moved(torch.from_numpy(layout.row_lengths)),
            attention_mask=moved(mask),
            tree=tree,
            keep=moved(torch.from_numpy(layout.keep)),
            positions=moved(torch.from_numpy(layout.positions)),
            targets=moved(torch.from_numpy(layout.targets)),
            weights=moved(torch.from_numpy(layout.weights)),
            rows=layout.rows,
            most_predictions=layout.most_predictions,
        )
