"""Answers, with the prompt of training: to single questions at once, or in a dialogue as they are being written."""

import inspect
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Generator as Pieces
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from yangtuo.data.encoding import end_id, prompt_ids
from yangtuo.data.records import Turn
from yangtuo.data.templates import Template
from yangtuo.errors import RunFailure
from yangtuo.inference.load import LoadedModel
from yangtuo.inference.streaming import GrowingText
from yangtuo.model import generation_config

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS, INTERRUPTED = "max_new_tokens", "Ctrl-C"


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen; the likeliest, without a penalty, unless something else is asked for.

    Attributes:
        max_new_tokens: of an answer, its end token included.
        temperature: 0 for the likeliest token.
        top_p: draw from the likeliest tokens that have this share together; 1 for all.
        top_k: draw from this many of the likeliest tokens; 0 for all.
        repetition_penalty: above 1, tokens of prompt and answer are less likely to come again; 1 for none.
        seed: of the draws.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0


def sampling_of(
    folders: Iterable[Path], max_new_tokens: int, given: Mapping[str, float] | None = None, *, seed: int = 0
) -> Sampling:
    """How the model of these folders answers: as was asked for, else as the first `generation_config.json` says.

    Args:
        folders: of adapter and base, in this order.
        max_new_tokens: of an answer.
        given: values of `Sampling` that were asked for.
        seed: of the draws.

    Raises:
        ModelError: the file is broken.
    """
    given = dict(given or {})
    found = generation_config.first_of(folders)
    if found is None:
        return Sampling(max_new_tokens, seed=seed, **given)  # type: ignore[arg-type]
    folder, values = found
    of_folder, unknown = generation_config.choosing(values, folder)
    file = folder / generation_config.GENERATION_CONFIG
    taken = {key: value for key, value in of_folder.items() if key not in given}
    if given.get("temperature") == 0:  # then nothing of it decides
        taken = {key: value for key, value in taken.items() if key == "repetition_penalty"}
    if taken:
        shown = ", ".join(f"{key} {value:g}" for key, value in taken.items())
        logger.info("answers: %s, taken from %s", shown, file)
    if unknown:
        logger.warning("answers: %s is not used here, though it stands in %s", ", ".join(unknown), file)
    return Sampling(max_new_tokens, seed=seed, **taken, **given)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: without the end token.
        stopped_by: the end token's name, "max_new_tokens" or "Ctrl-C".
        is_whole: whether the model itself came to an end.
        num_tokens: written, the end token included.
        num_prompt_tokens: read.
        seconds: for both.
    """

    text: str
    stopped_by: str
    is_whole: bool
    num_tokens: int
    num_prompt_tokens: int
    seconds: float


def told(pieces: Pieces[str, None, Answer], tell: Callable[[str], None]) -> Answer:
    """The answer, once all of its pieces were told; what `tell` raises, the generator of them gets to know."""
    error: BaseException | None = None
    while True:
        try:
            piece = next(pieces) if error is None else pieces.throw(error)
        except StopIteration as end:
            return cast(Answer, end.value)
        error = None
        try:
            tell(piece)
        except BaseException as raised:
            error = raised


class Generator:
    """Answers one dialogue after the other with one model.

    What a prompt has in common with the last one is not computed again.
    """

    def __init__(self, loaded: LoadedModel, template: Template, sampling: Sampling):
        self._loaded, self._template, self._sampling = loaded, template, sampling
        end = end_id(loaded.tokenizer, template)
        self._ends = {end, loaded.tokenizer.eos_id}
        self._device = loaded.model.get_input_embeddings().weight.device
        # Without it, a prompt's logits for the whole vocabulary exist at once.
        takes = inspect.signature(loaded.model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._cache: Any = None
        self._cached: list[int] = []  # the tokens whose keys and values are in the cache
        self._draws = torch.Generator(self._device)
        self.reseed()

    def reseed(self, number: int = 0) -> None:
        """Draw as at the start; of several prompts, which do not share their draws, as that of this number."""
        self._draws.manual_seed(self._sampling.seed + number)

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """What the model reads before it answers the last turn, the user's.

        Raises:
            DataError: the template cannot render the dialogue.
        """
        return prompt_ids(self._loaded.tokenizer, self._template, turns)

    def answer(
        self, prompt: Sequence[int], tell: Callable[[str], None] = lambda _: None, *, keeps_interrupted: bool = False
    ) -> Answer:
        """Answer a prompt; `tell` is called with the text as it grows, in whole characters.

        With `keeps_interrupted`, Ctrl-C ends the answer and not the program.

        Raises:
            RunFailure: the model computes no numbers.
        """
        return told(self.pieces(prompt, keeps_interrupted=keeps_interrupted), tell)

    def pieces(self, prompt: Sequence[int], *, keeps_interrupted: bool = False) -> Pieces[str, None, Answer]:
        """The text as it grows, in whole characters; what the generator returns is the answer.

        The weights are this model's while it is suspended, too: nothing else may ask them before it has ended.

        Raises:
            RunFailure: the model computes no numbers.
        """
        began, num_tokens = time.perf_counter(), 0
        text, stopped_by, is_whole = GrowingText(self._loaded.tokenizer), MAX_NEW_TOKENS, False
        try:
            with self._loaded.in_place():
                for token in self._tokens(prompt):
                    num_tokens += 1
                    if token in self._ends:
                        stopped_by, is_whole = self._loaded.tokenizer.name_of(token) or f"token {token}", True
                        break
                    if piece := text.push(token):
                        yield piece
        except BaseException as error:
            self._cache, self._cached = None, []  # some layers may have more in it than others
            if not keeps_interrupted or not isinstance(error, KeyboardInterrupt):
                raise
            stopped_by = INTERRUPTED
        if piece := text.rest() if is_whole else text.whole_rest():
            yield piece
        return Answer(text.told, stopped_by, is_whole, num_tokens, len(prompt), time.perf_counter() - began)

    def _tokens(self, prompt: Sequence[int]) -> Iterator[int]:
        """The answer's tokens, the end token included."""
        ids = list(prompt)
        self._keep_common(ids)
        for _ in range(self._sampling.max_new_tokens):
            new = torch.tensor([ids[len(self._cached) :]], device=self._device)
            # Not inference_mode: what a module keeps of a forward, a model in training uses in its next step.
            with torch.no_grad():
                output = self._loaded.model(
                    input_ids=new, past_key_values=self._cache, use_cache=True, **self._last_only
                )
                scores = output.logits[:, -1, : self._loaded.num_rows].float()
                token = choose(scores, ids, self._sampling, self._ends, self._draws)
            self._cache, self._cached = output.past_key_values, list(ids)
            ids.append(token)
            yield token

    def _keep_common(self, ids: list[int]) -> None:
        """Shorten the cache to what it has in common with a prompt; at least the prompt's last token is computed."""
        pairs = zip(self._cached, ids[:-1], strict=False)
        num_common = next((i for i, (old, new) in enumerate(pairs) if old != new), min(len(self._cached), len(ids) - 1))
        if num_common == len(self._cached):
            return
        # Sliding windows and recurrent states have forgotten what lies behind.
        if num_common and all(type(layer) is DynamicLayer for layer in getattr(self._cache, "layers", [None])):
            self._cache.crop(num_common - len(self._cached))
            self._cached = self._cached[:num_common]
        else:
            self._cache, self._cached = None, []


def check_numbers(largest: torch.Tensor) -> None:
    """Refuse logits of which the largest is no number.

    Raises:
        RunFailure: the model computes no numbers.
    """
    if not torch.isfinite(largest):
        raise RunFailure("the model computes no numbers (NaN or infinite); try --torch_dtype float32")


def choose(
    scores: torch.Tensor, ids: Sequence[int], how: Sampling, ends: Collection[int], draws: torch.Generator
) -> int:
    """The next token of an answer.

    Args:
        scores: logits [1, V], float32.
        ids: prompt and answer so far.
        how: it is chosen.
        ends: tokens that end an answer.
        draws: of random numbers.

    Raises:
        RunFailure: the model computes no numbers.
    """
    check_numbers(scores.max())
    if how.repetition_penalty != 1:
        # An end token of an earlier turn must not keep the answer from ending.
        seen = [i for i in ids if i < scores.shape[1] and i not in ends]
        penalised = torch.tensor([seen], dtype=torch.int64, device=scores.device)
        scores = RepetitionPenaltyLogitsProcessor(how.repetition_penalty)(penalised, scores)
    if how.temperature == 0:
        return int(scores.argmax())
    nothing = torch.empty(1, 0, dtype=torch.int64, device=scores.device)
    scores = TemperatureLogitsWarper(how.temperature)(nothing, scores)
    if how.top_k:
        scores = TopKLogitsWarper(how.top_k)(nothing, scores)
    if how.top_p < 1:
        scores = TopPLogitsWarper(how.top_p)(nothing, scores)
    return int(torch.multinomial(scores.softmax(-1), 1, generator=draws))
