"""Settings -> what is computed: the values that decide a run's result, and those that transformers is given."""

import copy
import functools
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, TrainingArguments

from yangtuo.config.options import options_of
from yangtuo.config.parser import Settings, as_dict
from yangtuo.config.schema import OUR_GROUPS, Decides
from yangtuo.config.trainer_options import TRAINING_ARGUMENTS, ArgHandling
from yangtuo.config.trainer_values import TRACKERS, tracker_names
from yangtuo.config.unique_keys import unique
from yangtuo.data.readers.files import spread_blocks
from yangtuo.engine.planning import StepShape
from yangtuo.engine.progress import Logging
from yangtuo.engine.steps import Recipe
from yangtuo.errors import MissingDependencyError, UsageError, one_line
from yangtuo.logs import rank, world_size
from yangtuo.model import base
from yangtuo.model.base import Hardware, Precision
from yangtuo.model.lora_options import begins_from_the_base, names
from yangtuo.training.dataset import Encoded, wants_evaluation
from yangtuo.training.inputs import Inputs

logger = logging.getLogger(__name__)

DECIDES: dict[str, Decides] = {
    **{option.name: Decides(str(option.decides)) for group in OUR_GROUPS for option in options_of(group)},
    **{name: row.decides for name, row in TRAINING_ARGUMENTS.items()},
}


def step_shape(settings: Settings) -> StepShape:
    """Rows of a step."""
    return StepShape(
        settings.training_value("per_device_train_batch_size"),
        settings.training_value("gradient_accumulation_steps"),
        world_size(),
    )


def recipe_of(settings: Settings, seed: int, mix: tuple[float, ...] | None) -> Recipe:
    """What the engine computes; `mix` is how often an epoch has the rows of each training file."""
    data_seed = settings.training_value("data_seed")
    return Recipe(
        shape=step_shape(settings),
        reduction=settings.run.loss_reduction,
        order=settings.data.data_order,
        order_seed=seed if data_seed is None else data_seed,
        drop_last=settings.training_value("dataloader_drop_last"),
        label_smoothing=settings.training_value("label_smoothing_factor"),
        neftune_noise_alpha=settings.training_value("neftune_noise_alpha"),
        eval_rows=settings.training_value("per_device_eval_batch_size"),
        mix=mix,
        loraplus_lr_ratio=settings.lora.loraplus_lr_ratio,
    )


def wants_prefix_sharing(settings: Settings) -> bool:
    """Whether rows may share prefixes, as far as the options go."""
    return not settings.model.attn_implementation and not settings.training_value("neftune_noise_alpha")


def checkpointing_asked(settings: Settings) -> bool | None:
    """True or False as given; None for auto."""
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        if settings.given(name):
            return bool(settings.training[name])
    return None


def record_recipe(settings: Settings, inputs: Inputs, encoded: Encoded) -> dict[str, Any]:
    """The recipe as JSON values, for run.json; two runs with equal ones (and seeds) have equal results.

    Which options are in it by their values, the options themselves say (`arguments.Decides`). What they lead to is in
    it by its content.
    """
    shape, lora = step_shape(settings), settings.lora
    in_groups = settings.run.loss_reduction == "device_batch"
    validation = encoded.validation.sources if encoded.validation else ()
    return {
        **deciding_values(settings),
        "trainable": sorted(names(lora.trainable)),
        "modules_to_save": sorted(names(lora.modules_to_save)),
        "peft_path": _hash_of(inputs.adapter.folder) if inputs.adapter else None,
        "merged_in": [each.sha256 for each in inputs.merged_in],
        "rows_per_step": shape.rows_per_step,
        "rows_per_group": shape.rows_per_group if in_groups else None,
        "eval_rows_per_group": settings.training_value("per_device_eval_batch_size") if in_groups else None,
        "data": [[Path(source.path).name, source.sha256] for source in encoded.train.sources],
        "validation": [[Path(source.path).name, source.sha256] for source in validation],
        "template": hashlib.sha256(inputs.template.identity().encode()).hexdigest(),
        "tokenizer": inputs.tokenizer.sha256(),
        "base": _hash_of(inputs.base),
        # What else a DeepSpeed file says has to agree with the options, or does not decide the result.
        "deepspeed": {key: _told(part) for key, part in _deepspeed_of(settings).items() if key in _OF_RESULT},
    }


_OF_RESULT = ("optimizer", "scheduler")


def _told(part: Any) -> Any:
    """A part of a DeepSpeed file without what is taken from the options."""
    if isinstance(part, dict):
        return {key: _told(value) for key, value in part.items() if value != "auto"}
    return part


def deciding_values(settings: Settings) -> dict[str, Any]:
    """The options that decide the result by their values, as far as they have any effect in this run."""
    evaluates = wants_evaluation(settings)
    takes_best = evaluates and bool(settings.training_value("load_best_model_at_end"))
    counts = {Decides.RESULT: True, Decides.EVALUATION: evaluates, Decides.FINAL: takes_best}
    # The adapter that is continued decides the others.
    continued = ("lora_dropout", "modules_to_save_policy", "loraplus_lr_ratio")
    is_continued = settings.lora.peft_path is not None and not settings.lora.new_adapter
    return {
        name: _plain(settings.value(name))
        for name, decides in DECIDES.items()
        if counts.get(decides) and not (is_continued and name in vars(settings.lora) and name not in continued)
    }


def without_effect(settings: Settings, arguments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Options that were given and differ from those of a run of the same recipe, which are kept in run.json."""
    now = as_dict(settings)
    return [
        name
        for name, decides in DECIDES.items()
        if settings.given(name)
        and decides is Decides.NOTHING
        and now[name]["value"] != arguments.get(name, {}).get("value")
    ]


def _hash_of(folder: Path) -> str:
    """One hash over the configuration and the weights of a model or adapter folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in ("config.json", "adapter_config.json"):
            digest.update(path.read_bytes())
        elif path.suffix in (".safetensors", ".bin") and path.name != "training_args.bin":
            digest.update(os.fsencode(path.name) + f" {path.stat().st_size}".encode())
            for block in spread_blocks(path):  # quick on 70B, and no two trainings agree in them
                digest.update(block)
    return digest.hexdigest()


def logging_of(settings: Settings) -> Logging:
    """When the screen is told."""
    return Logging(
        strategy=str(settings.training_value("logging_strategy")),
        steps=float(settings.training_value("logging_steps")),
        first_step=bool(settings.training_value("logging_first_step")),
    )


def training_arguments(
    settings: Settings, precision: Precision, hardware: Hardware, config: PreTrainedConfig, output_dir: Path
) -> TrainingArguments:
    """What transformers is given: the user's values where it does the work, fixed ones where we do.

    Raises:
        UsageError: transformers refuses a value.
        MissingDependencyError: an engine that is not installed.
    """
    values = {
        name: value
        for name, value in settings.training.items()
        if TRAINING_ARGUMENTS[name].handling is ArgHandling.PASSED
    }
    for name in ("", "_kwargs"):  # today's name of the same option, so that no warning is printed
        old = values.pop(f"gradient_checkpointing{name}", None)
        if old is not None:
            values.setdefault(f"activation_checkpointing{name}", old)
    if "fsdp" in values:
        values["fsdp"] = _fsdp(values["fsdp"])
    for name in ("dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context"):
        values[name] = settings.training_value(name)
    # Buffers (rotary frequencies) are the same everywhere; sending them in a forward would leave a rank that ran out of
    # memory before it, and its peers, in different collectives.
    values.setdefault("ddp_broadcast_buffers", False)
    # Only a mixture of experts leaves trained weights out of a step; looking for them walks the graph each time.
    values.setdefault("ddp_find_unused_parameters", any("experts" in name for name in config.to_dict()))
    if values.get("save_strategy") == "best":
        values.setdefault("metric_for_best_model", "loss")
    values |= {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": settings.training_value("per_device_train_batch_size"),
        "per_device_eval_batch_size": settings.training_value("per_device_eval_batch_size"),
        "gradient_accumulation_steps": 1,  # a batch of the Trainer is a whole step already
        "bf16": precision.bf16,
        "fp16": precision.fp16,
        "use_cpu": hardware.device == "cpu",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "greater_is_better": False,  # of loss and perplexity; by itself, transformers would look for the largest one
        "disable_tqdm": True,
        "report_to": "none",  # see `engine.trackers`
        "deepspeed": copy.deepcopy(_deepspeed(settings.training.get("deepspeed"))),
        "remove_unused_columns": False,
        "do_train": bool(settings.training.get("do_train")),
        "do_eval": bool(settings.training.get("do_eval")),
    }
    try:
        return TrainingArguments(**values)
    except (ValueError, TypeError) as error:
        raise UsageError(one_line(error)) from error
    except ImportError as error:
        raise MissingDependencyError(one_line(error)) from error


def check_engines(settings: Settings, hardware: Hardware, *, merges: bool) -> None:
    """Refuse what is not there or would run as something else, before the processes meet.

    `merges` where an adapter is put into the base in memory.

    Raises:
        UsageError: FSDP on a CPU; what needs a whole base under ZeRO-3; a quantised base where it would be changed; a
            DeepSpeed file that cannot be read.
        MissingDependencyError: DeepSpeed is asked for and not installed.
    """
    if hardware.device == "cpu" and _fsdp(settings.training.get("fsdp")):
        raise UsageError("--fsdp: accelerate runs plain DDP in its place on a CPU; leave --fsdp out")
    config = _deepspeed_of(settings)
    stage = config.get("zero_optimization", {}).get("stage")
    lora, bits = settings.lora, base.num_bits(settings.model)
    if stage == 3 and hardware.device == "cpu" and lora.train_new_tokens_only:
        raise UsageError(
            "--train_new_tokens_only under ZeRO-3 needs a GPU, where PEFT collects the rows; use ZeRO-2 or no DeepSpeed"
        )
    if lora.loraplus_lr_ratio is not None and "optimizer" in config:
        raise UsageError("--loraplus_lr_ratio: the optimizer in the DeepSpeed file knows one rate; take it out there")
    if bits and lora.init_lora_weights.lower() == "orthogonal":
        raise UsageError(f"--load_in_{bits}bit with --init_lora_weights orthogonal: PEFT cannot; leave one out")
    quantised = sorted(set(names(lora.modules_to_save)) - {"embed_tokens", "lm_head"})
    if bits and quantised:
        raise UsageError(f"--load_in_{bits}bit with --modules_to_save {quantised[0]}: it is quantised; leave it out")
    whole = [
        *([f"--load_in_{bits}bit"] if bits else []),
        *(["an adapter that is merged in memory (--new_adapter, or one trained so)"] if merges else []),
        *([f"--init_lora_weights {lora.init_lora_weights}"] if begins_from_the_base(lora) else []),
    ]
    if whole and stage == 3:
        raise UsageError(f"{whole[0]} needs the base whole in each process, which ZeRO-3 divides; use ZeRO-2 or DDP")
    if bits and _fsdp(settings.training.get("fsdp")):
        raise UsageError(f"--load_in_{bits}bit under --fsdp is untested and refused; use DDP or ZeRO-2")
    if bits and len(whole) > 1:
        raise UsageError(
            f"--load_in_{bits}bit with {whole[1]}: the base would be changed and rounded to {bits} bits once more; "
            "merge or begin on the 16-bit base"
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
_TO_INSTALL = {
    "azureml": "azureml-core",
    "optimi": "torch-optimi",
    "torchdistx": "git+https://github.com/pytorch/torchdistx",
}


def check_packages(settings: Settings) -> None:
    """Look for what the options need, before anything is read.

    Raises:
        MissingDependencyError: all packages that are missing.
    """
    optim = str(settings.training_value("optim"))
    needs = [(f"--optim {optim}", module) for part, module in _OPTIMIZERS if part in optim]
    if rank() == 0:  # the others start no tracker
        for name in tracker_names(str(settings.training_value("report_to"))):
            needs += [(f"--report_to {name}", modules) for modules in TRACKERS.get(name, "").split()]
    missing = []
    for option, modules in needs:
        first, *others = modules.split("|")
        if all(importlib.util.find_spec(module) is None for module in (first, *others)):
            install = _TO_INSTALL.get(first, first)
            missing.append(f"{option}: the package {first} is not installed; pip install {install}")
    if missing:
        raise MissingDependencyError.of_problems("optional packages", missing)


def _fsdp(given: Any) -> Any:
    """Its type allows text, so a truth value arrives as text."""
    return {"true": True, "false": False}.get(str(given).lower(), given)


def _deepspeed_of(settings: Settings) -> dict[str, Any]:
    return _deepspeed(settings.training.get("deepspeed")) or {}


@functools.cache  # what it has to say is said once
def _deepspeed(given: Any) -> Any:
    """The DeepSpeed configuration as a dictionary, with the one value that today's DeepSpeed refuses mended."""
    if not given:
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise MissingDependencyError(
            "--deepspeed: DeepSpeed is not installed; pip install 'yangtuo[deepspeed]' (in a checkout: "
            "pip install -e '.[deepspeed]'), or leave --deepspeed out: the result is the same"
        )
    text = given if str(given).lstrip().startswith("{") else _read_text(str(given))
    try:
        config = dict(json.loads(text, object_pairs_hook=unique))
    except (ValueError, TypeError) as error:
        raise UsageError(f"--deepspeed {given}: broken JSON: {error}") from error
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
        raise UsageError(f"--deepspeed {path}: {error.strerror}; give a JSON file") from error


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool | None) else str(value)
