"""Load a model once, and ask it in the template that it was trained with."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yangtuo.api.arguments import Option, one_of, options_of
from yangtuo.api.process import as_library
from yangtuo.config.choices import Hub
from yangtuo.config.json_values import object_of
from yangtuo.config.schema import LoraArguments, ModelArguments
from yangtuo.errors import UsageError
from yangtuo.i18n import Message
from yangtuo.inference import places

if TYPE_CHECKING:
    from yangtuo.inference.dialogue import ChatSession
    from yangtuo.inference.generate import Answer, Sampling

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS, SEED = 512, 42
_LEAST_TEMPERATURE = 0.01
_DRAWING = ("top_p", "seed")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model is asked, and how it is loaded, by the names of the command line; see `yangtuo chat --help`.

    Attributes:
        model_name_or_path: base model; None for the one that the adapter names.
        tokenizer_name_or_path: None for the one that travels with the adapter, else the base's.
        template: name or file; None for the one that travels with the model, else by the tokenizer.
        chat_template_kwargs: JSON; None for those of the training.
        torch_dtype: auto (as stored), float32, bfloat16 or float16.
        use_cpu: whether an accelerator is left alone.
        cache_dir: where hub models are kept; None for the hub's own cache.
        hub: a word of `Hub`.
        trust_remote_code: whether Python code that comes with the model is run.
        force_base: whether an adapter is taken though it was trained on another base.
        allow_partial_adapter: whether what fits is taken of an adapter that is not whole.
    """

    model_name_or_path: str | None = None
    tokenizer_name_or_path: str | None = None
    template: str | None = None
    chat_template_kwargs: str | None = None
    torch_dtype: str | None = None
    use_cpu: bool = False
    cache_dir: str | None = None
    hub: str = Hub.AUTO
    trust_remote_code: bool = False
    force_base: bool = False
    allow_partial_adapter: bool = False

    @property
    def model(self) -> ModelArguments:
        """What they say of the base."""
        return ModelArguments(
            model_name_or_path=self.model_name_or_path,
            tokenizer_name_or_path=self.tokenizer_name_or_path,
            torch_dtype=self.torch_dtype,
            hub=Hub(self.hub),
            cache_dir=self.cache_dir,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def lora(self) -> LoraArguments:
        """What they say of the adapter."""
        return LoraArguments(force_base=self.force_base, allow_partial_adapter=self.allow_partial_adapter)


@dataclass(frozen=True, kw_only=True)
class ChatOptions(ModelOptions):
    """Which model is asked, and how it answers.

    Attributes:
        target: folder of an adapter, of a run, of a merged model or a base; also a hub name.
        peft_path: the adapter, instead of `target`.
        system_prompt: "" for none, None for the template's.
        max_new_tokens: of an answer; None for 512, or half of what the model has room for.
        temperature: 0 for the likeliest token. None, here and below: as generation_config.json says, else greedy.
        top_p: share of the likeliest tokens to draw from.
        repetition_penalty: above 1 for fewer repetitions.
        seed: of the draws; None for 42.
        compare: whether the base is asked too.
    """

    target: str | None = None
    peft_path: str | None = None
    system_prompt: str | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    compare: bool = False


class Chat:
    """A model that answers; `load` makes it.

    Attributes:
        base: its base alone, in the same memory, asked in the same way; None where there is none beside it.
    """

    def __init__(self, session: "ChatSession", base: "Chat | None", in_use: list[object]):
        self.base = base
        self._session, self._in_use = session, in_use  # shared with the base: one model's weights serve both

    def ask(self, question: str, *, multi_turn: bool = False) -> "Answer":
        """The answer, whole; `.text` is what was said.

        Args:
            question: of the user.
            multi_turn: go on with the dialogue so far; without, the question is a dialogue of its own.

        Raises:
            DataError: the template cannot render it, or it is too long.
            RunFailure: the model computes no numbers.
            UsageError: an answer of `stream` has not ended yet.
        """
        self._begin(question, multi_turn=multi_turn)
        with as_library():
            return self._session.ask(question, lambda _: None)

    def stream(self, question: str, *, multi_turn: bool = False) -> Iterator[str]:
        """The answer's text as it is being written, in whole characters; see `ask`.

        Read it to its end, or close it, before the next question: an iterator that was begun holds the model.
        """
        self._begin(question, multi_turn=multi_turn)
        self._in_use.append(self)
        try:
            yield from self._session.stream(question)
        finally:
            self._in_use.clear()

    def clear(self) -> None:
        """Forget the dialogue, and draw as at the start."""
        self._session.start_over()

    def _begin(self, question: str, *, multi_turn: bool) -> None:
        if not question.strip():
            raise UsageError("the question is empty")
        if self._in_use:
            raise UsageError("an answer is still being streamed; read it to its end, or close it first")
        if not multi_turn:
            self.clear()


def load(target: Option = None, **options: Option) -> Chat:
    """A model to be asked, loaded as training had it: same rows, dtypes, tokenizer and template.

    Args:
        target: folder of an adapter, of a run, of a merged model or a base; also a hub name.
        options: see `ChatOptions`. An adapter's base is always there as `.base`; `compare` is for a merged model,
            whose base `model_name_or_path` names.

    Raises:
        UserError: a part cannot be used, or does not fit the others.
        OutOfMemoryError: it does not fit into memory.
    """
    chosen = options_of(ChatOptions, "yangtuo.load", {"target": target, **options})
    one_of("yangtuo.load", "hub", chosen.hub, [str(hub) for hub in Hub])
    found = find(chosen)
    if found.adapter:
        chosen = replace(chosen, compare=True)
    with as_library():
        *base, session = open_sessions(chosen, found)
    in_use: list[object] = []
    return Chat(session, Chat(base[0], None, in_use) if base else None, in_use)


# ---- what the command line calls too


def check_sampling(options: Any) -> None:
    """Refuse numbers that say nothing.

    Raises:
        UsageError: the first of them.
    """
    limits: dict[str, tuple[Callable[[Any], bool], str]] = {
        "max_new_tokens": (lambda value: value >= 1, Message("at least 1")),
        "temperature": (
            lambda value: value == 0 or value >= _LEAST_TEMPERATURE,
            Message("0, or from {least_temperature} up", least_temperature=_LEAST_TEMPERATURE),
        ),
        "top_p": (lambda value: 0 < value <= 1, Message("above 0, at most 1")),
        "repetition_penalty": (lambda value: value > 0, Message("above 0; 1 for no penalty")),
    }
    for name, (fits, allowed) in limits.items():
        if (value := getattr(options, name)) is not None and not fits(value):
            raise UsageError("--{name} {value}: allowed: {allowed}", name=name, value=value, allowed=allowed)


@dataclass(frozen=True)
class Found:
    """Where a model lies, and its base where that is another folder to compare a merged model with."""

    places: places.Places
    base_folder: Path | None

    @property
    def adapter(self) -> Path | None:
        """The adapter's folder; None without one."""
        return self.places.adapter


def find(options: ChatOptions) -> Found:
    """Where the model lies; loads no torch, so that a wrong path is refused at once.

    Raises:
        UserError: nothing was named, or it is not there, or the options contradict each other.
    """
    check_sampling(options)
    if options.target is None and options.peft_path is None and options.model_name_or_path is None:
        raise UsageError("name the folder of an adapter, of a run or of a model")
    model = options.model
    adapter = places.find_adapter(options.target, options.peft_path)
    if adapter:
        return Found(places.places_of_adapter(adapter, model), None)
    base = _base_to_compare(options)
    named = options.target or options.model_name_or_path
    assert named is not None
    return Found(places.Places(places.model_folder(named, model), None), base)


def _base_to_compare(options: ChatOptions) -> Path | None:
    """The folder of the base of a merged model; None where nothing is compared."""
    both_named = options.target is not None and options.model_name_or_path is not None
    if options.compare and not both_named:
        named = options.target or options.model_name_or_path
        raise UsageError(
            "--compare: {named} is a model without an adapter beside it; give the merged model as FOLDER and its base "
            "as --model_name_or_path",
            named=named,
        )
    if not both_named:
        return None
    assert options.model_name_or_path is not None
    if not options.compare:
        raise UsageError(
            "{target} is a model, not an adapter; --model_name_or_path {model_name_or_path} beside it is for "
            "--compare alone, as the base of a merged model",
            target=options.target,
            model_name_or_path=options.model_name_or_path,
        )
    return places.model_folder(options.model_name_or_path, replace(options.model, tokenizer_name_or_path=None))


def open_sessions(options: ChatOptions, found: Found) -> list["ChatSession"]:
    """The base, where it is to be compared with, and the model.

    Raises:
        UserError: a part cannot be used, or does not fit the others.
    """
    from yangtuo.data.template_choice import KEEPS_OWN_SYSTEM, keeps_own_system
    from yangtuo.inference import load as loading
    from yangtuo.inference.dialogue import ChatSession
    from yangtuo.inference.generate import Generator
    from yangtuo.model.processor import detect_hardware

    kwargs, hardware = object_of("chat_template_kwargs", options.chat_template_kwargs), detect_hardware(options.use_cpu)
    opened = loading.open_model(found.places, options.model, options.template, hardware, options.lora, kwargs)
    models = {"tuned" if found.adapter or found.base_folder else "model": opened.loaded}
    if found.base_folder:
        models = {"base": loading.open_base(found.base_folder, options.model, opened, hardware), **models}
    elif options.compare:
        assert opened.loaded_base is not None
        models = {"base": opened.loaded_base, **models}
    if options.system_prompt == "" and keeps_own_system(opened.template):
        logger.warning('--system_prompt "": %s', KEEPS_OWN_SYSTEM)
    num_positions = opened.num_positions
    max_new_tokens = _max_new_tokens(options.max_new_tokens, num_positions)
    sampling = _sampling(options, found.places, max_new_tokens)
    room = None if num_positions is None else num_positions - max_new_tokens
    return [
        ChatSession(name, Generator(loaded, opened.template, sampling), opened.template, room, options.system_prompt)
        for name, loaded in models.items()
    ]


def _sampling(options: ChatOptions, found: places.Places, max_new_tokens: int) -> "Sampling":
    from yangtuo.inference.generate import sampling_of

    asked = {name: getattr(options, name) for name in ("temperature", "top_p", "repetition_penalty")}
    given = {name: value for name, value in asked.items() if value is not None}
    folders: Sequence[Path] = [folder for folder in (found.adapter, found.base) if folder]
    sampling = sampling_of(folders, max_new_tokens, given, seed=SEED if options.seed is None else options.seed)
    for name in _DRAWING if sampling.temperature == 0 else ():
        if getattr(options, name) is not None:
            logger.warning("--%s has no effect: nothing is drawn, see --temperature", name)
    return sampling


def _max_new_tokens(asked: int | None, num_positions: int | None) -> int:
    if num_positions is None:
        return asked or MAX_NEW_TOKENS
    if asked is None:
        return max(1, min(MAX_NEW_TOKENS, num_positions // 2))
    if asked >= num_positions:
        raise UsageError(
            "--max_new_tokens {asked}: the model has room for {num_positions} tokens, prompt included",
            asked=asked,
            num_positions=num_positions,
        )
    return asked
