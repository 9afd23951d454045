"""Where a run happens: hardware, precision, the processes that have met, and how steps are cut to fit in memory."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from yangtuo.config.settings import Settings
from yangtuo.data.examples import Examples
from yangtuo.engine import checkpoint, loss, memory
from yangtuo.engine.calibration import tell_checkpointing
from yangtuo.engine.flops import bfloat16_rate
from yangtuo.engine.head import Head
from yangtuo.engine.memory import ModelShape
from yangtuo.engine.optimizer import rehearse
from yangtuo.engine.processes import Store, agree, check_launch, check_one_gpu, connect, from_rank_0, largest
from yangtuo.engine.steps import Execution
from yangtuo.engine.trainer import StepTrainer
from yangtuo.i18n import Listed, Message
from yangtuo.model import processor
from yangtuo.model.adapter_state import Adapter
from yangtuo.model.processor import Precision
from yangtuo.training.engines import check_engines, deepspeed_of, fsdp
from yangtuo.training.inputs import Inputs
from yangtuo.training.plan import shares_prefixes
from yangtuo.training.trainer_args import training_arguments

logger = logging.getLogger(__name__)


def meet(settings: Settings, inputs: Inputs, output_dir: Path) -> tuple[Precision, TrainingArguments, Store | None]:
    """The precision, what transformers is given, and the store in which the processes have met."""
    hardware = processor.detect_hardware(settings.trainer.use_cpu)
    check_engines(settings, hardware, merges=bool(inputs.merged_in))
    warning = check_launch(os.environ)
    if warning:
        logger.warning(warning)
    # cuDNN's attention makes a plan for each new shape, which takes longer than it saves where shapes change.
    torch.backends.cuda.enable_cudnn_sdp(False)
    store = connect(
        hardware.device,
        backend=settings.trainer.ddp_backend,
        timeout_seconds=settings.trainer.ddp_timeout,
        deepspeed=bool(settings.trainer.deepspeed),
    )
    if hardware.device == "cpu" and hardware.bfloat16:
        hardware = replace(hardware, bfloat16_rate=from_rank_0(bfloat16_rate))
    precision = processor.choose_precision(
        settings.model.torch_dtype,
        fp16=settings.trainer.fp16,
        bf16=settings.trainer.bf16,
        stored=inputs.config.dtype,
        hardware=hardware,
    )
    args = training_arguments(settings, precision, hardware, inputs.config, output_dir)
    check_one_gpu(args.n_gpu)
    rehearse(StepTrainer.get_optimizer_cls_and_kwargs, args)
    return precision, args, store


def choose_execution(
    settings: Settings, inputs: Inputs, args: TrainingArguments, rows: Examples, resumed: Path | None, adapter: Adapter
) -> Execution:
    """How steps are cut, from what fits in memory now that the weights are there; all ranks the same.

    A resumed run goes on as its checkpoint was cut, unless the option says otherwise.
    """
    device = args.device
    shape = _shape_of(settings, inputs, args)
    chunk = loss.chunk_bytes(device, trains_head=Head(adapter.model.get_base_model()).whole is not None)
    free = max(0, memory.free_bytes(device) - memory.bytes_beside(adapter.num_trainable(), chunk))
    longest = int(rows.lengths().max())
    asked = checkpointing_asked(settings)
    if asked is None:
        is_short = memory.needs_checkpointing(shape, free, device.type, longest)
        of_any = bool(largest([float(is_short)], device)[0])
        recorded = from_rank_0(lambda: _recorded(resumed, "gradient_checkpointing"))
        args.activation_checkpointing = of_any if recorded is None else recorded
        if args.activation_checkpointing:
            tell_checkpointing(longest)
    checkpointing = bool(args.activation_checkpointing)
    budget = settings.run.micro_batch_tokens
    if budget == "auto":
        own = memory.choose_max_cells(shape, free, device.type, checkpointing=checkpointing)
        of_all = -int(largest([-float(own)], device)[0])  # of the rank with the least memory
        max_cells = from_rank_0(lambda: _recorded(resumed, "micro_batch_tokens")) or of_all
    else:
        max_cells = int(budget)
    if device.type == "cpu":
        memory.keep_freed_memory()  # from here on, not what loading has freed
    shares = shares_prefixes(settings)
    tell_how(max_cells, is_chosen=budget == "auto", shares=shares, checkpointing=checkpointing)
    is_auto = budget == "auto" and not resumed
    return Execution(shares, max_cells, is_auto, asked is None, compiles=settings.trainer.torch_compile)


def tell_how(max_cells: int, *, is_chosen: bool, shares: bool, checkpointing: bool) -> None:
    """Say how steps are cut; `is_chosen`: by the program."""
    parts = [Message("micro-batches of at most {max_cells:,} tokens", max_cells=max_cells)]
    if is_chosen:
        parts[0] = Message("{part} (--micro_batch_tokens auto)", part=parts[0])
    if not shares:
        parts.append(Message("rows padded (--attn_implementation or --neftune_noise_alpha)"))
    if checkpointing:
        parts.append(Message("gradient checkpointing"))
    logger.info("engine: %s", Listed(parts))


def _shape_of(settings: Settings, inputs: Inputs, args: TrainingArguments) -> ModelShape:
    lora, saved = settings.lora, inputs.adapter
    rank = lora.lora_rank if saved is None or lora.new_adapter else int(saved.config.r)
    is_narrow = bool(args.bf16 or args.fp16)
    is_fused = args.device.type == "cpu"  # see `model.lora`
    return ModelShape.of(inputs.config, 2 if is_narrow else 4, rank, dropout=lora.lora_dropout, is_fused=is_fused)


def loaded_to(settings: Settings, device: torch.device) -> torch.device | None:
    """Where the base's weights go at once; None for main memory, where an engine takes them from and divides them."""
    stage = deepspeed_of(settings).get("zero_optimization", {}).get("stage")
    return None if stage == 3 or fsdp(settings.trainer.fsdp) else device


def _recorded(resumed: Path | None, name: str) -> Any:
    """How a checkpoint's run was executed; None without one, or in one of an earlier version."""
    return None if resumed is None else checkpoint.read_position(resumed).get(name)


def checkpointing_asked(settings: Settings) -> bool | None:
    """True or False as given; None for auto."""
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        if settings.given(name):
            return bool(settings.training[name])
    return None


def seed_of(settings: Settings, recorded: int | None) -> int:
    """The seed of the options, or the recorded one of the run that goes on."""
    asked = agree(settings.trainer.seed)
    if recorded is not None and recorded != asked:
        logger.warning("seed: %d, of the run that goes on, instead of %d", recorded, asked)
        return recorded
    return asked
