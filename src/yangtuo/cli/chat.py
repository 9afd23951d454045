"""Talk to a model in the template that it was trained with: an adapter on its base, a merged model, or a base.

At a terminal it is a dialogue, /help lists its commands. With --ask, or with questions on a pipe (one a line), every
question is a dialogue of its own and the answers are plain text or, with --json, an object a line.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from yangtuo import logs
from yangtuo.api.chat import MAX_NEW_TOKENS, SEED, ChatOptions, find, open_sessions
from yangtuo.cli.model_options import add_model_options
from yangtuo.errors import DataError, OutOfMemoryError, StoppedError, UsageError, is_out_of_memory

if TYPE_CHECKING:
    from yangtuo.inference.dialogue import ChatSession

logger = logging.getLogger(__name__)


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
        help=f"Longest answer. Default: {MAX_NEW_TOKENS}, or half of what the model has room for.",
    )
    as_served = "Default: as generation_config.json of adapter or model says, else"
    add("--temperature", type=float, help=f"0: always the likeliest token. {as_served} 0.")
    add("--top_p", type=float, help=f"Share of the likeliest tokens to draw from. {as_served} 1.")
    add("--repetition_penalty", type=float, help=f"Above 1: fewer repetitions. {as_served} 1, none.")
    add("--seed", type=int, help=f"Of the draws. Default: {SEED}.")
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
    if any(not question.strip() for question in options.ask or ()):
        raise UsageError("--ask: the question is empty")
    is_dialogue = options.ask is None and sys.stdin is not None and sys.stdin.isatty()
    if is_dialogue and (options.json or options.multi_turn):
        raise UsageError("--json and --multi_turn are for --ask or questions on a pipe, not for a terminal")
    try:
        sessions = _opened(options)
        if is_dialogue:
            from yangtuo.cli.chat_screen import Screen

            Screen(sessions).run()
        else:
            _answer_all(sessions, options)
    except KeyboardInterrupt:
        raise StoppedError("stopped by Ctrl-C", signal.SIGINT) from None


def _opened(options: argparse.Namespace) -> list["ChatSession"]:
    """The base, where it is to be compared with, and the model."""
    chosen = ChatOptions(**{field.name: getattr(options, field.name) for field in fields(ChatOptions)})
    found = find(chosen)
    logs.quiet_libraries()
    try:
        return open_sessions(chosen, found)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        told = str(error).splitlines()[0]
        raise OutOfMemoryError(
            "the model does not fit into the device's memory ({told}); --use_cpu computes on the processor", told=told
        ) from error


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
            raise DataError("standard input, line {number}: not UTF-8", number=number) from error
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
