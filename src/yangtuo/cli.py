"""The command line: sub-commands, and what becomes of an error. Heavy imports happen inside a command."""

import argparse
import difflib
import importlib
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from yangtuo import __version__, reporting
from yangtuo.errors import StoppedError, UsageError, YangtuoError

_PATIENCE_S = 5.0  # a launcher ends the others of a failed run within about one

_HELP = """usage: yangtuo VERB [options]

Instruction-tunes Chinese LLaMA-family models with LoRA (羊驼).

  train     train a LoRA, or continue one with --peft_path
  check     what a run would train on: counts, lengths, losses, faults, verdict; loads no weights
  preview   rows as the model sees them: prompt, trained tokens, end token, in colour or as a page
  chat      talk to a model, or ask it, in the template that it was trained with; also base and tuned side by side
  merge     put adapters into their base, and prove that the result is the same model
  export    merge, and write what Ollama, vLLM and llama.cpp need to ask as training did
  check-deploy  compare a running server with training: the ids of prompts, greedy answers
  vocab     merge a vocabulary into LLaMA's, grow a model to fit, train one, measure
  encode    write the token ids and labels that training sees, as JSON lines
  cache     list or clear the encoded rows that are kept on this machine
  demo      a real model, real Chinese data, minutes on two processor cores

yangtuo VERB --help lists a verb's options; --version prints the version.
A file of options can be given first: yangtuo train run.yaml --learning_rate 1e-4"""


class _Parser(argparse.ArgumentParser):
    """argparse that raises our error, one line, instead of printing how it is used."""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--\w+)", message)
        near = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1) if unknown else []
        hint = f"did you mean {near[0]}?" if near else f"{self.prog} --help lists the options"
        raise UsageError(f"{self.prog}: {message}; {hint}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 the run failed, 2 something that the user gave."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_HELP)  # noqa: T201  # the answer to --help belongs on standard output
        return 0
    if words[0] == "--version":
        print(f"yangtuo {__version__}")  # noqa: T201
        return 0
    reporting.set_up()
    if words[0] not in _LIKE_TRAIN and words[0] not in _OF_THEIR_OWN:
        return _fail(f"unknown verb {words[0]!r}; yangtuo --help lists them", 2)
    try:
        _run(words[0], words[1:])
    except YangtuoError as error:
        if isinstance(error, StoppedError) and _rank() != "0":
            return error.exit_code  # rank 0 tells that all have stopped
        _let_others_speak_first(error)
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of standard output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C; a run goes on from its last checkpoint with the same command", 130)
    return 0


def _let_others_speak_first(error: YangtuoError) -> None:
    """Wait where another process may have the same to say, and longer where it has the cause.

    The launcher, which ends all when one has ended, mostly ends this one meanwhile.
    """
    if _is_one_of_many():
        time.sleep(2 * _PATIENCE_S if error.is_second_hand else _PATIENCE_S if _rank() != "0" else 0)


def _is_one_of_many() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _rank() -> str:
    return os.environ.get("RANK", "0")


def _fail(message: str, code: int) -> int:
    where = f" [rank {_rank()} on {socket.gethostname()}]" if _is_one_of_many() else ""
    sys.stderr.write(f"error{where}: {message}\n")
    return code


def _run(verb: str, argv: list[str]) -> None:
    if verb in _LIKE_TRAIN:
        _LIKE_TRAIN[verb](argv)
        return
    module = importlib.import_module(_OF_THEIR_OWN[verb])
    parser = _Parser(f"yangtuo {verb}", description=module.__doc__)
    module.add_options(parser)
    options = parser.parse_args(argv)
    if verb in _LOAD_MODELS:
        reporting.quiet_libraries()
    module.run(options)


def _train(argv: list[str]) -> None:
    from yangtuo.parsing import build_parser, parse

    settings, _ = parse(argv, build_parser("yangtuo train"))
    from yangtuo import run

    reporting.quiet_libraries()
    run.train(settings)


def _check(argv: list[str]) -> None:
    from yangtuo import check
    from yangtuo.parsing import build_parser, parse

    settings, own = parse(argv, build_parser("yangtuo check", check.add_options, explains_training=False))
    check.run(settings, as_json=own.json)


def _preview(argv: list[str]) -> None:
    from yangtuo import preview
    from yangtuo.parsing import build_parser, parse

    settings, own = parse(argv, build_parser("yangtuo preview", preview.add_options, explains_training=False))
    preview.run(settings, own)


def _encode(argv: list[str]) -> None:
    from yangtuo.encode import add_options, write
    from yangtuo.parsing import build_parser, parse

    settings, own = parse(argv, build_parser("yangtuo encode", add_options, explains_training=False))
    write(settings, own.out)


_LIKE_TRAIN: dict[str, Callable[[list[str]], None]] = {  # verbs that take every option of a run
    "train": _train,
    "check": _check,
    "preview": _preview,
    "encode": _encode,
}
_OF_THEIR_OWN = {  # modules with `add_options` and `run`, imported when their verb is given
    "chat": "yangtuo.chat",
    "merge": "yangtuo.export.merge_verb",
    "export": "yangtuo.export.export_verb",
    "check-deploy": "yangtuo.check_deploy",
    "vocab": "yangtuo.vocab",
    "cache": "yangtuo.cache",
    "demo": "yangtuo.demo",
}
_LOAD_MODELS = ("chat", "merge", "export")  # whose libraries have to be told to be quiet
