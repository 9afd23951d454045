"""The command line: sub-commands, and what becomes of an error. Heavy imports happen inside a command."""

import atexit
import contextlib
import importlib
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from yangtuo import __version__, i18n, logs, output
from yangtuo.api.process import memory_is_full, set_environment
from yangtuo.cli.allocator import restart_without_thread_cache
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.words import Parser, did_you_mean
from yangtuo.errors import StoppedError, UsageError, YangtuoError, is_out_of_memory
from yangtuo.i18n import Message, tr

_PATIENCE_S = 5.0  # a launcher ends the others of a failed run within about one

_HELP = """usage: yangtuo VERB [options]

Instruction-tunes Chinese LLaMA-family models with LoRA (羊驼).

  train     train a LoRA, or continue one with --peft_path
  check     what a run would train on: counts, lengths, losses, faults, verdict; loads no weights
  preview   rows as the model sees them: prompt, trained tokens, end token, in colour or as a page
  chat      talk to a model, or ask it, in the template that it was trained with; also base and tuned side by side
  generate  answer the prompts of a file, many at once, into a file
  eval      measure models on own rows, general ability, multiple choice; --compare: better, or broken?
  merge     put adapters into their base, and prove that the result is the same model
  export    merge, and write what Ollama, vLLM and llama.cpp need to ask as training did
  check-deploy  compare a running server with training: the ids of prompts, greedy answers
  vocab     merge a vocabulary into LLaMA's, grow a model to fit, train one, measure
  report    a run as one page: verdict, proof, curves, data, options; several runs beside each other
  encode    write the token ids and labels that training sees, as JSON lines
  doctor    can this machine train: versions, GPUs, disk, limits, environment, each with its remedy
  cache     list or clear the encoded rows that are kept on this machine
  demo      a real model, real Chinese data, minutes on two processor cores

yangtuo VERB --help lists a verb's options; --version prints the version. --lang auto|zh|en chooses the language.
A file of options can be given first: yangtuo train run.yaml --learning_rate 1e-4"""


def program(*words: str) -> NoReturn:
    """Run the command of this process's arguments, after `words`, and end the process with its exit code."""
    restart_without_thread_cache([*words, *sys.argv[1:]])
    codes = [1]  # as of an error that is not caught
    atexit.register(_end_among_processes, codes)  # first registered, last called
    try:
        codes[0] = main([*words, *sys.argv[1:]])
    except SystemExit as error:
        codes[0] = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    sys.exit(codes[0])


def _end_among_processes(codes: list[int]) -> None:
    """Leave without the interpreter's own end, where processes have met.

    The threads of torch's network code may still let go of a tensor then. Python before 3.14 ends such a thread where
    it asks for the interpreter, which C++ answers by ending the process with SIGABRT: on a busy machine a run that had
    done all it should was said to have failed.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(codes[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 the run failed, 2 something that the user gave."""
    logs.prepare()
    set_environment()
    asked, words = i18n.taken_from(list(sys.argv[1:] if argv is None else argv))
    i18n.use(asked if asked in i18n.LANGUAGES else i18n.of_machine())
    if wrong := _wrong_numbers():
        sys.stderr.write(f"{tr('error{where}: {message}').format(where='', message=wrong)}\n")  # of which process?
        return UsageError.exit_code
    code = _outcome(words) if asked in (None, "auto", *i18n.LANGUAGES) else _unknown_language(asked)
    try:
        sys.stdout.flush()
    except OSError as error:
        failed = _of_output(error)
        return code or failed
    return code


def _outcome(words: list[str]) -> int:
    try:
        return _answer(words)
    except YangtuoError as error:
        if isinstance(error, StoppedError) and logs.rank() != 0:
            return error.exit_code  # rank 0 tells that all have stopped
        _let_others_speak_first(error)
        return _fail(error.text, error.exit_code)
    except KeyboardInterrupt:
        return _fail(Message("stopped by Ctrl-C; a run goes on from its last checkpoint with the same command"), 130)
    except BrokenPipeError as error:
        return _of_output(error)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise  # a bug of ours
        return _fail(memory_is_full(error).text, 1)
    except OSError as error:
        if error.errno not in output.OF_DISKS:
            raise  # a bug of ours
        if error.filename is None and not logs.can_write():
            return _of_output(error)
        return _fail(
            Message(
                "{filename}: cannot be written: {reason}",
                filename=error.filename or Message("a file"),
                reason=output.reason(error),
            ),
            1,
        )


def _wrong_numbers() -> str:
    """What is wrong with the variables of a launcher, which everything goes by; "" for nothing."""
    values = {name: os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    wrong = ", ".join(f"{name}={value}" for name, value in values.items() if not re.fullmatch("[0-9]+", value))
    if not wrong:
        return ""
    told = tr("{wrong} in the environment: torchrun sets these to whole numbers; unset them to work with one process")
    return told.format(wrong=wrong)


def _unknown_language(asked: str) -> int:
    return _fail(Message("--lang {asked}: give auto, zh or en", asked=asked or '""'), UsageError.exit_code)


def _answer(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(tr(_HELP))  # noqa: T201  # the answer to --help belongs on standard output
    elif words[0] == "--version":
        print(f"yangtuo {__version__}")  # noqa: T201
    else:
        logs.set_up()
        _run(words[0], words[1:])
    return 0


def _of_output(error: OSError) -> int:
    logs.mute(sys.stdout)
    if isinstance(error, BrokenPipeError):  # the reader has left, as `head` does
        return 141
    return _fail(Message("standard output: cannot be written: {reason}", reason=output.reason(error)), 1)


def _let_others_speak_first(error: YangtuoError) -> None:
    """Wait where another process may have the same to say, and longer where it has the cause.

    The launcher, which ends all when one has ended, mostly ends this one meanwhile.
    """
    if logs.world_size() > 1:
        time.sleep(2 * _PATIENCE_S if error.is_second_hand else _PATIENCE_S if logs.rank() != 0 else 0)


def _fail(message: str, code: int) -> int:
    where = f" [rank {logs.rank()} on {socket.gethostname()}]" if logs.world_size() > 1 else ""
    with logs.lasting():
        sys.stderr.write(f"{tr('error{where}: {message}').format(where=where, message=tr(message))}\n")
    return code


def _run(verb: str, argv: list[str]) -> None:
    if verb not in VERBS:
        known = (*VERBS, "--help", "--version")
        raise UsageError(
            "unknown verb {verb!r}; {hint}",
            verb=verb,
            hint=did_you_mean(verb, known, Message("yangtuo --help lists them")),
        )
    module, name = module_of(verb), f"yangtuo {verb}"
    asked: tuple[Any, ...]
    if verb in OF_A_RUN:
        asked = parse(argv, build_parser(name, module.add_options, module.__doc__))
    else:
        parser = Parser(name, description=module.__doc__)
        module.add_options(parser)
        asked = (parser.parse_args(argv),)
    module.run(*asked)


def module_of(verb: str) -> Any:
    """Its module, with `add_options` and `run`; imported when the verb is given."""
    return importlib.import_module(f"yangtuo.cli.{verb.replace('-', '_')}")


OF_A_RUN = ("train", "check", "preview", "encode")  # take every option of a run, and their `run` its settings
VERBS = (
    *(*OF_A_RUN, "chat", "generate", "eval", "report", "merge", "export", "check-deploy", "vocab", "doctor", "cache"),
    "demo",
)
