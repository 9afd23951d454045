"""How the program speaks: log lines on stderr of one rank, the notes that `run.json` keeps, and both standard streams.

Nothing may end a run there: neither an encoding nor a reader that has gone. Libraries are quiet unless something is
wrong that a user can act on; `--log_level` of transformers brings them back.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from yangtuo.i18n import Message, in_chinese, tr

if TYPE_CHECKING:
    from rich.console import Console


def _filled(record: logging.LogRecord, language: Callable[[str], str]) -> str:
    """A line as `getMessage` has it, in a language."""
    message, args = language(record.msg) if isinstance(record.msg, str) else str(record.msg), record.args
    if isinstance(args, tuple):
        args = tuple(language(each) if isinstance(each, Message) else each for each in args)
    return message % args if args else message


class _Notes(logging.Handler):
    """Keeps what was changed, replaced or left out, each text once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: dict[str, str] = {}  # each with its Chinese

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.texts:
            self.texts[text] = _filled(record, in_chinese)


class _Screen(logging.Handler):
    """Writes to whatever stderr is at the moment, in the reader's language, beside a progress bar, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        say(_filled(record, tr))


class _NotesOfLibrary(_Notes):
    """As long as it is a logger's only handler, Python's handler of last resort, which it stands in for, still shows.

    That one writes warnings to stderr where a program has set up no logging, and asks no more than whether there is
    any handler.
    """

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        others = [one for one in logging.getLogger("yangtuo").handlers if one is not self]
        if not others and not logging.getLogger().handlers and logging.lastResort:
            logging.lastResort.handle(record)


_notes = _Notes()


def world_size() -> int:
    """Number of processes of the run, as torchrun tells."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number, as torchrun tells."""
    return int(os.environ.get("RANK", "0"))


def notes_so_far() -> list[str]:
    """Everything said at warning level by this program, in English."""
    return list(_notes.texts)


def notes_with_chinese() -> dict[str, list[str]]:
    """The same for a file of which a page is made, with its Chinese."""
    return {"notes": list(_notes.texts), "notes_zh": list(_notes.texts.values())}


def set_up() -> None:
    """Call once, before anything is said."""
    logger = logging.getLogger("yangtuo")
    if logger.handlers:
        return
    screen = _Screen()
    screen.setLevel(logging.INFO if rank() == 0 else logging.ERROR)
    logger.addHandler(screen)
    logger.addHandler(_notes)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # see `quiet_libraries`


@contextlib.contextmanager
def noting() -> Iterator[None]:
    """Keep the notes of one call of the library; where the program has set logging up, its own notes go on."""
    global _notes
    logger = logging.getLogger("yangtuo")
    if _notes in logger.handlers:
        yield
        return
    former, _notes = _notes, _NotesOfLibrary()
    logger.addHandler(_notes)
    try:
        yield
    finally:
        logger.removeHandler(_notes)
        _notes = former


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries are quiet within, and as they were after it."""
    import transformers

    library = transformers.utils.logging
    loggers = [logging.getLogger("torch.distributed"), logging.getLogger("bitsandbytes")]
    verbosity, has_bar = library.get_verbosity(), library.is_progress_bar_enabled()
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        quiet_libraries()
        try:
            yield
        finally:
            library.set_verbosity(verbosity)
            if has_bar:
                library.enable_progress_bar()
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def quiet_libraries() -> None:
    """Silence what a user cannot act on: deprecations inside libraries, bars for work of a second."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    warnings.filterwarnings("ignore", category=UserWarning, module="accelerate")  # it sets a thread count by itself
    for name in ("torch.distributed", "bitsandbytes"):  # the latter, when imported, wants kernels from a hub
        logging.getLogger(name).setLevel(logging.ERROR)


def prepare() -> None:
    """Call before anything is printed: what the encoding (GBK, ASCII) does not have is replaced, not an error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for the whole process
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def can_print(text: str) -> bool:
    """Whether standard output has a sign for every character."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def can_write() -> bool:
    """Whether standard output still takes a line."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return False
    return True


def sign(wanted: str, plain: str) -> str:
    """A sign for standard output; the plain one where its encoding does not have the wanted one."""
    return wanted if can_print(wanted) else plain


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print JSON that loses nothing: what the encoding does not have is written as its escape."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    sys.stdout.write((text if can_print(text) else json.dumps(value, indent=indent)) + "\n")
    sys.stdout.flush()


def console(width: int | None = None) -> "Console":
    """Rich's, for standard output: what looks like its markup in a name is text."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose stderr is no terminal and shows bars all the same."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def shows_bars() -> bool:
    """Whether a progress bar can be seen."""
    return sys.stderr.isatty() or in_notebook()


def bar(**how: Any) -> Any:
    """A progress bar on stderr; in a notebook that has ipywidgets, one of those."""
    if in_notebook() and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as of_notebook

        return of_notebook(**how)
    return tqdm(**how)


def say(line: str) -> None:
    """Write a line to standard error, beside a progress bar, not into it."""
    with lasting():
        tqdm.write(line, file=sys.stderr)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Go on when standard error is a terminal that is gone, or a pipe that nobody reads: from then on it is mute."""
    try:
        yield
    except OSError:
        mute(sys.stderr)


def end() -> None:
    """Call last, where the exit code has told everything: Python's is 120 if a stream does not take what it holds."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            mute(stream)


def mute(stream: Any) -> None:
    """Send a stream nowhere, also what it still holds and would write at the end of the process."""
    with contextlib.suppress(OSError, ValueError):  # it has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
