"""A command whose run is ended at a write, started again, and compared with a run that nobody ended."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.command import Finished
from tests.conftest import Inputs
from tests.kill import killer
from yangtuo.engine import checkpoint
from yangtuo.training import run_folder

# What differs between two runs of the same command; shortcuts are tried on the weights that a run goes on with.
TIMES = {
    "distances",
    *("tokens_per_s", "mfu", "step_seconds", "runtime", "eval_runtime", "train_runtime", "train_samples_per_second"),
    *("train_steps_per_second", "began", "seconds", "process", "notes", "notes_zh", "memory_plan", "cpu_wait"),
    *("memory_bytes", "peak_memory_bytes", "planned_seconds"),
}
ENDED = {"kill": (137,), "kill all": (137,), "tear": (153,), "stop": (143, 0)}  # 0: asked in the last step


class Point(NamedTuple):
    """The write, counted from 1, at which a run is ended; how; for "tear", how many bytes are still written."""

    at: int
    way: str = "kill"
    num_bytes: int = 0


NONE = Point(0)


@dataclass(frozen=True)
class Configuration:
    """A command, and what lies in its folder before.

    Attributes:
        says: what it is there for.
        options: of the command, beside those that all have.
        num_processes: ranks; 0 for a run without a launcher.
        ways: how it is ended; see `killer.arm`.
        begun: the write at which the folder's run was killed before; its number is that of the write with this text.
        former: options of a finished run of another recipe that holds the folder.
    """

    says: str
    options: dict[str, Any] = field(default_factory=dict)
    num_processes: int = 0
    ways: tuple[str, ...] = ("kill", "tear")
    begun: str = ""
    former: dict[str, Any] | None = None


class Scene:
    """A configuration in a folder of its own, with the run that nobody killed."""

    def __init__(self, folder: Path, inputs: Inputs, configuration: Configuration, run: Callable[..., Finished]):
        self._configuration, self._run = configuration, run
        self._out, self._whole, self._before = folder / "out", folder / "whole", folder / "before"
        self._record = folder / "writes"
        folder.mkdir(parents=True, exist_ok=True)
        options = {"max_steps": 5, "lora_dropout": 0.1, "seed": 7, "logging_steps": 4, **configuration.options}
        if "validation_file" in options:
            options["validation_file"] = inputs.validation
        options["per_device_train_batch_size"] = 4 // max(1, configuration.num_processes)
        self._words = ["train", *inputs.options(self._out, **options)]
        if configuration.former is not None:
            self._play_whole(["train", *inputs.options(self._out, **{**options, **configuration.former})])
            shutil.copytree(self._out, self._before)
        self.writes = self._play_whole()
        shutil.move(self._out, self._whole)
        self._clear()
        if configuration.begun:
            self._start(Point(self.writes.index(configuration.begun) + 1))
            shutil.copytree(self._out, self._before)
            self.writes = self._play_whole()

    def _play_whole(self, words: list[str] | None = None) -> list[str]:
        """A run to its end, of other words where given; returns what it writes."""
        done = self._start(words=words)
        if done.code:
            raise SystemExit(f"the run failed by itself:\n{done.said}")
        return killer.read(self._record)

    def _clear(self) -> None:
        """Nothing that a run has left."""
        for path in (self._out, *self._moved_aside()):
            shutil.rmtree(path, ignore_errors=True)

    def _is_own(self) -> bool:
        """Whether the folder no longer is that of the former run."""
        return self._configuration.former is None or bool(self._moved_aside())

    def _has_finished(self) -> bool:
        """Whether only its report was missing."""
        return (run_folder.read_run(self._out) or {}).get("state") == "finished"

    def _moved_aside(self) -> list[Path]:
        return sorted(self._out.parent.glob("out.*"))

    def _start(self, point: Point = NONE, words: list[str] | None = None) -> Finished:
        arguments = (str(self._out), str(self._record), point.at, point.way, point.num_bytes)
        first = "from tests.kill.killer import arm; arm({!r}, {!r}, at={!r}, way={!r}, num_bytes={!r})".format(
            *arguments
        )
        return self._run(
            *(words or self._words),
            first=first,
            num_processes=self._configuration.num_processes,
            env={"OMP_NUM_THREADS": "1"},
        )

    def points(self) -> list[Point]:
        """All, in the order of the writes."""
        found = []
        for at, write in enumerate(self.writes, start=1):
            found += [Point(at, way) for way in self._configuration.ways if way != "tear"]
            if "tear" in self._configuration.ways and not write.endswith(".lock"):
                found += [Point(at, "tear", num_bytes) for num_bytes in _torn_at(write)]
        return found

    def play(self, point: Point) -> list[str]:
        """End the run at a point, start it again, start it once more; returns what is not as it should be."""
        self._clear()
        if self._before.exists():
            shutil.copytree(self._before, self._out)
        ended = self._start(point)
        if ended.code not in ENDED[point.way]:
            return [f"ended with code {ended.code} instead of being ended: {ended.said[-500:]}"]
        goes_on = ended.code and self._is_own() and not self._has_finished()
        latest = checkpoint.latest_complete(self._out) if goes_on else None
        again = self._start()
        if again.code:
            return [f"the same command ended with code {again.code}: {_last_line(again)}"]
        faults = [] if latest is None or f"resuming from {latest}" in again.said else [f"not resumed from {latest}"]
        faults += differences(self._whole, self._out)
        expected = int(self._configuration.former is not None)
        if len(self._moved_aside()) != expected:
            faults.append(f"{len(self._moved_aside())} folders were moved aside, not {expected}")
        faults += [fault for aside in self._moved_aside()[:expected] for fault in differences(self._before, aside)]
        third = self._start()
        if third.code or "holds this very run, finished" not in third.said:
            faults.append(f"a third start ended with code {third.code}: {_last_line(third)}")
        return faults

    def name(self, point: Point) -> str:
        """For a person."""
        cut = f" after {point.num_bytes} bytes" if point.way == "tear" else ""
        return f"{point.at} {point.way}{cut}: {self.writes[point.at - 1]}"


def _torn_at(write: str) -> tuple[int, ...]:
    """Bytes after which what is written is torn; weights and moments are written by Rust, after the event named."""
    if write.startswith("open"):
        return (20, 1 << 14) if "checkpoint" in write and write.endswith("trainer_state.json") else (20,)
    return (20,) if write.startswith("mkdir") and write.endswith(".writing") else ()


def _last_line(done: Finished) -> str:
    return (done.said.strip().splitlines() or [""])[-1][:300]


def differences(whole: Path, out: Path) -> list[str]:
    """What `out` has otherwise than the run that nobody killed."""
    ours, theirs = _files(out), _files(whole)
    found = [
        f"{name} is {what}"
        for what, names in (("left over", ours - theirs), ("missing", theirs - ours))
        for name in sorted(names)
        if str(Path(name).parent) not in names
    ]
    for name in sorted(ours & theirs):
        expected, got = _content(whole / name), _content(out / name)
        if expected != got:
            found.append(f"{name}: {_where(expected, got)[:200]}")
    return found


def _files(folder: Path) -> set[str]:
    """All files and folders, those with hidden names too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock"}


def _content(path: Path) -> Any:
    if path.is_dir():
        return None
    if path.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".safetensors":
        raw = path.read_bytes()
        begin = 8 + int.from_bytes(raw[:8], "little")
        return json.loads(raw[8:begin]), raw[begin:]  # metadata come in any order
    if path.suffix == ".html":  # it shows times
        text = path.read_text(encoding="utf-8")
        return re.findall(r'data-verdict="[^"]*"', text), text.endswith("</html>\n")
    if path.suffix != ".json":
        return path.read_bytes()
    value = _without_times(json.loads(path.read_text(encoding="utf-8")))
    if path.name == checkpoint.MARK:
        value["files"].pop("trainer_state.json")  # its size, in which times have their part
    return value


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def _where(expected: Any, got: Any) -> str:
    if isinstance(expected, dict) and isinstance(got, dict):
        keys = [key for key in expected.keys() | got.keys() if expected.get(key) != got.get(key)]
        return "; ".join(f"{key} {_where(expected.get(key), got.get(key))}" for key in sorted(keys))
    if isinstance(expected, list) and isinstance(got, list):
        for i, (a, b) in enumerate(zip(expected, got, strict=False)):
            if a != b:
                return f"[{i}] {_where(a, b)}"
        return f"{len(got)} entries instead of {len(expected)}"
    return f"{str(got)[:60]} instead of {str(expected)[:60]}"
