"""The child that is `yangtuo WORDS` with its memory watched, or limited: python -m gpu_day_parts.watched FILE WORDS.

FILE is JSON: `most_bytes` of the device that the process may have, `most_tokens` of a micro-batch beyond which memory
is said to have run out (for a rehearsal without a device) and `loss_scale` of float16 at the start, each null for as
usual; and `told`, the file for what was seen.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from yangtuo.cli import main
from yangtuo.engine import runner


def limit_tokens(most: int) -> None:
    """As if memory ran out at micro-batches of more tokens."""
    real = runner.weighted_sum

    def weighted_sum(model: Any, loss: Any, batch: Any) -> torch.Tensor:
        total = real(model, loss, batch)
        if model.training and batch.input_ids.numel() > most:
            raise torch.OutOfMemoryError(f"a rehearsal: more than {most} tokens")
        return total

    runner.weighted_sum = weighted_sum


def begin_loss_scale_at(scale: float) -> None:
    """Of every scaler that is made with the default."""
    device, _, *rest = torch.amp.GradScaler.__init__.__defaults__ or ()
    torch.amp.GradScaler.__init__.__defaults__ = (device, scale, *rest)


def watch(wish: dict[str, Any], words: list[str]) -> int:
    """Run the command; returns its exit code."""
    if wish["most_bytes"]:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(wish["most_bytes"] / total)
    if wish["most_tokens"]:
        limit_tokens(wish["most_tokens"])
    if wish["loss_scale"]:
        begin_loss_scale_at(wish["loss_scale"])
    code = main(words)
    seen = {}
    if torch.cuda.is_available():
        seen = {
            "peak_bytes": torch.cuda.max_memory_allocated(),
            "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
        }
    Path(wish["told"]).write_text(json.dumps(seen), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(watch(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2:]))
