"""Settings -> the recipe: what decides a run's result, for the engine and for run.json."""

import hashlib
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yangtuo.config.options import OPTIONS
from yangtuo.config.schema import Decides
from yangtuo.config.settings import Settings, as_dict
from yangtuo.data.encoding_cache import EncodedFiles
from yangtuo.data.readers import columns
from yangtuo.data.readers.files import spread_blocks
from yangtuo.engine import checkpoint, planning
from yangtuo.engine.steps import Recipe
from yangtuo.errors import UsageError
from yangtuo.i18n import Message
from yangtuo.model.lora_targets import split as names
from yangtuo.training import advice, run_folder
from yangtuo.training.dataset import Corpus, wants_evaluation
from yangtuo.training.engines import deepspeed_of
from yangtuo.training.inputs import Inputs
from yangtuo.training.plan import advice_of, num_steps, step_shape
from yangtuo.training.run_folder import Decision, Start

logger = logging.getLogger(__name__)


def recipe_of(settings: Settings, seed: int, mix: tuple[float, ...] | None) -> Recipe:
    """What the engine computes; `mix` is how often an epoch has the rows of each training file."""
    data_seed = settings.trainer.data_seed
    return Recipe(
        shape=step_shape(settings),
        reduction=settings.run.loss_reduction,
        order=settings.data.data_order,
        order_seed=seed if data_seed is None else data_seed,
        drop_last=settings.trainer.dataloader_drop_last,
        label_smoothing=settings.trainer.label_smoothing_factor,
        neftune_noise_alpha=settings.trainer.neftune_noise_alpha,
        eval_rows=settings.trainer.per_device_eval_batch_size,
        mix=mix,
        loraplus_lr_ratio=settings.lora.loraplus_lr_ratio,
    )


def plan_steps(settings: Settings, num_rows: int, decision: Decision) -> list[str]:
    """What the steps will be, said and returned for run.json.

    Raises:
        UsageError: there is nothing to do.
    """
    if decision.start is Start.EXTEND:
        _check_extension(settings, num_rows, decision.checkpoint)
    shape, drop_last = step_shape(settings), settings.trainer.dataloader_drop_last
    if not settings.trainer.do_train:
        lines: list[str] = [Message("only evaluating: --do_eval without --do_train")]
    elif shape.num_steps(num_rows, drop_last=drop_last) == 0:
        raise UsageError(
            "{num_rows} rows are fewer than the {rows_per_step} of one step, and --dataloader_drop_last leaves out a "
            "short step: nothing would be trained",
            num_rows=num_rows,
            rows_per_step=shape.rows_per_step,
        )
    else:
        epochs, max_steps = settings.trainer.num_train_epochs, settings.trainer.max_steps
        lines = planning.describe(shape, num_rows, epochs, max_steps, drop_last=drop_last)
    for line in lines:
        logger.info(line)
    _tell_patience(settings, num_rows)
    return lines


def _tell_patience(settings: Settings, num_rows: int) -> None:
    """Say it where there are too few evaluations for any patience to be lost."""
    patience, every = settings.run.early_stopping_patience, settings.training_value("eval_steps")
    per_epoch = step_shape(settings).num_steps(num_rows, drop_last=settings.trainer.dataloader_drop_last)
    total = num_steps(settings, per_epoch)
    if settings.trainer.eval_strategy == "epoch":
        every = per_epoch
    if patience is None or not every:
        return
    evaluations = total // (every if every >= 1 else math.ceil(every * total))
    if evaluations <= patience:
        logger.warning(
            "--early_stopping_patience %d has no effect: %d steps have %d evaluations; give a smaller --eval_steps",
            patience,
            total,
            evaluations,
        )


def _check_extension(settings: Settings, num_rows: int, made: Path | None) -> None:
    """Compare the steps of an extended run with those that its checkpoint has made.

    Raises:
        UsageError: there is nothing left to do.
    """
    per_epoch = step_shape(settings).num_steps(num_rows, drop_last=settings.trainer.dataloader_drop_last)
    total, done = num_steps(settings, per_epoch), checkpoint.step_of(made) if made else 0
    if total <= done:
        raise UsageError(
            "--extend: the run in {output_dir} has made {done} steps, and {total} are asked for; give a larger "
            "--max_steps or --num_train_epochs",
            output_dir=settings.trainer.output_dir,
            done=done,
            total=total,
        )


def tell_advice(settings: Settings, inputs: Inputs, corpus: Corpus) -> list[str]:
    """What published work recommends beside what the run does, said and returned for run.json."""
    found = advice_of(settings, inputs.base, inputs.adapter.folder if inputs.adapter else None, corpus)
    if found is None:
        return []
    advised = found[0]
    told = [advice.told(*found)] if advised.rows[0].fits else []  # else a finding says as much
    for line in told:
        logger.info(line)
    for line in (*advised.findings, *advised.notes):
        logger.warning(line)
    return [*told, *advised.findings]


def record_recipe(
    settings: Settings, inputs: Inputs, train: EncodedFiles, validation: EncodedFiles | None
) -> dict[str, Any]:
    """The recipe as JSON values, for run.json; two runs with equal ones (and seeds) have equal results.

    Which options are in it by their values, the options themselves say (`config.schema.Decides`); what they lead to is
    in it by its content.
    """
    shape, lora = step_shape(settings), settings.lora
    in_groups = settings.run.loss_reduction == "device_batch"
    sources = validation.sources if validation else ()
    return {
        **deciding_values(settings),
        "trainable": sorted(names(lora.trainable)),
        "modules_to_save": sorted(names(lora.modules_to_save)),
        "peft_path": _hash_of(inputs.adapter.folder) if inputs.adapter else None,
        "merged_in": [each.sha256 for each in inputs.merged_in],
        "rows_per_step": shape.rows_per_step,
        "rows_per_group": shape.rows_per_group if in_groups else None,
        "eval_rows_per_group": settings.trainer.per_device_eval_batch_size if in_groups else None,
        "data": [[Path(source.path).name, source.sha256] for source in train.sources],
        "validation": [[Path(source.path).name, source.sha256] for source in sources],
        "columns": columns.parse(settings.data.columns).fields if settings.data.columns else None,
        "template": hashlib.sha256(inputs.template.identity().encode()).hexdigest(),
        "tokenizer": inputs.tokenizer.sha256(),
        "base": _hash_of(inputs.base),
        # What else a DeepSpeed file says has to agree with the options, or does not decide the result.
        "deepspeed": {key: _told(part) for key, part in deepspeed_of(settings).items() if key in _OF_RESULT},
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
    takes_best = evaluates and settings.trainer.load_best_model_at_end
    counts = {Decides.RESULT: True, Decides.EVALUATION: evaluates, Decides.FINAL: takes_best}
    # The adapter that is continued decides the others.
    continued = ("lora_dropout", "modules_to_save_policy", "loraplus_lr_ratio")
    is_continued = settings.lora.peft_path is not None and not settings.lora.new_adapter
    return {
        name: _plain(settings.value(name))
        for name, option in OPTIONS.items()
        if counts.get(option.decides) and not (is_continued and name in vars(settings.lora) and name not in continued)
    }


def without_effect(settings: Settings, arguments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Options that were given and differ from those of a run of the same recipe, which are kept in run.json."""
    now = as_dict(settings)
    return [
        name
        for name, option in OPTIONS.items()
        if settings.given(name)
        and option.decides is Decides.NOTHING
        and now[name]["value"] != arguments.get(name, {}).get("value")
    ]


def tell_finished(settings: Settings, output_dir: Path) -> None:
    """Say that the folder holds this very run, finished, and which options therefore change nothing."""
    logger.info("%s holds this very run, finished; choose another --output_dir to train once more", output_dir)
    run = run_folder.read_run(output_dir) or {}
    asked = settings.trainer.seed
    if settings.given("seed") and run.get("seed") != asked:
        logger.warning("--seed %s has no effect: the finished run had %s", asked, run.get("seed"))
    for name in without_effect(settings, run.get("arguments", {})):
        logger.warning("--%s has no effect: the run is finished, and this option changes no result", name)


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


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool | None) else str(value)
