"""LoRA+: the B matrices learn faster than everything else."""

from typing import Any

import torch
from torch import nn


def loraplus(model: nn.Module, kind: Any, options: dict[str, Any], ratio: float, decay: float) -> torch.optim.Optimizer:
    """An optimizer with the learning rate `ratio` times as high for B.

    PEFT's own function also gives that rate to every vector (norms, DoRA's lengths), and not to B of an embedding.
    Source: https://arxiv.org/abs/2402.12354, section 5.

    Args:
        model: the trained model.
        kind: the optimizer's class.
        options: of the optimizer; `lr` is that of everything but B.
        ratio: of the learning rates.
        decay: weight decay.
    """
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[".lora_B." in name or ".lora_embedding_B." in name].append(parameter)
    rate = options["lr"]
    # No empty ones: DeepSpeed counts groups without them, and then takes one for another.
    listed = [
        {"params": parameters, "lr": rate * ratio if is_b else rate, "weight_decay": decay}
        for is_b, parameters in groups.items()
        if parameters
    ]
    optimizer: torch.optim.Optimizer = kind(listed, **options)
    return optimizer
