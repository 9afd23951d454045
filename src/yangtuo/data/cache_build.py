"""Files -> columns on disk, in bounded memory and, for large data, with all processors.

The main process reads and checks rows; batches of them are encoded by worker processes and written in order.
"""

import json
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from yangtuo.config.choices import BadRows
from yangtuo.data.encoding import Encoder, EncodingOptions, check_kept, count_reasons
from yangtuo.data.encoding_options import check_rendered
from yangtuo.data.readers.reader import MOST_LISTED, Dropped, Reader, ReadOptions
from yangtuo.data.records import Record
from yangtuo.data.tokenizer import Tokenizer, open_tokenizer

# Type and width of each column; by token the first three, by row the others.
COLUMNS: dict[str, tuple[str, int]] = {
    "input_ids": ("<i4", 1),
    "supervised": ("?", 1),
    "weights": ("<f4", 1),
    "lengths": ("<i8", 1),
    "trained": ("<f8", 2),
    "source_numbers": ("<i4", 1),
    "rows": ("<i8", 1),
    "outcomes": ("<u2", 1),
    "hashes": ("<u8", 2),
}
_BATCH_ROWS = 2048
# Of data files; below, threads are faster (docs/log.md), above, processes, which share the work in Python too.
_PARALLEL_BYTES = 1 << 24
_MOST_WAITING = 3  # batches for each worker that are read ahead, so that memory stays bounded

_Result = tuple[dict[str, Any], list[Dropped], dict[str, int]]


@dataclass
class _Totals:
    """What all batches gave together; `is_plain` where weights say no more than the mask."""

    num_kept: int = 0
    num_tokens: int = 0
    is_plain: bool = True
    dropped: list[Dropped] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    special: Counter[str] = field(default_factory=Counter)

    def add(self, arrays: dict[str, Any], dropped: list[Dropped], special: dict[str, int]) -> None:
        self.num_kept += len(arrays["rows"])
        self.num_tokens += len(arrays["input_ids"])
        self.is_plain = self.is_plain and bool((arrays["weights"] == arrays["supervised"]).all())
        self.dropped += dropped[: max(0, MOST_LISTED - len(self.dropped))]
        self.reasons.update(count_reasons(dropped))
        self.special.update(special)


def build(
    folder: Path,
    paths: Sequence[Path],
    read_options: ReadOptions,
    tokenizer: Tokenizer,
    options: EncodingOptions,
    num_workers: int | None,
) -> None:
    """Write the columns of the files' rows into a folder, and `about.json` beside them.

    Raises:
        DataError: see `readers.records.Reader` and `encoding_options.check_kept`.
    """
    names, totals = list(map(str, paths)), _Totals()
    num_bytes = sum(path.stat().st_size for path in paths if path.is_file())
    is_large = num_bytes >= _PARALLEL_BYTES
    with ExitStack() as stack:
        bar: tqdm[Any] = stack.enter_context(
            tqdm(
                total=num_bytes,
                desc="encoding",
                unit="B",
                unit_scale=True,
                leave=False,
                disable=None if is_large else True,
            )
        )
        reader = Reader(paths, read_options, on_progress=partial(_show, bar))
        encoded = _encoded(reader, names, tokenizer, options, num_workers, is_large=is_large)
        out = {name: stack.enter_context((folder / name).open("wb")) for name in COLUMNS}
        for arrays, dropped_there, special_there in encoded:
            for name, column in arrays.items():
                # Not tofile, which does not say why it fails.
                out[name].write(np.ascontiguousarray(column, dtype=COLUMNS[name][0]).data)
            totals.add(arrays, dropped_there, special_there)
            bar.set_postfix_str(f"{totals.num_kept:,} rows", refresh=False)
    num_read = sum(source.num_rows for source in reader.sources)
    if read_options.bad_rows is BadRows.ERROR:
        check_rendered(totals.dropped, totals.reasons)
    all_dropped = (*reader.dropped, *totals.dropped)
    reasons = dict((totals.reasons + Counter(count_reasons(reader.dropped))).most_common())
    check_kept(totals.num_kept, num_read, all_dropped, reasons, options)
    if totals.is_plain:
        (folder / "weights").unlink()
    number_of = {name: number for number, name in enumerate(names)}
    about = {
        "rows": totals.num_kept,
        "tokens": totals.num_tokens,
        "tokenizer": str(tokenizer.folder.resolve()),
        "template": options.template.name,
        "max_seq_length": options.max_seq_length,
        "truncation": options.truncation,
        "reading": asdict(read_options),
        "sources": [asdict(source) for source in reader.sources],
        "dropped": [[number_of[one.source], *one[1:]] for one in all_dropped],
        "num_bad": reader.num_dropped,
        "reasons": totals.reasons,
        "special": totals.special,
    }
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _show(bar: "tqdm[Any]", num_bytes: int) -> None:
    bar.update(num_bytes - bar.n)


def _encoded(
    reader: Reader,
    names: list[str],
    tokenizer: Tokenizer,
    options: EncodingOptions,
    num_workers: int | None,
    *,
    is_large: bool,
) -> Iterator[_Result]:
    """Results of all batches, in order."""
    workers = num_workers or os.cpu_count() or 1
    batches = (
        batch
        for batch in _batches(reader.records())
        # Where one row is an error, reading goes on only to name the others.
        if not (reader.num_dropped and reader.read_options.bad_rows is BadRows.ERROR)
    )
    if not is_large or workers == 1:
        encoder = Encoder(tokenizer, options, num_workers)
        yield from (_encode(encoder, batch, names) for batch in batches)
        return
    waiting: deque[Future[_Result]] = deque()
    # Not forked: by now the tokenizer library, or torch, may have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (tokenizer.folder, options, names)) as pool:
        for batch in batches:
            waiting.append(pool.submit(_work, batch))
            if len(waiting) > _MOST_WAITING * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _encode(encoder: Encoder, batch: list[Record], names: list[str]) -> _Result:
    columns = encoder.encode(batch)
    return columns.arrays(names), columns.dropped, columns.special


_worker: list[Any] = []  # of a worker process: its encoder and the files' names


def _start(folder: Path, options: EncodingOptions, names: list[str]) -> None:
    _worker[:] = [Encoder(open_tokenizer(folder), options, num_threads=1), names]


def _work(batch: list[Record]) -> _Result:
    encoder, names = _worker
    return _encode(encoder, batch, names)
