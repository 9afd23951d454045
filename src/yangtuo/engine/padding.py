"""Rows of a micro-batch -> tensors padded to its longest row.

The head runs only on the columns in which some row has a supervised token to predict (`keep`), the loss only on those
tokens (`positions`).
"""

from dataclasses import dataclass

import numpy as np
import torch

from yangtuo.data.encoding import Examples
from yangtuo.engine.planning import MicroBatch


@dataclass(frozen=True)
class PaddedBatch:
    """One forward pass; B rows, T their longest length, K columns that reach the head, N supervised tokens.

    Attributes:
        input_ids: int64 [B, T].
        attention_mask: int64 [B, T], 1 on real tokens. By length, never by id: a padding id that is also the end
            token must not hide it.
        keep: int64 [K], columns of the sequence that reach the head.
        positions: int64 [N], index of each supervised prediction in the flattened [B, K] head output.
        targets: int64 [N], ids to be predicted.
        weights: float32 [N], weight of each.
        rows: rows of the data set, for messages.
        num_tokens: real tokens.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    keep: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    rows: tuple[int, ...]
    num_tokens: int

    def to(self, device: torch.device) -> "PaddedBatch":
        """The same on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return PaddedBatch(**{**vars(self), **moved})


def pad(examples: Examples, batch: MicroBatch) -> PaddedBatch:
    """Lay out a micro-batch. Padding carries id 0; it is masked, so which id it is makes no difference."""
    rows = [examples.row(int(row)) for row in batch.rows]
    num_columns = max(len(ids) for ids, _ in rows)
    ids_BT = np.zeros((len(rows), num_columns), dtype=np.int64)
    mask_BT = np.zeros_like(ids_BT)
    # Column t predicts token t + 1.
    predicts_BT = np.zeros((len(rows), num_columns), dtype=np.bool_)
    for b, (ids, supervised) in enumerate(rows):
        ids_BT[b, : len(ids)] = ids
        mask_BT[b, : len(ids)] = 1
        predicts_BT[b, : len(ids) - 1] = supervised[1:]
    keep = np.flatnonzero(predicts_BT.any(0))
    of_row, of_keep = np.nonzero(predicts_BT[:, keep])
    return PaddedBatch(
        input_ids=torch.from_numpy(ids_BT),
        attention_mask=torch.from_numpy(mask_BT),
        keep=torch.from_numpy(keep),
        positions=torch.from_numpy(of_row * len(keep) + of_keep),
        targets=torch.from_numpy(ids_BT[of_row, keep[of_keep] + 1]),
        weights=torch.from_numpy(batch.weights[of_row].astype(np.float32)),
        rows=tuple(int(row) for row in batch.rows),
        num_tokens=int(mask_BT.sum()),
    )
