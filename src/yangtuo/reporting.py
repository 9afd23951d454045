"""How the program speaks: log lines on stderr of one rank, and the notes that `run.json` keeps.

Libraries are quiet unless something is wrong that a user can act on; `--log_level` of transformers brings them back.
"""

import logging
import os
import warnings

from yangtuo import streams


class _Notes(logging.Handler):
    """Keeps what was changed, replaced or left out, each text once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.texts:
            self.texts.append(text)


class _Screen(logging.Handler):
    """Writes to whatever stderr is at the moment, and beside a progress bar, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        streams.say(self.format(record))


_notes = _Notes()


def notes_so_far() -> list[str]:
    """Everything said at warning level by this program."""
    return list(_notes.texts)


def set_up() -> None:
    """Call once, before anything is said."""
    logger = logging.getLogger("yangtuo")
    if logger.handlers:
        return
    screen = _Screen()
    is_first = os.environ.get("RANK", "0") == "0"
    screen.setLevel(logging.INFO if is_first else logging.ERROR)
    logger.addHandler(screen)
    logger.addHandler(_notes)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # when imported, it wants kernels from a hub


def quiet_libraries() -> None:
    """Silence what a user cannot act on: deprecations inside libraries, bars for work of a second."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    warnings.filterwarnings("ignore", category=UserWarning, module="accelerate")  # it sets a thread count by itself
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
