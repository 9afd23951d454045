"""Encoded rows while they are put together, and as examples."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from yangtuo.data.examples import Examples
from yangtuo.data.hashing import hashes_of
from yangtuo.data.readers.records import Dropped


@dataclass
class Columns:
    """Encoded rows of some records, as they are put together; numbers of sources are those of `paths`.

    `dropped` lists the records without an example, `special` how often texts held what looks like a control token.
    """

    input_ids: list[npt.NDArray[np.int32]] = field(default_factory=list)
    runs: "array[int]" = field(default_factory=lambda: array("q"))  # lengths, without and with a loss in turn
    run_weights: "array[float]" = field(default_factory=lambda: array("f"))
    num_runs: "array[int]" = field(default_factory=lambda: array("q"))  # of each row
    sources: list[str] = field(default_factory=list)
    rows: "array[int]" = field(default_factory=lambda: array("q"))
    outcomes: bytearray = field(default_factory=bytearray)
    dropped: list[Dropped] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)

    def arrays(self, paths: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """`input_ids`, `supervised`, `weights` by token; `lengths`, `trained`, `source_numbers`, `rows`, ..."""
        ids = np.concatenate(self.input_ids) if self.input_ids else np.zeros(0, np.int32)
        runs, run_weights = np.frombuffer(self.runs, np.int64), np.frombuffer(self.run_weights, np.float32)
        firsts = np.concatenate([[0], np.cumsum(np.frombuffer(self.num_runs, np.int64))]).astype(np.int64)[:-1]

        def by_row(of_runs: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.add.reduceat(of_runs, firsts) if len(firsts) else of_runs[:0]

        trained = [by_row(runs * (run_weights > 0)), by_row(runs * run_weights.astype(np.float64))]
        number_of = {path: number for number, path in enumerate(paths)}
        supervised, lengths = np.repeat(run_weights > 0, runs), by_row(runs)
        return {
            "input_ids": ids,
            "supervised": supervised,
            "weights": np.repeat(run_weights, runs),
            "lengths": lengths,
            "trained": np.stack(trained, axis=1).astype(np.float64),
            "source_numbers": np.array([number_of[source] for source in self.sources], dtype=np.int32),
            "rows": np.frombuffer(self.rows, np.int64),
            "outcomes": np.frombuffer(self.outcomes, np.uint8),
            "hashes": hashes_of(ids, supervised, lengths),
        }


def examples_of(arrays: Mapping[str, npt.NDArray[Any]], paths: tuple[str, ...]) -> Examples:
    """Columns put together; `weights` left out where they say no more than `supervised`."""
    rest = dict(arrays)
    lengths, weights = rest.pop("lengths"), rest.pop("weights", None)
    is_plain = weights is None or bool((weights == rest["supervised"]).all())
    ends = np.cumsum(lengths, dtype=np.int64)
    return Examples(**rest, weights=None if is_plain else weights, begins=ends - lengths, ends=ends, paths=paths)
