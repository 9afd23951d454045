"""Answers to a few prompts before the first step and at each evaluation: what a loss does not show.

Asked greedily, as `yangtuo chat` asks (`inference.generate`), of the model in training: in evaluation mode, by
transformers' own attention, without compiled layers. Afterwards all is as it was, so that a run with samples computes
the very numbers of one without. Rank 0 answers while the others wait.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from yangtuo.config.settings import Settings
from yangtuo.data.examples import Examples
from yangtuo.data.prompt_rows import PromptRow
from yangtuo.engine.compiled import with_norm
from yangtuo.engine.processes import from_rank_0
from yangtuo.engine.run_context import RunContext
from yangtuo.engine.trainer import StepTrainer
from yangtuo.errors import RunFailure, one_line
from yangtuo.i18n import columns_of, tr
from yangtuo.inference.generate import Answer, Generator, Sampling
from yangtuo.inference.load import LoadedModel
from yangtuo.model.adapter_state import Adapter
from yangtuo.training import sample_prompts
from yangtuo.training.inputs import Inputs

logger = logging.getLogger(__name__)

_WIDTH = 96  # of a line on the screen
# What libraries raise where a model cannot answer; a training run does not end for it.
_FAILURES = (RunFailure, RuntimeError, ValueError, TypeError, LookupError, AttributeError)


def prompts_of(settings: Settings, inputs: Inputs, validation: Examples | None, seed: int) -> list[PromptRow]:
    """The prompts that the options name, see `sample_prompts.find`; each leaves room for an answer."""
    prompts = sample_prompts.find(settings, inputs, validation, seed)
    sample_prompts.refuse_without_room(prompts, settings.run.sample_prompts, _num_positions(inputs))
    return prompts


def follow(
    settings: Settings,
    inputs: Inputs,
    prompts: Sequence[PromptRow],
    adapter: Adapter,
    trainer: StepTrainer,
    context: RunContext,
) -> None:
    """Have the trainer answer the prompts from now on; nothing without prompts."""
    if prompts:
        samples = Samples(settings, inputs, prompts, adapter.model.get_base_model(), context)
        samples.autocast = trainer.accelerator.autocast
        trainer.add_callback(samples)


def _num_positions(inputs: Inputs) -> int | None:
    found = getattr(inputs.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None


class Samples(TrainerCallback):  # type: ignore[misc]
    """Asks, writes into log.jsonl and shows.

    Attributes:
        autocast: the context that gives the dtype of the forward.
    """

    def __init__(
        self,
        settings: Settings,
        inputs: Inputs,
        prompts: Sequence[PromptRow],
        model: PreTrainedModel,
        context: RunContext,
    ):
        """`model` is the base with LoRA layers inside, not wrapped by an engine, its attention still transformers'."""
        self.autocast: Any = contextlib.nullcontext
        self._prompts, self._most_tokens, self._out = list(prompts), settings.run.sample_tokens, context
        self._attention, self._num_positions = model.config._attn_implementation, _num_positions(inputs)
        num_rows = model.get_input_embeddings().weight.shape[0]
        self._asked = LoadedModel(model, inputs.tokenizer, min(num_rows, inputs.tokenizer.num_tokens))
        self._template = inputs.template
        self._is_continued = inputs.adapter is not None and not settings.lora.new_adapter
        texts = [prompt.text for prompt in prompts]
        logged = [entry["samples"] for entry in context.step_log.samples]
        of_these = [samples for samples in logged if [one["prompt"] for one in samples] == texts]
        # Answers of what the run began with, once they are known.
        self._at_start = [one["base"] for one in of_these[0]] if of_these else None
        self._has_failed = self._has_told_no_start = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first step, the model is what the run begins with."""
        if state.global_step == 0:
            from_rank_0(lambda: self._sample(0))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Answer, whether in training or at its end; before the first step that is done already."""
        step = int(state.global_step)
        from_rank_0(lambda: None if step == 0 and self._at_start else self._sample(step))

    def _sample(self, step: int) -> None:
        """Answer all prompts, log and show; on rank 0 alone."""
        if self._has_failed:
            return
        began = time.monotonic()
        try:
            with answering(self._asked.model, self._attention), self.autocast():
                answers = [self._answer(prompt) for prompt in self._prompts]
        except _FAILURES as error:
            self._has_failed = True
            logger.warning("samples: left out from step %d on: %s", step, one_line(error, 200))
        else:
            self._tell(step, answers, time.monotonic() - began)
        if self._has_failed and torch.accelerator.is_available():
            torch.accelerator.empty_cache()  # of a failure that was for want of memory

    def _answer(self, prompt: PromptRow) -> Answer:
        """A generator each: an answer does not depend on the prompts beside it, nor on weights of before."""
        room = self._most_tokens
        if self._num_positions is not None:
            room = min(room, self._num_positions - len(prompt.ids))
        generator = Generator(self._asked, self._template, Sampling(room))
        return generator.answer(prompt.ids, lambda _: self._out.watchdog.alive())

    def _tell(self, step: int, answers: Sequence[Answer], seconds: float) -> None:
        texts = [answer.text.strip() for answer in answers]
        if step == 0:
            self._at_start = texts
        if self._at_start is None and not self._has_told_no_start:
            self._has_told_no_start = True
            logger.warning("samples: this run did not begin with these prompts; its first answers are not known")
        bases = self._at_start or [None] * len(texts)
        samples: list[dict[str, Any]] = []
        for prompt, answer, text, base in zip(self._prompts, answers, texts, bases, strict=True):
            reference = {"reference": prompt.reference} if prompt.reference else {}
            samples.append({"prompt": prompt.text, "answer": text, "base": base, "ended": answer.is_whole, **reference})
        share = sum(answer.is_whole for answer in answers) / len(answers)
        self._out.step_log.write({"step": step, "samples": samples, "ended_share": share, "runtime": seconds})
        for line in _shown(step, samples, seconds, is_continued=self._is_continued):
            self._out.screen.say(line)


@contextlib.contextmanager
def answering(model: PreTrainedModel, attention: str) -> Iterator[None]:
    """The model as it answers; afterwards it is as it was, whatever happened.

    Args:
        model: the causal language model.
        attention: transformers' name of one that knows a cache; ours along prefix trees does not.
    """
    was_training = [module for module in model.modules() if module.training]
    compiled = [(layer, call) for layer in with_norm(model) if (call := layer._compiled_call_impl) is not None]
    before = model.config._attn_implementation
    try:
        model.eval()  # also without gradient checkpointing, NEFTune and dropout
        for layer, _ in compiled:
            layer._compiled_call_impl = None  # single tokens would have graphs of their own made
        if before != attention:
            model.set_attn_implementation(attention)
        yield
    finally:
        if before != attention:
            model.set_attn_implementation(before)
        for layer, call in compiled:
            layer._compiled_call_impl = call
        for module in was_training:
            module.training = True


def _shown(step: int, samples: Sequence[dict[str, Any]], seconds: float, *, is_continued: bool) -> Iterator[str]:
    """Lines for the screen: how many ended, then each prompt with the answer of the start and that of now."""
    num_ended, began = sum(one["ended"] for one in samples), tr("start") if is_continued else tr("base")
    told = tr("step {step}  samples: {num_ended} of {num} answers ended with the end token ({seconds:.0f} s)")
    yield told.format(step=step, num_ended=num_ended, num=len(samples), seconds=seconds)
    for number, one in enumerate(samples, start=1):
        yield _short(f"  {number}  {_plain(one['prompt'])}")
        if step and one["base"] is not None:
            yield _short(f"     {began}: {_plain(one['base'])}")
        end = "" if one["ended"] else tr(" (not ended)")
        yield _short(f"     {tr('now') if step else began}: {_plain(one['answer'])}", end)


def _plain(text: str) -> str:
    """In one line, and without what would steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in one_line(text))


def _short(line: str, end: str = "") -> str:
    """Cut to the screen's width, in which a Chinese character takes two columns; `end` stays."""
    columns, room = 0, _WIDTH - columns_of(end)
    for i, character in enumerate(line):
        columns += columns_of(character)
        if columns > room:
            return f"{line[:i]}...{end}"
    return line + end
