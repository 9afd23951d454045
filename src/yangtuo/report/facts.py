"""A run's folder -> what the page shows, as plain values.

Files may be absent, half written or of an earlier version: what is there is taken, and what is not is named.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yangtuo.errors import UsageError
from yangtuo.i18n import Message
from yangtuo.report.audit import Audit, audit_of
from yangtuo.report.evaluation import FILE as EVALUATION_FILE
from yangtuo.report.evaluation import Evaluation, read_evaluation
from yangtuo.report.json_reading import (
    FileState,
    Spoken,
    State,
    count,
    counts,
    mapping,
    number,
    read_object,
    spoken,
    text,
    texts,
    truth,
)
from yangtuo.report.run_log import RunLog, read_log

RUN_FILE, LOG_FILE, PROOF_FILE, AUDIT_FILE = "run.json", "log.jsonl", "proof.json", "data_audit.json"
_TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True)
class OptionValue:
    """An option of the run: its value, and whether it came from the command line, a file, or is the default."""

    name: str
    value: Any
    origin: str


@dataclass(frozen=True)
class Proof:
    """What the run has proven of its adapter at the end; losses in nats a token, None where they are not known.

    Attributes:
        passed: whether all of it was right.
        problems: what was not.
        adapter: its folder.
        num_tensors: in the file on the disk, each bit-equal to memory.
        num_bytes: of that file.
        num_trained: tensors that were trained.
        num_changed: of them, those that are no longer what they were before the first step.
        num_rows: rows that were trained on, of which the losses are.
        in_memory: the loss of the trained model.
        reloaded: the loss of the adapter on the disk, in `into`.
        without: the loss without the adapter.
        limit: by how much `reloaded` may differ.
        at_start: the loss before the first step.
        num_steps: steps of the proven adapter.
    """

    passed: bool
    problems: tuple[Spoken, ...]
    adapter: str
    num_tensors: int | None
    num_bytes: int | None
    num_trained: int | None
    num_changed: int | None
    num_rows: int | None
    in_memory: float | None
    reloaded: float | None
    without: float | None
    limit: float | None
    at_start: float | None
    num_steps: int | None


@dataclass(frozen=True)
class MemoryPlan:
    """The memory that was foreseen, in bytes.

    Attributes:
        kind: cpu or cuda.
        parts: by name.
        total: of all parts.
        there: what was free.
        fits: whether it was enough.
        comparable: of the total, what the measured peak counts too: on a GPU that is of tensors alone.
    """

    kind: str
    parts: Mapping[str, int]
    total: int
    there: int | None
    fits: bool | None
    comparable: int


@dataclass(frozen=True)
class RunFacts:
    """All that is shown of a run.

    Attributes:
        folder: as it was named.
        files: every file that belongs to a run, with its state.
        state: running or finished, as run.json says; empty where it does not.
        version: of yangtuo.
        command: as it was typed, for a shell.
        began: date and time.
        seconds: of the whole run; None while it is not finished.
        process: its number and machine.
        world_size: processes.
        seed: of the draws.
        versions: of libraries.
        options: every option.
        notes: what was said at warning level.
        plan: what was said of the steps before the first, in English.
        next_commands: what a person does with the adapter, a line each.
        planned_seconds: that the steps were to take, by a measurement before the first.
        max_steps: that the run was to make.
        log: what was written while it went on.
        proof: None where there is none of this run.
        audits: of training rows, and of validation rows where there are any.
        memory: None where it was not counted.
        evaluation: None where there is none.
    """

    folder: Path
    files: tuple[FileState, ...]
    state: str
    version: str
    command: str
    began: str
    seconds: float | None
    process: str
    world_size: int | None
    seed: int | None
    versions: Mapping[str, str]
    options: tuple[OptionValue, ...]
    notes: tuple[Spoken, ...]
    plan: tuple[Spoken, ...]
    next_commands: tuple[str, ...]
    planned_seconds: float | None
    max_steps: int | None
    log: RunLog
    proof: Proof | None
    audits: tuple[Audit, ...]
    memory: MemoryPlan | None
    evaluation: Evaluation | None

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.absolute().name

    @property
    def planned_seconds_of_steps(self) -> float | None:
        """That the steps made so far were to take."""
        if self.planned_seconds is None or not self.max_steps:
            return self.planned_seconds
        return self.planned_seconds * min(1.0, self.log.num_steps / self.max_steps)

    @property
    def trains(self) -> bool:
        """Whether the run was to train, and not only to evaluate."""
        asked = {one.name: one.value for one in self.options if one.name in ("do_train", "do_eval")}
        return asked.get("do_train") is not False or not asked.get("do_eval")

    @property
    def missing(self) -> tuple[FileState, ...]:
        """Files of which something is missing; of a run that has not finished, no proof is expected."""
        may_lack = {EVALUATION_FILE.as_posix(), _TRAINER_STATE}
        if not self.trains or self.state == "running":
            may_lack.add(PROOF_FILE)
        return tuple(
            one
            for one in self.files
            if one.state in (State.BROKEN, State.CUT) or (one.state is State.ABSENT and one.name not in may_lack)
        )


def read_run(folder: Path) -> RunFacts:
    """Read a run's folder.

    Raises:
        UsageError: it is none.
    """
    _check_run(folder)
    run, of_run = read_object(folder / RUN_FILE)
    log, of_log = read_log(folder / LOG_FILE)
    proof, of_proof = read_object(folder / PROOF_FILE)
    audits, of_audits = read_object(folder / AUDIT_FILE)
    trainer, of_trainer = read_object(folder / _TRAINER_STATE)
    evaluation, of_evaluation = read_evaluation(folder)
    states = {
        RUN_FILE: of_run,
        LOG_FILE: of_log,
        PROOF_FILE: of_proof,
        AUDIT_FILE: of_audits,
        _TRAINER_STATE: of_trainer,
        EVALUATION_FILE.as_posix(): of_evaluation,
    }
    options = _options(run)
    state, proven = text(run.get("state")), _proof(proof)
    if proven and state == "running" and proven.num_steps != log.last_step:
        proven = None  # of the run that was in the folder before it was extended, or begun anew
    return RunFacts(
        folder=folder,
        files=tuple(FileState(name, found) for name, found in states.items()),
        state=state,
        version=text(run.get("yangtuo")),
        command=_command(texts(run.get("command"))),
        began=text(run.get("began")),
        seconds=number(run.get("seconds")),
        process=text(run.get("process")),
        world_size=count(run.get("world_size")),
        seed=count(run.get("seed")),
        versions={name: one for name, one in mapping(run.get("versions")).items() if isinstance(one, str)},
        options=options,
        notes=spoken(run, "notes"),
        plan=spoken(run, "plan"),
        next_commands=texts(run.get("next_commands")),
        planned_seconds=number(run.get("planned_seconds")),
        max_steps=_max_steps(trainer, options, texts(run.get("plan"))),
        log=log,
        proof=proven,
        audits=tuple(audit_of(name, one) for name, one in audits.items() if isinstance(one, dict)),
        memory=_memory(mapping(run.get("memory_plan"))),
        evaluation=evaluation,
    )


def _check_run(folder: Path) -> None:
    if (folder / RUN_FILE).is_file() or (folder / LOG_FILE).is_file():
        return
    if not folder.exists():
        raise UsageError("{folder}: no such folder; give the --output_dir of a run", folder=folder)
    if not folder.is_dir():
        raise UsageError(
            "{folder}: a file; give the --output_dir of a run, such as {parent}", folder=folder, parent=folder.parent
        )
    above = folder.absolute().parent
    hint = Message("; {above} is one", above=above) if (above / RUN_FILE).is_file() else ""
    raise UsageError(
        "{folder}: no folder of a run: neither {run_file} nor {log_file} in it; give the --output_dir of a run{hint}",
        folder=folder,
        run_file=RUN_FILE,
        log_file=LOG_FILE,
        hint=hint,
    )


def _command(words: tuple[str, ...]) -> str:
    """As it is typed: `python -m yangtuo` and the script of that name are one. A key for the hub is left out."""
    if not words:
        return ""
    words = tuple(_without_key(word, before) for word, before in zip(words, ("", *words), strict=False))
    is_ours = Path(words[0]).name == "__main__.py" and Path(words[0]).parent.name == "yangtuo"
    first = "yangtuo" if is_ours or Path(words[0]).name == "yangtuo" else words[0]
    return shlex.join([first, *words[1:]])


_SECRET = ("__hub_token", "__push_to_hub_token")  # with `_` for each dash, since both spellings are options


def _without_key(word: str, before: str) -> str:
    """Pages are sent to others."""
    name, is_given, _ = word.replace("-", "_").partition("=")
    if before.replace("-", "_") in _SECRET:
        return "(not written)"
    return f"{word.partition('=')[0]}=(not written)" if is_given and name in _SECRET else word


def _options(run: Mapping[str, Any]) -> tuple[OptionValue, ...]:
    """Earlier versions have a plain value in place of a value with its origin."""
    found = []
    for name, one in mapping(run.get("arguments")).items():
        if isinstance(one, dict) and "value" in one:
            found.append(OptionValue(name, one["value"], text(one.get("from"))))
        else:
            found.append(OptionValue(name, one, ""))
    return tuple(found)


def _max_steps(trainer: Mapping[str, Any], options: tuple[OptionValue, ...], plan: tuple[str, ...]) -> int | None:
    asked = next((count(one.value) for one in options if one.name == "max_steps"), None)
    told = [found for line in plan if (found := re.match(r"steps: ([\d,]+) of ", line))]
    if asked is not None and asked > 0:
        return asked
    return int(told[0][1].replace(",", "")) if told else count(trainer.get("max_steps"))


def _proof(found: Mapping[str, Any]) -> Proof | None:
    passed = truth(found.get("passed"))
    if passed is None:
        return None
    changes, reload, gain = (mapping(found.get(name)) for name in ("changes", "reload", "gain"))
    return Proof(
        passed=passed,
        problems=spoken(found, "problems"),
        adapter=text(found.get("adapter")),
        num_tensors=count(found.get("num_tensors")),
        num_bytes=count(found.get("num_bytes")),
        num_trained=count(changes.get("num_tensors")),
        num_changed=count(changes.get("num_changed")),
        num_rows=count(reload.get("num_rows")),
        in_memory=number(reload.get("in_memory")),
        reloaded=number(reload.get("reloaded")),
        without=number(reload.get("without")),
        limit=number(reload.get("limit")),
        at_start=number(gain.get("at_start")),
        num_steps=count(gain.get("num_steps")),
    )


def _memory(found: Mapping[str, Any]) -> MemoryPlan | None:
    parts, total = counts(found.get("parts")), count(found.get("total"))
    if not parts or not total:
        return None
    kind = text(mapping(found.get("machine")).get("kind"))
    beside = 0 if kind == "cpu" else parts.get("program", 0) + parts.get("gaps of the allocator", 0)
    return MemoryPlan(kind, parts, total, count(found.get("there")), truth(found.get("fits")), total - beside)
