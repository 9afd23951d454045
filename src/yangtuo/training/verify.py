"""Is what lies on the disk what was trained, and is it any better? Shown at the end of each run, in `proof.json`.

Every saved adapter is reopened and compared with memory, bit for bit, where it is written (`adapter_files`). Here, at
the end: the weights have changed from their start; the loss of rows that were trained on has fallen; and the adapter,
loaded from the disk by plain PEFT into the base, has the loss that the trained model has in memory.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from yangtuo import output
from yangtuo.data.examples import Examples
from yangtuo.engine import memory
from yangtuo.engine.comparison import computed_in
from yangtuo.engine.processes import from_rank_0
from yangtuo.engine.tolerance import mean_loss_limit
from yangtuo.engine.trainer import StepTrainer
from yangtuo.errors import ProofError, is_out_of_memory, one_line
from yangtuo.i18n import Listed, Message, with_chinese
from yangtuo.model import adapter_state
from yangtuo.model.adapter_state import Adapter
from yangtuo.model.provenance import WEIGHTS_FILE
from yangtuo.model.sharding import is_sharded

logger = logging.getLogger(__name__)

PROOF_FILE = "proof.json"
FRESH = Message("a fresh base")  # what the adapter is loaded into
_USED = 0.8  # part of the free memory that a second base may take
_FEW_STEPS = 20  # of fewer, nothing need be seen yet
_WANDERING = 0.1  # relative, absolute below 1 nat: how far the loss of an adapter that had converged may rise again


@dataclass(frozen=True)
class Changes:
    """Which trained tensors are no longer what they were before the first step.

    Attributes:
        num_tensors: all that are trained.
        num_changed: those that have changed.
        unchanged: modules of which no tensor has changed.
    """

    num_tensors: int
    num_changed: int
    unchanged: tuple[str, ...]


@dataclass(frozen=True)
class Reload:
    """The loss of a few training rows, in nats a token.

    Attributes:
        into: "a fresh base", or "the base in memory" where a second would not fit or weights are sharded.
        num_rows: how many rows.
        in_memory: of the model that was trained.
        reloaded: of the adapter on the disk.
        without: of the base alone; into the base in memory: with all trained weights set to zero.
        limit: the largest difference between `in_memory` and `reloaded` that rounding explains.
    """

    into: str
    num_rows: int
    in_memory: float
    reloaded: float
    without: float
    limit: float


@dataclass(frozen=True)
class Gain:
    """The loss of rows that were trained on, in nats a token, before the first step and after the last.

    Attributes:
        at_start: of the model that training began with: the base, or an adapter that was continued.
        at_end: of the trained model.
        num_steps: steps between the two.
        limit: the largest difference that rounding explains.
        is_continued: an adapter was trained further, which may have had nothing left to learn.
    """

    at_start: float
    at_end: float
    num_steps: int
    limit: float
    is_continued: bool


def no_gain(gain: Gain) -> Iterator[str]:
    """What is wrong with a run whose own rows fare no better after it."""
    rise = gain.at_end - gain.at_start
    allowed = max(gain.limit, _WANDERING * max(1.0, gain.at_start)) if gain.is_continued else gain.limit
    told = Message(
        "the loss of rows that were trained on went from {at_start:.4f} to {at_end:.4f}",
        at_start=gain.at_start,
        at_end=gain.at_end,
    )
    if not rise <= allowed:  # a NaN is not smaller than anything
        yield Message(
            "{told}: the run made the model worse; try a tenth of the --learning_rate, or more --warmup_steps",
            told=told,
        )
    elif rise > -gain.limit and not gain.is_continued:
        if gain.num_steps >= _FEW_STEPS:
            yield Message(
                "{told} in {num_steps} steps, no more than rounding does: the run taught the model nothing; try "
                "ten times the --learning_rate",
                told=told,
                num_steps=gain.num_steps,
            )
        else:
            logger.warning("proof: %s, which may be rounding alone; %d steps are too few to tell", told, gain.num_steps)
    elif rise > 0:
        logger.warning("proof: %s; the adapter had learned them already, or the learning rate is high", told)


def changes(before: Mapping[str, int], after: Mapping[str, int]) -> Changes:
    """Compare checksums of trained tensors by name."""
    changed = {name for name in after if after[name] != before[name]}
    of_changed = {adapter_state.module_of(name) for name in changed}
    unchanged = sorted({adapter_state.module_of(name) for name in after} - of_changed)
    return Changes(len(after), len(changed), tuple(unchanged))


def _idle_modules(found: Changes, *, may_be_idle: bool, all_skipped: bool) -> Iterator[str]:
    """What is wrong with a run that taught some module nothing.

    Args:
        found: what has changed.
        may_be_idle: a mixture of experts, of which some may have seen no token.
        all_skipped: no step was made, since the gradients of each overflowed float16.
    """
    if not found.num_changed and all_skipped:
        yield Message(
            "no trained weight has changed: every step was skipped, since its gradients overflowed float16; give "
            "--bf16 where the GPU has it, else --torch_dtype float32 without --fp16, or more steps (each halves the "
            "loss scale)"
        )
        return
    if not found.num_changed:
        yield Message("no trained weight has changed; was the learning rate 0 in every step (see log.jsonl)?")
        return
    idle = [name for name in found.unchanged if not name.endswith(("embed_tokens", "wte", "word_embeddings"))]
    named = ", ".join(found.unchanged[:4]) + (", ..." if len(found.unchanged) > 4 else "")
    if idle and not may_be_idle:
        yield Message(
            "{num_unchanged} trained modules have not changed: {named}", num_unchanged=len(found.unchanged), named=named
        )
    elif found.unchanged:
        logger.warning("proof: not changed, since no token of the data came by: %s", named)


def prove(
    trainer: StepTrainer,
    adapter: Adapter,
    at_start: Mapping[str, int],
    saved: Path,
    load_base: Callable[[], PreTrainedModel],
    *,
    is_continued: bool,
) -> None:
    """Show that the adapter on the disk is the trained one and better than none, or fail; called by all processes.

    Args:
        trainer: after the last step.
        adapter: what it trained.
        at_start: checksums of the trained tensors before the first step.
        saved: the adapter's folder; renamed if the proof fails, since days of training may be in it.
        load_base: loads the base once more, as the run has loaded it.
        is_continued: whether the run began with an adapter that was trained before.

    Raises:
        ProofError: it is not; all that is wrong is named, and `proof.json` tells what was found.
    """
    found = changes(at_start, trainer.checksums())
    reload = _reload(trainer, adapter, trainer.proof_rows(), saved, load_base)
    num_steps, before = int(trainer.state.global_step), trainer.proof.loss_at_start
    gain = None if before is None else Gain(before, reload.in_memory, num_steps, reload.limit, is_continued)
    problems = [
        *_idle_modules(
            found,
            may_be_idle=any("experts" in name for name in at_start),
            all_skipped=trainer.report.num_skipped == num_steps,
        ),
        *_other_loss(reload),
        *(no_gain(gain) if gain else ()),
    ]
    num_tensors = len(adapter_state.names_of_keys(adapter))
    num_bytes = from_rank_0(lambda: (saved / WEIGHTS_FILE).stat().st_size)
    record = {
        "adapter": str(saved),
        "passed": not problems,
        **with_chinese("problems", problems),
        "num_steps": num_steps,
        "num_tensors": num_tensors,
        "num_bytes": num_bytes,
        "changes": asdict(found),
        "reload": asdict(reload),
        "gain": gain and asdict(gain),
        "shortcuts": trainer.shortcuts and asdict(trainer.shortcuts),
    }
    from_rank_0(lambda: output.write_json(saved.parent / PROOF_FILE, record))
    if problems:
        aside = output.set_aside(saved, saved) if trainer.args.should_save else None  # on each machine's disk
        failed = from_rank_0(lambda: aside)
        raise ProofError(
            "proof failed: {problems}; do not use what was saved, it is in {failed}",
            problems=Listed(problems, "; "),
            failed=failed,
        )
    _tell(num_tensors, num_bytes, found, reload, gain)


def _tell(num_tensors: int, num_bytes: int, found: Changes, reload: Reload, gain: Gain | None) -> None:
    logger.info(
        "proof: %d tensors, %s MB, bit-equal to memory; %d of %d trained tensors have changed",
        num_tensors,
        f"{num_bytes / 1e6:,.1f}",
        found.num_changed,
        found.num_tensors,
    )
    losses = (reload.reloaded, reload.num_rows, reload.in_memory, reload.without)
    if reload.into == FRESH:
        logger.info(
            "proof: reloaded from the disk into a fresh base: loss %.4f on %d rows, %.4f in memory, %.4f without the "
            "adapter",
            *losses,
        )
    else:
        logger.info(
            "proof: reloaded from the disk into the base in memory: loss %.4f on %d rows, %.4f in memory, %.4f with "
            "the adapter's weights at zero",
            *losses,
        )
    if gain:
        logger.info("proof: the loss of these rows fell from %.4f to %.4f", gain.at_start, gain.at_end)


def _other_loss(reload: Reload) -> Iterator[str]:
    if not abs(reload.reloaded - reload.in_memory) <= reload.limit:  # a NaN is not smaller than anything
        yield Message(
            "reloaded from the disk into {into}, the loss on {num_rows} rows is {reloaded:.6f}, in memory "
            "{in_memory:.6f}, where rounding explains {limit:.2g}",
            into=reload.into,
            num_rows=reload.num_rows,
            reloaded=reload.reloaded,
            in_memory=reload.in_memory,
            limit=reload.limit,
        )


def _reload(
    trainer: StepTrainer, adapter: Adapter, rows: Examples, saved: Path, load_base: Callable[[], PreTrainedModel]
) -> Reload:
    in_memory = trainer.loss_of(rows)
    parameters = list(adapter.model.parameters())
    sharded = any(map(is_sharded, parameters))
    base_bytes = sum(p.numel() * p.element_size() for p in parameters if not p.requires_grad)
    fits = not sharded and from_rank_0(lambda: base_bytes < _USED * memory.free_bytes(trainer.args.device))
    with trainer.accelerator.autocast():
        dtype = computed_in(adapter.model.get_base_model())
    limit = mean_loss_limit(dtype, in_memory, float(rows.num_supervised().sum()))
    losses = from_rank_0(lambda: _fresh(trainer, rows, saved, load_base)) if fits else None
    if losses:
        without, reloaded = losses
        return Reload(FRESH, len(rows), in_memory, reloaded, without, limit)
    trainer.set_weights(None)
    without = trainer.loss_of(rows)
    trainer.set_weights(saved)
    return Reload(Message("the base in memory"), len(rows), in_memory, trainer.loss_of(rows), without, limit)


def _fresh(
    trainer: StepTrainer, rows: Examples, saved: Path, load_base: Callable[[], PreTrainedModel]
) -> tuple[float, float] | None:
    """Losses without and with the adapter, by the libraries alone: transformers' forward, PEFT's loading.

    None where memory runs out after all: other processes wait for an answer.
    """
    device = trainer.args.device
    try:
        with _unsaid(), warnings.catch_warnings(), trainer.accelerator.autocast():
            warnings.simplefilter("ignore")  # of PEFT, on what was refused or said when training began
            base = load_base()
            if not getattr(base, "is_quantized", False):
                base.to(device)
            without = plain_loss(base, rows, device)
            return without, plain_loss(PeftModel.from_pretrained(base, saved), rows, device)
    except (RuntimeError, ValueError, KeyError) as error:  # of PEFT and transformers
        if is_out_of_memory(error):
            return None
        logger.error("proof: the adapter on the disk cannot be loaded: %s", one_line(error, 300))
        return math.nan, math.nan


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """Silence the log lines that loading the base has printed once already."""
    own = logging.getLogger("yangtuo")
    level = own.level
    own.setLevel(logging.ERROR)
    try:
        yield
    finally:
        own.setLevel(level)


@torch.no_grad()
def plain_loss(model: nn.Module, rows: Examples, device: torch.device) -> float:
    """Weighted mean loss in nats a token, a row at a time, with nothing of this program's engine."""
    model.eval()
    total, weight = 0.0, 0.0
    for i in range(len(rows)):
        ids, _ = rows.row(i)
        tokens = torch.from_numpy(ids.astype(np.int64)).to(device)
        weights = torch.from_numpy(rows.row_weights(i)[1:]).to(device)
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1].float()
        total += float((functional.cross_entropy(logits, tokens[1:], reduction="none") * weights).sum().double())
        weight += float(weights.sum())
    return total / weight if weight else math.nan
