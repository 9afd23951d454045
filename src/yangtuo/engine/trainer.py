"""Examples -> gradients, on transformers' Trainer. The only importer of `transformers.Trainer`.

One "batch" of the Trainer is one rank's share of a whole step. `training_step` runs its micro-batches, and gradients
are exchanged at the last one only; clipping, the optimizer, the schedule, saving and the engines (DDP, DeepSpeed,
FSDP) stay the Trainer's. It is told to accumulate nothing, since the step is whole already.
"""

import logging
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from yangtuo.data.encoding import Examples
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.engine import checkpoint
from yangtuo.engine.journal import Journal
from yangtuo.engine.loss import SupervisedLoss, mean_loss
from yangtuo.engine.neftune import EmbeddingNoise
from yangtuo.engine.probe import choose_shortcuts
from yangtuo.engine.runner import Place, StepRunner
from yangtuo.engine.screen import Screen
from yangtuo.engine.steps import Execution, Meaning, Planner, Step, Steps
from yangtuo.engine.work import Work, matmul_rate
from yangtuo.errors import UsageError
from yangtuo.model import adapters
from yangtuo.model.adapters import Adapter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Logging:
    """When the screen and the trackers are told; log.jsonl gets every step. Same values as in TrainingArguments."""

    strategy: str
    steps: float
    first_step: bool


@dataclass(frozen=True)
class Subject:
    """What is trained, and on what."""

    adapter: Adapter
    tokenizer: Tokenizer
    train_set: Examples
    eval_set: Examples | None


@dataclass(frozen=True)
class Outlets:
    """Where a run tells what it does, and how often at least it saves (minutes; 0 for never)."""

    journal: Journal
    screen: Screen
    logging: Logging
    save_minutes: float


class StepTrainer(Trainer):
    """Trainer whose batches are whole steps."""

    def __init__(
        self, subject: Subject, meaning: Meaning, execution: Execution, outlets: Outlets, args: TrainingArguments
    ):
        """`execution.shares_prefixes` is a wish: the model is tried before the first step."""
        self._steps = Steps(subject.train_set, meaning, execution, args.process_index)
        super().__init__(
            model=subject.adapter.model,
            args=args,
            train_dataset=self._steps,
            eval_dataset=subject.eval_set,
            callbacks=[_Hooks(outlets)],
        )
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self._subject, self._meaning, self._out = subject, meaning, outlets
        self._losses: list[float] = []  # of the steps since the screen was last told
        self._step_begin = 0.0
        self._step: Step | None = None
        base = subject.adapter.model.get_base_model()
        self._loss = SupervisedLoss(base, meaning.label_smoothing)
        noise = EmbeddingNoise(base, meaning.neftune_noise_alpha)
        self._runner = StepRunner(self.accelerator, self._loss, noise, self._steps.planner)
        self._eval_planner = None if subject.eval_set is None else Planner(subject.eval_set)
        self._is_tried = False
        self._best = outlets.journal.best_eval_loss
        self._evaluated: tuple[int, dict[str, float]] = (-1, {})
        self._work = Work.of(base)
        number_format = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        self._peak_rate = matmul_rate(args.device, number_format)

    # ---- what the Trainer asks for

    def get_train_dataloader(self) -> DataLoader[dict[str, Step]]:
        """Not handed to accelerate, which would deal the steps out to the ranks once more."""
        workers = self.args.dataloader_num_workers
        loader: DataLoader[Any] = DataLoader(
            self._steps,
            batch_size=1,
            collate_fn=_as_batch,
            num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=self.args.dataloader_multiprocessing_context if workers else None,
        )
        return loader

    def num_examples(self, dataloader: DataLoader[dict[str, Step]]) -> int:
        """Rows, for the Trainer's rates."""
        return len(self._subject.train_set)

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Rows of a step, for the Trainer's rates."""
        return self._meaning.shape.rows_per_step

    def floating_point_ops(self, inputs: dict[str, Step]) -> int:
        """What a step cannot do without, see `work`."""
        return self._work.flop(inputs["step"].layouts)

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
        self._step_begin = time.monotonic()
        model.train()
        if callable(train := getattr(self.optimizer, "train", None)):  # schedule-free optimizers have two modes
            train()
        place = Place(self.state.global_step + 1, self.args.seed)
        while True:
            self._step = self._steps.again(inputs["step"])
            loss = self._runner.run(model, self._step, place)
            if loss is not None:
                return loss
            model.zero_grad(set_to_none=True)
            if torch.accelerator.is_available():
                torch.accelerator.empty_cache()
            self._steps.execution = self._steps.execution.halved()
            logger.warning(
                "out of memory: step %d is computed again, in micro-batches of at most %d tokens",
                place.step,
                self._steps.execution.max_cells,
            )

    def _try_shortcuts(self, model: torch.nn.Module) -> None:
        """Once, with the engine in place, since only it can run a sharded model."""
        if self._is_tried:
            return
        base, execution = self._subject.adapter.model.get_base_model(), self._steps.execution
        with self.accelerator.autocast():
            shares = choose_shortcuts(
                model, base, self._loss, self._subject.train_set, may_share=execution.shares_prefixes
            )
        self._steps.execution = replace(execution, shares_prefixes=shares)
        self._is_tried = True

    # ---- evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and perplexity over all rows, each counted once whatever the batch size and the number of ranks."""
        begin = time.monotonic()
        planner = self._eval_planner
        if planner is None:
            raise UsageError("evaluation needs --validation_file or --validation_split_percentage")
        self._try_shortcuts(self.model_wrapped)
        execution = self._steps.execution
        plan = planner.evaluation(self._meaning, execution)
        layouts = (planner.lay_out(batch, execution) for batch in plan.micro_batches[self.args.process_index])
        mean = mean_loss(self.model_wrapped, self._loss, layouts, plan.total_weight, self.accelerator)
        prefix = metric_key_prefix
        metrics = {
            f"{prefix}_loss": mean,
            f"{prefix}_perplexity": math.exp(mean) if mean < 700 else math.inf,
            f"{prefix}_rows": len(planner.examples),
            f"{prefix}_tokens": int(planner.num_supervised.sum()),
            f"{prefix}_runtime": time.monotonic() - begin,
        }
        self._evaluated = (self.state.global_step, metrics)
        self.log(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.is_in_train and mean < self._best:  # a NaN is not smaller than anything
            self._best = mean
            self._save_best()
        return metrics

    def final_evaluation(self) -> dict[str, float]:
        """The metrics of the weights as they are now, computed unless the last step has done so."""
        step, metrics = self._evaluated
        return metrics if step == self.state.global_step else self.evaluate()

    def _save_best(self) -> None:
        best = Path(self.args.output_dir) / "best"
        draft, old = best.with_name(".best"), best.with_name(".best.old")
        if self.args.should_save:
            for left_over in (draft, old):  # of a run that was killed between the next lines
                shutil.rmtree(left_over, ignore_errors=True)
        self.save_model(str(draft), _internal_call=True)
        if self.args.should_save:
            if best.exists():
                best.rename(old)
            draft.rename(best)
            shutil.rmtree(old, ignore_errors=True)

    # ---- saving and logging

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        if self.args.should_save:  # after a resume from an earlier one, a later checkpoint is written again
            checkpoint.mark_incomplete(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            checkpoint.write_max_cells(folder, self._steps.execution.max_cells)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A PEFT folder with the tokenizer; the Trainer's own would add a pickle of its arguments."""
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            adapters.save(self._subject.adapter, folder, self._subject.tokenizer, state_dict)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called by the Trainer after every step, since it is told to log each; the screen is told when it is due."""
        step = self.state.global_step
        if "loss" in logs:
            logs = self._log_step(step, logs)
            if not self._is_due(step):
                return
            logs["loss"], self._losses = sum(self._losses) / len(self._losses), []
            self._out.screen.report(step, logs)
        elif "eval_loss" in logs:
            entry = {"step": step, **{name.removeprefix("eval_"): value for name, value in logs.items()}}
            entry["eval_loss"], entry["eval_tokens"] = entry.pop("loss"), entry.pop("tokens")
            self._out.journal.write(entry)
            self._out.screen.say(
                f"step {step}  eval_loss {entry['eval_loss']:.4f}  perplexity {entry['perplexity']:.3f}  "
                f"({entry['rows']} rows, {entry['runtime']:.0f} s)"
            )
        super().log(logs, start_time)

    def _log_step(self, step: int, logs: dict[str, float]) -> dict[str, float]:
        assert self._step is not None
        seconds = time.monotonic() - self._step_begin
        rows, planner = self._step.plan.rows, self._steps.planner
        num_tokens = int(planner.num_tokens[rows].sum())
        own_tokens = sum(layout.num_tokens for layout in self._step.layouts)
        padded = sum(len(layout.rows) * int(layout.row_lengths.max()) for layout in self._step.layouts)
        cells = sum(layout.num_cells for layout in self._step.layouts)
        logs = {name: float(value) for name, value in logs.items()}
        entry = {
            "step": step,
            "epoch": self.state.epoch,
            **logs,
            "num_tokens": num_tokens,
            "num_supervised_tokens": int(planner.num_supervised[rows].sum()),
            "rows": len(rows),
            "micro_batches": len(self._step.layouts),
            "padding_saved": 1 - own_tokens / padded if self._step.execution.shares_prefixes else 0.0,
            "prefix_saved": 1 - cells / own_tokens if self._step.execution.shares_prefixes else 0.0,
            "tokens_per_s": num_tokens / seconds,
            "mfu": self._work.flop(self._step.layouts) / seconds / self._peak_rate,
            "step_seconds": seconds,
        }
        self._losses.append(logs["loss"])
        self._out.journal.write(entry)
        self._out.screen.step(entry)
        return logs

    def _is_due(self, step: int) -> bool:
        due = self._out.logging
        if step == 1 and due.first_step:
            return True
        if due.strategy == "epoch":
            return step % len(self._steps) == 0 or step == self.state.max_steps
        every = due.steps if due.steps >= 1 else math.ceil(due.steps * self.state.max_steps)
        return due.strategy == "steps" and step % max(1, int(every)) == 0


def _as_batch(steps: list[Step]) -> dict[str, Step]:
    """The Trainer looks for keys in a batch."""
    return {"step": steps[0]}


class _Hooks(TrainerCallback):
    """Turns of events that have no method of the Trainer to override."""

    def __init__(self, outlets: Outlets):
        self._screen, self._save_seconds = outlets.screen, outlets.save_minutes * 60
        self._last_save = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._screen.start(state.global_step, state.max_steps)
        self._last_save = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self._save_seconds or args.save_strategy == "no":
            return
        is_due = torch.tensor(float(time.monotonic() - self._last_save >= self._save_seconds), device=args.device)
        if torch.distributed.is_initialized():  # clocks differ, saving is done by all ranks or none
            torch.distributed.broadcast(is_due, 0)
        control.should_save = control.should_save or bool(is_due)

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        steps: Steps = kwargs["train_dataloader"].dataset
        steps.epoch = state.global_step // len(steps)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._last_save = time.monotonic()
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every rank has written its part
        if args.should_save:
            checkpoint.mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._screen.stop()
