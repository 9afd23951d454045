"""The story of a training run, top to bottom.

files -> records -> examples -> base + LoRA -> steps -> adapter on disk. Everything that can be refused is refused
before the first weight is loaded.
"""

import dataclasses
import functools
import logging
import signal
import time
from pathlib import Path
from typing import Any

from yangtuo import output
from yangtuo.config.settings import Settings
from yangtuo.config.trainer_values import tracker_names
from yangtuo.engine import checkpoint, trackers
from yangtuo.engine.calibration import peak_bytes, tell_memory
from yangtuo.engine.early_stopping import EXTENDED, EvaluationHistory
from yangtuo.engine.monitor import TrainingMonitor
from yangtuo.engine.processes import check_alike, check_engine, from_rank_0, of_each, peers_lost_are_named
from yangtuo.engine.progress import Progress
from yangtuo.engine.run_context import RunContext
from yangtuo.engine.saving import Saver
from yangtuo.engine.signals import StopRequest
from yangtuo.engine.step_log import StepLog
from yangtuo.engine.steps import Steps
from yangtuo.engine.trainer import StepTrainer
from yangtuo.engine.watchdog import Watchdog
from yangtuo.errors import StoppedError, UsageError
from yangtuo.i18n import Listed, Message, with_chinese
from yangtuo.logs import notes_with_chinese
from yangtuo.model import adapter_state
from yangtuo.model.adapter_state import Adapter
from yangtuo.training import adapter_card, run_folder, run_record, samples, verify
from yangtuo.training.dataset import log_summary, split_and_audit, write_audit
from yangtuo.training.engines import check_packages
from yangtuo.training.environment import choose_execution, loaded_to, meet, seed_of
from yangtuo.training.forecast import foresee, tell_beside
from yangtuo.training.inputs import encode_inputs, open_inputs
from yangtuo.training.load import load_adapter, load_base, next_commands, prompt_files_for, provenance_of
from yangtuo.training.recipe import plan_steps, recipe_of, record_recipe, tell_advice, tell_finished
from yangtuo.training.run_folder import Decision, Lock, Start
from yangtuo.training.trainer_args import early_stopping_of, logging_of

logger = logging.getLogger(__name__)


def train(settings: Settings) -> None:
    """Run what the settings ask for; a finished or resumed run is recognised by its folder."""
    began = time.time()
    check_packages(settings)
    inputs = open_inputs(settings)
    encoded, validation = encode_inputs(settings, inputs)

    output_dir = run_folder.output_dir_of(settings)
    recipe = record_recipe(settings, inputs, encoded, validation)
    precision, args, store = meet(settings, inputs, output_dir)  # processes know each other from here on
    watchdog = Watchdog(store, settings.run.watchdog_minutes * 60)  # from now on, since loading may take long
    with watchdog, Lock(output_dir) as lock, peers_lost_are_named("training"):
        check_alike(
            {**recipe, "rows": [part.checks for part in (encoded, validation) if part], "precision": str(precision)}
            | {"versions": run_record.versions()}
        )
        decision = from_rank_0(lambda: run_folder.decide(settings, output_dir, recipe, lock))
        if decision.start is Start.FINISHED:
            tell_finished(settings, output_dir)
            return
        args.seed = seed_of(settings, decision.seed)
        corpus = split_and_audit(settings, encoded, validation, inputs.end_id, args.seed)
        log_summary(corpus)
        prompts = samples.prompts_of(settings, inputs, corpus.validation, args.seed)
        plan = plan_steps(settings, corpus.num_rows_of_epoch(), decision) + tell_advice(settings, inputs, corpus)
        is_main = args.process_index == 0
        run_folder.prepare(output_dir, decision, lock, is_main=is_main, writes=args.should_save)

        needed = foresee(settings, inputs, corpus, precision, args)
        prompt_files = prompt_files_for(inputs, tries=args.should_save)
        adapter = load_adapter(settings, inputs, precision, args.seed, loaded_to(settings, args.device))
        execution = choose_execution(settings, inputs, args, corpus.train, decision.checkpoint, adapter)
        known, saved = provenance_of(settings, inputs, recipe), output_dir / run_folder.ADAPTER_FOLDER
        run = run_record.run_record(settings, recipe, args.seed, began) | {
            **(with_chinese("plan", plan) | {"memory_plan": needed}),
            "next_commands": next_commands(settings, known, saved),
        }
        if is_main:
            output.write_json(output_dir / run_folder.RUN_FILE, run)
            write_audit(output_dir, corpus.audits, corpus.dropped)
        context = _context(settings, output_dir, decision, watchdog, is_main=is_main)
        saver = Saver(adapter, prompt_files, known, args.should_save, args.device)
        steps = Steps(corpus.train, recipe_of(settings, args.seed, corpus.mix), execution, args.process_index)
        trainer = StepTrainer(steps, corpus.validation, saver, context, args)
        samples.follow(settings, inputs, prompts, adapter, trainer, context)
        check_engine(trainer.accelerator, deepspeed=bool(args.deepspeed), fsdp=bool(args.fsdp))
        tracked = trackers.Trackers(trainer)
        from_rank_0(lambda: tracked.start(tracker_names(settings.trainer.report_to)))

        with context.screen, tracked:
            if args.do_train:
                at_start = _train(trainer, adapter, decision, context.stop, saved)
                tell_beside(needed, trainer.report.peak_bytes)
                load_again = functools.partial(load_base, settings, inputs, precision, loaded_to(settings, args.device))
                verify.prove(trainer, adapter, at_start, saved, load_again, is_continued=inputs.adapter is not None)
                adapter_card.write(settings, corpus, prompt_files, known, saved, writes=args.should_save)
                logger.info("the adapter is in %s\n%s", saved, Listed(run["next_commands"], "\n"))
                prompt_files.tell()
            if args.do_eval:
                _evaluate(trainer, output_dir)
        _finish(trainer, context, settings, run, began)


def _context(
    settings: Settings, output_dir: Path, decision: Decision, watchdog: Watchdog, *, is_main: bool
) -> RunContext:
    step_log = _open_log(output_dir, decision.checkpoint, writes=is_main)
    entries = step_log.entries
    if decision.start is Start.EXTEND and decision.checkpoint:
        made = checkpoint.step_of(decision.checkpoint)
        entries = [
            *entries,
            {
                "step": made,
                "event": EXTENDED,
                **with_chinese("text", Message("more steps than the {made} that were made", made=made)),
            },
        ]
        step_log.write(entries[-1])
    return RunContext(
        step_log,
        Progress(shown=is_main, wants_bar=not settings.trainer.disable_tqdm),
        logging_of(settings),
        settings.run.save_minutes,
        StopRequest(),
        watchdog,
        TrainingMonitor(entries),
        EvaluationHistory(early_stopping_of(settings), entries),
    )


def _open_log(output_dir: Path, started: Path | None, *, writes: bool) -> StepLog:
    """Cut back to the checkpoint that the run goes on from, which other machines may not have."""
    path = output_dir / "log.jsonl"
    if started is None:
        return StepLog(path, writes=writes)
    num_evaluations = from_rank_0(lambda: checkpoint.num_evaluations(started))
    return StepLog(path, last_step=checkpoint.step_of(started), num_evaluations=num_evaluations, writes=writes)


def _train(
    trainer: StepTrainer, adapter: Adapter, decision: Decision, stop: StopRequest, saved: Path
) -> dict[str, int]:
    """All steps, and the adapter on the disk; returns the checksums of the trained weights before the first."""
    output_dir, at_start = saved.parent, adapter_state.checksums(adapter_state.trained_parameters(adapter))
    needed = checkpoint.num_bytes(adapter.num_trainable(), only_model=trainer.args.save_only_model)
    from_rank_0(lambda: checkpoint.check_room(output_dir, needed, UsageError))
    with stop:
        metrics = trainer.run(decision.checkpoint)
    if stop.agreed:
        raise StoppedError(
            Message(
                "stopped by {name} after step {global_step} of {max_steps}, with a checkpoint; the same command goes "
                "on from there",
                name=signal.Signals(stop.agreed).name,
                global_step=trainer.state.global_step,
                max_steps=trainer.state.max_steps,
            ),
            stop.agreed,
        )
    if trainer.is_world_process_zero():
        run_folder.write_metrics(output_dir, "train", metrics)
        output.write_json(output_dir / checkpoint.TRAINER_STATE, dataclasses.asdict(trainer.state))
    trainer.save_model(str(saved))
    return at_start


def _evaluate(trainer: StepTrainer, output_dir: Path) -> None:
    metrics = trainer.final_evaluation()
    if trainer.is_world_process_zero():
        run_folder.write_metrics(output_dir, "eval", metrics)


def _finish(trainer: StepTrainer, context: RunContext, settings: Settings, run: dict[str, Any], began: float) -> None:
    peaks, output_dir = of_each(peak_bytes(trainer.args.device)), run_folder.output_dir_of(settings)
    if trainer.is_world_process_zero():
        tell_memory(peaks)
        shortcuts = trainer.shortcuts and dataclasses.asdict(trainer.shortcuts)
        end: dict[str, Any] = {
            "peak_memory_bytes": peaks,
            "shortcuts": shortcuts,
            **notes_with_chinese(),
            "state": "finished",
        }
        end |= {"planned_seconds": context.screen.planned_seconds, "seconds": time.time() - began}
        output.write_json(output_dir / run_folder.RUN_FILE, run | end)
