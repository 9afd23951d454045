"""Prompt templates: the text around the turns of a dialogue. One implementation for training, evaluation and chat.

A template is four frames around what people say:

    opening  user  after_user  ANSWER  end   between  user  after_user  ANSWER  end   ...

Frames are the template's own: control tokens that it names become control ids in them, and there alone. `opening` has
the system prompt in it, where there is one.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import yaml

from yangtuo.config.unique_keys import UniqueKeys, unique
from yangtuo.data.records import Turn
from yangtuo.data.thinking import with_thought
from yangtuo.errors import DataError, one_line
from yangtuo.i18n import Message


class Piece(NamedTuple):
    """Text of a prompt; `is_frame` where it is the template's own."""

    text: str
    is_frame: bool


class Exchange(NamedTuple):
    """What one user turn and its answer become.

    Attributes:
        before: what stands before the user's words.
        user: the user's words, the part that may be shortened.
        after: frame from there to where the model begins to write.
        empty_thought: block without a thought that the template puts before the answer; read, without a loss.
        lead: frame that the model writes itself before the answer; mostly "".
        answer: what is said.
        end: control token that ends it; None for the tokenizer's end token.
        trained: whether the answer carries a loss.
        weight: of each of its tokens.
    """

    before: tuple[Piece, ...]
    user: str
    after: str
    empty_thought: str
    lead: tuple[Piece, ...]
    answer: str
    end: str | None
    trained: bool
    weight: float


class Rendered(NamedTuple):
    """An example: exchanges in the template's frames, and the turns that they were made of.

    The turns are those of the row up to the last answer that is trained here; the others that carry a loss in an
    example of their own are context.
    """

    turns: tuple[Turn, ...]
    exchanges: list[Exchange]


class Template(Protocol):
    """Renders dialogues."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Control tokens that the frames need in the vocabulary."""
        ...

    @property
    def end(self) -> str | None:
        """The control token that ends an answer; None for the tokenizer's end token."""
        ...

    @property
    def kwargs_used(self) -> frozenset[str]:
        """Names of `chat_template_kwargs` that it uses."""
        ...

    def identity(self) -> str:
        """Everything that decides what is rendered, as text; for keys and fingerprints."""
        ...

    def takes_empty_system(self) -> bool:
        """Whether a dialogue may begin with an empty system prompt, which asks for none."""
        ...

    @property
    def writes_bos(self) -> bool:
        """Whether the BOS is the template's matter; else the tokenizer's rule decides."""
        ...

    def render(
        self, turns: Sequence[Turn], tools: Sequence[Any] = (), more: Mapping[str, Any] | None = None
    ) -> list[Rendered]:
        """The dialogue in the template's frames, as one example or several.

        Args:
            turns: see `records.Record`.
            tools: that the model may call.
            more: `template_kwargs` of this dialogue alone.

        Raises:
            TemplateFault: this dialogue cannot be rendered.
        """
        ...

    def prompt_of(self, turns: Sequence[Turn], tools: Sequence[Any] = ()) -> list[Exchange]:
        """What the model is shown before it answers the last turn; the last exchange has an empty answer.

        Raises:
            TemplateFault: this dialogue cannot be rendered.
        """
        ...


class TemplateFault(DataError):
    """A template cannot render a dialogue; the row is dropped with this as its reason."""


@dataclass(frozen=True)
class FrameTemplate:
    """A template made of frames, see above.

    Attributes:
        name: for messages.
        opening: before the first user turn where there is a system prompt, with {system} in its place.
        opening_without_system: the same without one.
        after_user: between a user turn and the answer.
        between: after an answer's end, before the next user turn.
        end: control token that ends an answer; None for the tokenizer's end token.
        default_system: system prompt of rows without one; None or "" for none.
        control_tokens: which parts of the frames are control tokens.
    """

    name: str
    opening: str
    opening_without_system: str
    after_user: str
    between: str
    end: str | None = None
    default_system: str | None = None
    control_tokens: tuple[str, ...] = ()

    def identity(self) -> str:
        """All frames."""
        return repr(asdict(self))

    @property
    def kwargs_used(self) -> frozenset[str]:
        """None: it refuses a row that has any."""
        return frozenset()

    def takes_empty_system(self) -> bool:
        """It does; `opening_without_system` is for it."""
        return True

    @property
    def writes_bos(self) -> bool:
        """It does not: a BOS is the tokenizer's matter."""
        return False

    def render(
        self, turns: Sequence[Turn], tools: Sequence[Any] = (), more: Mapping[str, Any] | None = None
    ) -> list[Rendered]:
        """The dialogue in the frames. They know no thoughts, which stand in the answers."""
        if more:
            raise TemplateFault(
                Message("the template {name} takes no chat_template_kwargs; --template tokenizer does", name=self.name)
            )
        has_system = turns[0].role == "system"
        spoken = turns[1:] if has_system else turns
        exchanges = []
        before = self._opening(turns[0].text) if has_system else self._usual_opening
        for user, answer in zip(spoken[::2], spoken[1::2], strict=True):
            said = answer.text
            if tools or answer.more:
                if tools or "tool_calls" in (answer.more or ()):
                    raise TemplateFault(
                        Message(
                            "the template {name} has no place for tools; --template tokenizer uses the tokenizer's",
                            name=self.name,
                        )
                    )
                said = with_thought(answer)
            exchanges.append(
                Exchange(before, user.text, self.after_user, "", (), said, self.end, answer.trained, answer.weight)
            )
            before = (Piece(self.between, is_frame=True),)
        return [Rendered(tuple(turns), exchanges)]

    def prompt_of(self, turns: Sequence[Turn], tools: Sequence[Any] = ()) -> list[Exchange]:
        """See `Template`."""
        return self.render([*turns, Turn("assistant", "", trained=False)], tools)[0].exchanges

    def prompt(self, user: str) -> str:
        """The text that the model reads before its first answer."""
        return f"{''.join(piece.text for piece in self._opening(self.default_system))}{user}{self.after_user}"

    @functools.cached_property
    def _usual_opening(self) -> tuple[Piece, ...]:
        return self._opening(self.default_system)

    def _opening(self, system: str | None) -> tuple[Piece, ...]:
        if not system:
            return (Piece(self.opening_without_system, is_frame=True),)
        before, _, after = self.opening.partition("{system}")
        return Piece(before, is_frame=True), Piece(system, is_frame=False), Piece(after, is_frame=True)


# Source: scripts/training/build_dataset.py of ymcui/Chinese-LLaMA-Alpaca, v5. The blank at the very end belongs to it.
# The original has no dialogues: a further turn follows the end token and two line breaks, without the first sentence.
ALPACA_ZH = FrameTemplate(
    name="alpaca_zh",
    opening="{system}\n\n### Instruction:\n",
    opening_without_system="### Instruction:\n",
    after_user="\n\n### Response: ",
    between="\n\n### Instruction:\n",
    default_system=(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    ),
)

# Source: scripts/training/build_dataset.py (first turn) and scripts/inference/gradio_demo.py (further turns) of
# ymcui/Chinese-LLaMA-Alpaca-2.
ALPACA_ZH_2 = FrameTemplate(
    name="alpaca_zh_2",
    opening="[INST] <<SYS>>\n{system}\n<</SYS>>\n\n",
    opening_without_system="[INST] ",
    after_user=" [/INST]",
    between="<s>[INST] ",
    default_system="You are a helpful assistant. 你是一个乐于助人的助手。",
    control_tokens=("<s>",),
)

# Source: model card of Meta-Llama-3-8B-Instruct, "Prompt format".
LLAMA3 = FrameTemplate(
    name="llama3",
    opening=(
        "<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    ),
    opening_without_system="<|start_header_id|>user<|end_header_id|>\n\n",
    after_user="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    between="<|start_header_id|>user<|end_header_id|>\n\n",
    end="<|eot_id|>",
    control_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)

# Source: chatml.md of openai/openai-python, v0.27; as Qwen and SmolLM2 use it.
CHATML = FrameTemplate(
    name="chatml",
    opening="<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n",
    opening_without_system="<|im_start|>user\n",
    after_user="<|im_end|>\n<|im_start|>assistant\n",
    between="\n<|im_start|>user\n",
    end="<|im_end|>",
    control_tokens=("<|im_start|>", "<|im_end|>"),
)

TEMPLATES = {template.name: template for template in (ALPACA_ZH, ALPACA_ZH_2, LLAMA3, CHATML)}

_FIELDS = {
    "name": Message("a text"),
    "opening": Message("a text with {{system}} in it"),
    "opening_without_system": Message("a text"),
    "after_user": Message("a text"),
    "between": Message("a text"),
    "end": Message("a control token, or leave it out for the tokenizer's end token"),
    "default_system": Message("a text, or leave it out"),
    "control_tokens": Message("a list of texts"),
}
_NEEDED = ("opening", "after_user", "between")


def read_template(path: Path) -> FrameTemplate:
    """A user's own template: a YAML or JSON file with the attributes of `FrameTemplate`.

    Raises:
        DataError: everything that is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # YAML reads most JSON, but no tabs, and astral characters written as two escapes wrongly.
        content = json.loads(text, object_pairs_hook=unique) if path.suffix == ".json" else yaml.load(text, UniqueKeys)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError("--template {path}: cannot be read: {error}", path=path, error=one_line(error, 200)) from error
    if not isinstance(content, dict):
        raise DataError(
            "--template {path}: expected keys and texts; the keys are {fields}", path=path, fields=", ".join(_FIELDS)
        )
    problems: list[str] = [
        Message("unknown key {key!r}; the keys are {fields}", key=key, fields=", ".join(_FIELDS))
        for key in content
        if key not in _FIELDS
    ]
    problems += [
        Message("no {key!r}; expected {fields}", key=key, fields=_FIELDS[key]) for key in _NEEDED if key not in content
    ]
    for key, value in content.items():
        texts = value if key == "control_tokens" and isinstance(value, list) else [value]
        fits = isinstance(value, list) == (key == "control_tokens") and all(isinstance(one, str) for one in texts)
        if key in _FIELDS and not fits:
            problems.append(
                Message("{key!r} is {value!r}; expected {fields}", key=key, value=value, fields=_FIELDS[key])
            )
        elif key in ("end", "control_tokens") and "" in texts:
            problems.append(Message("{key!r} has an empty text; expected {fields}", key=key, fields=_FIELDS[key]))
    if not problems:
        problems += _contradictions(content)
    if problems:
        raise DataError.of_problems(f"--template {path}", problems)
    tokens = tuple(content.pop("control_tokens", ()))
    without = content["opening"].partition("{system}")[2].lstrip()
    return FrameTemplate(**{"name": path.name, "opening_without_system": without, **content}, control_tokens=tokens)


def _contradictions(content: dict[str, Any]) -> Iterator[str]:
    opening, end = content["opening"], content.get("end")
    if opening.count("{system}") != 1:
        yield Message("'opening' has {count} times {{system}}; expected it once", count=opening.count("{system}"))
    elif not opening.startswith("{system}") and "opening_without_system" not in content:
        yield Message("no 'opening_without_system'; expected a text, since 'opening' has text before the system prompt")
    if end and end not in content.get("control_tokens", ()):
        yield Message("'end' is {end!r}, which 'control_tokens' does not list", end=end)
