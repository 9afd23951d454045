"""The machine that a run is planned for: this one, or one that is named."""

import re

import psutil
import torch

from yangtuo.engine.memory import free_bytes, joins_freed_memory
from yangtuo.errors import UsageError
from yangtuo.logs import world_size
from yangtuo.training.memory_plan import Machine, usable_bytes


def machine_here(device_type: str) -> Machine:
    """What is free now; of a CPU, what this process has already counts as free."""
    own = psutil.Process().memory_info().rss
    free = free_bytes(torch.device(device_type))
    if device_type == "cpu":
        free += own * world_size()
        return Machine("cpu", world_size(), free, own, has_thread_cache=not joins_freed_memory())
    return Machine("cuda", world_size(), free, own)


def machine_named(text: str) -> Machine:
    """The machine of `--plan_for`: 24GB, or 8x80GB.

    Raises:
        UsageError: it is neither.
    """
    found = re.fullmatch(r"(?:(\d+)x)?(\d+(?:\.\d+)?)\s*(?:GB|GiB|G)?", text.strip(), re.IGNORECASE)
    if not found or int(found[1] or 1) < 1 or float(found[2]) <= 0:
        raise UsageError("--plan_for {text}: a card's memory, such as 24GB, or several, such as 8x80GB", text=text)
    own = psutil.Process().memory_info().rss
    return Machine("cuda", int(found[1] or 1), usable_bytes(float(found[2])), own, is_here=False)
