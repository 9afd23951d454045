"""Names the process that does not answer, when a run hangs.

Every process tells the others, through the store in which they have met, where it is and that it lives. One that has
waited for long looks for those that are behind or silent, names them and ends; the launcher then ends the rest.
"""

import json
import os
import sys
import threading
import time
from typing import Any

from yangtuo.engine.processes import Store, name_of_host
from yangtuo.logs import lasting, rank, world_size


class Watchdog:
    """A thread; `progress` and `alive` are called by the process that it watches over."""

    def __init__(self, store: Store | None, limit_seconds: float):
        """Without a store (one process) or with a limit of 0, it never starts."""
        # A connection of its own: the process may wait in the store for the very peer that is to be named here, when a
        # group of processes is made, and torch lets no other thread use that connection meanwhile.
        self._store = store.clone() if store is not None and limit_seconds else None
        self._limit = limit_seconds
        self._place, self._since, self._beat = (0, 0), time.monotonic(), 0
        self._seen: dict[int, tuple[dict[str, Any], float, float]] = {}  # of a rank: entry, when heard, when moved
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._since = time.monotonic()
        if self._store is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def progress(self, step: int, micro_batch: int) -> None:
        """This process begins a micro-batch; ranks at the same place are in step."""
        self._place, self._since = (step, micro_batch), time.monotonic()

    def alive(self) -> None:
        """Something else got done: an evaluation's batch, a file."""
        self._since = time.monotonic()

    def _watch(self) -> None:
        silent_since = None
        while not self._end.is_set():
            try:
                self._tell()
                # Only one that waits looks around: of a thousand processes each reading all, the store would choke.
                waits = time.monotonic() - self._since > self._limit / 4
                missing = self._missing() if waits else []
                silent_since = None
            except RuntimeError:
                silent_since = silent_since or time.monotonic()
                is_over = time.monotonic() - silent_since > self._limit
                missing = ["the machine of rank 0, which keeps the store"] if is_over else []
            if missing and time.monotonic() - self._since > self._limit:
                self._give_up(missing)
            self._end.wait(min(10.0, self._limit / 4))

    def _tell(self) -> None:
        assert self._store is not None
        self._beat += 1
        entry = {"place": self._place, "host": name_of_host(), "beat": self._beat}
        self._store.set(f"alive/{rank()}", json.dumps(entry))

    def _missing(self) -> list[str]:
        assert self._store is not None
        now, missing = time.monotonic(), []
        for other in range(world_size()):
            if other == rank():
                continue
            key = f"alive/{other}"
            entry = json.loads(self._store.get(key)) if self._store.check([key]) else {"place": [0, 0], "host": "?"}
            old, heard, moved = self._seen.get(other, ({}, now, now))
            heard = now if entry.get("beat") != old.get("beat") else heard
            moved = now if entry["place"] != old.get("place") else moved
            self._seen[other] = (entry, heard, moved)
            is_silent, is_stuck = now - heard > self._limit / 2, now - moved > self._limit / 2
            if is_silent or (is_stuck and tuple(entry["place"]) < self._place):
                how = "does not answer" if is_silent else "does not go on"
                missing.append(f"rank {other} on {entry['host']}, which is in step {entry['place'][0]} and {how}")
        return missing

    def _give_up(self, missing: list[str]) -> None:
        minutes = (time.monotonic() - self._since) / 60
        with lasting():
            sys.stderr.write(
                f"error [rank {rank()} on {name_of_host()}, step {self._place[0]}]: waited {minutes:.1f} minutes for "
                f"{'; '.join(missing)}. End that process and start the same command again; it goes on from the last "
                "checkpoint (--watchdog_minutes sets the patience, 0 none)\n"
            )
            sys.stderr.flush()
        os._exit(1)
