"""Runs parts one after the other and keeps what they find, a JSON file each. Imports no torch.

A part is a process of its own. It is done when it ends with code 0, failed when it does not, or when its time is over;
the others go on. A part that is done is not run again, one that failed or was skipped is.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circumstances import without_folders

from gpu_day_parts.job import ANSWER, JOB, ROOT, Job, last_word

DONE, FAILED, SKIPPED = "done", "failed", "skipped"
SUMMARY = "summary.json"
_LINES_KEPT = 60  # of the log of a part that failed


@dataclass(frozen=True)
class Part:
    """Something to measure.

    Attributes:
        name: of the part and of its file.
        shows: what it measures, in a few words.
        seconds: how long it takes on a card of today, about.
        command: the process; it finds its job and the place for its answer in its environment.
    """

    name: str
    shows: str
    seconds: int
    command: tuple[str, ...]


@dataclass
class Day:
    """One run of the script.

    Attributes:
        results: folder of the JSON files.
        job: what every part is told.
        circumstances: what every file begins with: versions, computer, card, commit, command.
        limit_s: seconds after which a part is ended.
        say: takes a line of progress.
        records: what is known of each part, by name.
    """

    results: Path
    job: Job
    circumstances: Mapping[str, Any]
    limit_s: float
    say: Callable[[str], None]
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, parts: Sequence[Part], again: Collection[str] = ()) -> bool:
        """Run what has no result yet, and `again`; returns whether nothing failed."""
        self.results.mkdir(parents=True, exist_ok=True)
        self.job.scratch.mkdir(parents=True, exist_ok=True)
        for number, part in enumerate(parts, start=1):
            known = None if part.name in again else self.known(part)
            if known:
                self.records[part.name] = known
                self.say(f"{part.name}: there already")
                continue
            self.say(f"{number}/{len(parts)} {part.name}: {part.shows} (about {part.seconds} s)")
            record = self._run(part)
            self.records[part.name] = record
            _write(self.results / f"{part.name}.json", record)
            self._summarise()
            self.say(f"    {record['status']} in {record['seconds']:.0f} s: {told(record)}")
        self._summarise()
        return not any(record["status"] == FAILED for record in self.records.values())

    def known(self, part: Part) -> dict[str, Any] | None:
        """The result of a part that is done; a rehearsal is no result."""
        try:
            record: dict[str, Any] = json.loads((self.results / f"{part.name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_result = record.get("status") == DONE and record.get("rehearsal") == self.job.rehearses
        return record if is_result else None

    def _run(self, part: Part) -> dict[str, Any]:
        files = {name: self.job.scratch / f"{part.name}.{name}" for name in ("job", "answer", "log")}
        files["answer"].unlink(missing_ok=True)
        _write(files["job"], self.job.to_values())
        environment = {**os.environ, JOB: str(files["job"]), ANSWER: str(files["answer"])}
        begun = time.monotonic()
        code = _run_to_its_end(part.command, environment, files["log"], self.limit_s)
        log = files["log"].read_text(encoding="utf-8", errors="replace")
        found = _answer_in(files["answer"])
        record = {
            "part": part.name,
            "shows": part.shows,
            "status": FAILED if code else SKIPPED if "skipped" in found else DONE,
            "rehearsal": self.job.rehearses,
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(time.monotonic() - begun, 1),
            "part_command": [without_folders(word) for word in part.command],
            **self.circumstances,
            "measured": found.get("measured", {}),
        }
        if code is None or code:
            record["status"] = FAILED
            over = f"took longer than {self.limit_s:.0f} s and was ended; --limit gives it more"
            record["reason"] = over if code is None else found.get("failed") or _why(code, log)
            record["log_end"] = [line.replace(f"{ROOT}/", "") for line in log.splitlines()[-_LINES_KEPT:]]
        elif "skipped" in found:
            record["reason"] = found["skipped"]
        return record

    def _summarise(self) -> None:
        short = ("status", "reason", "seconds", "date", "commit", "measured")
        parts = {name: {key: record[key] for key in short if key in record} for name, record in self.records.items()}
        rest = {key: value for key, value in self.circumstances.items() if key not in short}
        _write(self.results / SUMMARY, {**rest, "rehearsal": self.job.rehearses, "parts": parts})


def told(record: Mapping[str, Any]) -> str:
    """A part's outcome in one line: why there is none, else its headline."""
    return str(record.get("reason") or record["measured"].get("headline", ""))


def _run_to_its_end(command: Sequence[str], environment: Mapping[str, str], log: Path, limit_s: float) -> int | None:
    """The exit code; None where the time was over. Nothing that it has started is left."""
    with log.open("wb") as out:
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            out.write(f"error: {command[0]}: {error.strerror}\n".encode())
            return 127
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and its children: the session that was made for it."""
    try:
        os.killpg(process.pid, signal.SIGTERM if process.poll() is None else signal.SIGKILL)
        process.wait(10)
        os.killpg(process.pid, signal.SIGKILL)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        process.wait()


def _why(code: int, log: str) -> str:
    if code < 0:
        killed = f"killed by {signal.Signals(-code).name}"
        return f"{killed}, out of memory?" if code == -signal.SIGKILL else killed
    return last_word(log).replace(f"{ROOT}/", "") or f"exit code {code}"


def _answer_in(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Whole or not at all: a half-written file would look like no result, and lose the old one."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)
