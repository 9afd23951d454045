"""Examples -> gradients, on transformers' Trainer. The only importer of `transformers.Trainer`.

One "batch" of the Trainer is one rank's share of a whole step. `training_step` runs its micro-batches, and gradients
are exchanged at the last one only; clipping, the optimizer, the schedule, saving and the engines (DDP, DeepSpeed,
FSDP) stay the Trainer's. It is told to accumulate nothing, since the step is whole already.
"""

import contextlib
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from yangtuo.data.encoding import Examples
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.engine import checkpoint
from yangtuo.engine.batches import Batch
from yangtuo.engine.journal import Journal
from yangtuo.engine.loss import SupervisedLoss, mean_loss, weighted_sum
from yangtuo.engine.neftune import EmbeddingNoise
from yangtuo.engine.probe import choose_shortcuts
from yangtuo.engine.screen import Screen
from yangtuo.engine.steps import Execution, Meaning, Planner, Step, Steps
from yangtuo.engine.work import Work, matmul_rate
from yangtuo.errors import NonFiniteLossError, OutOfMemoryError, UsageError
from yangtuo.model import adapters
from yangtuo.model.adapters import Adapter


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
        self._noise = EmbeddingNoise(base, meaning.neftune_noise_alpha)
        self._is_tried, self._proven_cells = False, 0
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
            NonFiniteLossError: before the last backward, so no weight has been touched.
            OutOfMemoryError: where the step cannot be cut any further, or not be redone under this engine.
        """
        self._try_shortcuts(model)
        self._step_begin = time.monotonic()
        model.train()
        if callable(train := getattr(self.optimizer, "train", None)):  # schedule-free optimizers have two modes
            train()
        while True:
            self._step = self._steps.again(inputs["step"])
            losses = self._run_step(model, self._step)
            if losses is not None:
                return torch.stack(losses).sum()
            model.zero_grad(set_to_none=True)
            if torch.accelerator.is_available():
                torch.accelerator.empty_cache()
            self._steps.execution = self._steps.execution.halved()
            self._out.screen.say(
                f"out of memory: step {self.state.global_step + 1} is computed again, in micro-batches of at most "
                f"{self._steps.execution.max_cells} tokens"
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

    def _run_step(self, model: torch.nn.Module, step: Step) -> list[torch.Tensor] | None:
        """The losses of the micro-batches, with their gradients in place; None where some rank ran out of memory."""
        *layouts, last = step.layouts
        losses: list[torch.Tensor] = []
        is_short = False
        try:
            if not layouts and self.args.world_size > 1 and last.num_cells > self._proven_cells:
                # Once DDP has run a forward that exchanges gradients, there is no way back. The largest micro-batch so
                # far is therefore computed once for its memory alone.
                self._backward(model, self._forward(model, step, 0, is_last=False))
                model.zero_grad(set_to_none=True)
            for i in range(len(layouts)):
                share = self._forward(model, step, i, is_last=False)
                losses.append(share.detach())
                self._backward(model, share)
        except torch.OutOfMemoryError:
            is_short = True
        if self._agree_out_of_memory(is_short, step):
            return None
        try:
            share = self._forward(model, step, len(layouts), is_last=True)
            losses.append(share.detach())
            self._check_finite(torch.stack(losses), step)
            self._backward(model, share, is_last=True)
        except torch.OutOfMemoryError as error:
            self._check_divisible(step)
            if self.args.world_size > 1:
                raise self._cannot_redo(step) from error
            return None
        self._proven_cells = max(self._proven_cells, *(layout.num_cells for layout in step.layouts))
        return losses

    def _forward(self, model: torch.nn.Module, step: Step, i: int, *, is_last: bool) -> torch.Tensor:
        """A micro-batch's part of the loss; engines average gradients over ranks, the step's sum is wanted."""
        self._seed_dropout(i)
        with self._gradients_stay_here(model, is_last), self.accelerator.autocast():
            batch = Batch.of(step.layouts[i], self.args.device)
            self._noise.row_lengths = batch.row_lengths
            total = weighted_sum(model, self._loss, batch)
        return total * (self._meaning.shape.world_size / step.plan.total_weight)

    def _backward(self, model: torch.nn.Module, share: torch.Tensor, *, is_last: bool = False) -> None:
        options = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        with self._gradients_stay_here(model, is_last):
            self.accelerator.backward(share, **options)

    def _agree_out_of_memory(self, is_short: bool, step: Step) -> bool:
        """Whether any rank is short: all of them redo the step, or none."""
        if self.args.world_size > 1:
            flag = torch.tensor(float(is_short), device=self.args.device)
            is_short = bool(self.accelerator.reduce(flag, "sum"))
        if is_short:
            self._check_divisible(step)
        return is_short

    def _check_divisible(self, step: Step) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise self._cannot_redo(step)
        if all(len(batch.rows) == 1 for rank in step.plan.micro_batches for batch in rank):
            raise OutOfMemoryError(
                f"step {self.state.global_step + 1}: out of memory with one row a micro-batch; give "
                "--gradient_checkpointing, or a smaller --max_seq_length"
            )

    def _cannot_redo(self, step: Step) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"step {self.state.global_step + 1}: out of memory with at most {step.execution.max_cells} tokens a "
            "micro-batch, where this engine cannot redo a step; give a smaller --micro_batch_tokens"
        )

    def _seed_dropout(self, micro_batch: int) -> None:
        # Seeded by place, not by history: a step that is redone or resumed draws the same masks.
        place = [self.args.seed, self.state.global_step, self.args.process_index, micro_batch]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))

    def _gradients_stay_here(self, model: torch.nn.Module, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        self.accelerator.gradient_state._set_sync_gradients(is_last)
        if is_last or self.is_deepspeed_enabled:  # DeepSpeed takes the flag itself as its accumulation boundary
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[Any] = self.accelerator.no_sync(model)
        return context

    def _check_finite(self, losses: torch.Tensor, step: Step) -> None:
        """All ranks stop together, or none."""
        bad = ~torch.isfinite(losses)
        if not bool(self.accelerator.reduce(bad.any().float(), "sum")):
            return
        examples = self._subject.train_set
        rows = [row for layout, is_bad in zip(step.layouts, bad.tolist(), strict=True) if is_bad for row in layout.rows]
        named = ", ".join(examples.where(row) for row in rows[:8]) if rows else "of another rank"
        raise NonFiniteLossError(
            f"step {self.state.global_step + 1}: the loss is not finite; rows {named}. No weight was changed by this "
            "step; the last checkpoint is good. Try a lower --learning_rate, or --bf16 instead of --fp16"
        )

    # ---- evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and perplexity over all rows, each counted once whatever the batch size and the number of ranks."""
        begin = time.monotonic()
        examples = self._subject.eval_set
        if examples is None:
            raise UsageError("evaluation needs --validation_file or --validation_split_percentage")
        self._try_shortcuts(self.model_wrapped)
        planner, execution = Planner(examples), self._steps.execution
        plan = planner.evaluation(self._meaning, execution)
        layouts = (planner.lay_out(batch, execution) for batch in plan.micro_batches[self.args.process_index])
        mean = mean_loss(self.model_wrapped, self._loss, layouts, plan.total_weight, self.accelerator)
        prefix = metric_key_prefix
        metrics = {
            f"{prefix}_loss": mean,
            f"{prefix}_perplexity": math.exp(mean) if mean < 700 else math.inf,
            f"{prefix}_rows": len(examples),
            f"{prefix}_tokens": int(examples.num_supervised().sum()),
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
        logging = self._out.logging
        if step == 1 and logging.first_step:
            return True
        if logging.strategy == "epoch":
            return step % len(self._steps) == 0 or step == self.state.max_steps
        every = logging.steps if logging.steps >= 1 else math.ceil(logging.steps * self.state.max_steps)
        return logging.strategy == "steps" and step % max(1, int(every)) == 0


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
