"""LoRA+, where the B matrices learn faster than all else; steps that float16 skips; a rehearsal of the schedule.

The optimizer and its learning rates are transformers' own, made from the options that `training.trainer_args` hands on.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments, get_scheduler

from yangtuo.errors import UsageError, one_line

_REHEARSED_STEPS = 100


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


def let_scaler_skip(optimizer: Any) -> None:
    """Have torch's GradScaler decide whether a step of float16 is taken, for fused optimizers as for all others.

    A fused one skips a step whose gradients overflow by itself, and then neither accelerate nor the schedule knows.
    Source: `GradScaler.step` of torch 2.13, torch/amp/grad_scaler.py.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer._step_supports_amp_scaling = False


def rehearse(choose: Callable[[TrainingArguments], tuple[Any, dict[str, Any]]], args: TrainingArguments) -> None:
    """Make the optimizer and the schedule for a single weight, since transformers makes them after all else is ready.

    Args:
        choose: the optimizer's class and options from the arguments, as the Trainer does.
        args: of the run.

    Raises:
        UsageError: a value that the optimizer or the schedule refuses.
    """
    option = f"--optim {args.optim.value}"
    try:
        kind, options = choose(args)
        optimizer = kind([nn.Parameter(torch.zeros(1))], **options)
        option = f"--lr_scheduler_type {args.lr_scheduler_type.value}"
        num_warmup = args.get_warmup_steps(_REHEARSED_STEPS)
        get_scheduler(args.lr_scheduler_type, optimizer, num_warmup, _REHEARSED_STEPS, args.lr_scheduler_kwargs)
    except Exception as error:  # of any package
        raise UsageError("{option} cannot be made: {error}", option=option, error=one_line(error)) from error
