"""Training throughput side by side: yangtuo, plain transformers, TRL; same rows, same LoRA, same machine, one run.

Every contender trains in a process of its own, one after the other, in turns over the rounds, so that a machine that
warms up or slows down does so for all. The machine's own matrix-multiply rate is measured between the rounds; useful
work divided by it says how much of the time went into what a step cannot do without. benchmarks/README.md says how
each number is counted. This process imports no torch: the resident set that Linux reports for a child begins with the
size of the process that started it. TRL is imported in the children that need it, and nowhere else.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from yangtuo.data import records
from yangtuo.demo import DATA, cache_folder, fetch_model
from yangtuo.errors import MissingDependencyError, UsageError, YangtuoError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_RANK, LORA_ALPHA, LORA_DROPOUT = 8, 32, 0.05
LEARNING_RATE, SEED = 1e-4, 42
IGNORED_LABEL = -100
# TRL recomputes activations by default; its _fast variants keep them, as ours and the seed do.
CONTENDERS = ("ours", "seed", "trl", "trl_packed", "trl_fast", "trl_packed_fast")
MATMUL_TOKENS = (1024, 2048, 2816)
LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}  # relative, of the first step
GIB = 2**30


@dataclass(frozen=True)
class Row:
    """An example as all contenders train on it, written by `yangtuo encode`."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_supervised(self) -> int:
        """Tokens with a loss."""
        return sum(label != IGNORED_LABEL for label in self.labels)


@dataclass(frozen=True)
class ModelShape:
    """What decides the cost of a token: weights of the linear layers (the head apart), the head, the attention."""

    linear_weights: int
    hidden_size: int
    vocabulary: int
    num_layers: int
    num_heads: int
    head_dim: int


@dataclass(frozen=True)
class Run:
    """One contender, once. Lists have one value for each step, the warm-up included; `peak_device_bytes` is CUDA's.

    `loop_seconds` is `train_runtime` of transformers: all steps, and what lies between them.
    """

    step_seconds: list[float]
    rows: list[int]
    tokens: list[int]
    supervised_tokens: list[int]
    losses: list[float]
    loop_seconds: float
    peak_device_bytes: int | None = None
    peak_resident_bytes: int = 0

    @property
    def num_warm_up(self) -> int:
        """Steps left out of the rates: the first pays for memory, threads and caches, unless it is the only one."""
        return 1 if len(self.step_seconds) > 1 else 0

    def per_second(self, counts: Sequence[float]) -> float:
        """Rate of what is counted for each step."""
        return sum(counts[self.num_warm_up :]) / sum(self.step_seconds[self.num_warm_up :])


@dataclass
class Comparison:
    """All that is known of a run of this program; a contender's entry of a round is a `Run`, or why it has none."""

    contenders: list[str]
    rows: list[Row]
    batch: int
    num_steps: int
    machine: dict[str, Any]
    matmul_flop_per_s: list[float] = field(default_factory=list)
    rounds: list[dict[str, Run | str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def plan(self) -> list[list[Row]]:
        """The rows of each step."""
        return plan_steps(self.rows, self.batch, self.num_steps)

    @property
    def shape(self) -> ModelShape:
        """The model's."""
        return ModelShape(**self.machine["shape"])


# ---- what is counted: values in, values out


def plan_steps(rows: Sequence[Row], batch: int, num_steps: int) -> list[list[Row]]:
    """The rows of each step: in order, a short last step in each epoch, then from the first row again."""
    epoch = [list(rows[begin : begin + batch]) for begin in range(0, len(rows), batch)]
    return [epoch[step % len(epoch)] for step in range(num_steps)]


def distinct_prefixes(sequences: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Tokens that differ in themselves or in what precedes them, and the tokens that all of these attend to.

    A token's activations depend on its prefix alone, so a prefix that several rows share needs computing only once.
    """
    children: dict[tuple[int, int], int] = {}  # (node, token) -> node; node 0 is the empty prefix
    num_pairs = 0
    for sequence in sequences:
        node = 0
        for depth, token in enumerate(sequence, start=1):
            before = len(children)
            node = children.setdefault((node, token), before + 1)
            if len(children) > before:
                num_pairs += depth
    return len(children), num_pairs


def useful_flop(rows: Sequence[Row], shape: ModelShape) -> int:
    """What one step on these rows cannot do without, when the base and the head are frozen.

    linear layers: 2 a weight and token forward, 2 for the gradient of the input; frozen weights need none.
    head: the same, on supervised tokens only.
    attention: two products forward (queries x keys, weights x values), four backward, 2 x head_dim each for every
    head and every pair of a token and one that it attends to (itself and those before it).
    LoRA's own products (3 % of the demo model's), norms and softmax are left out.
    """
    num_tokens, num_pairs = distinct_prefixes([row.input_ids for row in rows])
    linear = 4 * shape.linear_weights * num_tokens
    head = 4 * shape.hidden_size * shape.vocabulary * sum(row.num_supervised for row in rows)
    attention = 12 * shape.num_layers * shape.num_heads * shape.head_dim * num_pairs
    return linear + head + attention


def check_work(run: Run, plan: Sequence[Sequence[Row]], *, packed_rows: Sequence[Row] | None = None) -> str | None:
    """What shows that a contender did other work than planned; None where it did the same.

    With `packed_rows` the steps are the contender's own, and what is measured has to be whole epochs of those rows.
    """
    if packed_rows is not None:
        measured = slice(run.num_warm_up, None)
        num_epochs, rest = divmod(sum(run.rows[measured]), len(packed_rows))
        per_epoch = [sum(len(row.input_ids) for row in packed_rows), sum(row.num_supervised for row in packed_rows)]
        found = [sum(run.tokens[measured]), sum(run.supervised_tokens[measured])]
        same = rest == 0 and found == [num_epochs * count for count in per_epoch]
        return None if same else f"trained on {sum(run.rows[measured])} rows, {found[0]} tokens: no whole epochs"
    planned = [
        (len(rows), sum(len(row.input_ids) for row in rows), sum(row.num_supervised for row in rows)) for rows in plan
    ]
    done = list(zip(run.rows, run.tokens, run.supervised_tokens, strict=True))
    if done == planned:
        return None
    return f"(rows, tokens, supervised tokens) of its steps are {done[:3]}, planned {planned[:3]}"


def flop_per_second(run: Run, comparison: Comparison, *, packed: bool) -> float:
    """Useful FLOP/s; of a packed run, whose steps are others, the work of the planned steps for as many epochs."""
    if packed:
        epoch = plan_steps(comparison.rows, comparison.batch, -(-len(comparison.rows) // comparison.batch))
        flop_per_row = sum(useful_flop(rows, comparison.shape) for rows in epoch) / len(comparison.rows)
        return run.per_second([flop_per_row * rows for rows in run.rows])
    return run.per_second([useful_flop(rows, comparison.shape) for rows in comparison.plan])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes over the rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarise(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """One entry a contender; ratios are taken within a round and within the rounds in which both ran."""
    return {name: _summary_of(name, comparison) for name in comparison.contenders}


def _summary_of(name: str, comparison: Comparison) -> dict[str, Any]:
    entries = [entries[name] for entries in comparison.rounds if name in entries]
    runs = [entry for entry in entries if isinstance(entry, Run)]
    summary: dict[str, Any] = {"failures": [entry for entry in entries if isinstance(entry, str)]}
    if not runs:
        return summary
    shares, ratios = [], []
    for i, entries_of_round in enumerate(comparison.rounds):
        run, ours = entries_of_round.get(name), entries_of_round.get("ours")
        if not isinstance(run, Run):
            continue
        # Measured before and after the round: the faster of the two is what the machine can.
        bound = max(comparison.matmul_flop_per_s[i : i + 2])
        shares.append(flop_per_second(run, comparison, packed=is_packed(name)) / bound)
        if isinstance(ours, Run):
            ratios.append(run.per_second(run.rows) / ours.per_second(ours.rows))
    device = [run.peak_device_bytes for run in runs if run.peak_device_bytes is not None]
    return summary | {
        "examples_per_s": spread([run.per_second(run.rows) for run in runs]),
        "tokens_per_s": spread([run.per_second(run.tokens) for run in runs]),
        "peak_resident_gib": max(run.peak_resident_bytes for run in runs) / GIB,
        "peak_device_gib": max(device) / GIB if device else None,
        "ratio_to_ours": spread(ratios) if ratios else None,
        "ours_over_it": spread([1 / ratio for ratio in ratios]) if ratios else None,
        "share_of_matmul_bound": spread(shares),
        "seconds_outside_steps_share": spread([max(0.0, 1 - sum(r.step_seconds) / r.loop_seconds) for r in runs]),
    }


def is_packed(contender: str) -> bool:
    """Whether its steps are made of packs rather than of rows."""
    return "packed" in contender


def different_losses(runs: dict[str, Run | str], dtype: str) -> str | None:
    """Whether the first step's losses disagree, in words.

    LoRA begins as zero, so the first loss shows neither dropout nor learning: same ids, same weights, same loss.
    """
    losses = {name: run.losses[0] for name, run in runs.items() if isinstance(run, Run) and not is_packed(name)}
    if not losses or max(losses.values()) - min(losses.values()) <= LOSS_TOLERANCE[dtype] * max(losses.values()):
        return None
    return "the first step's losses differ: " + ", ".join(f"{name} {loss:.5f}" for name, loss in losses.items())


def slow_between_steps(summary: dict[str, dict[str, Any]]) -> list[str]:
    """Who spends more than a twentieth of the training loop where no step is timed: its rate would flatter it."""
    shares = {name: entry["seconds_outside_steps_share"]["median"] for name, entry in summary.items() if len(entry) > 1}
    return [f"{name} spent {share:.0%} of its loop outside its steps" for name, share in shares.items() if share > 0.05]


def table(summary: dict[str, dict[str, Any]]) -> str:
    """The result as aligned text."""
    lines = [["contender", "examples/s", "tokens/s", "peak GiB", "to ours", "of the bound"]]
    remarks = []
    for name, entry in summary.items():
        if "examples_per_s" not in entry:
            lines.append([name, "failed", "-", "-", "-", "-"])
        else:
            ratio = _with_spread(entry["ratio_to_ours"], 2) if entry["ratio_to_ours"] else "-"
            peak, device = f"{entry['peak_resident_gib']:.2f}", entry["peak_device_gib"]
            lines.append(
                [
                    name,
                    _with_spread(entry["examples_per_s"], 3),
                    _with_spread(entry["tokens_per_s"], 0),
                    peak if device is None else f"{peak} + {device:.2f} GPU",
                    ratio,
                    _with_spread(entry["share_of_matmul_bound"], 2),
                ]
            )
        remarks += [f"{name} failed: {failure}" for failure in entry["failures"]]
    faster = {name: e["ours_over_it"]["median"] for name, e in summary.items() if e.get("ours_over_it")}
    shown = ", ".join(f"{times:.2f} x {name}" for name, times in faster.items() if name != "ours")
    if shown:
        remarks.insert(0, f"ours: {shown} (examples/s)")
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    aligned = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    return "\n".join([*aligned, *remarks])


def _with_spread(values: dict[str, float], digits: int) -> str:
    median, lowest, highest = (f"{values[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return median if lowest == highest else f"{median} ({lowest}-{highest})"


# ---- the processes: each is started, waited for and measured here


class Bench:
    """Starts the children of one comparison; everything that they write lies in `scratch`."""

    def __init__(self, model: Path, scratch: Path, options: argparse.Namespace):
        self.model, self.scratch, self.options = model, scratch, options
        self._num_started = 0

    def start(self, command: Sequence[str | Path], name: str) -> tuple[Path, int]:
        """Run a command to its end; returns its log and the peak of its resident set in bytes.

        Raises:
            ChildFailure: it did not end well.
        """
        self._num_started += 1
        log = self.scratch / f"{self._num_started:03}_{name}.log"
        environment = {
            **os.environ,
            # With several GPUs in sight, transformers' Trainer alone would use them all.
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(self.scratch / "datasets"),
        }
        with log.open("wb") as out:
            process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=out, env=environment)
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.poll() is None:  # Ctrl-C here
                process.kill()
                process.wait()
        if process.returncode:
            raise ChildFailure(process.returncode, log.read_text(encoding="utf-8", errors="replace"))
        return log, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def ask(self, verb: str, job: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Run one of this file's own sub-commands; returns its answer and the peak of its resident set."""
        place = self.scratch / f"job_{self._num_started:03}.json"
        answer = place.with_suffix(".answer.json")
        place.write_text(json.dumps({**job, "model": str(self.model), "answer": str(answer)}), encoding="utf-8")
        _, peak = self.start([sys.executable, Path(__file__).resolve(), verb, place], verb.strip("_"))
        return json.loads(answer.read_text(encoding="utf-8")), peak

    def encode(self) -> list[Row]:
        """The rows as every contender sees them.

        Raises:
            DataError: bad rows in the data.
            UsageError: model or data cannot be used.
        """
        read, _ = records.read(records.find_files(str(self.options.dataset_dir)))
        chosen = [
            {"instruction": record.turns[0].text, "output": record.turns[1].text}
            for record in read[: self.options.rows]
        ]
        (self.scratch / "data").mkdir()
        (self.scratch / "data" / "rows.json").write_text(json.dumps(chosen, ensure_ascii=False), encoding="utf-8")
        command = [sys.executable, "-m", "yangtuo", "encode", *self._common_flags(), "--out", self.scratch / "rows"]
        try:
            self.start(command, "encode")
        except ChildFailure as failure:
            raise UsageError(failure.reason) from failure
        lines = (self.scratch / "rows").read_text(encoding="utf-8").splitlines()
        return [Row(row["input_ids"], row["labels"]) for row in map(json.loads, lines)]

    def train(self, name: str, comparison: Comparison) -> Run:
        """One contender's training.

        Raises:
            ChildFailure: it died.
        """
        packed = is_packed(name)
        if name == "ours":
            run = self._train_ours(comparison)
        else:
            job = {
                **{"contender": name, "rows": str(self.scratch / "rows"), "dtype": comparison.machine["dtype"]},
                **{"batch": comparison.batch, "num_steps": comparison.num_steps},
                "max_seq_length": self.options.max_seq_length,
                "output_dir": str(self.scratch / f"peer_{self._num_started:03}"),
            }
            answer, peak = self.ask("_train", job)
            run = Run(**answer, peak_resident_bytes=peak)
        wrong = check_work(run, comparison.plan, packed_rows=comparison.rows if packed else None)
        if wrong:
            raise ChildFailure(0, wrong)
        return run

    def _train_ours(self, comparison: Comparison) -> Run:
        output_dir = self.scratch / f"ours_{self._num_started:03}"
        options = {
            **{"output_dir": output_dir, "max_steps": comparison.num_steps, "learning_rate": LEARNING_RATE},
            **{"per_device_train_batch_size": comparison.batch, "gradient_accumulation_steps": 1},
            **{"lora_rank": LORA_RANK, "lora_alpha": LORA_ALPHA, "lora_dropout": LORA_DROPOUT},
            **{"trainable": ",".join(PROJECTIONS), "data_order": "sequential", "seed": SEED, "save_strategy": "no"},
            **{"torch_dtype": comparison.machine["dtype"], "bf16": comparison.machine["dtype"] == "bfloat16"},
        }
        flags = [word for option, value in options.items() for word in (f"--{option}", value)]
        command = [sys.executable, "-m", "yangtuo", "train", *self._common_flags(), *map(str, flags)]
        _, peak = self.start(command, "ours")
        lines = map(json.loads, (output_dir / "log.jsonl").read_text(encoding="utf-8").splitlines())
        steps = [line for line in lines if "step_seconds" in line]
        results = json.loads((output_dir / "train_results.json").read_text(encoding="utf-8"))
        return Run(
            step_seconds=[step["step_seconds"] for step in steps],
            rows=[step["rows"] for step in steps],
            tokens=[step["num_tokens"] for step in steps],
            supervised_tokens=[step["num_supervised_tokens"] for step in steps],
            losses=[step["loss"] for step in steps],
            loop_seconds=results["train_runtime"],
            peak_resident_bytes=peak,
        )

    def _common_flags(self) -> list[str | Path]:
        place = ["--model_name_or_path", self.model, "--dataset_dir", self.scratch / "data"]
        return [*place, "--max_seq_length", str(self.options.max_seq_length)]


class ChildFailure(Exception):
    """A child process did not do its work; `reason` is one line."""

    def __init__(self, exit_code: int, log: str):
        super().__init__(log)
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        last = (errors or lines or ["no word why"])[-1][:300]
        if exit_code < 0:
            last = f"killed by {signal.Signals(-exit_code).name}"
            last += ", out of memory?" if exit_code == -signal.SIGKILL else ""
        self.reason = last


# ---- the children: sub-commands of this file, the only places that import torch


def measure_machine(job: dict[str, Any]) -> dict[str, Any]:
    """Device, number format, the model's shape, and the best matrix-multiply rate on that shape's own products.

    Each linear layer's forward product and that of its input's gradient, at several numbers of tokens. The best of
    all of them is the bound: lower than the data sheet's, but nothing measured here went faster.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from yangtuo.model.base import detect_hardware, read_config

    hardware = detect_hardware(use_cpu=False)
    dtype = "bfloat16" if hardware.bfloat16 else "float32"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(read_config(Path(job["model"])))
    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    sizes = sorted({(layer.out_features, layer.in_features) for layer in layers})
    rates = [
        {"tokens": tokens, "out": out, "in": wide, **_matmul_rates(tokens, out, wide, hardware.device, dtype)}
        for tokens in MATMUL_TOKENS
        for out, wide in sizes
    ]
    config = model.config
    num_heads = config.num_attention_heads
    shape = ModelShape(
        linear_weights=sum(layer.out_features * layer.in_features for layer in layers),
        hidden_size=config.hidden_size,
        vocabulary=head.weight.shape[0],
        num_layers=config.num_hidden_layers,
        num_heads=num_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // num_heads,
    )
    return {
        "device": torch.cuda.get_device_name() if hardware.device == "cuda" else hardware.device,
        "dtype": dtype,
        "torch_threads": torch.get_num_threads(),
        "shape": asdict(shape),
        "matmul_flop_per_s": max(max(rate["forward_flop_per_s"], rate["backward_flop_per_s"]) for rate in rates),
        "matmul_rates": rates,
    }


def _matmul_rates(tokens: int, out: int, wide: int, device: str, dtype: str) -> dict[str, float]:
    import torch

    inputs, gradients, weight = (
        torch.randn(*size, device=device, dtype=getattr(torch, dtype))
        for size in ((tokens, wide), (tokens, out), (out, wide))
    )
    flop = 2 * tokens * out * wide
    return {
        "forward_flop_per_s": flop / _best_seconds(lambda: torch.mm(inputs, weight.t()), device),
        "backward_flop_per_s": flop / _best_seconds(lambda: torch.mm(gradients, weight), device),
    }


def _best_seconds(work: Callable[[], Any], device: str, *, at_least: int = 4, seconds: float = 0.2) -> float:
    import torch

    taken: list[float] = []
    while len(taken) < at_least or sum(taken) < seconds:
        begin = time.perf_counter()
        work()
        if device != "cpu":
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def train_peer(job: dict[str, Any]) -> dict[str, Any]:
    """Train as another program does; times and counts for each step."""
    import torch

    rows = [json.loads(line) for line in Path(job["rows"]).read_text(encoding="utf-8").splitlines()]
    rows = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows]
    trainer = _seed_trainer(job, rows) if job["contender"] == "seed" else _trl_trainer(job, rows)
    trainer.data_collator = collator = CountingCollator(trainer.data_collator)
    trainer.add_callback(clock := _step_clock())
    result = trainer.train()
    batches = collator.batches[: len(clock.step_seconds)]  # the loader reads ahead of the steps
    return {
        "step_seconds": clock.step_seconds,
        **{name: [batch[name] for batch in batches] for name in ("rows", "tokens", "supervised_tokens")},
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "loop_seconds": result.metrics["train_runtime"],
        "peak_device_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


class CountingCollator:
    """Counts what a trainer is really fed, packs by the rows in them, then does what the wrapped collator does."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Any]):
        self._collate = collate
        self.batches: list[dict[str, int]] = []

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        """Count, then collate."""
        labels = [label for example in examples for label in example["labels"]]
        self.batches.append(
            {
                "rows": sum(len(example.get("seq_lengths", [1])) for example in examples),
                "tokens": len(labels),
                "supervised_tokens": sum(label != IGNORED_LABEL for label in labels),
            }
        )
        return self._collate(examples)


def _step_clock() -> Any:
    import torch
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):  # here, since this file must be importable without transformers
        """From the forward to the end of the optimizer's step, as `step_seconds` of yangtuo's log.jsonl."""

        def __init__(self) -> None:
            self.step_seconds: list[float] = []
            self._begin = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self._begin = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            self.step_seconds.append(time.monotonic() - self._begin)

    return StepClock()


def _base_and_lora(job: dict[str, Any]) -> tuple[Any, Any]:
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    torch.manual_seed(SEED)
    base = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"]))
    lora = LoraConfig(
        r=LORA_RANK,
        lora_alpha=LORA_ALPHA,
        lora_dropout=LORA_DROPOUT,
        target_modules=list(PROJECTIONS),
        task_type="CAUSAL_LM",
    )
    return base, lora


def _training_arguments(job: dict[str, Any]) -> dict[str, Any]:
    return {
        **{"output_dir": job["output_dir"], "max_steps": job["num_steps"], "learning_rate": LEARNING_RATE},
        **{"per_device_train_batch_size": job["batch"], "gradient_accumulation_steps": 1, "seed": SEED},
        **{"train_sampling_strategy": "sequential", "save_strategy": "no", "report_to": "none", "logging_steps": 1},
        # TRL turns it on by itself, also on a CPU that has to emulate it.
        "bf16": job["dtype"] == "bfloat16",
        "disable_tqdm": True,
    }


def _seed_trainer(job: dict[str, Any], rows: list[dict[str, list[int]]]) -> Any:
    """As the script of 2023 but for its recomputing of activations: padded rows, logits and loss of all positions."""
    import torch
    from peft import get_peft_model
    from torch.nn.utils.rnn import pad_sequence
    from transformers import Trainer, TrainingArguments

    def collate(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        ids, labels = ([torch.tensor(example[name]) for example in examples] for name in ("input_ids", "labels"))
        return {
            "input_ids": pad_sequence(ids, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL),
        }

    base, lora = _base_and_lora(job)
    arguments = TrainingArguments(**_training_arguments(job), remove_unused_columns=False)
    return Trainer(model=get_peft_model(base, lora), args=arguments, train_dataset=rows, data_collator=collate)


def _trl_trainer(job: dict[str, Any], rows: list[dict[str, list[int]]]) -> Any:
    """TRL with its defaults; rows with ids and labels are used as they are, so no tokenizer comes between.

    Packed, a step gets as many packs as hold `batch` rows on average, so that the optimizer's batch stays the same,
    and training takes one warm-up step and then whole epochs: at least as many rows as the others are measured on.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer, pack_dataset

    arguments = _training_arguments(job) | {"max_length": job["max_seq_length"]}
    dataset = Dataset.from_list(rows)
    if is_packed(job["contender"]):
        num_packs = len(pack_dataset(dataset, job["max_seq_length"], "bfd"))
        arguments |= packed_steps(job["batch"], job["num_steps"], len(rows), num_packs)
        arguments |= {"packing": True, "packing_strategy": "bfd"}
    if job["contender"].endswith("_fast"):
        arguments["gradient_checkpointing"] = False
    base, lora = _base_and_lora(job)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])  # TRL asks it for the padding id
    return SFTTrainer(
        model=base, args=SFTConfig(**arguments), train_dataset=dataset, processing_class=tokenizer, peft_config=lora
    )


def packed_steps(batch: int, num_steps: int, num_rows: int, num_packs: int) -> dict[str, int]:
    """Packs of a step and number of steps, see `_trl_trainer`."""
    packs_per_step = max(1, round(batch * num_packs / num_rows))
    num_warm_up = 1 if num_steps > 1 else 0
    num_epochs = max(1, -(-(num_steps - num_warm_up) * batch // num_rows))
    steps_per_epoch = -(-num_packs // packs_per_step)
    return {"per_device_train_batch_size": packs_per_step, "max_steps": num_warm_up + num_epochs * steps_per_epoch}


def find_model(job: dict[str, Any]) -> dict[str, Any]:
    """The demo's model; in a process of its own, since converting it needs the memory that is measured here."""
    return {"folder": str(fetch_model(cache_folder()))}


# ---- the command


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 up")
    return int(text)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The options.

    Raises:
        UsageError: an unknown option, a value or a contender that cannot be.
    """
    parser = _Parser("benchmarks/throughput.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, help="Hugging Face folder. Default: the demo's model.")
    parser.add_argument("--dataset_dir", type=Path, default=DATA, help="Alpaca rows. Default: examples/data.")
    parser.add_argument("--rows", type=_positive, default=16, help="The first N rows. Default: %(default)s.")
    parser.add_argument("--contenders", help=f"Of {','.join(CONTENDERS)}. Default: all whose packages are there.")
    parser.add_argument("--json", type=Path, help="File to write everything to.")
    parser.add_argument("--rounds", type=_positive, default=2, help="Default: %(default)s.")
    parser.add_argument(
        "--steps", type=_positive, help="Of each run, the warm-up included. Default: one more than an epoch has."
    )
    parser.add_argument("--batch", type=_positive, default=8, help="Rows of a step. Default: %(default)s.")
    parser.add_argument("--max_seq_length", type=_positive, default=512, help="Default: %(default)s.")
    options = parser.parse_args(words)
    if options.model and not (options.model / "config.json").is_file():
        raise UsageError(f"--model {options.model}: no config.json there; give a model's folder")
    if options.json and (options.json.is_dir() or not os.access(options.json.resolve().parent, os.W_OK)):
        raise UsageError(f"--json {options.json}: cannot be written there")
    options.contenders = choose_contenders(options.contenders, has_trl=importlib.util.find_spec("trl") is not None)
    return options


def choose_contenders(asked: str | None, *, has_trl: bool) -> list[str]:
    """Those asked for, or all that can run here; a contender that is left out is said.

    Raises:
        UsageError: an unknown name.
        MissingDependencyError: TRL is asked for and not installed.
    """
    names = [name.strip() for name in asked.split(",")] if asked else list(CONTENDERS)
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown or len(set(names)) < len(names):
        raise UsageError(f"--contenders {asked}: expected some of {','.join(CONTENDERS)}, each once")
    if has_trl or not any(name.startswith("trl") for name in names):
        return names
    if asked:
        raise MissingDependencyError(f"--contenders {asked}: TRL is not installed; pip install trl")
    say("TRL is not installed and left out; pip install trl")
    return [name for name in names if not name.startswith("trl")]


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def compare(words: Sequence[str]) -> None:
    """Run all rounds and print the table.

    Raises:
        YangtuoError: what was given cannot be used.
    """
    options = parse(words)
    with tempfile.TemporaryDirectory(prefix="throughput_") as scratch:
        bench = Bench(options.model or Path(), Path(scratch), options)
        bench.model = (options.model or Path(_ask(bench, "_model")["folder"])).resolve()
        rows = bench.encode()
        say(f"{len(rows)} rows, {sum(len(row.input_ids) for row in rows):,} tokens, model {bench.model.name}")
        if len(rows) < options.rows:
            say(f"--rows {options.rows}: {options.dataset_dir} gives only {len(rows)}")
        num_steps = options.steps or -(-len(rows) // options.batch) + 1
        comparison = Comparison(options.contenders, rows, options.batch, num_steps, machine={})
        _measure(bench, comparison)
        for number in range(1, options.rounds + 1):
            _run_round(bench, comparison, number)
            if options.json:
                _write(options, bench, comparison)
    summary = summarise(comparison)
    print(table(summary))
    for line in dict.fromkeys([*comparison.notes, *slow_between_steps(summary)]):
        print(f"note: {line}")


def _ask(bench: Bench, verb: str) -> dict[str, Any]:
    """Ask for something without which nothing can be compared."""
    try:
        return bench.ask(verb, {})[0]
    except ChildFailure as failure:
        raise UsageError(failure.reason) from failure


def _measure(bench: Bench, comparison: Comparison) -> None:
    comparison.machine = _ask(bench, "_machine")
    rate = comparison.machine["matmul_flop_per_s"]
    comparison.matmul_flop_per_s.append(rate)
    say(f"matrix products: {rate / 1e9:,.1f} GFLOP/s in {comparison.machine['dtype']}")


def _run_round(bench: Bench, comparison: Comparison, number: int) -> None:
    entries: dict[str, Run | str] = {}
    for name in comparison.contenders:
        try:
            run = bench.train(name, comparison)
        except ChildFailure as failure:
            entries[name] = failure.reason
            say(f"round {number}: {name} failed: {failure.reason}")
            continue
        entries[name] = run
        peak_gib = run.peak_resident_bytes / GIB
        say(f"round {number}: {name} {run.per_second(run.rows):.3f} examples/s, {peak_gib:.2f} GiB")
    comparison.rounds.append(entries)
    _measure(bench, comparison)
    if note := different_losses(entries, comparison.machine["dtype"]):
        comparison.notes.append(note)


# ---- the record


def _write(options: argparse.Namespace, bench: Bench, comparison: Comparison) -> None:
    ids = json.dumps([row.input_ids for row in comparison.rows]).encode()
    steps = [[len(rows), *distinct_prefixes([row.input_ids for row in rows])] for rows in comparison.plan]
    record = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["python", "benchmarks/throughput.py", *map(without_folders, sys.argv[1:])],
        "commit": _commit(),
        "versions": _versions(),
        "machine": _machine() | comparison.machine,
        "settings": {
            **{"model": bench.model.name, "dataset_dir": options.dataset_dir.resolve().name},
            **{"rows": len(comparison.rows), "rows_sha256": hashlib.sha256(ids).hexdigest()},
            **{"batch": comparison.batch, "max_seq_length": options.max_seq_length, "steps": comparison.num_steps},
            **{"lora_rank": LORA_RANK, "lora_alpha": LORA_ALPHA, "lora_dropout": LORA_DROPOUT},
            **{"trainable": PROJECTIONS, "learning_rate": LEARNING_RATE, "seed": SEED},
        },
        "work": {
            "rows_distinct_tokens_attention_pairs_of_each_step": steps,
            "flop_of_each_step": [useful_flop(rows, comparison.shape) for rows in comparison.plan],
        },
        "matmul_flop_per_s": comparison.matmul_flop_per_s,
        "summary": summarise(comparison),
        "rounds": [
            {name: asdict(run) if isinstance(run, Run) else {"failure": run} for name, run in entries.items()}
            for entries in comparison.rounds
        ],
        "notes": comparison.notes,
    }
    try:
        options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--json {options.json}: {error.strerror}") from error


def without_folders(word: str) -> str:
    """A word of the command line without the folders of the machine that it was given on."""
    return Path(word).name if Path(word).is_absolute() else word


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("yangtuo", "torch", "transformers", "peft", "accelerate", "trl", "datasets", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": memory_bytes / GIB, "system": platform.platform()}


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


SUB_COMMANDS = {"_machine": measure_machine, "_train": train_peer, "_model": find_model}


def main(words: Sequence[str]) -> int:
    """Compare, or be one of the children; returns the exit code."""
    try:
        if words and words[0] in SUB_COMMANDS:
            job = json.loads(Path(words[1]).read_text(encoding="utf-8"))
            Path(job["answer"]).write_text(json.dumps(SUB_COMMANDS[words[0]](job)), encoding="utf-8")
        else:
            compare(words)
    except YangtuoError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped by Ctrl-C\n")
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no child and no scratch folder is left behind
    sys.exit(main(sys.argv[1:]))
