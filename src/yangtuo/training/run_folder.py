"""The output folder: what it holds already, whether this run may go on there, and `run.json`.

The *recipe* of a run is everything that decides its result. The same recipe resumes, a changed one is refused with
what differs; no checkpoint and no adapter is ever deleted or overwritten.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from yangtuo import output
from yangtuo.config.settings import Settings
from yangtuo.engine import checkpoint
from yangtuo.errors import RunFolderError, UsageError, differences
from yangtuo.i18n import Message
from yangtuo.model import adapter_folder

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
# What `yangtuo check --out` leaves there beforehand is no run; nor is what either leaves when it is killed before a run
# has said what it is.
_OF_CHECK = ("data_audit.json", "dropped_rows.jsonl")
_OF_NO_RUN = (".lock", *_OF_CHECK, *(f".{name}.writing" for name in (RUN_FILE, *_OF_CHECK)))
ADAPTER_FOLDER = adapter_folder.OF_RUN


class Lock:
    """Held by the process that writes into an output folder, until it ends however it ends.

    Processes whose launcher was killed go on training; a second run beside them would mix its files with theirs.
    """

    def __init__(self, output_dir: Path):
        self._folder = output_dir
        self._lock = FileLock(output_dir / ".lock", blocking=False, fallback_to_soft=False)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def take(self) -> None:
        """Hold the folder, if it exists.

        Raises:
            RunFolderError: another process holds it, or nothing may be written there.
        """
        if not self._folder.is_dir():
            return
        self.release()
        try:
            self._lock.acquire()
        except Timeout:
            holder = (read_run(self._folder) or {}).get("process", Message("another process"))
            raise RunFolderError(
                "--output_dir {folder}: {holder} is training into it; wait for it, or end it first",
                folder=self._folder,
                holder=holder,
            ) from None
        except PermissionError as error:
            raise _not_writable(self._folder, error) from error
        except (OSError, NotImplementedError) as error:  # a file system without locks
            logger.warning("output folder: %s has no locks (%s); start one run in it only", self._folder, error)

    def release(self) -> None:
        """Let go."""
        self._lock.release(force=True)


def make(output_dir: Path) -> None:
    """Make the folder, where it is not there.

    Raises:
        RunFolderError: it cannot be made.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(output_dir, error) from error


def _not_writable(output_dir: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        "--output_dir {output_dir}: cannot be written: {strerror}; choose another folder",
        output_dir=output_dir,
        strerror=error.strerror,
    )


class Start(StrEnum):
    """How a run begins."""

    FRESH = "fresh"
    RESUME = "resume"
    FINISHED = "finished"
    MOVE_ASIDE = "move aside"
    EXTEND = "extend"


@dataclass(frozen=True)
class Decision:
    """What to do with the output folder.

    Attributes:
        start: how the run begins.
        checkpoint: to resume from.
        seed: the recorded seed where a run goes on, else None.
    """

    start: Start
    checkpoint: Path | None = None
    seed: int | None = None


def output_dir_of(settings: Settings) -> Path:
    """The output folder as it was named.

    Raises:
        UsageError: it was not.
    """
    given = settings.trainer.output_dir
    if not given:
        raise UsageError("--output_dir is missing: the folder for checkpoints and the adapter")
    return Path(given)


def decide(settings: Settings, output_dir: Path, recipe: Mapping[str, Any], lock: Lock) -> Decision:
    """See `start_of`, of a folder that no other process is training into.

    Raises:
        RunFolderError: another one is; and see there.
    """
    lock.take()
    decision = start_of(
        output_dir,
        recipe,
        overwrite=settings.run.overwrite_output_dir,
        checkpoint_dir=settings.trainer.resume_from_checkpoint,
        extends=settings.run.extend,
    )
    why = {
        Start.FRESH: Message("no checkpoint there to go on from"),
        Start.FINISHED: Message("the run there has as many steps as are asked for"),
    }.get(decision.start)
    if settings.run.extend and why:
        logger.warning("--extend has no effect: --output_dir %s: %s", output_dir, why)
    return decision


def start_of(
    output_dir: Path,
    recipe: Mapping[str, Any],
    *,
    overwrite: bool,
    checkpoint_dir: str | None,
    extends: bool = False,
) -> Decision:
    """Look at the output folder; nothing is changed yet.

    Args:
        output_dir: the folder.
        recipe: what decides the result of this run, JSON values only.
        overwrite: `--overwrite_output_dir`, which moves a folder of another run aside.
        checkpoint_dir: `--resume_from_checkpoint`; None to find the last complete one.
        extends: `--extend`, which goes on with more steps than the run there had.

    Raises:
        RunFolderError: it holds something else, or a run of another recipe.
    """
    named = checkpoint_dir if checkpoint_dir and checkpoint_dir.lower() != "true" else None
    if named and Path(named).resolve().parent != output_dir.resolve():
        raise RunFolderError(
            "--resume_from_checkpoint {named}: not in --output_dir {output_dir}; a run goes on in its own folder",
            named=named,
            output_dir=output_dir,
        )
    if output_dir.exists() and not output_dir.is_dir():
        raise RunFolderError("--output_dir {output_dir}: that is a file", output_dir=output_dir)
    if not output_dir.exists() or all(path.name in _OF_NO_RUN for path in output_dir.iterdir()):
        return Decision(Start.FRESH)
    recorded = read_run(output_dir)
    if recorded is None:
        if overwrite:
            return _move_aside(output_dir)
        raise RunFolderError(
            "--output_dir {output_dir}: not empty, and no {run_file} in it tells of a run; choose another folder, or "
            "add --overwrite_output_dir to have this one renamed",
            output_dir=output_dir,
            run_file=RUN_FILE,
        )
    there, seed = recorded.get("recipe", recorded.get("meaning", {})), recorded.get("seed")
    is_longer = extends and not differences(_without_length(there), _without_length(recipe), "there", "here")
    different = differences(there, recipe, Message("there"), Message("here"))
    if different and is_longer:
        return Decision(Start.EXTEND, _chosen(named) if named else _last_of(output_dir), seed)
    if different:
        if overwrite and not extends:
            return _move_aside(output_dir)
        more = Message("; or --extend to go on with more steps") if set(_changed(there, recipe)) <= set(_LENGTH) else ""
        raise RunFolderError.of_problems(
            Message(
                "--output_dir {output_dir} holds a run of another recipe; choose another folder, or add "
                "--overwrite_output_dir to have this one renamed{more}",
                output_dir=output_dir,
                more=more,
            ),
            different,
        )
    if recorded.get("state") == "finished" and (output_dir / ADAPTER_FOLDER).is_dir():
        return Decision(Start.FINISHED, seed=seed)
    found = _chosen(named) if named else checkpoint.latest_complete(output_dir)
    return Decision(Start.RESUME, found, seed) if found else Decision(Start.FRESH)


_LENGTH = ("max_steps", "num_train_epochs")


def _without_length(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in _LENGTH}


def _changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [name for name in {**there, **here} if there.get(name) != here.get(name)]


def _last_of(output_dir: Path) -> Path:
    found = checkpoint.latest_complete(output_dir)
    if found is None:
        raise RunFolderError(
            "--extend: no complete checkpoint with its optimizer in {output_dir} to go on from (--save_strategy no "
            "and --save_only_model keep none); --peft_path with the adapter there starts a new run from it",
            output_dir=output_dir,
        )
    return found


def _chosen(checkpoint_dir: str) -> Path:
    chosen = Path(checkpoint_dir)
    if not checkpoint.is_complete(chosen) or not checkpoint.can_resume(chosen):
        raise RunFolderError(
            "--resume_from_checkpoint {checkpoint_dir}: no complete checkpoint with its optimizer there",
            checkpoint_dir=checkpoint_dir,
        )
    return chosen


def _move_aside(output_dir: Path) -> Decision:
    if Path.cwd().resolve().is_relative_to(output_dir.resolve()):
        raise RunFolderError(
            "--output_dir {output_dir}: the current folder lies in it, so it is not renamed; choose another",
            output_dir=output_dir,
        )
    return Decision(Start.MOVE_ASIDE)


def move_aside(folder: Path) -> Path:
    """Rename the folder to its name with the date; returns the new name."""
    name = f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}"
    return folder.rename(output.free_name(folder.with_name(name)))


def read_run(output_dir: Path) -> dict[str, Any] | None:
    """The folder's run.json, None where there is none that can be read."""
    return _read_json(output_dir / RUN_FILE)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_metrics(output_dir: Path, split: str, metrics: Mapping[str, Any]) -> None:
    """Write them into the two files that transformers has for them, each in one piece.

    Its own `save_metrics` cannot read the file of all metrics after it was killed while writing it.
    """
    output.write_json(output_dir / f"{split}_results.json", dict(sorted(metrics.items())))
    everything = output_dir / "all_results.json"
    output.write_json(everything, dict(sorted({**(_read_json(everything) or {}), **metrics}.items())))


def prepare(output_dir: Path, decision: Decision, lock: Lock, *, is_main: bool, writes: bool) -> None:
    """Rank 0 makes or takes over the folder; on each machine that writes, what a killed process left is tidied up."""
    if is_main:
        if decision.start is Start.MOVE_ASIDE:
            lock.release()
            logger.warning("output folder: the former %s is now %s", output_dir, move_aside(output_dir))
        if decision.start is Start.RESUME:
            logger.warning("resuming from %s", decision.checkpoint)
        if decision.start is Start.EXTEND:
            _keep_former_adapter(output_dir)
            logger.warning("extending the run in this folder: going on from %s", decision.checkpoint)
        make(output_dir)
        lock.take()
    if writes:
        output.recover(output_dir)


def _keep_former_adapter(output_dir: Path) -> None:
    former = output_dir / ADAPTER_FOLDER
    if former.is_dir():
        steps = (_read_json(output_dir / checkpoint.TRAINER_STATE) or {}).get("global_step", "before")
        name = former.rename(output.free_name(output_dir / f"{ADAPTER_FOLDER}.step-{steps}"))
        logger.warning("the adapter of the shorter run is now %s", name)


def run_of(place: Path) -> Path | None:
    """The output folder of the run that a folder is, or whose adapter it is; None for any other folder."""
    if (place / RUN_FILE).is_file():
        return place
    above = place.parent if place.name not in ("", "..") else place.resolve().parent
    is_adapter = (place / "adapter_config.json").is_file()
    return above if is_adapter and (above / RUN_FILE).is_file() else None
