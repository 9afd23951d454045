"""Does a running server ask the model as training did, and answer as it does here? `yangtuo check-deploy` prints it.

Golden prompts go to the server and through the code of training. Compared are the ids of the prompt, as far as the
server tells them, and the greedy answer of the same weights. A server turns a whole dialogue into ids in one piece,
where training tokenises prompts and answers apart; a prompt that differs in that alone is told so and is no fault.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from yangtuo import logs
from yangtuo.config.schema import ModelArguments
from yangtuo.data.encoding import end_id
from yangtuo.data.probe_prompts import Prompt
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import DataError
from yangtuo.exporting.servers import Ollama, Reply, Server
from yangtuo.i18n import Listed, Message, gettext_noop

_NEAR = 12  # characters shown on each side of a difference


class Match(StrEnum):
    """How a prompt or an answer compares."""

    SAME = gettext_noop("same")
    SAME_NUMBER = gettext_noop("same number")
    ONE_PIECE = gettext_noop(
        "one piece"
    )  # the same text, with past answers tokenised together with what stands around them
    DIFFERS = gettext_noop("differs")
    NOT_TOLD = gettext_noop("not told")


@dataclass(frozen=True)
class Compared:
    """A prompt that was asked: how its ids and the answer compare, and what differs first."""

    messages: list[dict[str, str]]
    prompt: Match
    prompt_detail: str
    answer: Match
    answer_detail: str


class Reference:
    """The greedy answers of the folder's own weights.

    Attributes:
        about: how they are computed, for the report.
    """

    def __init__(self, model: ModelArguments, tokenizer: Tokenizer, template: Template, max_new_tokens: int):
        import torch
        from transformers import GenerationConfig

        from yangtuo.model import base, processor
        from yangtuo.model.architecture import read_config

        logs.quiet_libraries()

        device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = Path(str(model.model_name_or_path))
        stored = read_config(folder, trust_remote_code=model.trust_remote_code).dtype
        dtype = stored if device == "cuda" and isinstance(stored, torch.dtype) else torch.float32
        self._model = base.load(folder, processor.Precision(dtype), model, torch.device(device)).eval()
        self._ends = list(dict.fromkeys((end_id(tokenizer, template), tokenizer.eos_id)))
        # In place of the folder's own, whose penalties would change even a greedy choice.
        self._model.generation_config = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=self._ends, pad_token_id=self._ends[0]
        )
        self._tokenizer = tokenizer
        self.about = f"{str(dtype).removeprefix('torch.')} on {device}, {max_new_tokens} tokens"

    def answer(self, prompt: Sequence[int]) -> tuple[str, bool]:
        """The text that follows, and whether it was cut before its end token."""
        import torch

        ids = torch.tensor([list(prompt)], device=self._model.device)
        with torch.inference_mode():
            output = self._model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
        said = output[0, ids.shape[1] :].tolist()
        return self._tokenizer.decode([i for i in said if i not in self._ends]), said[-1] not in self._ends


def compared(prompt: Prompt, reply: Reply, tokenizer: Tokenizer, reference: Reference | None) -> Compared:
    """What a server made of a prompt, beside what training makes of it."""
    if reply.refusal:
        return Compared(
            prompt.messages, Match.DIFFERS, Message("refused: {refusal}", refusal=reply.refusal), Match.NOT_TOLD, ""
        )
    match, detail = compare_prompt(prompt, reply, tokenizer)
    answer, answer_detail = Match.NOT_TOLD, ""
    if reference and reply.text is not None:
        # Of a prompt that the server reads in one piece, the answer to that; else the weights would seem to differ.
        expected, is_cut = reference.answer(prompt.whole if match is Match.ONE_PIECE else prompt.ids)
        answer, answer_detail = compare_text(expected, reply.text, is_cut=is_cut)
    return Compared(prompt.messages, match, detail, answer, answer_detail)


def compare_prompt(prompt: Prompt, reply: Reply, tokenizer: Tokenizer) -> tuple[Match, str]:
    """How the server's prompt compares, by ids where they are told, else by text and number; what differs first."""
    found, num = reply.prompt_ids, reply.num_prompt_tokens
    same = Match.SAME if prompt.whole == prompt.ids else Match.ONE_PIECE
    if found is not None:
        if found in (prompt.ids, prompt.whole):
            return Match.SAME if found == prompt.ids else same, Message("{num} tokens", num=len(found))
        # What a server tokenises in one piece is another text: the first difference to training says nothing then.
        return Match.DIFFERS, _first_id(prompt.whole, found, tokenizer)
    if reply.prompt_text is not None and reply.prompt_text != prompt.text:
        return Match.DIFFERS, _first_character(prompt.text, reply.prompt_text)
    if num is None:
        return (Match.NOT_TOLD, "") if reply.prompt_text is None else (same, "the same text")
    if num != len(prompt.whole):
        return Match.DIFFERS, Message("{num} tokens, expected {num_whole}", num=num, num_whole=len(prompt.whole))
    told = gettext_noop("{num} tokens, the same text") if reply.prompt_text else gettext_noop("{num} tokens")
    return Match.SAME_NUMBER if same is Match.SAME else same, Message(told, num=num)


def compare_text(expected: str, found: str, *, is_cut: bool) -> tuple[Match, str]:
    """How answers compare, blanks at the ends aside.

    Where an answer `is_cut`, the cut may have gone through a character's bytes: some servers leave such a character
    out, some write on until it is whole (llama-cpp-python), so that one more or less at the end is the same answer.
    """
    expected, found = expected.strip(), found.strip()
    if is_cut:
        expected, found = (text.rstrip("\ufffd").strip() for text in (expected, found))
        shorter, longer = sorted((expected, found), key=len)
        is_same = longer.startswith(shorter) and len(longer) <= len(shorter) + 1
    else:
        is_same = expected == found
    return (Match.SAME, "") if is_same else (Match.DIFFERS, _first_character(expected, found))


def _first_id(expected: Sequence[int], found: Sequence[int], tokenizer: Tokenizer) -> str:
    at = _first(expected, found)

    def told(ids: Sequence[int]) -> str:
        if at >= len(ids):
            return "the end"
        shown = tokenizer.name_of(ids[at])
        if shown is None and ids[at] < tokenizer.num_tokens:
            shown = repr(tokenizer.bytes_of(ids[at]).decode("utf-8", errors="replace"))
        return f"{ids[at]} {shown or ''}".strip()

    first = Message("token {at}: {found}, expected {expected}", at=at, found=told(found), expected=told(expected))
    if len(expected) == len(found):
        return first
    sizes = Message("{num_found} tokens for {num_expected}", num_found=len(found), num_expected=len(expected))
    return Listed([first, sizes], "; ")


def _first_character(expected: str, found: str) -> str:
    at = _first(expected, found)
    begin, end = max(0, at - _NEAR), at + _NEAR
    return Message(
        "character {at}: {found!r}, expected {expected!r}", at=at, found=found[begin:end], expected=expected[begin:end]
    )


def _first(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Where two that are not equal differ first."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def notes(
    server: Server, template: Template, tokenizer: Tokenizer, rows: Sequence[Compared], left_out: Sequence[str]
) -> Iterator[str]:
    """What a user should know beside the comparison."""
    yield from left_out
    prompts = [row.prompt for row in rows]
    if num := prompts.count(Match.ONE_PIECE):
        yield Message(
            "{num} dialogues: the server tokenises a past answer together with what stands around it, "
            "training apart; no server that takes text can do otherwise, and single questions are not "
            "touched",
            num=num,
        )
    if prompts.count(Match.SAME_NUMBER) and server.kind == "openai":
        yield Message("the server tells how many tokens a prompt has, not which")
    if Match.DIFFERS in prompts and isinstance(server, Ollama) and (given := server.template()) is not None:
        from yangtuo.model.prompt_texts import modelfile_of

        try:
            is_ours = f'TEMPLATE """{given}"""' in modelfile_of(template, tokenizer, "m")
        except DataError as error:
            yield error.text
        else:
            if not is_ours:
                yield Message(
                    "the model on the server has another TEMPLATE than the Modelfile of this folder; create it again"
                )
    if Match.DIFFERS not in prompts and any(row.answer is Match.DIFFERS for row in rows):
        yield Message(
            "the prompts are right and answers differ: other weights, a quantisation, another dtype, or "
            "near ties that rounding decides"
        )
