"""The command line: sub-commands, and what becomes of an error. Heavy imports happen inside a command."""

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

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

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; {self.prog} --help lists the options")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 the run failed, 2 something that the user gave."""
    words = list(sys.argv[1:] if argv is None else argv)
    verbs: dict[str, Callable[[list[str]], None]] = {
        "train": _train,
        "check": _check,
        "preview": _preview,
        "chat": _chat,
        "merge": _merge,
        "export": _export,
        "check-deploy": _check_deploy,
        "vocab": _vocab,
        "encode": _encode,
        "cache": _cache,
        "demo": _demo,
    }
    if not words or words[0] in ("-h", "--help"):
        print(_HELP)  # noqa: T201  # the answer to --help belongs on standard output
        return 0
    if words[0] == "--version":
        print(f"yangtuo {__version__}")  # noqa: T201
        return 0
    reporting.set_up()
    if words[0] not in verbs:
        return _fail(f"unknown verb {words[0]!r}; yangtuo --help lists them", 2)
    try:
        verbs[words[0]](words[1:])
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


def _chat(argv: list[str]) -> None:
    from yangtuo import chat

    parser = _Parser("yangtuo chat", description=chat.__doc__)
    chat.add_options(parser)
    options = parser.parse_args(argv)
    reporting.quiet_libraries()
    chat.run(options)


def _cache(argv: list[str]) -> None:
    from yangtuo import cache

    parser = _Parser("yangtuo cache", description=cache.__doc__)
    cache.add_options(parser)
    cache.run(parser.parse_args(argv))


def _merge(argv: list[str]) -> None:
    from yangtuo.export import merge_verb

    parser = _Parser("yangtuo merge", description=merge_verb.__doc__)
    merge_verb.add_options(parser)
    options = parser.parse_args(argv)
    reporting.quiet_libraries()
    merge_verb.run(options)


def _export(argv: list[str]) -> None:
    from yangtuo.export import export_verb

    parser = _Parser("yangtuo export", description=export_verb.__doc__)
    export_verb.add_options(parser)
    options = parser.parse_args(argv)
    reporting.quiet_libraries()
    export_verb.run(options)


def _check_deploy(argv: list[str]) -> None:
    from yangtuo import check_deploy

    parser = _Parser("yangtuo check-deploy", description=check_deploy.__doc__)
    check_deploy.add_options(parser)
    check_deploy.run(parser.parse_args(argv))


def _vocab(argv: list[str]) -> None:
    from yangtuo import vocab

    parser = _Parser("yangtuo vocab", description=vocab.__doc__)
    vocab.add_options(parser)
    vocab.run(parser.parse_args(argv))


def _encode(argv: list[str]) -> None:
    from yangtuo.encode import add_options, write
    from yangtuo.parsing import build_parser, parse

    settings, own = parse(argv, build_parser("yangtuo encode", add_options, explains_training=False))
    write(settings, own.out)


def _demo(argv: list[str]) -> None:
    from yangtuo import demo

    parser = _Parser("yangtuo demo", description=demo.__doc__)
    demo.add_options(parser)
    demo.run(parser.parse_args(argv))
