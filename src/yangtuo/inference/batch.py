"""Answers to many prompts at once: a prefix tree of prompts is read in one forward, then all answers grow together.

Prompts are sorted, so that those which begin alike stand in one batch; what they have in common is computed once. From
the tree each row takes the keys and values of its own tokens, on the right of lines of equal length, and rows that
have ended leave the batch. A model that does not bear this (see `forward.RowReader`, and the trial here) answers one
prompt after the other.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from yangtuo.data.encoding import end_id
from yangtuo.data.examples import Examples
from yangtuo.data.templates import Template
from yangtuo.engine import tolerance
from yangtuo.engine.comparison import distance
from yangtuo.engine.head import Head
from yangtuo.engine.layout import common_prefixes, share
from yangtuo.engine.memory import ModelShape
from yangtuo.errors import is_out_of_memory, one_line
from yangtuo.i18n import Message
from yangtuo.inference.forward import RowReader, Rows, in_parts
from yangtuo.inference.generate import MAX_NEW_TOKENS, Answer, Generator, Sampling, check_numbers, choose
from yangtuo.inference.likelihood import Work
from yangtuo.inference.streaming import text_of

logger = logging.getLogger(__name__)

Found = list[tuple[int, Answer]]  # by the prompt's number

_MOST_ROWS = {"cpu": 32, "cuda": 128}
_MOST_KEPT = {"cpu": 1 << 30, "cuda": 8 << 30}  # bytes of keys and values
_LEAVE = 0.75  # of a batch; with fewer rows left it is made smaller


@dataclass(frozen=True)
class BatchLimits:
    """How large a batch may be.

    Attributes:
        max_cells: distinct tokens of its prompts.
        max_rows: prompts.
        max_kept: tokens whose keys and values are kept: rows times the longest prompt with its answer.
    """

    max_cells: int
    max_rows: int
    max_kept: int


def plan_batches(prompts: Sequence[Sequence[int]], num_new: int, limits: BatchLimits) -> list[list[int]]:
    """Prompts by their number, those that begin alike together; each batch within the limits or a single prompt."""
    ids = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
    batches: list[list[int]] = []
    num_cells = longest = 0
    for i, num_shared in common_prefixes(ids) if ids else ():
        added = len(ids[i]) - num_shared
        longest_now = max(longest, len(ids[i]))
        fits = batches and (
            num_cells + added <= limits.max_cells
            and len(batches[-1]) < limits.max_rows
            and (len(batches[-1]) + 1) * (longest_now + num_new) <= limits.max_kept
        )
        if not fits:
            batches.append([])
            num_cells, added, longest_now = 0, len(ids[i]), len(ids[i])
        batches[-1].append(i)
        num_cells += added
        longest = longest_now
    return batches


class BatchGenerator:
    """Answers prompts with one model, in batches.

    Attributes:
        work: cells computed for the tokens of prompts.
    """

    def __init__(self, reader: RowReader, template: Template, sampling: Sampling, max_cells: int):
        """`max_cells` are most distinct tokens of the prompts of a batch."""
        self._reader, self._sampling, self.work = reader, sampling, Work()
        self._loaded = reader.loaded
        self._ends = {end_id(self._loaded.tokenizer, template), self._loaded.tokenizer.eos_id}
        self._one_by_one = Generator(self._loaded, template, sampling)
        kind = reader.device.type
        kept = max(1, _MOST_KEPT.get(kind, _MOST_KEPT["cuda"]) // max(1, _bytes_kept(self._loaded.model)))
        self._limits = BatchLimits(max_cells, _MOST_ROWS.get(kind, _MOST_ROWS["cuda"]), kept)
        found = getattr(self._loaded.model.config.get_text_config(), "max_position_embeddings", None)
        self._num_positions = int(found) if found else None
        self._why_single: str | None = None
        self._is_tried = False

    def answer_all(
        self, prompts: Sequence[Sequence[int]], is_known: Callable[[int], bool] = lambda _: False
    ) -> Iterator[Found]:
        """Answers by the prompts' numbers, a batch at a time, in an order that depends on the prompts alone.

        Args:
            prompts: ids.
            is_known: whether a prompt need not be answered; a batch is left out where none of its prompts has to.

        Raises:
            RunFailure: the model computes no numbers.
            OutOfMemoryError: even one prompt does not fit.
        """
        if not prompts:
            return
        self._try(prompts)
        for batch in plan_batches(prompts, self._sampling.max_new_tokens, self._limits):
            if not all(map(is_known, batch)):
                if self._why_single:
                    yield from self._one_after_the_other(prompts, batch)
                else:
                    yield from in_parts(
                        batch, lambda part: self._answers(prompts, part), self._reader.device, _too_long(prompts)
                    )

    def _try(self, prompts: Sequence[Sequence[int]]) -> None:
        """Whether keys and values of a tree may be dealt out to rows: the second token tells, by its logits."""
        if self._is_tried:
            return
        self._is_tried = True
        if self._reader.way.rows is not Rows.TREE:
            self._why_single = Message("its rows are not read as a prefix tree")
        else:
            self._why_single = self._refusal([list(prompts[0])[:24], list(prompts[0])[:20], list(prompts[-1])[:17]])
        if self._why_single:
            logger.warning("prompts are answered one by one: %s", self._why_single)

    def _refusal(self, trial: list[list[int]]) -> str | None:
        model = self._loaded.model
        try:
            with self._loaded.in_place(), torch.no_grad():
                rows = [torch.tensor([ids + ids[:1]], device=self._reader.device) for ids in trial]
                expected = [model(input_ids=row, use_cache=False).logits[0, -1].float().log_softmax(-1) for row in rows]
            lines = self._read(trial)
            with self._loaded.in_place(), torch.no_grad():
                found = lines.forward(model, [ids[0] for ids in trial]).float().log_softmax(-1)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            if is_out_of_memory(error):
                raise
            return one_line(error, 120)
        limit = tolerance.token_losses_limit(model.dtype)
        off = distance(list(found), expected)
        if off <= limit:
            return None
        return Message("logits would be off by {off:.2g}, rounding explains {limit:.2g}", off=off, limit=limit)

    def _one_after_the_other(self, prompts: Sequence[Sequence[int]], batch: Sequence[int]) -> Iterator[Found]:
        for i in batch:
            self._one_by_one.reseed(i)
            yield [(i, self._one_by_one.answer(prompts[i]))]

    def _answers(self, prompts: Sequence[Sequence[int]], batch: Sequence[int]) -> Found:
        began = time.perf_counter()
        taken = [list(prompts[i]) for i in batch]
        with torch.no_grad():
            said = self._grow(taken, batch)
        seconds = (time.perf_counter() - began) / len(batch)
        return [(i, self._answer(prompt, ids, seconds)) for i, prompt, ids in zip(batch, taken, said, strict=True)]

    def _answer(self, prompt: list[int], ids: list[int], seconds: float) -> Answer:
        tokenizer = self._loaded.tokenizer
        is_whole = bool(ids) and ids[-1] in self._ends
        stopped_by = (tokenizer.name_of(ids[-1]) or f"token {ids[-1]}") if is_whole else MAX_NEW_TOKENS
        text = text_of(tokenizer, ids[:-1] if is_whole else ids, is_whole=is_whole)
        return Answer(text, stopped_by, is_whole, len(ids), len(prompt), seconds)

    def _grow(self, prompts: list[list[int]], numbers: Sequence[int]) -> list[list[int]]:
        """The answers' ids, end tokens included; each prompt's draws are those of its number."""
        lines = self._read(prompts)
        self.work.num_cells += lines.num_cells
        self.work.num_tokens += sum(map(len, prompts))
        draws = [torch.Generator(self._reader.device).manual_seed(self._sampling.seed + number) for number in numbers]
        said: list[list[int]] = [[] for _ in prompts]
        on_line, scores = list(range(len(prompts))), lines.first_scores  # the prompt of each line
        with self._loaded.in_place():
            while True:
                chosen = self._chosen(scores[:, : self._loaded.num_rows].float(), on_line, prompts, said, draws)
                for row, token in zip(on_line, chosen, strict=True):
                    # A row that has ended stays on its line until enough have; what comes there is not looked at.
                    if self._goes_on(prompts[row], said[row]):
                        said[row].append(token)
                new = [said[row][-1] for row in on_line]
                going_on = [n for n, row in enumerate(on_line) if self._goes_on(prompts[row], said[row])]
                if not going_on:
                    return said
                if len(going_on) <= _LEAVE * len(on_line):
                    lines.keep(going_on)
                    on_line, new = [on_line[n] for n in going_on], [new[n] for n in going_on]
                scores = lines.forward(self._loaded.model, new)

    def _chosen(
        self,
        scores: torch.Tensor,
        on_line: list[int],
        prompts: list[list[int]],
        said: list[list[int]],
        draws: list[torch.Generator],
    ) -> list[int]:
        """The next token of each line; the likeliest of all lines at once, for which a device is waited for once."""
        how = self._sampling
        if how.temperature == 0 and how.repetition_penalty == 1:
            check_numbers(scores.max())
            likeliest: list[int] = scores.argmax(-1).tolist()
            return likeliest
        lines = zip(on_line, scores, strict=True)
        return [choose(one[None], [*prompts[row], *said[row]], how, self._ends, draws[row]) for row, one in lines]

    def _goes_on(self, prompt: list[int], ids: list[int]) -> bool:
        most = self._sampling.max_new_tokens
        if self._num_positions is not None:
            most = min(most, self._num_positions - len(prompt))
        return len(ids) < most and not (ids and ids[-1] in self._ends)

    def _read(self, prompts: list[list[int]]) -> "_Lines":
        """Read a tree of prompts, and deal out what was kept of it."""
        device = self._reader.device
        last = [np.arange(len(ids)) == len(ids) - 1 for ids in prompts]
        layout = share(Examples.of_rows(prompts, last), range(len(prompts)), np.ones(len(prompts)))
        assert layout.sequences is not None
        of_tree = DynamicCache()
        with self._reader.reading():
            hidden = self._reader.hidden(layout, of_tree)
            lasts = torch.tensor([int(cells[-1]) for cells in layout.sequences], device=device)
            scores = Head(self._loaded.model).logits(hidden[lasts])
        longest = max(map(len, layout.sequences))
        padded = np.stack([np.pad(cells, (longest - len(cells), 0)) for cells in layout.sequences])
        is_real = np.stack([np.arange(longest) >= longest - len(cells) for cells in layout.sequences])
        cells = torch.from_numpy(padded).to(device)
        own = DynamicCache()
        for number, layer in enumerate(of_tree.layers):
            if type(layer) is not DynamicLayer:
                raise TypeError(Message("its {name} keeps more than keys and values", name=type(layer).__name__))
            keys, values = (kept[0][:, cells].transpose(0, 1) for kept in (layer.keys, layer.values))
            own.update(keys, values, number)
        lengths = torch.tensor([len(ids) for ids in prompts], device=device)
        return _Lines(own, torch.from_numpy(is_real).to(device), lengths, scores, layout.num_cells)


class _Lines:
    """Rows on lines of equal length, their ends on the right, with what was kept of them.

    Attributes:
        first_scores: [B, V], logits behind the prompts.
        num_cells: computed for the prompts.
    """

    def __init__(
        self, cache: DynamicCache, is_real: torch.Tensor, lengths: torch.Tensor, scores: torch.Tensor, num_cells: int
    ):
        """`is_real` is bool [B, L], `lengths` int64 [B]."""
        self._cache, self._is_real, self._lengths = cache, is_real, lengths
        self.first_scores, self.num_cells = scores, num_cells

    def forward(self, model: Any, tokens: list[int]) -> torch.Tensor:
        """Logits [B, V] behind one more token on each line."""
        column = torch.ones_like(self._is_real[:, :1])
        self._is_real = torch.cat([self._is_real, column], dim=1)
        output = model(
            input_ids=torch.tensor(tokens, device=self._lengths.device)[:, None],
            attention_mask=self._is_real,
            position_ids=self._lengths[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._lengths = self._lengths + 1
        scores: torch.Tensor = output.logits[:, -1]
        return scores

    def keep(self, lines: list[int]) -> None:
        """Leave the other lines out."""
        chosen = torch.tensor(lines, device=self._lengths.device)
        self._cache.batch_select_indices(chosen)
        self._is_real, self._lengths = self._is_real[chosen], self._lengths[chosen]


def _bytes_kept(model: Any) -> int:
    """Of one token's keys and values in all layers."""
    shape = ModelShape.of(model.config, model.dtype.itemsize)
    return 2 * shape.keys * shape.num_layers * shape.width


def _too_long(prompts: Sequence[Sequence[int]]) -> Callable[[int], str]:
    def told(i: int) -> str:
        return Message(
            "a prompt of {num_prompts:,} tokens does not fit into memory with its answer; fewer --max_new_tokens, "
            "or --use_cpu",
            num_prompts=len(prompts[i]),
        )

    return told
