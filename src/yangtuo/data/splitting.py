"""Setting part of the training rows aside for evaluation."""

import numpy as np

from yangtuo.data.examples import Examples


def num_to_hold_out(num_rows: int, percentage: float) -> int:
    """Rows that `--validation_split_percentage` asks for: below 1 a fraction, from 1 up a percentage; at least 1."""
    part = percentage if percentage < 1 else percentage / 100
    return max(1, round(num_rows * part))


def split(examples: Examples, percentage: float, seed: int) -> tuple[Examples, Examples | None]:
    """Validation part and the rest (None where nothing is left), both in the order of the files.

    Rows with the same prompt stay together, so that no validation prompt is trained on; where a prompt has several
    rows the validation part may come out a little larger than asked for.

    Returns:
        The validation rows, then the training rows.
    """
    prompts = examples.hashes[examples.firsts()[examples.row_numbers()], 1]  # of a row's first example
    _, first, prompt_of, sizes = np.unique(prompts, return_index=True, return_inverse=True, return_counts=True)
    by_appearance = np.argsort(first)
    order = by_appearance[np.random.default_rng([seed, 0x5EED]).permutation(len(sizes))]
    wanted = num_to_hold_out(len(examples), percentage)
    num_prompts = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
    is_held_out = np.zeros(len(sizes), dtype=bool)
    is_held_out[order[:num_prompts]] = True
    aside = is_held_out[prompt_of]
    rest = np.flatnonzero(~aside)
    return examples.take(np.flatnonzero(aside)), examples.take(rest) if len(rest) else None


def num_shared_prompts(train: Examples, validation: Examples) -> int:
    """Validation rows whose prompt is trained on too."""
    return int(np.isin(validation.hashes[:, 1], train.hashes[:, 1]).sum())
