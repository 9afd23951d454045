"""Rows that are equal or nearly equal; on columns, without Python work by row."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from yangtuo.data.examples import Examples, Hashes, mixed

_CHUNK_ROWS = 8192
_ALIKE = 0.8  # Jaccard similarity of their triples of tokens, from which on two rows are nearly equal
# Rows whose smallest hashes agree in a band are compared: 98.6 % of the pairs at the threshold, 99.96 % at 0.9.
# Source: Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4 (banding of minhashes).
_BANDS, _HASHES_OF_A_BAND = 6, 3
_MOST_COMPARED = 64


def exact_repeats(examples: Examples) -> npt.NDArray[np.bool_]:
    """Which examples are of rows that are equal to earlier ones."""
    _, first = np.unique(examples.hashes[:, 0], return_index=True)
    repeats = np.ones(len(examples), dtype=bool)
    repeats[first] = False
    # A row of several examples is a repeat where all of them are.
    return np.logical_and.reduceat(repeats, examples.firsts())[examples.row_numbers()] if len(examples) else repeats


def near_repeats(examples: Examples) -> npt.NDArray[np.bool_]:
    """Which examples are of rows that are equal, or nearly so, to an earlier one that is itself no repeat.

    Of a row of several examples, which are nearly equal by themselves, the last one is compared.

    Compared are the sets of triples of neighbouring tokens, without the tokens that all rows begin with. Pairs are
    found by minhash, so that a few in a hundred at the threshold are missed.
    """
    if examples.num_rows() < len(examples):
        lasts = np.append(examples.firsts()[1:], len(examples)) - 1
        return near_repeats(examples.take(lasts))[examples.row_numbers()]
    repeats = exact_repeats(examples)
    skipped = examples.common_prefix()
    signatures = _signatures(examples, skipped)
    for band in range(_BANDS):
        columns = signatures[:, band * _HASHES_OF_A_BAND : (band + 1) * _HASHES_OF_A_BAND]
        buckets = mixed(columns @ np.array([1, 0x9E3779B1, 0x85EBCA77], dtype=np.uint64))
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


def tokens_of(examples: Examples, rows: slice) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places in the token columns of consecutive rows, and where each row begins among them."""
    begins, lengths = examples.begins[rows], examples.lengths()[rows]
    firsts = np.concatenate([[0], np.cumsum(lengths)])
    return np.arange(firsts[-1]) + np.repeat(begins - firsts[:-1], lengths), firsts[:-1]


def _chunks(num_rows: int) -> Iterator[slice]:
    for begin in range(0, num_rows, _CHUNK_ROWS):
        yield slice(begin, min(begin + _CHUNK_ROWS, num_rows))


def _signatures(examples: Examples, skipped: int) -> Hashes:
    seeds = mixed(np.arange(1, _BANDS * _HASHES_OF_A_BAND + 1, dtype=np.uint64))
    signatures = np.zeros((len(examples), len(seeds)), dtype=np.uint64)
    for rows in _chunks(len(examples)):
        places, firsts = tokens_of(examples, rows)
        triples = _mixed_triples(examples.input_ids[places].astype(np.uint64))
        lengths = np.diff([*firsts, len(places)])
        position = np.arange(len(places)) - np.repeat(firsts, lengths)
        # A row's last two places begin no triple of its own; a row of fewer tokens than three has none at all.
        outside = (position < skipped) | (position >= np.repeat(lengths - 2, lengths))
        for k, seed in enumerate(seeds):
            hashed = mixed(triples ^ seed)
            hashed[outside] = np.iinfo(np.uint64).max
            signatures[rows, k] = np.minimum.reduceat(hashed, firsts)
    return signatures


def _mixed_triples(ids: Hashes) -> Hashes:
    padded: Hashes = np.concatenate([ids, np.zeros(2, dtype=np.uint64)])
    return mixed(
        padded[:-2] * np.uint64(0x9E3779B97F4A7C15)
        + padded[1:-1] * np.uint64(0xC2B2AE3D27D4EB4F)
        + padded[2:] * np.uint64(0x165667B19E3779F9)
    )


def _triples(examples: Examples, i: int, skipped: int) -> Hashes:
    ids = examples.row(i)[0][skipped:].astype(np.uint64)
    return np.unique(_mixed_triples(ids)[: max(1, len(ids) - 2)])


def _similarity(a: Hashes, b: Hashes) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    either = len(a) + len(b) - shared
    return shared / either if either else 1.0
