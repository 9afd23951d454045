"""How often an epoch has the rows of each file (`--mix`). Pure: values in, values out."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from yangtuo.config.words import with_signs
from yangtuo.errors import UsageError
from yangtuo.i18n import Message


def parse(text: str, paths: Sequence[str]) -> tuple[float, ...]:
    """The weight of each file; 1 for those that are not named.

    Args:
        text: `law.json:2,general.json:0.5`, each file by its name or its whole path.
        paths: the training files.

    Raises:
        UsageError: everything that is wrong with it.
    """
    weights, problems = [1.0] * len(paths), []
    named: set[int] = set()
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, number = part.rpartition(":")
        found = [i for i, path in enumerate(paths) if name in (path, Path(path).name)]
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not (math.isfinite(weight) and weight >= 0):
            problems.append(
                with_signs(Message("{part!r}: expected a file, a colon and a number from 0 up", part=part), part)
            )
        elif len(found) != 1:
            names = ", ".join(Path(path).name for path in paths)
            why = (
                Message("no training file has this name")
                if not found
                else Message("several training files have this name; give paths")
            )
            problems.append(Message("{name!r}: {why} (files: {names})", name=name, why=why, names=names))
        elif found[0] in named:
            problems.append(Message("{name!r}: named twice", name=name))
        else:
            named.add(found[0])
            weights[found[0]] = weight
    if not problems and not any(weights):
        problems.append(Message("every file has weight 0"))
    if problems:
        raise UsageError.of_problems(f"--mix {text}", problems)
    return tuple(weights)


def rows_of_epoch(
    source_numbers: npt.NDArray[np.int32], weights: Sequence[float], epoch: int, seed: int
) -> npt.NDArray[np.int64]:
    """The rows of an epoch in the order of the files, a row several times where its file's weight is above 1.

    A weight of 2.5 has every row of the file twice and half of them, drawn anew each epoch, a third time.
    """
    drawn = []
    for number, weight in enumerate(weights):
        own = np.flatnonzero(source_numbers == number)
        times, rest = divmod(weight, 1.0)
        drawn += [own] * int(times)
        num_more = min(len(own), round(rest * len(own)))
        drawn.append(np.random.default_rng([seed, epoch, number]).permutation(own)[:num_more])
    return np.sort(np.concatenate(drawn), kind="stable").astype(np.int64)


def num_rows_of_epoch(source_numbers: npt.NDArray[np.int32], weights: Sequence[float]) -> list[int]:
    """Rows of each file in an epoch; every epoch has as many."""
    sizes = np.bincount(source_numbers, minlength=len(weights))
    return [
        int(size) * int(weight) + min(int(size), round((weight % 1.0) * int(size)))
        for size, weight in zip(sizes, weights, strict=True)
    ]
