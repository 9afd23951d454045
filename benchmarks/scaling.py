"""How evenly steps are spread, and what LoRA training sends between GPUs: the tables of docs/scaling.md.

Imbalances are measured (newest result of balance.py); sizes and bytes are counted by formula.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

VOCABULARY, ROW_TOKENS, SUPERVISED_SHARE = 49_954, 163, 0.7
RANKS = (8, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Setup:
    """A LLaMA, what of it is trained, and by which engine: DDP, ZeRO-2 or sharded (ZeRO-3, FSDP2)."""

    name: str
    hidden: int
    num_layers: int
    intermediate: int
    kv: int  # width of keys and values
    engine: str = "DDP"
    rank: int = 8
    saves_modules: bool = False
    recomputes: bool = False

    @property
    def blocks(self) -> int:
        """Frozen weights of the seven linear layers of all blocks."""
        return self.num_layers * self.hidden * (2 * self.hidden + 2 * self.kv + 3 * self.intermediate)

    @property
    def outer(self) -> int:
        """Weights of embedding and head, which `modules_to_save` trains."""
        return 2 * VOCABULARY * self.hidden

    @property
    def trained(self) -> int:
        """Weights of LoRA on the seven layers, rank x (inputs + outputs) of each, and of `modules_to_save`."""
        lora = self.rank * self.num_layers * (9 * self.hidden + 2 * self.kv + 3 * self.intermediate)
        return lora + self.saves_modules * self.outer

    def sent(self, num_gpus: int, num_micro_batches: int) -> float:
        """Bytes that a GPU sends in a step."""
        part = (num_gpus - 1) / num_gpus
        if self.engine == "DDP":
            return part * 8 * self.trained
        if self.engine == "ZeRO-2":  # DeepSpeed 0.19.8 reduces by all-reduce, in every micro-batch
            return part * 2 * self.trained * (2 * num_micro_batches + 1)
        return num_micro_batches * part * (2 * (2 * self.blocks + self.outer) + 6 * self.trained)

    def flop_per_token(self) -> float:
        """Forward and backward: 4 a frozen weight (6 recomputed), 6 a trained one, the head where there is a loss."""
        blocks = (6 if self.recomputes else 4) * self.blocks + 6 * (self.trained - self.saves_modules * self.outer)
        head = (6 if self.saves_modules else 4) * SUPERVISED_SHARE * self.outer / 2
        return blocks + head + (16 if self.recomputes else 12) * self.num_layers * self.hidden * ROW_TOKENS / 2


MODELS = [Setup("7B", 4096, 32, 11008, 4096), Setup("13B", 5120, 40, 13824, 5120), Setup("70B", 8192, 80, 28672, 1024)]
TRAINED = [replace(m, rank=r, saves_modules=s) for m in MODELS for r, s in ((8, False), (64, False), (8, True))]


def tables(points: Sequence[dict[str, Any]]) -> Iterator[str]:
    """All of them in Markdown; `points` are those of balance.py."""
    found = {(p["ranks"], p["rows_per_step"] // p["ranks"]): p for p in points}
    even = [[n, *(_imbalance(found[n, c]) for c in (1, 2, 8)), f"{found[n, 8]['plan_ms']:.1f}"] for n in RANKS]
    yield _table(["ranks", "1 row a rank", "2 rows a rank", "8 rows a rank", "ms to plan 8 a rank"], even)
    yield _table(["model", "base", "r=8", "r=64", "modules_to_save", "GFLOP", "recomputed"], [*map(_sizes, MODELS)])
    engines = [(t, [replace(t, engine=engine) for engine in ("DDP", "ZeRO-2", "sharded")]) for t in TRAINED]
    sent = [[*_named(t), *(f"{each.sent(1024, 1) / 1e9:.2f}" for each in of_t)] for t, of_t in engines]
    yield _table(["model", "trained", "DDP", "ZeRO-2", "ZeRO-3, FSDP2"], sent)


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in (head, ["---"] * len(head), *rows))


def _named(setup: Setup) -> list[str]:
    return [setup.name, f"r={setup.rank}" + " + modules_to_save" * setup.saves_modules]


def _imbalance(point: dict[str, Any]) -> str:
    return f"{100 * point['planned'][0]:.1f} ({100 * point['planned'][1]:.1f}); {100 * point['in_turn'][0]:.0f}"


def _sizes(model: Setup) -> list[str]:
    counts = (model.blocks + model.outer, model.trained, replace(model, rank=64).trained, model.outer)
    flop = (model.flop_per_token(), replace(model, recomputes=True).flop_per_token())
    return [model.name, *(f"{n / 1e9:.2f}" for n in counts), *(f"{n / 1e9:.0f}" for n in flop)]


if __name__ == "__main__":
    newest = max((Path(__file__).parent / "results").glob("*balance*.json"))
    print("\n".join(tables(json.loads(newest.read_text(encoding="utf-8"))["points"])), end="")
