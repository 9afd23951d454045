"""The story of a training run, top to bottom.

files -> records -> examples -> base + LoRA -> steps -> adapter on disk. Everything that can be refused is refused
before the first weight is loaded.
"""

import dataclasses
import functools
import logging
import os
import platform
import shlex
import signal
import socket
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

import yangtuo
from yangtuo import output
from yangtuo.config.parser import Settings, as_dict
from yangtuo.config.schema import ModulesToSavePolicy
from yangtuo.config.trainer_values import tracker_names
from yangtuo.data.encoding import end_id
from yangtuo.data.examples import Examples
from yangtuo.data.saved_template import to_values
from yangtuo.engine import checkpoint, memory, planning, trackers
from yangtuo.engine.memory import ModelShape
from yangtuo.engine.optimizer import rehearse
from yangtuo.engine.processes import (
    Store,
    agree,
    check_alike,
    check_engine,
    check_launch,
    connect,
    from_rank_0,
    peers_lost_are_named,
)
from yangtuo.engine.progress import Progress
from yangtuo.engine.run_context import RunContext
from yangtuo.engine.signals import StopRequest
from yangtuo.engine.step_log import StepLog
from yangtuo.engine.steps import Execution
from yangtuo.engine.trainer import StepTrainer, Subject
from yangtuo.engine.watchdog import Watchdog
from yangtuo.errors import StoppedError, UsageError
from yangtuo.logs import notes_so_far, world_size
from yangtuo.model import adapter_state, adapters, base, fingerprint, generation_config, provenance
from yangtuo.model.adapter_state import Adapter
from yangtuo.model.asking import Asking, asking_of
from yangtuo.model.base import Precision
from yangtuo.training import run_folder, verify
from yangtuo.training.dataset import log_summary, split_and_audit, write_audit
from yangtuo.training.inputs import Inputs, encode_inputs, open_inputs
from yangtuo.training.recipe import (
    check_engines,
    check_packages,
    checkpointing_asked,
    logging_of,
    recipe_of,
    record_recipe,
    step_shape,
    training_arguments,
    wants_prefix_sharing,
    without_effect,
)

logger = logging.getLogger(__name__)


def train(settings: Settings) -> None:
    """Run what the settings ask for; a finished or resumed run is recognised by its folder."""
    began = time.time()
    check_packages(settings)
    inputs = open_inputs(settings)
    encoded = encode_inputs(settings, inputs)

    output_dir = _output_dir(settings)
    recipe = record_recipe(settings, inputs, encoded)
    precision, args, store = _meet(settings, inputs, output_dir)  # processes know each other from here on
    watchdog = Watchdog(store, settings.run.watchdog_minutes * 60)  # from now on, since loading may take long
    with watchdog, run_folder.Lock(output_dir) as lock, peers_lost_are_named("training"):
        check_alike({**recipe, "rows": encoded.checks(), "precision": str(precision), "versions": _versions()})
        decision = from_rank_0(lambda: _decide(settings, output_dir, recipe, lock))
        if decision.start is run_folder.Start.FINISHED:
            _tell_finished(settings, output_dir)
            return
        args.seed = _seed(settings, decision)
        corpus = split_and_audit(settings, encoded, end_id(inputs.tokenizer, inputs.template), args.seed)
        log_summary(corpus)
        plan = _plan_steps(settings, corpus.num_rows_of_epoch())
        _prepare_folder(output_dir, decision, lock, args)
        is_main = args.process_index == 0

        asking = _asking(inputs, tries=args.should_save)
        adapter = _load(settings, inputs, precision, args.seed)
        execution = _choose_execution(settings, inputs, args, corpus.train, decision)
        run = _run_record(settings, recipe, args.seed, began) | {"plan": plan}
        if is_main:
            output.write_json(output_dir / run_folder.RUN_FILE, run)
            write_audit(output_dir, corpus.audits, corpus.dropped)
        context = RunContext(
            _open_journal(output_dir, decision.checkpoint, writes=is_main),
            Progress(shown=is_main, bar=not settings.training.get("disable_tqdm", False)),
            logging_of(settings),
            settings.run.save_minutes,
            StopRequest(),
            watchdog,
        )
        known, saved = _provenance(settings, inputs, recipe), output_dir / run_folder.ADAPTER_FOLDER
        subject = Subject(adapter, asking, known, corpus.train, corpus.validation)
        if args.device.type == "cpu":
            memory.keep_freed_memory()
        trainer = StepTrainer(subject, recipe_of(settings, args.seed, corpus.mix), execution, context, args)
        check_engine(trainer.accelerator, args.n_gpu, deepspeed=bool(args.deepspeed), fsdp=bool(args.fsdp))
        from_rank_0(lambda: trackers.start(tracker_names(settings.training_value("report_to")), trainer))

        with context.screen:
            if args.do_train:
                at_start = adapter_state.checksums(adapter_state.trained_parameters(adapter))
                _train(trainer, decision, context.stop, output_dir)
                trainer.save_model(str(saved))
                load_base = functools.partial(_load_base, settings, inputs, precision)
                verify.prove(trainer, adapter, at_start, saved, load_base, is_continued=inputs.adapter is not None)
                logger.info("the adapter is in %s; to merge it: %s", saved, _how_to_merge(known, saved))
                asking.tell()
            if args.do_eval:
                _evaluate(trainer, output_dir)
        if is_main:
            run |= {"shortcuts": trainer.shortcuts and asdict(trainer.shortcuts)}
            run |= {"state": "finished", "seconds": time.time() - began, "notes": notes_so_far()}
            output.write_json(output_dir / run_folder.RUN_FILE, run)


def _meet(settings: Settings, inputs: Inputs, output_dir: Path) -> tuple[Precision, TrainingArguments, Store | None]:
    """The number formats, what transformers is given, and the store in which the processes have met."""
    hardware = base.detect_hardware(settings.training_value("use_cpu"))
    precision = base.choose_precision(
        settings.model.torch_dtype,
        fp16=settings.training_value("fp16"),
        bf16=settings.training_value("bf16"),
        stored=inputs.config.dtype,
        hardware=hardware,
    )
    check_engines(settings, hardware, merges=bool(inputs.merged_in))
    warning = check_launch(os.environ)
    if warning:
        logger.warning(warning)
    store = connect(
        hardware.device,
        backend=settings.training.get("ddp_backend"),
        timeout_seconds=settings.training_value("ddp_timeout"),
        deepspeed=bool(settings.training.get("deepspeed")),
    )
    args = training_arguments(settings, precision, hardware, inputs.config, output_dir)
    rehearse(StepTrainer.get_optimizer_cls_and_kwargs, args)
    return precision, args, store


def _tell_finished(settings: Settings, output_dir: Path) -> None:
    logger.info("%s holds this very run, finished; choose another --output_dir to train once more", output_dir)
    run = run_folder.read_run(output_dir) or {}
    asked = settings.training_value("seed")
    if settings.given("seed") and run.get("seed") != asked:
        logger.warning("--seed %s has no effect: the finished run had %s", asked, run.get("seed"))
    for name in without_effect(settings, run.get("arguments", {})):
        logger.warning("--%s has no effect: the run is finished, and this option changes no result", name)


def _decide(settings: Settings, output_dir: Path, recipe: dict[str, Any], lock: run_folder.Lock) -> run_folder.Decision:
    lock.take()
    return run_folder.decide(
        output_dir,
        recipe,
        overwrite=settings.run.overwrite_output_dir,
        checkpoint_dir=settings.training.get("resume_from_checkpoint"),
    )


def _choose_execution(
    settings: Settings, inputs: Inputs, args: TrainingArguments, train_set: Examples, decision: run_folder.Decision
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
        max_cells = from_rank_0(lambda: _cells_of(decision.checkpoint) or chosen)
    else:
        max_cells = int(budget)
    shares = wants_prefix_sharing(settings)
    logger.info(
        "engine: micro-batches of at most %s tokens%s%s%s",
        f"{max_cells:,}",
        " (--micro_batch_tokens auto)" if budget == "auto" else "",
        "" if shares else ", rows padded (--attn_implementation or --neftune_noise_alpha)",
        ", gradient checkpointing" if checkpointing else "",
    )
    return Execution(shares, max_cells, is_auto=budget == "auto" and not decision.checkpoint)


def _cells_of(started: Path | None) -> int | None:
    return None if started is None else int(checkpoint.read_position(started)["micro_batch_tokens"])


def _load_base(settings: Settings, inputs: Inputs, precision: Precision) -> PreTrainedModel:
    """The base below the LoRA that is trained."""
    saved, lora = inputs.adapter, settings.lora
    model = base.load(inputs.base, precision, settings.model)
    num_tokens = inputs.tokenizer.num_tokens
    brings = saved and saved.holds_more_than_lora and lora.modules_to_save_policy is not ModulesToSavePolicy.DROP
    are_trained = bool(lora.modules_to_save or lora.train_new_tokens_only or brings)
    base.fit_vocabulary(model, num_tokens, are_trained=are_trained)
    for below in inputs.merged_in:
        model = adapters.merge_in(model, below, lora)
    return model


def _load(settings: Settings, inputs: Inputs, precision: Precision, seed: int) -> Adapter:
    """The base with the LoRA that is trained; the seed decides how a new one begins."""
    torch.manual_seed(seed)
    saved, lora = inputs.adapter, settings.lora
    model = _load_base(settings, inputs, precision)
    if saved and not lora.new_adapter:
        adapter = adapters.attach_saved(model, saved, lora, settings.origins)
    else:
        new_tokens = range(inputs.config.get_text_config().vocab_size, inputs.tokenizer.num_tokens)
        adapter = adapters.attach_new(model, lora, new_tokens if lora.train_new_tokens_only else ())
    logger.info(base.describe(inputs.config, model, precision, settings.model))
    logger.info(adapter.describe())
    return adapter


def _open_journal(output_dir: Path, started: Path | None, *, writes: bool) -> StepLog:
    """Cut back to the checkpoint that the run goes on from, which other machines may not have."""
    path = output_dir / "log.jsonl"
    if started is None:
        return StepLog(path, writes=writes)
    num_evaluations = from_rank_0(lambda: checkpoint.num_evaluations(started))
    return StepLog(path, last_step=checkpoint.step_of(started), num_evaluations=num_evaluations, writes=writes)


def _train(trainer: StepTrainer, decision: run_folder.Decision, stop: StopRequest, output_dir: Path) -> None:
    from_rank_0(lambda: checkpoint.check_room(output_dir, trainer.checkpoint_bytes(), UsageError))
    with stop:
        metrics = trainer.run(decision.checkpoint)
    if stop.agreed:
        raise StoppedError(
            f"stopped by {signal.Signals(stop.agreed).name} after step {trainer.state.global_step} of "
            f"{trainer.state.max_steps}, with a checkpoint; the same command goes on from there",
            stop.agreed,
        )
    if trainer.is_world_process_zero():
        run_folder.write_metrics(output_dir, "train", metrics)
        output.write_json(output_dir / checkpoint.TRAINER_STATE, dataclasses.asdict(trainer.state))


def _asking(inputs: Inputs, *, tries: bool) -> Asking:
    """What is saved beside the weights for other programs; tried by the processes that save."""
    folders = [inputs.adapter.folder] if inputs.adapter else []
    found = generation_config.first_of([*folders, inputs.base])
    asking = asking_of(inputs.template, inputs.tokenizer, found[1] if found else None)
    return asking.tried() if tries else asking


def _evaluate(trainer: StepTrainer, output_dir: Path) -> None:
    metrics = trainer.final_evaluation()
    if trainer.is_world_process_zero():
        run_folder.write_metrics(output_dir, "eval", metrics)


def _how_to_merge(known: dict[str, Any], saved: Path) -> str:
    order = [*(one["folder"] for one in known["stack"]), str(saved)]
    words = [
        "--model_name_or_path",
        known["base"]["name"],
        "--peft_path",
        ",".join(order),
        "--output_dir",
        "merged",
    ]
    return f"yangtuo merge {shlex.join(words)}"


def _output_dir(settings: Settings) -> Path:
    given = settings.training.get("output_dir")
    if not given:
        raise UsageError("--output_dir is missing: the folder for checkpoints and the adapter")
    return Path(given)


def _seed(settings: Settings, decision: run_folder.Decision) -> int:
    asked = agree(int(settings.training_value("seed")))
    if decision.seed is not None and decision.seed != asked:
        logger.warning("seed: %d, of the run that goes on, instead of %d", decision.seed, asked)
        return decision.seed
    return asked


def _plan_steps(settings: Settings, num_rows: int) -> list[str]:
    """What the steps will be, said and returned for run.json."""
    shape, drop_last = step_shape(settings), settings.training_value("dataloader_drop_last")
    if not settings.training.get("do_train"):
        lines = ["only evaluating: --do_eval without --do_train"]
    elif shape.num_steps(num_rows, drop_last=drop_last) == 0:
        raise UsageError(
            f"{num_rows} rows are fewer than the {shape.rows_per_step} of one step, and --dataloader_drop_last "
            "leaves out a short step: nothing would be trained"
        )
    else:
        epochs, max_steps = settings.training_value("num_train_epochs"), settings.training_value("max_steps")
        lines = planning.describe(shape, num_rows, epochs, max_steps, drop_last=drop_last)
    for line in lines:
        logger.info(line)
    return lines


def _prepare_folder(
    output_dir: Path, decision: run_folder.Decision, lock: run_folder.Lock, args: TrainingArguments
) -> None:
    """Rank 0 makes or takes over the folder; on each machine that writes, what a killed process left is tidied up."""
    if args.process_index == 0:
        if decision.start is run_folder.Start.MOVE_ASIDE:
            lock.release()
            logger.warning("output folder: the former %s is now %s", output_dir, run_folder.move_aside(output_dir))
        if decision.start is run_folder.Start.RESUME:
            logger.warning("resuming from %s", decision.checkpoint)
        run_folder.make(output_dir)
        lock.take()
    if args.should_save:
        output.recover(output_dir)


def _provenance(settings: Settings, inputs: Inputs, recipe: dict[str, Any]) -> dict[str, Any]:
    """What travels with the adapter: its base, what lies between it and the base, its tokenizer and its prompt."""
    return {
        "yangtuo": yangtuo.__version__,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "base": fingerprint.of_base(str(settings.model.model_name_or_path), inputs.base, inputs.config),
        "stack": [{"sha256": each.sha256, "folder": str(each.folder.resolve())} for each in inputs.merged_in],
        "continued": _continued(settings, inputs),
        "num_bits": base.num_bits(settings.model),
        "tokenizer": {"sha256": inputs.tokenizer.sha256(), "num_tokens": inputs.tokenizer.num_tokens},
        "template": to_values(inputs.template),
        "data": recipe["data"],
    }


def _continued(settings: Settings, inputs: Inputs) -> list[dict[str, str]]:
    """The adapters that the trained one has in it, oldest first: the one that it continues, and those before that."""
    saved = inputs.adapter
    if saved is None or settings.lora.new_adapter:
        return []
    before = (provenance.read(saved.folder) or {}).get("continued", [])
    return [*before, {"sha256": saved.sha256, "folder": str(saved.folder.resolve())}]


def _versions() -> dict[str, str]:
    libraries = ("torch", "transformers", "peft", "accelerate", "sentencepiece", "tokenizers", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}


def _run_record(settings: Settings, recipe: dict[str, Any], seed: int, began: float) -> dict[str, Any]:
    return {
        "yangtuo": yangtuo.__version__,
        "state": "running",
        "command": sys.argv,
        "process": f"process {os.getpid()} on {socket.gethostname()}",
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(began)),
        "versions": _versions(),
        "world_size": world_size(),
        "seed": seed,
        "arguments": as_dict(settings),
        "recipe": recipe,
        "notes": notes_so_far(),
    }
