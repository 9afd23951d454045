"""Examples -> gradients, on transformers' Trainer. The only importer of `transformers.Trainer`.

One "batch" of the Trainer is one rank's share of a whole step. `training_step` runs its micro-batches, and gradients
are exchanged at the last one only; clipping, the optimizer, the schedule, saving and the engines (DDP, DeepSpeed,
FSDP) stay the Trainer's. It is told to accumulate nothing, since the step is whole already.
"""

import dataclasses
import json
import logging
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerControl, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from yangtuo.config.choices import LossReduction
from yangtuo.data.examples import Examples
from yangtuo.engine import checkpoint
from yangtuo.engine.calibration import Measured, calibrate, can_measure
from yangtuo.engine.callbacks import Callbacks, Hooks
from yangtuo.engine.compiled import are_computed_twice
from yangtuo.engine.early_stopping import EvaluationHistory, metrics_at
from yangtuo.engine.flops import StepMeter
from yangtuo.engine.layout import Layout
from yangtuo.engine.loss import SupervisedLoss, mean_loss
from yangtuo.engine.monitor import Event, no_gradient
from yangtuo.engine.neftune import EmbeddingNoise
from yangtuo.engine.optimizer import let_scaler_skip, loraplus
from yangtuo.engine.probe import Shortcuts, choose_shortcuts, two_rows
from yangtuo.engine.processes import from_rank_0
from yangtuo.engine.proof_rows import ProofRows
from yangtuo.engine.run_context import RunContext
from yangtuo.engine.runner import StepKey, StepRunner
from yangtuo.engine.saving import Saver
from yangtuo.engine.step_report import StepReport
from yangtuo.engine.steps import Planner, Recipe, Step, Steps
from yangtuo.engine.training_state import EngineState, engine_state_of, plain_values, restore_schedule
from yangtuo.errors import UsageError
from yangtuo.model import adapter_state
from yangtuo.model.originals import to_main_memory

logger = logging.getLogger(__name__)


class StepTrainer(Trainer):
    """Trainer whose batches are whole steps."""

    def __init__(
        self, steps: Steps, eval_set: Examples | None, saver: Saver, context: RunContext, args: TrainingArguments
    ):
        """`saver` has the adapter that is trained, and what is saved with it."""
        self._steps = steps
        super().__init__(
            model=saver.adapter.model,
            args=args,
            train_dataset=steps,
            eval_dataset=eval_set,
            callbacks=[Callbacks(context.screen, context.save_minutes, context.stop, self._hooks())],
        )
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self._saver, self._out = saver, context
        self._step: Step | None = None
        self._base = saver.adapter.model.get_base_model()
        self._loss = SupervisedLoss(self._base, steps.recipe.label_smoothing)
        noise = EmbeddingNoise(self._base, steps.recipe.neftune_noise_alpha)
        self._runner = StepRunner(self.accelerator, self._loss, noise, steps.planner, context.watchdog)
        self._eval_planner = None if eval_set is None else Planner(eval_set)
        self.shortcuts: Shortcuts | None = None  # once they are tried
        self.proof = ProofRows(steps)
        self._evaluations: EvaluationHistory = from_rank_0(lambda: context.evaluations)
        # At its end, transformers would delete the last checkpoint for this limit, before the adapter is saved.
        self._save_total_limit, args.save_total_limit = args.save_total_limit, None
        self._engine_state: EngineState | None = None  # once there is an engine
        self._resume_from: Path | None = None
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        self.report = StepReport(context, StepMeter(self._base, args.device, dtype), steps.planner, args.device)

    # ---- a run's beginning and end

    def run(self, resume_from: Path | None) -> dict[str, Any]:
        """Train, from a checkpoint where one is given; returns the Trainer's metrics."""
        self._resume_from = resume_from
        if resume_from is None:
            return dict(super().train().metrics)
        self.args.eval_on_start = False
        # The Trainer reads its own state from a folder; other machines may not have the checkpoint's.
        text = from_rank_0(lambda: (resume_from / checkpoint.TRAINER_STATE).read_text(encoding="utf-8"))
        with checkpoint.trainer_state_alone(text) as folder:
            return dict(super().train(resume_from_checkpoint=folder).metrics)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Have the Trainer build the engine, and put a checkpoint back into it by our own way."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._engine_state = self._new_access()
        to_main_memory(self._base)
        if self._resume_from is not None:
            if self.is_deepspeed_enabled:
                self._runner.prime(self.model_wrapped, self.optimizer, two_rows(self._steps.examples))
            position = self._saver.restore(self._engine_state, self._resume_from)
            self.proof.restore(position)
            restore_schedule(self.lr_scheduler, position, max_steps)
            self.state.best_model_checkpoint = from_rank_0(lambda: self.state.best_model_checkpoint)
            self._take_up(self._resume_from)
            before, now = f"{position['engine']} on {position['world_size']}", self._engine_and_size()
            if before != now:
                logger.warning("engine: this run goes on with %s processes, before it was %s", now, before)
        return prepared

    def _take_up(self, newest: Path) -> None:
        """Know what the run knew when it had written this checkpoint, and delete what it then deleted."""
        steps = [int(entry["step"]) for entry in self.state.log_history if "eval_loss" in entry]
        if steps:
            self._evaluated = (steps[-1], metrics_at(steps[-1], self.state.log_history))
        if newest == checkpoint.latest_complete(Path(self.args.output_dir)):  # and not an earlier one, by name
            self._prune(newest)

    def _evaluate_and_save(self) -> None:
        """What the control asks for; the arguments are for logging a step."""
        self._maybe_log_save_evaluate(self._tr_loss, None, self.model_wrapped, None, 0.0, None, 0.0)

    def _run_epoch(self, **arguments: Any) -> None:
        """Nothing, where a run goes on from its last step: transformers would make one more."""
        if not self.control.should_training_stop:
            super()._run_epoch(**arguments)

    def create_optimizer(self, model: Any = None) -> Any:
        """The Trainer's, or LoRA+'s with its two learning rates."""
        ratio = self._steps.recipe.loraplus_lr_ratio
        if ratio is None:
            super().create_optimizer(model)
        else:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer: Any = loraplus(model or self.model, kind, options, ratio, self.args.weight_decay)
        let_scaler_skip(self.optimizer)
        return self.optimizer

    def _engine_and_size(self) -> str:
        return f"{self.accelerator.distributed_type.value} on {self.accelerator.num_processes}"

    def _new_access(self) -> EngineState:
        parameters = adapter_state.trained_parameters(self._saver.adapter)
        return engine_state_of(self.accelerator, parameters, self.model_wrapped, self.optimizer)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: see `_prepare_for_training`."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing: random numbers are seeded by their place in the run."""

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        self.set_weights(best)
        of_best = metrics_at(checkpoint.step_of(best), self.state.log_history)
        self._evaluated = (self.state.global_step if of_best else -1, of_best)  # no need to compute them again

    def set_weights(self, folder: Path | None) -> None:
        """Put the adapter in a folder into the engine of all ranks; None for zeros."""
        assert self._engine_state is not None
        self._saver.put_back_weights(self._engine_state, folder)

    def checksums(self) -> dict[str, int]:
        """Of the trained weights as the engine has them, in full precision."""
        assert self._engine_state is not None
        weights = self._engine_state.weights(on_this_rank=self.args.process_index == 0)
        return dict(from_rank_0(lambda: adapter_state.checksums(weights)))

    # ---- what the Trainer asks for

    def get_train_dataloader(self) -> DataLoader[dict[str, Step]]:
        """Not handed to accelerate, which would deal the steps out to the ranks once more."""
        args = self.args
        how = (args.dataloader_num_workers, args.dataloader_prefetch_factor, args.dataloader_multiprocessing_context)
        return self._steps.loader(*how)

    def num_examples(self, dataloader: DataLoader[dict[str, Step]]) -> int:
        """Rows, for the Trainer's rates."""
        return len(self._steps.examples)

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Rows of a step, for the Trainer's rates."""
        return self._steps.recipe.shape.rows_per_step

    def floating_point_ops(self, inputs: dict[str, Step]) -> int:
        """What a step cannot do without, see `flops`."""
        return self.report.meter.flop(inputs["step"].layouts)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Step], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of one rank's share of a step; with smaller micro-batches where memory runs out.

        Returns:
            A scalar whose mean over the ranks is the step's loss.

        Raises:
            NonFiniteLossError, OutOfMemoryError: see `runner.StepRunner.run`.
        """
        self._try_shortcuts(model)
        if self.proof.loss_at_start is None:
            is_twice = are_computed_twice(self._base)
            seconds = self.proof.measure(self.state.max_steps, self.loss_of, checkpointing=is_twice)
            self._out.screen.forecast(seconds)
        self.report.meter.begin()
        model.train()
        if callable(train := getattr(self.optimizer, "train", None)):  # schedule-free optimizers have two modes
            train()
        place = StepKey(self.state.global_step + 1, self.args.seed)
        loss, self._step = self._runner.run_until_it_fits(model, self._steps, inputs["step"], place)
        return loss

    def _try_shortcuts(self, model: torch.nn.Module) -> None:
        """Once, with the engine in place, since only it can run a sharded model."""
        if self.shortcuts is not None:
            return
        wish = self._steps.execution
        with self.accelerator.autocast():
            self.shortcuts = choose_shortcuts(model, self._base, self._loss, self._steps.examples, wish)
            execution = self.shortcuts.allowed(wish)
            if execution.is_auto and self.args.do_train and can_measure(self.args.device):
                measured = Measured(model, self._base, self._loss, self.accelerator, self._runner.can_redo)
                execution = calibrate(measured, self._steps.planner, execution)
        self._steps.execution = execution

    def _hooks(self) -> Hooks:
        return Hooks(self._evaluate_and_save, lambda: self._evaluations.is_over(), self._look_at_gradients)

    def _look_at_gradients(self) -> None:
        """Say which modules no gradient reaches, at the first step; not of engines that hide gradients."""
        if self.state.global_step == 0 and self._runner.can_redo:
            parameters = adapter_state.trained_parameters(self._saver.adapter)
            self._out.tell_events(1, no_gradient({name: p.grad for name, p in parameters.items()}))

    # ---- evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and perplexity over all rows, each counted once whatever the batch size and the number of ranks."""
        begin = time.monotonic()
        planner = self._eval_planner
        if planner is None:
            raise UsageError("evaluation needs --validation_file or --validation_split_percentage")
        mean = self._mean_loss(planner, self._steps.recipe)
        metrics = planner.metrics(mean, time.monotonic() - begin, metric_key_prefix)
        self._evaluated = (self.state.global_step, metrics)
        self.log(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.is_in_train and self._evaluations.add(metrics):
            self.save_model(str(Path(self.args.output_dir) / "best"), _internal_call=True)
        if self.is_in_train and self._evaluations.is_over():
            self.control.should_training_stop = True
            why = self._evaluations.why_over(self.state.global_step, self.state.max_steps)
            self._out.tell_events(self.state.global_step, [Event("early_stop", why)])
        return metrics

    def _mean_loss(self, planner: Planner, recipe: Recipe) -> float:
        self._try_shortcuts(self.model_wrapped)
        execution = self._steps.execution
        plan = planner.evaluation(recipe, execution)
        layouts = map(self._alive, planner.lay_out(plan, self.args.process_index, execution))
        return mean_loss(self.model_wrapped, self._loss, layouts, plan.total_weight, self.accelerator)

    def loss_of(self, rows: Examples) -> float:
        """Mean over the tokens of some rows, in nats, by the engine as it is."""
        return self._mean_loss(Planner(rows), replace(self._steps.recipe, reduction=LossReduction.TOKEN))

    def proof_rows(self) -> Examples:
        """Some of the rows that the run trains on, the same at its start and its end."""
        return self.proof.rows(self.state.max_steps)

    def _alive(self, layout: Layout) -> Layout:
        self._out.watchdog.alive()
        return layout

    def final_evaluation(self) -> dict[str, float]:
        """The metrics of the weights as they are now, computed unless the last step has done so."""
        step, metrics = self._evaluated
        return metrics if step == self.state.global_step else self.evaluate()

    # ---- saving and logging

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        assert self._engine_state is not None
        self.store_flos()
        state, output_dir = self.state, Path(self.args.output_dir)
        folder = output_dir / f"checkpoint-{state.global_step}"
        best = output_dir / f"checkpoint-{state.best_global_step}"
        if state.best_global_step and from_rank_0(lambda: best == folder or best.exists()):
            state.best_model_checkpoint = str(best)
        position = {
            "step": state.global_step,
            "micro_batch_tokens": self._steps.execution.max_cells,
            "gradient_checkpointing": are_computed_twice(self._base),
            "world_size": self.accelerator.num_processes,
            "engine": self.accelerator.distributed_type.value,
            **self.proof.to_json(state.max_steps),
            "max_steps": state.max_steps,
            "scheduler": plain_values(self.lr_scheduler.state_dict()),
        }
        text = json.dumps(dataclasses.asdict(state), indent=2, sort_keys=True) + "\n"
        with_optimizer = not self.args.save_only_model
        self._saver.write_checkpoint(self._engine_state, folder, position, text, with_optimizer=with_optimizer)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        self._prune(folder)

    def _prune(self, newest: Path) -> None:
        if self.args.should_save:
            best = Path(self.state.best_model_checkpoint) if self.state.best_model_checkpoint else None
            checkpoint.prune(Path(self.args.output_dir), self._save_total_limit, newest=newest, best=best)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The adapter as a PEFT folder with what asks it, whatever the engine; called by all ranks."""
        self._saver.write_adapter(self._engine_state or self._new_access(), Path(output_dir or self.args.output_dir))
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called by the Trainer after every step, since it is told to log each; the screen is told when it is due."""
        step = self.state.global_step
        if "loss" in logs:
            logs = {name: float(value) for name, value in logs.items()}
            assert self._step is not None
            is_skipped = self.accelerator.optimizer_step_was_skipped
            self.report.tell(step, self.state.epoch, logs, self._step, is_skipped=is_skipped)
            loss = self.report.due_loss(step, len(self._steps), self.state.max_steps)
            if loss is None:
                return
            logs["loss"] = loss
            self._out.screen.report(step, logs)
        elif "eval_loss" in logs:
            self._out.tell_evaluation(step, logs)
        elif "train_loss" in logs and self.report.losses:
            # transformers' is of the steps since the run was last started.
            logs["train_loss"] = statistics.fmean(self.report.losses)
        super().log(logs, start_time)
