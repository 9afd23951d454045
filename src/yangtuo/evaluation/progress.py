"""How far an evaluation is: a bar with its end in a terminal, a line now and then elsewhere."""

import logging
import time
from typing import Any

from yangtuo import logs
from yangtuo.i18n import tr

logger = logging.getLogger(__name__)

_LINES_S = 15.0  # seconds between two lines


class Progress:
    """Of one task of one model; used as a context."""

    def __init__(self, title: str, total: int, unit: str):
        """`total` is the number of units that are to be done."""
        self._title, self._total, self._unit = title, total, unit
        self._done, self._began = 0, time.monotonic()
        self._said = self._began
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self._total and logs.shows_bars():
            title = tr(self._title)
            self._bar = logs.bar(total=self._total, desc=title, unit=self._unit, dynamic_ncols=True, leave=False)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._done and error[0] is None:
            seconds = time.monotonic() - self._began
            logger.info(
                "%s: %s in %.1f s (%.1f a second)",
                self._title,
                f"{self._done:,}",
                seconds,
                self._done / seconds,
            )

    def advance(self, num: int) -> None:
        """So many more are done."""
        self._done += num
        if self._bar is not None:
            self._bar.update(num)
            return
        now = time.monotonic()
        if now - self._said >= _LINES_S and self._done < self._total:
            self._said = now
            left = (now - self._began) / self._done * (self._total - self._done)
            told = tr("{title}: {done:,} of {total:,}, {left:.0f} s left")
            line = told.format(title=tr(self._title), done=self._done, total=self._total, left=left)
            logger.info("%s", line)
