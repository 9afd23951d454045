"""The child that trains as another program does: the seed on plain transformers, or TRL."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from throughput_parts.settings import (
    IGNORED_LABEL,
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_DROPOUT,
    LORA_RANK,
    PROJECTIONS,
    SEED,
    is_packed,
)
from throughput_parts.work import packed_steps


def train_peer(job: dict[str, Any]) -> dict[str, Any]:
    """Train as another program does; times and counts for each step."""
    rows = [json.loads(line) for line in Path(job["rows"]).read_text(encoding="utf-8").splitlines()]
    rows = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows]
    trainer = _seed_trainer(job, rows) if job["contender"] == "seed" else _trl_trainer(job, rows)
    trainer.data_collator = collator = CountingCollator(trainer.data_collator)
    trainer.add_callback(clock := StepClock())
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


class StepClock(TrainerCallback):
    """From the forward to the end of the optimizer's step, as `step_seconds` of yangtuo's log.jsonl."""

    def __init__(self) -> None:
        self.step_seconds: list[float] = []
        self._begin = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The batch is there, its forward comes next."""
        self._begin = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A device works on after its calls return, so it is waited for."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.step_seconds.append(time.monotonic() - self._begin)


def _base_and_lora(job: dict[str, Any]) -> tuple[Any, Any]:
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


def training_arguments(job: dict[str, Any]) -> dict[str, Any]:
    """What the seed and TRL are given alike."""
    return {
        "output_dir": job["output_dir"],
        "max_steps": job["num_steps"],
        "learning_rate": LEARNING_RATE,
        "per_device_train_batch_size": job["batch"],
        "gradient_accumulation_steps": 1,
        "seed": SEED,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "use_cpu": not torch.accelerator.is_available(),  # without it, transformers refuses bfloat16 on a CPU
        # TRL turns it on by itself, also on a CPU that has to emulate it.
        "bf16": job["dtype"] == "bfloat16",
        "disable_tqdm": True,
    }


def _seed_trainer(job: dict[str, Any], rows: list[dict[str, list[int]]]) -> Any:
    """As the script of 2023 but for its recomputing of activations: padded rows, logits and loss of all positions."""

    def collate(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        ids, labels = ([torch.tensor(example[name]) for example in examples] for name in ("input_ids", "labels"))
        return {
            "input_ids": pad_sequence(ids, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL),
        }

    base, lora = _base_and_lora(job)
    arguments = TrainingArguments(**training_arguments(job), remove_unused_columns=False)
    return Trainer(model=get_peft_model(base, lora), args=arguments, train_dataset=rows, data_collator=collate)


def _trl_trainer(job: dict[str, Any], rows: list[dict[str, list[int]]]) -> Any:
    """TRL with its defaults; rows with ids and labels are used as they are, so no tokenizer comes between."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer, pack_dataset

    arguments = training_arguments(job) | {"max_length": job["max_seq_length"]}
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
