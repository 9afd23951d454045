"""Hashes of encoded rows, made where they are encoded and kept beside them: repeats and prompts are told by these."""

from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def hashes_of(input_ids: npt.NDArray[Any], supervised: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> Hashes:
    """Two hashes of each row: of its tokens with which of them carry a loss, and of its prompt.

    The prompt is what the model reads before the row's first trained token.

    Args:
        input_ids: ids of all rows, one after another [num_tokens].
        supervised: which carry a loss [num_tokens].
        lengths: tokens of each row, at least one [num_rows].

    Returns:
        uint64 [num_rows, 2].
    """
    if not len(lengths):
        return np.zeros((0, 2), dtype=np.uint64)
    trained = supervised.astype(bool)
    firsts = np.cumsum(lengths) - lengths
    place = (np.arange(len(input_ids)) - np.repeat(firsts, lengths)).astype(np.uint64)
    ids = input_ids.astype(np.uint64)
    seen = np.cumsum(trained)
    is_prompt = seen == np.repeat(seen[firsts] - trained[firsts], lengths)
    ordered = place * np.uint64(0xC2B2AE3D27D4EB4F) + np.uint64(1)
    tokens = mixed(ids * np.uint64(0x9E3779B97F4A7C15) + ordered)
    marked = mixed((ids + (trained.astype(np.uint64) << np.uint64(40))) * np.uint64(0x9E3779B97F4A7C15) + ordered)
    prompts = np.where(is_prompt, tokens, np.uint64(0))
    return np.stack([np.add.reduceat(marked, firsts), np.add.reduceat(prompts, firsts)], axis=1)


def mixed(values: Hashes) -> Hashes:
    """The finaliser of splitmix64: nearby values become far apart.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Hashes = values ^ (values >> np.uint64(31))
    return result
