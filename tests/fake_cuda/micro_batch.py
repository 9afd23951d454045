"""A run's own steps on a fake device: from a command line's options to the trainer's last step, which is recorded.

Everything between is the project's: settings are parsed, the precision is chosen, the LoRA is attached, the cells of a
micro-batch are chosen from the free memory, and the trainer trains. Three things are not, since they need numbers or
files: the weights of the base, the trial of shortcuts (all are taken as they would be for a LLaMA), and the speed of a
matrix product.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

from tests.fake_cuda.device import DEVICE, fake_device
from tests.fake_cuda.recorder import Recorder
from tests.fake_cuda.shapes import SHAPES
from tests.fake_cuda.trace import Trace
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.settings import Settings
from yangtuo.data.examples import Examples
from yangtuo.engine.attention import PREFIX_SHARED
from yangtuo.engine.early_stopping import EarlyStopping, EvaluationHistory
from yangtuo.engine.monitor import TrainingMonitor
from yangtuo.engine.probe import Shortcuts
from yangtuo.engine.progress import Progress
from yangtuo.engine.run_context import RunContext
from yangtuo.engine.saving import Saver
from yangtuo.engine.signals import StopRequest
from yangtuo.engine.step_log import StepLog
from yangtuo.engine.steps import Execution, Steps
from yangtuo.engine.trainer import StepTrainer
from yangtuo.engine.watchdog import Watchdog
from yangtuo.training import environment, load
from yangtuo.training.recipe import recipe_of
from yangtuo.training.trainer_args import logging_of


@dataclass(frozen=True)
class Setup:
    """What is run.

    Attributes:
        lengths: tokens of the rows, which are one step.
        options: of the command line, beside those that `_settings` fixes.
        shape: a key of `SHAPES`.
        num_layers: None for the shape's own.
        common: tokens that all rows begin with.
        supervised: part of each row, its end, that has a loss.
        capability: of the device.
        total_bytes: of its memory.
        stored: dtype of the base's weights on disk.
        changes: names of functions in the project -> what stands in for them, for a test of the tests.
        num_steps: the last one is recorded; the first one makes the optimizer's state.
    """

    lengths: tuple[int, ...]
    options: tuple[str, ...] = ()
    shape: str = "tiny"
    num_layers: int | None = None
    common: int = 0
    supervised: float = 1.0
    capability: tuple[int, int] = (9, 0)
    total_bytes: int = 640 << 30
    stored: torch.dtype = torch.bfloat16
    changes: tuple[tuple[str, Callable[..., Any]], ...] = ()
    num_steps: int = 2

    def config(self) -> LlamaConfig:
        """Of the base."""
        sizes = SHAPES[self.shape] | ({"num_hidden_layers": self.num_layers} if self.num_layers else {})
        return LlamaConfig(**sizes, max_position_embeddings=8192, tie_word_embeddings=False, dtype=self.stored)

    def rows(self) -> Examples:
        """Random ones, the same in each step."""
        draw = np.random.default_rng(0)
        vocabulary = SHAPES[self.shape]["vocab_size"]
        common = draw.integers(0, vocabulary, self.common)
        ids = [np.concatenate([common, draw.integers(0, vocabulary, n - self.common)]) for n in self.lengths]
        masks = [np.arange(n) >= round(n * (1 - self.supervised)) for n in self.lengths]
        return Examples.of_rows(ids * self.num_steps, masks * self.num_steps)


def record(setup: Setup) -> Trace:
    """Train and return the last step; `device.load` was called before."""
    recorder = Recorder()
    trace = Trace(lengths=setup.lengths)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))  # what the run says of itself
        stack.enter_context(_fresh_engine())
        stack.enter_context(fake_device(setup.capability, lambda: recorder.live, setup.total_bytes))
        for name, instead in (*_without_numbers(setup, trace).items(), *setup.changes):
            stack.enter_context(mock.patch(name, instead))
        stack.enter_context(recorder)
        trainer = _trainer(setup, _settings(setup, folder), folder, (recorder, trace))
        trainer.train()
    trace.ops, trace.peak, trace.peak_by, trace.peak_at = (
        recorder.ops,
        recorder.peak,
        recorder.peak_by,
        recorder.peak_at,
    )
    return trace


def _settings(setup: Setup, folder: Path) -> Settings:
    fixed = {
        "model_name_or_path": folder,
        "output_dir": folder,
        "per_device_train_batch_size": len(setup.lengths),
        "gradient_accumulation_steps": 1,
        "max_steps": setup.num_steps,
        "data_order": "sequential",
        "save_strategy": "no",
        "micro_batch_tokens": sum(setup.lengths),
    }
    words = [word for name, value in fixed.items() for word in (f"--{name}", str(value))]
    return parse([*words, *setup.options], build_parser("yangtuo train"))[0]


@contextlib.contextmanager
def _fresh_engine() -> Iterator[None]:
    """accelerate keeps device and precision of its first engine for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield


def _without_numbers(setup: Setup, trace: Trace) -> dict[str, Any]:
    """Names -> stand-ins for what needs numbers or files."""

    def random_base(settings: Settings, inputs: Any, precision: Any, device: torch.device) -> LlamaForCausalLM:
        with torch.device(DEVICE), no_init_weights():
            return LlamaForCausalLM._from_config(inputs.config, dtype=precision.weights, attn_implementation="sdpa")

    def all_shortcuts(model: Any, base: Any, loss: Any, examples: Examples, wish: Execution) -> Shortcuts:
        loss.uses_own_head = True
        if wish.shares_prefixes:
            base.set_attn_implementation(PREFIX_SHARED)
        return Shortcuts(wish.shares_prefixes, True, False, "nothing", "", 0.0)

    free_bytes = environment.memory.free_bytes

    def told(device: torch.device) -> int:
        trace.free_when_asked = free_bytes(device)
        return trace.free_when_asked

    return {
        "yangtuo.model.processor.unusable_gpu": lambda: "",
        "yangtuo.training.load.load_base": random_base,
        "yangtuo.training.load.check_mergeable": lambda *args, **kwargs: None,
        "yangtuo.engine.memory.free_bytes": told,
        "yangtuo.engine.trainer.choose_shortcuts": all_shortcuts,
        "yangtuo.engine.flops.matmul_rate": lambda device, dtype: 1e15,
    }


def _trainer(setup: Setup, settings: Settings, folder: Path, records: tuple[Recorder, Trace]) -> StepTrainer:
    """As `training.run.train` makes it."""
    recorder, trace = records
    config = setup.config()
    inputs: Any = SimpleNamespace(base=folder, config=config, adapter=None, merged_in=[], tokenizer=None)
    inputs.tokenizer = SimpleNamespace(num_tokens=config.vocab_size)
    precision, args, _ = environment.meet(settings, inputs, folder)
    adapter = load.load_adapter(settings, inputs, precision, args.seed, environment.loaded_to(settings, args.device))
    trace.model_bytes, trace.num_layers = recorder.live, config.num_hidden_layers
    rows = setup.rows()
    execution = environment.choose_execution(settings, inputs, args, rows, None, adapter)
    steps = Steps(rows, recipe_of(settings, args.seed, None), execution, args.process_index)
    layouts = steps[setup.num_steps - 1].layouts
    trace.cells = sum(layout.num_cells for layout in layouts)
    trace.predictions = sum(len(layout.targets) for layout in layouts)
    nothing_saved: Any = None
    context = RunContext(
        StepLog(folder / "log.jsonl"),
        Progress(shown=False, wants_bar=False),
        logging_of(settings),
        0.0,
        StopRequest(),
        Watchdog(None, 0),
        TrainingMonitor(),
        EvaluationHistory(EarlyStopping()),
    )
    saver = Saver(adapter, nothing_saved, {}, False, args.device)
    recorder.attach(adapter.model)
    trainer = StepTrainer(steps, None, saver, context, args)
    _mark_phases(trainer, recorder, trace, setup.num_steps)
    return trainer


def _mark_phases(trainer: StepTrainer, recorder: Recorder, trace: Trace, last_step: int) -> None:
    """Have the recorder know what is going on, by wrapping the runner's two halves and the step."""
    runner, step = trainer._runner, trainer.training_step
    forward, backward = runner._forward, runner._backward
    num_done = 0

    def marked_forward(*args: Any, **kwargs: Any) -> Any:
        recorder.phase = "forward"
        result = forward(*args, **kwargs)
        recorder.phase = "between"
        trace.kept, trace.kept_by = recorder.live, recorder.live_by()
        return result

    def marked_backward(*args: Any, **kwargs: Any) -> None:
        recorder.phase = "backward"
        backward(*args, **kwargs)
        recorder.phase = "step"

    def marked_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal num_done
        num_done += 1
        if num_done == last_step:
            trace.steady = recorder.live
            recorder.phase = "begin"
            recorder.begin()
        return step(*args, **kwargs)

    for owner, name, function in (
        (runner, "_forward", marked_forward),
        (runner, "_backward", marked_backward),
        (trainer, "training_step", marked_step),
    ):
        setattr(owner, name, function)
