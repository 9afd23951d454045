"""LoRA+: the B matrices learn faster than the A matrices."""

from typing import Any

import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer


def loraplus(model: PeftModel, kind: Any, options: dict[str, Any], ratio: float, decay: float) -> torch.optim.Optimizer:
    """An optimizer with the learning rate `ratio` times as high for B as for A.

    Source: https://arxiv.org/abs/2402.12354, by PEFT's own function.

    Args:
        model: the trained model.
        kind: the optimizer's class.
        options: of the optimizer; `lr` is A's, and that of modules trained in full.
        ratio: of the learning rates.
        decay: weight decay.
    """
    rate = options.pop("lr")
    optimizer: torch.optim.Optimizer = create_loraplus_optimizer(
        model,
        kind,
        lr=rate,
        loraplus_lr_ratio=ratio,
        loraplus_lr_embedding=rate,  # PEFT's default would hardly train them
        loraplus_weight_decay=decay,
        **options,
    )
    # DeepSpeed counts groups without those that are empty, and then takes one for another.
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    return optimizer
