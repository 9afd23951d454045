"""A base with LoRA in this process, as a run has it, and micro-batches of random rows for it."""

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from gpu_day_parts.bases import config_of
from yangtuo.config.schema import LoraArguments
from yangtuo.data.examples import Examples
from yangtuo.engine.attention import PREFIX_SHARED
from yangtuo.engine.batch_tensors import Batch
from yangtuo.engine.layout import share
from yangtuo.engine.loss import SupervisedLoss, weighted_sum
from yangtuo.model import adapters
from yangtuo.model.narrow import keep_narrow


class Tuned:
    """A base of a shape with a LoRA of rank 8 on its seven projections; random weights, never on the disk."""

    def __init__(self, shape: str, device: str, *, num_layers: int | None = None):
        self.device = torch.device(device)
        is_native = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.dtype = torch.bfloat16 if is_native else torch.float32
        self.config: Any = config_of(shape)
        self.config.num_hidden_layers = num_layers or self.config.num_hidden_layers
        torch.manual_seed(0)
        with self.device:
            base = AutoModelForCausalLM.from_config(self.config, dtype=self.dtype)
            lora = LoraArguments(lora_rank=8, lora_dropout=0.05)
            self.rank = lora.lora_rank
            self.model: Any = adapters.attach_new(base, lora).model
        self.model.to(self.device)
        self.base: Any = self.model.get_base_model()
        if self.dtype is not torch.float32:
            keep_narrow(self.model, self.base, self.dtype)
        self.base.set_attn_implementation(PREFIX_SHARED)
        self._loss = SupervisedLoss(self.base)
        self.model.train()

    def batch(self, num_rows: int, num_tokens: int) -> Batch:
        """Rows that have nothing in common, all of their tokens supervised."""
        draws = np.random.default_rng(0)
        rows = [draws.integers(3, self.config.vocab_size, num_tokens) for _ in range(num_rows)]
        examples = Examples.of_rows(rows, [np.ones(num_tokens) for _ in rows])
        return Batch.of(share(examples, range(num_rows), np.ones(num_rows)), self.device)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss of a micro-batch, under the autocast of a run."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            return weighted_sum(self.model, self._loss, batch) / len(batch.targets)

    def step(self, batch: Batch) -> None:
        """Forward and backward; gradients are added to those that are there."""
        self.forward(batch).backward()

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
