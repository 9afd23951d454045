"""Talk to a model in the template that it was trained with: an adapter on its base, a merged model, or a base.

At a terminal it is a dialogue, /help lists its commands. With --ask, or with questions on a pipe (one a line), every
question is a dialogue of its own and the answers are plain text or, with --json, an object a line.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from yangtuo import logs
from yangtuo.cli.model_options import add_model_options, lora_arguments, model_arguments
from yangtuo.config.json_values import object_of
from yangtuo.config.schema import ModelArguments
from yangtuo.errors import DataError, OutOfMemoryError, StoppedError, UsageError, is_out_of_memory

if TYPE_CHECKING:
    from yangtuo.inference.dialogue import ChatSession
    from yangtuo.inference.generate import Sampling
    from yangtuo.inference.load import Places

logger = logging.getLogger(__name__)

_MAX_NEW_TOKENS = 512
_LEAST_TEMPERATURE = 0.01
_SEED = 42
_DRAWING = ("top_p", "seed")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add = parser.add_argument
    add(
        "target",
        nargs="?",
        metavar="FOLDER",
        help="An adapter, the output_dir of a run, a merged model or a base (also by hub name).",
    )
    add("--peft_path", help="The adapter, instead of FOLDER.")
    add("--system_prompt", help='System prompt; "" for none. Default: the template\'s, if any.')
    add(
        "--max_new_tokens",
        type=int,
        help=f"Longest answer. Default: {_MAX_NEW_TOKENS}, or half of what the model has room for.",
    )
    as_served = "Default: as generation_config.json of adapter or model says, else"
    add("--temperature", type=float, help=f"0: always the likeliest token. {as_served} 0.")
    add("--top_p", type=float, help=f"Share of the likeliest tokens to draw from. {as_served} 1.")
    add("--repetition_penalty", type=float, help=f"Above 1: fewer repetitions. {as_served} 1, none.")
    add("--seed", type=int, help=f"Of the draws. Default: {_SEED}.")
    add("--compare", action="store_true", help="Ask the base too, and show both. A merged model: name its base.")
    add("--ask", action="append", metavar="QUESTION", help="Ask this and end; may be given several times.")
    add("--multi_turn", action="store_true", help="Questions of --ask or a pipe follow each other in one dialogue.")
    add("--json", action="store_true", help="One JSON object a question.")
    add_model_options(parser)


def run(options: argparse.Namespace) -> None:
    """Open the model, and talk.

    Raises:
        UserError: something that was named cannot be used.
        StoppedError: Ctrl-C where no dialogue is going on.
    """
    _check(options)
    is_dialogue = options.ask is None and sys.stdin is not None and sys.stdin.isatty()
    if is_dialogue and (options.json or options.multi_turn):
        raise UsageError("--json and --multi_turn are for --ask or questions on a pipe, not for a terminal")
    try:
        sessions = _open(options)
        if is_dialogue:
            from yangtuo.cli.chat_screen import Screen

            Screen(sessions).run()
        else:
            _answer_all(sessions, options)
    except KeyboardInterrupt:
        raise StoppedError("stopped by Ctrl-C", signal.SIGINT) from None


def check_sampling(options: argparse.Namespace) -> None:
    """Refuse numbers that say nothing.

    Raises:
        UsageError: the first of them.
    """
    limits: dict[str, tuple[Callable[[Any], bool], str]] = {
        "max_new_tokens": (lambda value: value >= 1, "at least 1"),
        "temperature": (lambda value: value == 0 or value >= _LEAST_TEMPERATURE, f"0, or from {_LEAST_TEMPERATURE} up"),
        "top_p": (lambda value: 0 < value <= 1, "above 0, at most 1"),
        "repetition_penalty": (lambda value: value > 0, "above 0; 1 for none"),
    }
    for name, (fits, allowed) in limits.items():
        if (value := getattr(options, name)) is not None and not fits(value):
            raise UsageError(f"--{name} {value}: expected {allowed}")


def _check(options: argparse.Namespace) -> None:
    check_sampling(options)
    if any(not question.strip() for question in options.ask or ()):
        raise UsageError("--ask: the question is empty")
    if options.target is None and options.peft_path is None and options.model_name_or_path is None:
        raise UsageError("name the folder of an adapter, of a run or of a model")


def _open(options: argparse.Namespace) -> list["ChatSession"]:
    """The base, where it is to be compared with, and the model."""
    try:
        return _opened(options)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        told = str(error).splitlines()[0]
        raise OutOfMemoryError(f"the model does not fit into memory ({told}); --use_cpu computes without it") from error


def _opened(options: argparse.Namespace) -> list["ChatSession"]:
    from yangtuo.data.template_choice import KEEPS_OWN_SYSTEM, keeps_own_system
    from yangtuo.inference import load
    from yangtuo.inference.dialogue import ChatSession
    from yangtuo.inference.generate import Generator
    from yangtuo.model.base import detect_hardware
    from yangtuo.training.run_folder import ADAPTER_FOLDER

    model = model_arguments(options)
    adapter = load.find_adapter(options.target, options.peft_path, ADAPTER_FOLDER)
    base_folder = None
    if adapter:
        places = load.places_of_adapter(adapter, model)
    else:
        base_folder = _base_to_compare(options, model)
        places = load.Places(load.model_folder(options.target or options.model_name_or_path, model), None)
    kwargs = object_of("chat_template_kwargs", options.chat_template_kwargs)
    hardware = detect_hardware(options.use_cpu)
    opened = load.open_model(places, model, options.template, hardware, lora_arguments(options), kwargs)
    models = {"tuned" if adapter or base_folder else "model": opened.loaded}
    if base_folder:
        models = {"base": load.open_base(base_folder, model, opened, hardware), **models}
    elif options.compare:
        assert opened.loaded_base is not None
        models = {"base": opened.loaded_base, **models}
    if options.system_prompt == "" and keeps_own_system(opened.template):
        logger.warning('--system_prompt "": %s', KEEPS_OWN_SYSTEM)
    num_positions = opened.num_positions
    max_new_tokens = _max_new_tokens(options.max_new_tokens, num_positions)
    sampling = _sampling(options, places, max_new_tokens)
    room = None if num_positions is None else num_positions - max_new_tokens
    return [
        ChatSession(name, Generator(loaded, opened.template, sampling), opened.template, room, options.system_prompt)
        for name, loaded in models.items()
    ]


def _sampling(options: argparse.Namespace, places: "Places", max_new_tokens: int) -> "Sampling":
    from yangtuo.inference.generate import sampling_of

    asked = {name: getattr(options, name) for name in ("temperature", "top_p", "repetition_penalty")}
    given = {name: value for name, value in asked.items() if value is not None}
    folders = [folder for folder in (places.adapter, places.base) if folder]
    sampling = sampling_of(folders, max_new_tokens, given, seed=_SEED if options.seed is None else options.seed)
    for name in _DRAWING if sampling.temperature == 0 else ():
        if getattr(options, name) is not None:
            logger.warning("--%s has no effect: nothing is drawn, see --temperature", name)
    return sampling


def _base_to_compare(options: argparse.Namespace, model: ModelArguments) -> Any:
    """The folder of the base of a merged model; None where nothing is compared."""
    from yangtuo.inference.load import model_folder

    both_named = options.target is not None and options.model_name_or_path is not None
    if options.compare and not both_named:
        named = options.target or options.model_name_or_path
        raise UsageError(
            f"--compare: {named} is a model without an adapter beside it; give the merged model as FOLDER and its base "
            "as --model_name_or_path"
        )
    if both_named and not options.compare:
        raise UsageError(
            f"{options.target} is no adapter, so --model_name_or_path {options.model_name_or_path} is one model too "
            "many; with --compare it is the base of a merged model"
        )
    return model_folder(options.model_name_or_path, replace(model, tokenizer_name_or_path=None)) if both_named else None


def _max_new_tokens(asked: int | None, num_positions: int | None) -> int:
    if num_positions is None:
        return asked or _MAX_NEW_TOKENS
    if asked is None:
        return max(1, min(_MAX_NEW_TOKENS, num_positions // 2))
    if asked >= num_positions:
        raise UsageError(f"--max_new_tokens {asked}: the model has room for {num_positions} tokens, prompt included")
    return asked


# ---- without a dialogue


def _answer_all(sessions: Sequence["ChatSession"], options: argparse.Namespace) -> None:
    from yangtuo.inference.dialogue import LEFT_OUT

    num_questions, is_told = 0, False
    for question in options.ask if options.ask is not None else _piped():
        num_questions += 1
        for session in sessions:
            if not options.multi_turn:
                session.start_over()
        if options.json:
            logs.print_json(_as_object(question, sessions), indent=None)
        else:
            is_alone = options.ask is not None and len(options.ask) == 1
            _answer_plainly(question, sessions, is_alone=is_alone)
        if not is_told and any(session.dialogue.num_left_out for session in sessions):
            is_told = True
            logger.warning(LEFT_OUT)
    if not num_questions:
        raise UsageError("no question on standard input; give --ask, or talk at a terminal")


def _piped() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer if sys.stdin else (), 1):
        try:
            question = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"standard input, line {number}: not UTF-8") from error
        if question:
            yield question


def _as_object(question: str, sessions: Sequence["ChatSession"]) -> dict[str, Any]:
    """The model's answer; where the base was asked too, its own under "base"."""
    answers = {}
    for session in sessions:
        found = asdict(session.ask(question, lambda _: None))
        answers[session.name] = {"answer": found.pop("text"), **found, "seconds": round(found["seconds"], 3)}
    base = {"base": answers["base"]} if "base" in answers else {}
    return {"question": question, **answers[sessions[-1].name], **base}


def _answer_plainly(question: str, sessions: Sequence["ChatSession"], *, is_alone: bool) -> None:
    if not is_alone:
        _write(f"> {question}\n")
    for session in sessions:
        if len(sessions) > 1:
            _write(f"[{session.name}] ")
        session.ask(question, _write)
        _write("\n" if is_alone or session is not sessions[-1] else "\n\n")


def _write(text: str) -> None:
    from yangtuo.cli.chat_screen import visible

    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
