"""Answers, with the prompt of training: to single questions at once, or in a dialogue as they are being written."""

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from yangtuo.data.encoding import end_id, prompt_ids
from yangtuo.data.growing import GrowingText
from yangtuo.data.records import Turn
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import RunFailure
from yangtuo.model.inference import Voice

MAX_NEW_TOKENS, INTERRUPTED = "max_new_tokens", "Ctrl-C"


def answer(
    model: PreTrainedModel, tokenizer: Tokenizer, template: Template, questions: Sequence[str], *, max_new_tokens: int
) -> list[str]:
    """One answer a question, cut at the end token or after `max_new_tokens`."""
    model.eval()
    answers = []
    end = end_id(tokenizer, template)
    for question in questions:
        prompt = prompt_ids(tokenizer, template, [Turn("user", question, trained=False)])
        ids = torch.tensor([prompt], device=model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=end,
            pad_token_id=end,
        )
        answers.append(tokenizer.decode([i for i in output[0, ids.shape[1] :].tolist() if i != end]).strip())
    return answers


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    Attributes:
        max_new_tokens: of an answer, its end token included.
        temperature: 0 for the likeliest token.
        top_p: draw from the likeliest tokens that have this share together; 1 for all.
        repetition_penalty: above 1, tokens of prompt and answer are less likely to come again; 1 for none.
        seed: of the draws.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0


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


class Speaker:
    """Answers one dialogue after the other with one voice.

    What a prompt has in common with the last one is not computed again.
    """

    def __init__(self, voice: Voice, template: Template, sampling: Sampling):
        self._voice, self._template, self._sampling = voice, template, sampling
        end = end_id(voice.tokenizer, template)
        self._ends = {end, voice.tokenizer.eos_id}
        self._device = voice.model.get_input_embeddings().weight.device
        # Without it, a prompt's logits for the whole vocabulary exist at once.
        takes = inspect.signature(voice.model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._cache: Any = None
        self._cached: list[int] = []  # the tokens whose keys and values are in the cache
        self._draws = torch.Generator(self._device)
        self.reseed()

    def reseed(self) -> None:
        """Draw as at the start."""
        self._draws.manual_seed(self._sampling.seed)

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """What the model reads before it answers the last turn, the user's.

        Raises:
            DataError: the template cannot render the dialogue.
        """
        return prompt_ids(self._voice.tokenizer, self._template, turns)

    def answer(
        self, prompt: Sequence[int], tell: Callable[[str], None] = lambda _: None, *, keeps_interrupted: bool = False
    ) -> Answer:
        """Answer a prompt; `tell` is called with the text as it grows, in whole characters.

        With `keeps_interrupted`, Ctrl-C ends the answer and not the program.

        Raises:
            RunFailure: the model computes no numbers.
        """
        began, num_tokens = time.perf_counter(), 0
        text, stopped_by, is_whole = GrowingText(self._voice.tokenizer), MAX_NEW_TOKENS, False
        try:
            with self._voice.in_place():
                for token in self._tokens(prompt):
                    num_tokens += 1
                    if token in self._ends:
                        stopped_by, is_whole = self._voice.tokenizer.name_of(token) or f"token {token}", True
                        break
                    if piece := text.push(token):
                        tell(piece)
        except BaseException as error:
            self._cache, self._cached = None, []  # some layers may have more in it than others
            if not keeps_interrupted or not isinstance(error, KeyboardInterrupt):
                raise
            stopped_by = INTERRUPTED
        if piece := text.rest() if is_whole else text.whole_rest():
            tell(piece)
        return Answer(text.told, stopped_by, is_whole, num_tokens, len(prompt), time.perf_counter() - began)

    def _tokens(self, prompt: Sequence[int]) -> Iterator[int]:
        """The answer's tokens, the end token included."""
        ids = list(prompt)
        self._keep_common(ids)
        for _ in range(self._sampling.max_new_tokens):
            new = torch.tensor([ids[len(self._cached) :]], device=self._device)
            with torch.inference_mode():
                output = self._voice.model(
                    input_ids=new, past_key_values=self._cache, use_cache=True, **self._last_only
                )
                token = self._choose(output.logits[:, -1, : self._voice.num_rows].float(), ids)
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

    def _choose(self, scores: torch.Tensor, ids: Sequence[int]) -> int:
        how = self._sampling
        if not torch.isfinite(scores.max()):
            raise RunFailure("the model computes no numbers (NaN or infinite); try --torch_dtype float32")
        if how.repetition_penalty != 1:
            # An end token of an earlier turn must not keep the answer from ending.
            seen = [i for i in ids if i < scores.shape[1] and i not in self._ends]
            penalised = torch.tensor([seen], dtype=torch.int64, device=scores.device)
            scores = RepetitionPenaltyLogitsProcessor(how.repetition_penalty)(penalised, scores)
        if how.temperature == 0:
            return int(scores.argmax())
        nothing = torch.empty(1, 0, dtype=torch.int64, device=scores.device)
        scores = TemperatureLogitsWarper(how.temperature)(nothing, scores)
        if how.top_p < 1:
            scores = TopPLogitsWarper(how.top_p)(nothing, scores)
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._draws))
