"""Setting part of the training rows aside for evaluation."""

from collections.abc import Sequence

import numpy as np

from yangtuo.data.records import Record


def num_to_hold_out(num_rows: int, percentage: float) -> int:
    """Rows that `--validation_split_percentage` asks for: below 1 a fraction, from 1 up a percentage; at least 1."""
    part = percentage if percentage < 1 else percentage / 100
    return max(1, round(num_rows * part))


def split(records: Sequence[Record], percentage: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Training and validation records, both in the order of the files.

    Rows with the same prompt stay together, so that no validation prompt is trained on; where a prompt has several
    rows the validation part may come out a little larger than asked for.
    """
    by_prompt: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        by_prompt.setdefault(record.turns[0].text, []).append(i)
    prompts = list(by_prompt.values())
    wanted = num_to_hold_out(len(records), percentage)
    held_out: set[int] = set()
    for p in np.random.default_rng([seed, 0x5EED]).permutation(len(prompts)):
        if len(held_out) >= wanted:
            break
        held_out.update(prompts[p])
    train = [record for i, record in enumerate(records) if i not in held_out]
    return train, [record for i, record in enumerate(records) if i in held_out]
