"""Rounds in turns: wall and processor time of each contender, and the tokens that went through the model."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Found = Mapping[str, Any]  # of each row: its log-probability, or the text of an answer
Contender = Callable[[], Found]


@dataclass(frozen=True)
class Run:
    """One contender in one round.

    Attributes:
        contender: its name.
        rows: that it computed.
        seconds: of the clock.
        processor_seconds: of all threads of this process; what other processes took is not in it.
        cells: tokens that went into the embedding, padding included.
        found: what it found, by row.
    """

    contender: str
    rows: int
    seconds: float
    processor_seconds: float
    cells: int
    found: Found


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """Collects the number of ids of each call of the model's embedding."""
    sizes: list[int] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
    try:
        yield sizes
    finally:
        hook.remove()


def run(name: str, contender: Contender, model: Any) -> Run:
    """One contender, once."""
    with counted(model) as sizes:
        began, processor_began = time.perf_counter(), time.process_time()
        found = contender()
        seconds, processor_seconds = time.perf_counter() - began, time.process_time() - processor_began
    return Run(name, len(found), seconds, processor_seconds, sum(sizes), found)


def rounds(
    contenders: Mapping[str, Contender], number: int, model: Any, tell: Callable[[str], None]
) -> list[list[Run]]:
    """All contenders in turns; each round begins with another one."""
    names: Sequence[str] = list(contenders)
    done = []
    for n in range(number):
        begin = n % len(names)
        of_round = []
        for name in [*names[begin:], *names[:begin]]:
            of_round.append(run(name, contenders[name], model))
            one = of_round[-1]
            tell(
                f"round {n + 1}, {name}: {one.rows} rows, {one.seconds:.1f} s, {one.processor_seconds:.1f} s of the "
                f"processor, {one.cells:,} cells"
            )
        done.append(of_round)
    return done
