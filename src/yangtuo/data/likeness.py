"""Rows that are equal, nearly equal, or have the same prompt; on columns of token ids, without Python work by row."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from yangtuo.data.examples import Examples

_CHUNK_ROWS = 8192
_ALIKE = 0.8  # Jaccard similarity of their triples of tokens, from which on two rows are nearly equal
# Rows whose smallest hashes agree in a band are compared: 98.6 % of the pairs at the threshold, 99.96 % at 0.9.
# Source: Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4 (banding of minhashes).
_BANDS, _HASHES_OF_A_BAND = 6, 3
_MOST_COMPARED = 64

_Hashes = npt.NDArray[np.uint64]


def row_hashes(examples: Examples) -> _Hashes:
    """A hash of each row's tokens and of which of them carry a loss."""
    return _hashes(examples, prompts_only=False)


def prompt_hashes(examples: Examples) -> _Hashes:
    """A hash of what the model reads before each row's first trained token.

    Rows that differ only in what follows have a prompt in common, later turns of a dialogue included.
    """
    return _hashes(examples, prompts_only=True)


def exact_repeats(examples: Examples) -> npt.NDArray[np.bool_]:
    """Which rows are equal to an earlier one."""
    _, first = np.unique(row_hashes(examples), return_index=True)
    repeats = np.ones(len(examples), dtype=bool)
    repeats[first] = False
    return repeats


def near_repeats(examples: Examples) -> npt.NDArray[np.bool_]:
    """Which rows are equal, or nearly so, to an earlier one that is itself no repeat.

    Compared are the sets of triples of neighbouring tokens, without the tokens that all rows begin with.
    """
    repeats = exact_repeats(examples)
    skipped = common_prefix(examples)
    signatures = _signatures(examples, skipped)
    for band in range(_BANDS):
        columns = signatures[:, band * _HASHES_OF_A_BAND : (band + 1) * _HASHES_OF_A_BAND]
        buckets = _mixed(columns @ np.array([1, 0x9E3779B1, 0x85EBCA77], dtype=np.uint64))
        order = np.argsort(buckets, kind="stable")  # within a bucket, in the order of the rows
        edges = np.concatenate([[0], np.flatnonzero(np.diff(buckets[order])) + 1, [len(order)]])
        for k in np.flatnonzero(np.diff(edges) > 1):
            candidates = [int(i) for i in order[edges[k] : edges[k + 1]] if not repeats[i]]
            while len(candidates) > 1:
                first, *others = candidates
                own = _triples(examples, first, skipped)
                candidates = []
                for i in others:
                    if _similarity(own, _triples(examples, i, skipped)) >= _ALIKE:
                        repeats[i] = True
                    else:
                        candidates.append(i)
                if len(others) > _MOST_COMPARED:  # rows alike in a few triples only: no use comparing all with all
                    break
    return repeats


def common_prefix(examples: Examples) -> int:
    """Tokens that all rows begin with: the template's, in Alpaca data."""
    first, _ = examples.row(0)
    shortest = int(examples.lengths().min())
    for j in range(shortest):
        if (examples.input_ids[examples.begins + j] != first[j]).any():
            return j
    return shortest


def tokens_of(examples: Examples, rows: slice) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places in the token columns of consecutive rows, and where each row begins among them."""
    begins, lengths = examples.begins[rows], examples.lengths()[rows]
    firsts = np.concatenate([[0], np.cumsum(lengths)])
    return np.arange(firsts[-1]) + np.repeat(begins - firsts[:-1], lengths), firsts[:-1]


def _chunks(num_rows: int) -> Iterator[slice]:
    for begin in range(0, num_rows, _CHUNK_ROWS):
        yield slice(begin, min(begin + _CHUNK_ROWS, num_rows))


def _hashes(examples: Examples, *, prompts_only: bool) -> _Hashes:
    hashes = np.zeros(len(examples), dtype=np.uint64)
    for rows in _chunks(len(examples)):
        places, firsts = tokens_of(examples, rows)
        counted = np.ones(len(places), dtype=bool)
        ids = examples.input_ids[places].astype(np.uint64)
        if prompts_only:
            trained = examples.supervised[places]
            seen = np.cumsum(trained)
            counted = seen == np.repeat(seen[firsts] - trained[firsts], np.diff([*firsts, len(places)]))
        else:
            ids += examples.supervised[places].astype(np.uint64) << np.uint64(40)
        number = np.cumsum(counted) - counted  # of a counted token among those of its chunk
        number = (number - np.repeat(number[firsts], np.diff([*firsts, len(places)]))).astype(np.uint64)
        mixed = _mixed(ids * np.uint64(0x9E3779B97F4A7C15) + number * np.uint64(0xC2B2AE3D27D4EB4F) + np.uint64(1))
        hashes[rows] = np.add.reduceat(np.where(counted, mixed, np.uint64(0)), firsts)
    return hashes


def _signatures(examples: Examples, skipped: int) -> _Hashes:
    seeds = _mixed(np.arange(1, _BANDS * _HASHES_OF_A_BAND + 1, dtype=np.uint64))
    signatures = np.zeros((len(examples), len(seeds)), dtype=np.uint64)
    for rows in _chunks(len(examples)):
        places, firsts = tokens_of(examples, rows)
        triples = _mixed_triples(examples.input_ids[places].astype(np.uint64))
        lengths = np.diff([*firsts, len(places)])
        position = np.arange(len(places)) - np.repeat(firsts, lengths)
        # A row's last two places begin no triple of its own; a row of fewer tokens than three has none at all.
        outside = (position < skipped) | (position >= np.repeat(lengths - 2, lengths))
        for k, seed in enumerate(seeds):
            hashed = _mixed(triples ^ seed)
            hashed[outside] = np.iinfo(np.uint64).max
            signatures[rows, k] = np.minimum.reduceat(hashed, firsts)
    return signatures


def _mixed_triples(ids: _Hashes) -> _Hashes:
    padded: _Hashes = np.concatenate([ids, np.zeros(2, dtype=np.uint64)])
    return _mixed(
        padded[:-2] * np.uint64(0x9E3779B97F4A7C15)
        + padded[1:-1] * np.uint64(0xC2B2AE3D27D4EB4F)
        + padded[2:] * np.uint64(0x165667B19E3779F9)
    )


def _triples(examples: Examples, i: int, skipped: int) -> _Hashes:
    ids = examples.row(i)[0][skipped:].astype(np.uint64)
    return np.unique(_mixed_triples(ids)[: max(1, len(ids) - 2)])


def _similarity(a: _Hashes, b: _Hashes) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    either = len(a) + len(b) - shared
    return shared / either if either else 1.0


def _mixed(values: _Hashes) -> _Hashes:
    """The finaliser of splitmix64: nearby values become far apart.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: _Hashes = values ^ (values >> np.uint64(31))
    return mixed
