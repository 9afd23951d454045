"""What the options ask of engines and packages (DeepSpeed, FSDP, optimizers, trackers): read, and refused in time."""

import functools
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

from yangtuo.config.settings import Settings
from yangtuo.config.trainer_values import TO_INSTALL, TRACKERS, tracker_names
from yangtuo.config.unique_keys import unique
from yangtuo.engine import trackers
from yangtuo.errors import MissingDependencyError, UsageError
from yangtuo.i18n import Message
from yangtuo.installing import pip_install
from yangtuo.logs import rank
from yangtuo.model import base
from yangtuo.model.lora_checks import begins_from_the_base
from yangtuo.model.lora_targets import split as names
from yangtuo.model.processor import Hardware

logger = logging.getLogger(__name__)


def check_engines(settings: Settings, hardware: Hardware, *, merges: bool) -> None:
    """Refuse what is not there or would run as something else, before the processes meet.

    `merges` where an adapter is put into the base in memory.

    Raises:
        UsageError: FSDP on a CPU; what needs a whole base under ZeRO-3; a quantised base where it would be changed; a
            DeepSpeed file that cannot be read.
        MissingDependencyError: DeepSpeed is asked for and not installed.
    """
    if hardware.device == "cpu" and fsdp(settings.trainer.fsdp):
        raise UsageError("--fsdp: accelerate runs plain DDP in its place on a CPU; leave --fsdp out")
    config = deepspeed_of(settings)
    stage = config.get("zero_optimization", {}).get("stage")
    lora, bits = settings.lora, base.num_bits(settings.model)
    if stage == 3 and hardware.device == "cpu" and lora.train_new_tokens_only:
        raise UsageError(
            "--train_new_tokens_only under ZeRO-3 needs a GPU, where PEFT collects the rows; use ZeRO-2 or no DeepSpeed"
        )
    if lora.loraplus_lr_ratio is not None and "optimizer" in config:
        raise UsageError("--loraplus_lr_ratio: the optimizer in the DeepSpeed file knows one rate; take it out there")
    if bits and lora.init_lora_weights.lower() == "orthogonal":
        raise UsageError(
            "--load_in_{bits}bit with --init_lora_weights orthogonal: PEFT cannot; leave one out", bits=bits
        )
    quantised = sorted(set(names(lora.modules_to_save)) - {"embed_tokens", "lm_head"})
    if bits and quantised:
        raise UsageError(
            "--load_in_{bits}bit with --modules_to_save {quantised}: it is quantised; leave it out",
            bits=bits,
            quantised=quantised[0],
        )
    whole = [
        *([f"--load_in_{bits}bit"] if bits else []),
        *([Message("an adapter that is merged in memory (--new_adapter, or one trained so)")] if merges else []),
        *([f"--init_lora_weights {lora.init_lora_weights}"] if begins_from_the_base(lora) else []),
    ]
    if stage == 3 or fsdp(settings.trainer.fsdp):
        _check_divided(settings)
    if whole and stage == 3:
        raise UsageError(
            "{whole} needs the base whole in each process, which ZeRO-3 divides; use ZeRO-2 or DDP", whole=whole[0]
        )
    if bits and fsdp(settings.trainer.fsdp):
        raise UsageError("--load_in_{bits}bit under --fsdp is untested and refused; use DDP or ZeRO-2", bits=bits)
    if bits and len(whole) > 1:
        raise UsageError(
            "--load_in_{bits}bit with {whole}: the base would be changed and rounded to {bits} bits once more; merge "
            "or begin on the 16-bit base",
            bits=bits,
            whole=whole[1],
        )


def _check_divided(settings: Settings) -> None:
    """Refuse what cannot be where each process has a part of the weights only."""
    if settings.trainer.torch_compile:
        raise UsageError("--torch_compile: ZeRO-3 and FSDP bring weights while a layer runs; leave it out, or use DDP")
    if settings.run.sample_prompts:
        raise UsageError(
            "--sample_prompts: one process answers, and ZeRO-3 and FSDP leave it a part of the weights only; leave it "
            "out, or use DDP or ZeRO-2"
        )


# Part of an optimizer's name and the module that this needs; transformers finds out after loading the weights.
_OPTIMIZERS = (
    *((part, "bitsandbytes") for part in ("bnb", "paged", "lion", "ademamix", "adamw_8bit")),
    *((part, "torchao") for part in ("adamw_torch_4bit", "adamw_torch_8bit")),
    ("schedule_free", "schedulefree"),
    ("grokadamw", "grokadamw"),
    ("stable_adamw", "optimi"),
    ("anyprecision", "torchdistx"),
)


def check_packages(settings: Settings) -> None:
    """Look for what the options need, before anything is read.

    Raises:
        MissingDependencyError: all packages that are missing.
        UsageError: a tracker that would ask for a key.
    """
    optim = settings.trainer.optim
    needs = [(f"--optim {optim}", module) for part, module in _OPTIMIZERS if part in optim]
    asked = tracker_names(settings.trainer.report_to) if rank() == 0 else []  # the others start no tracker
    for name in asked:
        needs += [(f"--report_to {name}", modules) for modules in TRACKERS.get(name, "").split()]
    missing = []
    for option, modules in needs:
        first, *others = modules.split("|")
        if all(importlib.util.find_spec(module) is None for module in (first, *others)):
            install = TO_INSTALL.get(first, first)
            missing.append(
                Message(
                    "{option}: the package {first} is not installed; pip install {install}",
                    option=option,
                    first=first,
                    install=install,
                )
            )
    if missing:
        raise MissingDependencyError.of_problems(Message("optional packages"), missing)
    trackers.check(asked)


def fsdp(given: Any) -> Any:
    """The value of `--fsdp`: its type allows text, so a truth value arrives as text."""
    return {"true": True, "false": False}.get(str(given).lower(), given)


def deepspeed_of(settings: Settings) -> dict[str, Any]:
    """The DeepSpeed configuration that the options name; empty without one."""
    return deepspeed(settings.trainer.deepspeed) or {}


@functools.cache  # what it has to say is said once
def deepspeed(given: Any) -> Any:
    """The DeepSpeed configuration as a dictionary, with the one value that today's DeepSpeed refuses mended.

    Raises:
        MissingDependencyError: DeepSpeed is not installed.
        UsageError: the file cannot be read.
    """
    if not given:
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise MissingDependencyError(
            "--deepspeed: DeepSpeed is not installed; {pip_install}, or leave --deepspeed out: the result is the same",
            pip_install=pip_install("deepspeed"),
        )
    text = given if str(given).lstrip().startswith("{") else _read_text(str(given))
    try:
        config = dict(json.loads(text, object_pairs_hook=unique))
    except (ValueError, TypeError) as error:
        raise UsageError("--deepspeed {given}: broken JSON: {error}", given=given, error=error) from error
    scale = config.get("fp16", {}).get("min_loss_scale")
    if isinstance(scale, float) and not scale.is_integer():
        config["fp16"]["min_loss_scale"] = 1
        config.setdefault("bf16", {"enabled": "auto"})
        logger.warning(
            "deepspeed: min_loss_scale %g counts as 1 (this DeepSpeed takes whole numbers; the file is unchanged)",
            scale,
        )
    return config


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            "--deepspeed {path}: {strerror}; give a JSON file", path=path, strerror=error.strerror
        ) from error
