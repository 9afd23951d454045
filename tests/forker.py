"""Starts Python programs by forks of a process that has imported everything, which takes eight seconds a start.

Reads requests, one JSON object a line: a program to start, answered with its process number, or a process to look
after, answered with its exit code once it has one. A program is what `python WORDS` would run, in a session of its own,
with its own environment, folder and streams. Where it is torchrun, its workers are forks as well; all else of torchrun
(rendezvous, messages, signals, restarts) is its own. Starts of a whole interpreter are in the tests of the scripts.
"""

import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import termios
import time

import torch

_FLAGS = {"-u"}  # of the interpreter, as torchrun gives them


class Child:
    """A forked process, with what torchrun asks of `subprocess.Popen`."""

    def __init__(self, words, env, streams=(), **place):
        self.args, self.returncode = words, None
        opened = [
            os.open(path, os.O_NOCTTY | (os.O_WRONLY | os.O_APPEND if i else os.O_RDONLY))
            for i, path in enumerate(streams)
        ]
        self.pid = os.fork()
        if self.pid == 0:
            become(words, env, opened, **place)
        for descriptor in opened:
            os.close(descriptor)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout=None):
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def become(words, env, streams, *, cwd=".", first="", ignores=()):
    """Be the program from here on; ends the process. Where no descriptors are given, the streams stay as they are."""
    code = 1
    try:
        signals_as_at_a_start(ignores)
        os.setsid()
        for descriptor, opened in enumerate(streams):
            os.dup2(opened, descriptor)
        if streams and os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the session's own
        os.closerange(3, 1024)
        open_streams()
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        if "OMP_NUM_THREADS" in env:  # torch has read it already
            torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
        code = run(words, first)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def signals_as_at_a_start(ignores):
    """What is ignored stays so over a start, what has a handler does not."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in ignores:
        signal.signal(number, signal.SIG_IGN)


def open_streams():
    """Python's own, as they are after a start: by the line where a person looks."""
    by_line = 1 if os.isatty(1) else -1
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False, buffering=by_line)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115


def run(words, first):
    """The exit code of `python WORDS`, after the code `first`."""
    words = [word for i, word in enumerate(words) if i or word not in _FLAGS]
    sys.argv = words[1:] if words[0] == "-m" else words
    try:
        exec(first, {})
        if words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as error:
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
            return 1
        return int(error.code or 0)
    return 0


def workers_are_forks():
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    def fork(self, args, env):
        if args[0] != sys.executable:
            raise ValueError(f"not a program in Python: {args}")
        return Child(args[1:], env)

    subprocess_handler.SubprocessHandler._popen = fork


def serve(requests, answer):
    children = {}
    try:
        for line in requests:
            request = json.loads(line)
            if "poll" in request:
                answer(children[request["poll"]].poll())
            else:
                child = Child(**request)
                children[child.pid] = child
                answer(child.pid)
    finally:
        for child in children.values():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGKILL)


IMPORTED = (  # by programs, some of them only once they run
    *("deepspeed", "deepspeed.ops.op_builder.all_ops", "google.protobuf.text_format", "numpy.ctypeslib", "numpy.ma"),
    *("deepspeed.comm.mori", "deepspeed.module_inject.auto_ep_layer", "deepspeed.runtime.zero.muon.muon_optimizer"),
    *("deepspeed.runtime.superoffload.superoffload_stage3", "torch._subclasses.schema_check_mode"),
    *("peft.tuners.lora.bnb", "sentencepiece.sentencepiece_model_pb2", "setuptools.dist", "distutils.sysconfig"),
    *("distutils.compilers.C.unix", "torch.profiler._cupti_monitor", "torch.distributed.run", "encodings.utf_32_le"),
    *("torch.distributed.algorithms.ddp_comm_hooks", "torch.distributed.fsdp", "rich.live", "rich.table"),
    *("peft.utils.transformers_weight_conversion", "transformers.models.llama.modeling_llama"),
    *("rouge_score.rouge_scorer", "rjieba", "sacrebleu", "sacrebleu.tokenizers.tokenizer_zh"),
    *("yangtuo.cli.chat", "yangtuo.cli.check", "yangtuo.cli.encode", "yangtuo.cli.eval", "yangtuo.cli.eval_screen"),
    *("yangtuo.cli.export", "yangtuo.cli.merge", "yangtuo.cli.preview", "yangtuo.cli.report", "yangtuo.cli.train"),
    *("yangtuo.evaluation.job", "yangtuo.exporting.folder", "yangtuo.exporting.gguf.convert", "yangtuo.merging.make"),
    *("yangtuo.report.page", "yangtuo.training.run", "yangtuo.training.validation_rows"),
)


def import_all():
    for name in IMPORTED:
        with contextlib.suppress(ModuleNotFoundError):  # DeepSpeed is an extra
            importlib.import_module(name)
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from yangtuo.engine.flops import bfloat16_rate, matmul_rate
    from yangtuo.model.processor import detect_hardware
    from yangtuo.report import page

    # Found once, at the first call.
    get_checkpoint_conversion_mapping("llama")
    matmul_rate(torch.device("cpu"), torch.float32)
    if detect_hardware(use_cpu=True).bfloat16:
        bfloat16_rate()
    templates = page._environment()  # compiled at the first page of a process, which takes a quarter of a tiny run
    for name in templates.list_templates(filter_func=lambda name: name.endswith(".html")):
        templates.get_template(name)


if __name__ == "__main__":
    import_all()
    workers_are_forks()
    gc.freeze()  # else each run looks through all that was imported, for half a second

    def answer(value):
        sys.stdout.write(f"{json.dumps(value)}\n")
        sys.stdout.flush()

    answer("ready")
    serve(sys.stdin, answer)
