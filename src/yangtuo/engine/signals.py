"""A run that is asked to stop: the step is ended, a checkpoint saved, and the process leaves with 128 + signal."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

_REPEATED_AFTER_S = 2.0  # a launcher hands a terminal's Ctrl-C on to processes that have it already


class StopRequest:
    """Within `with`, SIGTERM, SIGINT and SIGHUP ask for an end after the step; asked again, the process ends at once.

    SIGHUP comes when the terminal is gone; under `nohup`, which has it ignored, it stays ignored.
    """

    def __init__(self) -> None:
        self.signal = 0  # that came to this process
        self.agreed = 0  # that all processes have agreed to stop for
        self._since = 0.0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python gives signals to the main thread only
        hangup = getattr(signal, "SIGHUP", None)  # not on Windows
        asks = [signal.SIGTERM, signal.SIGINT, *([hangup] if hangup else ())]
        for number in asks:
            if number == hangup and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._former[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        if kind is not None and self.signal:  # no step has ended since, and none will: as if nobody had asked to wait
            os.kill(os.getpid(), self.signal)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal and time.monotonic() - self._since > _REPEATED_AFTER_S:
            os._exit(128 + number)
        self.signal, self._since = number, self._since or time.monotonic()
