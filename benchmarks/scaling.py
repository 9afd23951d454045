"""What LoRA training sends between GPUs, what fits into one, how it should scale: the tables of docs/scaling.md.

Formulas and the assumptions that docs/scaling.md states; only imbalances are measured (newest result of balance.py).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2
from pathlib import Path
from typing import Any

from yangtuo.engine.memory import ModelShape, choose_max_cells

FLOP_PER_S, GPU_BYTES, GPUS_PER_NODE, NVLINK = 400e12, 78 * 2**30, 8, 450e9
NETWORKS = {"8 x 400 Gb/s": 400e9, "100 GbE": 12.5e9, "25 GbE": 3.125e9}  # bytes/s out of a node
WIRE_SHARE, HOP_SECONDS, BUCKET_BYTES = 0.8, 2e-6, 25 * 2**20
VOCABULARY, ROW_TOKENS, SUPERVISED_SHARE, LONGEST_ROW = 49_954, 163, 0.7, 512
RANKS = (1, 8, 16, 64, 256, 1024)


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

    def memory(self, num_gpus: int) -> tuple[float, float]:
        """Bytes of the base, with what is gathered of it at a time, and of all that training adds."""
        base = 2 * (self.blocks + self.outer)
        if self.engine == "sharded":
            gathered = 2 * (2 * self.blocks / self.num_layers + self.outer) if num_gpus > 1 else 0
            return base / num_gpus + gathered, 16 * self.trained / num_gpus
        return base, self.trained * (20 if self.engine == "DDP" else 2 + 14 / num_gpus)

    def micro_batch_tokens(self, num_gpus: int) -> int:
        """What the product would choose; 0 where the longest row does not fit."""
        shape = ModelShape(self.num_layers, self.hidden, self.intermediate, width=2)
        free = max(0, int(GPU_BYTES - sum(self.memory(num_gpus))))
        most = choose_max_cells(shape, free, "cuda", checkpointing=self.recomputes)
        return most if most >= LONGEST_ROW else 0

    def sent(self, num_gpus: int, num_micro_batches: int) -> tuple[float, float]:
        """Bytes that a GPU sends in a step, and messages that wait for one another: rings gather, trees reduce."""
        part, tree, ring = (num_gpus - 1) / num_gpus, 2 * log2(num_gpus), num_gpus - 1
        if self.engine == "DDP":
            return part * 8 * self.trained, ceil(4 * self.trained / BUCKET_BYTES) * tree
        if self.engine == "ZeRO-2":  # DeepSpeed 0.19.8 reduces by all-reduce, in every micro-batch
            return part * 2 * self.trained * (2 * num_micro_batches + 1), num_micro_batches * tree + ring
        in_one = 2 * (2 * self.blocks + self.outer) + 6 * self.trained
        return num_micro_batches * part * in_one, num_micro_batches * 3 * self.num_layers * ring

    def flop_per_token(self) -> float:
        """Forward and backward: 4 a frozen weight (6 recomputed), 6 a trained one, the head where there is a loss."""
        blocks = (6 if self.recomputes else 4) * self.blocks + 6 * (self.trained - self.saves_modules * self.outer)
        head = (6 if self.saves_modules else 4) * SUPERVISED_SHARE * self.outer / 2
        return blocks + head + (16 if self.recomputes else 12) * self.num_layers * self.hidden * ROW_TOKENS / 2

    def efficiency(self, num_gpus: int, node_rate: float, num_rows: int, imbalance: float) -> str:
        """Percent of the time that is useful arithmetic, with none and with all of the communication hidden."""
        if not (most := self.micro_batch_tokens(num_gpus)):
            return "-"
        num_bytes, hops = self.sent(num_gpus, ceil(num_rows * ROW_TOKENS / most))
        rate = WIRE_SHARE * (NVLINK if num_gpus <= GPUS_PER_NODE else min(NVLINK, node_rate))
        wire = num_bytes / rate + hops * HOP_SECONDS
        flop = [each.flop_per_token() * num_rows * ROW_TOKENS for each in (self, replace(self, recomputes=False))]
        busy, useful = flop[0] / FLOP_PER_S * (1 + imbalance), flop[1] / FLOP_PER_S
        return "-".join(dict.fromkeys(f"{100 * useful / time:.0f}" for time in (busy + wire, max(busy, wire))))


MODELS = [Setup("7B", 4096, 32, 11008, 4096), Setup("13B", 5120, 40, 13824, 5120), Setup("70B", 8192, 80, 28672, 1024)]
TRAINED = [replace(m, rank=r, saves_modules=s) for m in MODELS for r, s in ((8, False), (64, False), (8, True))]
SHARDED = [replace(m, engine="sharded", recomputes=r) for m in MODELS for r in (False, True)]


def tables(points: Sequence[dict[str, Any]]) -> Iterator[str]:
    """All of them in Markdown; `points` are those of balance.py."""
    found = {(p["ranks"], p["rows_per_step"] // p["ranks"]): p for p in points}
    even = [[n, *(_imbalance(found[n, c]) for c in (1, 2, 8)), f"{found[n, 8]['plan_ms']:.1f}"] for n in RANKS[1:]]
    yield _table(["ranks", "1 row a rank", "2 rows a rank", "8 rows a rank", "ms to plan 8 a rank"], even)
    yield _table(["model", "base", "r=8", "r=64", "modules_to_save", "GFLOP", "recomputed"], [*map(_sizes, MODELS)])
    engines = [(t, [replace(t, engine=engine) for engine in ("DDP", "ZeRO-2", "sharded")]) for t in TRAINED]
    sent = [[*_named(t), *(f"{each.sent(1024, 1)[0] / 1e9:.2f}" for each in of_t)] for t, of_t in engines]
    yield _table(["model", "trained", "DDP", "ZeRO-2", "ZeRO-3, FSDP2"], sent)
    fits = [[*_named(t), *(_memory(of_t[i], n) for i, n in ((0, 8), (1, 8), (2, 8), (2, 64)))] for t, of_t in engines]
    yield _table(["model", "trained", "DDP", "ZeRO-2, 8 GPUs", "sharded, 8 GPUs", "sharded, 64 GPUs"], fits)
    for num_rows in (8, 64):
        shown = [(s, net) for s in (*TRAINED[:6], *SHARDED) for net in NETWORKS if s.engine == "DDP" or net != "25 GbE"]
        head = [f"{num_rows} rows a GPU", "trained", "engine", "network", *map(str, RANKS)]
        yield _table(head, [_predicted(s, net, num_rows, found) for s, net in shown])


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


def _memory(setup: Setup, num_gpus: int) -> str:
    base, training = (num_bytes / 2**30 for num_bytes in setup.memory(num_gpus))
    tokens = [replace(setup, recomputes=again).micro_batch_tokens(num_gpus) for again in (False, True)]
    return f"{base:.1f} + {training:.1f}: " + (f"{tokens[0]:,}; {tokens[1]:,}" if all(tokens) else "does not fit")


def _predicted(setup: Setup, network: str, num_rows: int, found: dict[tuple[int, int], dict[str, Any]]) -> list[str]:
    kind = "planned" if setup.engine == "DDP" else "lockstep"
    cells = [setup.efficiency(n, NETWORKS[network], num_rows, found[n, 8][kind][0]) for n in RANKS]
    return [*_named(setup), setup.engine + ", recomputed" * setup.recomputes, network, *cells]


if __name__ == "__main__":
    newest = max((Path(__file__).parent / "results").glob("*balance*.json"))
    print("\n".join(tables(json.loads(newest.read_text(encoding="utf-8"))["points"])), end="")
