"""Where a run happens: hardware, precision, the processes that have met, and how steps are cut to fit in memory."""

import logging
import os
from pathlib import Path

import torch
from transformers import TrainingArguments

from yangtuo.config.settings import Settings
from yangtuo.data.examples import Examples
from yangtuo.engine import checkpoint, memory
from yangtuo.engine.memory import ModelShape
from yangtuo.engine.optimizer import rehearse
from yangtuo.engine.processes import Store, agree, check_launch, connect, from_rank_0
from yangtuo.engine.steps import Execution
from yangtuo.engine.trainer import StepTrainer
from yangtuo.model import base
from yangtuo.model.base import Precision
from yangtuo.training.engines import check_engines, deepspeed_of, fsdp
from yangtuo.training.inputs import Inputs
from yangtuo.training.trainer_args import training_arguments

logger = logging.getLogger(__name__)


def meet(settings: Settings, inputs: Inputs, output_dir: Path) -> tuple[Precision, TrainingArguments, Store | None]:
    """The precision, what transformers is given, and the store in which the processes have met."""
    hardware = base.detect_hardware(settings.trainer.use_cpu)
    precision = base.choose_precision(
        settings.model.torch_dtype,
        fp16=settings.trainer.fp16,
        bf16=settings.trainer.bf16,
        stored=inputs.config.dtype,
        hardware=hardware,
    )
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
    args = training_arguments(settings, precision, hardware, inputs.config, output_dir)
    rehearse(StepTrainer.get_optimizer_cls_and_kwargs, args)
    return precision, args, store


def choose_execution(
    settings: Settings, inputs: Inputs, args: TrainingArguments, train_set: Examples, resumed: Path | None
) -> Execution:
    """How steps are cut, from what fits in memory now that the weights are there; all ranks the same.

    A resumed run goes on as its checkpoint was cut, unless the option says otherwise.
    """
    width = 2 if args.bf16 or args.fp16 else 4
    shape, free = ModelShape.of(inputs.config, width), memory.free_bytes(args.device)
    longest = int(train_set.lengths().max())
    asked = checkpointing_asked(settings)
    if asked is None:
        args.activation_checkpointing = bool(agree(int(memory.needs_checkpointing(shape, free, longest))))
        if args.activation_checkpointing:
            logger.warning(
                "gradient checkpointing: on, since a row of %d tokens would not fit otherwise (about a third slower; "
                "--gradient_checkpointing False keeps it off)",
                longest,
            )
    checkpointing = bool(args.activation_checkpointing)
    budget = settings.run.micro_batch_tokens
    if budget == "auto":
        chosen = memory.choose_max_cells(shape, free, args.device.type, checkpointing=checkpointing)
        max_cells = from_rank_0(lambda: _cells_of(resumed) or chosen)
    else:
        max_cells = int(budget)
    if args.device.type == "cpu":
        memory.keep_freed_memory()  # from here on, not what loading has freed
    shares = wants_prefix_sharing(settings)
    logger.info(
        "engine: micro-batches of at most %s tokens%s%s%s",
        f"{max_cells:,}",
        " (--micro_batch_tokens auto)" if budget == "auto" else "",
        "" if shares else ", rows padded (--attn_implementation or --neftune_noise_alpha)",
        ", gradient checkpointing" if checkpointing else "",
    )
    is_auto = budget == "auto" and not resumed
    return Execution(shares, max_cells, is_auto, compiles=settings.trainer.torch_compile)


def loaded_to(settings: Settings, device: torch.device) -> torch.device | None:
    """Where the base's weights go at once; None for main memory, where an engine takes them from and divides them."""
    stage = deepspeed_of(settings).get("zero_optimization", {}).get("stage")
    return None if stage == 3 or fsdp(settings.trainer.fsdp) else device


def _cells_of(started: Path | None) -> int | None:
    return None if started is None else int(checkpoint.read_position(started)["micro_batch_tokens"])


def wants_prefix_sharing(settings: Settings) -> bool:
    """Whether rows may share prefixes, as far as the options go."""
    return not settings.model.attn_implementation and not settings.trainer.neftune_noise_alpha


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
