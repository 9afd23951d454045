"""Setting part of the training rows aside for evaluation."""

import numpy as np

from yangtuo.data.encoding import Examples


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
    by_prompt: dict[bytes, list[int]] = {}
    for i in range(len(examples)):
        ids, supervised = examples.row(i)
        by_prompt.setdefault(ids[~supervised].tobytes(), []).append(i)
    prompts = list(by_prompt.values())
    wanted = num_to_hold_out(len(examples), percentage)
    held_out: set[int] = set()
    for p in np.random.default_rng([seed, 0x5EED]).permutation(len(prompts)):
        if len(held_out) >= wanted:
            break
        held_out.update(prompts[p])
    rest = [i for i in range(len(examples)) if i not in held_out]
    return examples.take(sorted(held_out)), examples.take(rest) if rest else None
