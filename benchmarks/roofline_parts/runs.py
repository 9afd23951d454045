"""The rows and options that are run on the fake device; the part that loads torch with it."""

import argparse
import tempfile
from pathlib import Path

from tests.fake_cuda import device
from tests.fake_cuda.trace import Trace

# Eight rows of a Chinese instruction data set: 35 tokens of prompt in common, 1,059 cells in all.
_SHORT_ROWS = tuple(35 + own for own in (40, 60, 85, 105, 128, 155, 190, 261))
PRESETS = {
    "full-rows": {"model": "llama3-8b", "rows": "4096x2", "rank": 16, "dropout": 0.1},
    "seed-recipe": {
        "model": "llama2-7b",
        "rows": ",".join(map(str, _SHORT_ROWS)),
        "common": 35,
        "supervised": 0.7,
        "rank": 8,
        "dropout": 0.05,
        "modules_to_save": "embed_tokens,lm_head",
    },
}


def lengths_of(rows: str) -> tuple[int, ...]:
    """`4096x2,512` as (4096, 4096, 512).

    Raises:
        ValueError: a part that is no number, or number x number.
    """
    parts = [part.partition("x") for part in rows.split(",")]
    return tuple(int(length) for length, _, times in parts for _ in range(int(times or 1)))


def words_of(options: argparse.Namespace) -> tuple[str, ...]:
    """The options of `yangtuo train` that the benchmark's own stand for."""
    words = ["--lora_rank", str(options.rank), "--lora_dropout", str(options.dropout)]
    if options.modules_to_save:
        words += ["--modules_to_save", options.modules_to_save]
    return (*words, "--gradient_checkpointing", str(options.gradient_checkpointing))


def recorded(options: argparse.Namespace) -> Trace:
    """One step of it, on a fake device that this process gets for good."""
    with tempfile.TemporaryDirectory() as folder:
        device.load(device.build(Path(folder)))
    from tests.fake_cuda.micro_batch import Setup, record

    return record(
        Setup(
            lengths=lengths_of(options.rows),
            options=words_of(options),
            shape=options.model,
            num_layers=options.layers,
            common=options.common,
            supervised=options.supervised,
        )
    )
