"""What a training run would train on, before any weight is loaded."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yangtuo import output
from yangtuo.api.arguments import Option, settings_of
from yangtuo.api.process import as_library
from yangtuo.config.settings import Settings
from yangtuo.errors import RunFolderError, UsageError
from yangtuo.i18n import Message
from yangtuo.logs import quiet
from yangtuo.training.dataset import AUDIT_FILE, DROPPED_FILE, tell_of_files, write_audit
from yangtuo.training.preflight import Finding, Preflight, preflight
from yangtuo.training.run_folder import RUN_FILE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckResult:
    """What was found.

    Attributes:
        verdict: "good", "look" or "bad": whether these rows should be trained on.
        findings: what to look at; `is_bad` of those for which the rows should not be trained on.
        report: all of it as JSON values, as `yangtuo check --json` prints it.
    """

    verdict: str
    findings: tuple[Finding, ...]
    report: Mapping[str, Any]

    @property
    def is_good_to_train(self) -> bool:
        """Whether nothing speaks against training; there may still be something to look at."""
        return self.verdict != "bad"


def check(*, out: str | os.PathLike[str] | None = None, plan_for: str | None = None, **options: Option) -> CheckResult:
    """Look at what a run with these options would train on, as `yangtuo check` does; no weights are loaded.

    Rows that should not be trained on are no exception here: the verdict is "bad".

    Args:
        out: folder for the audit and the dropped rows; nothing is written without.
        plan_for: plan the memory for a card that is not here, such as "24GB" or "8x80GB".
        options: of the run, see `yangtuo.train`; a tokenizer does in place of a model.

    Raises:
        UserError: an option or the data cannot be used.
        WriteError: the audit cannot be written.
    """
    settings = settings_of("yangtuo.check", options)
    with as_library(computes=False):  # where the memory is planned, and not before
        report = examine(settings, None if out is None else os.fspath(out), plan_for).report
    findings = tuple(Finding(bool(one["is_bad"]), str(one["text"])) for one in report["findings"])
    return CheckResult(str(report["verdict"]), findings, report)


def place_of_dropped(out: str | None) -> str:
    """Where a user finds the rows that are dropped, for messages."""
    if out:
        return Message("{file} has them", file=f"{out}/{DROPPED_FILE}")
    return Message("--out FOLDER lists them in {file}", file=DROPPED_FILE)


def examine(settings: Settings, out: str | None, plan_for: str | None) -> Preflight:
    """Read, judge, plan the memory; nothing is written but into the folder `out`.

    Raises:
        DataError: the data cannot be used.
        ModelError: the base's files are not what its config.json describes.
        RunFolderError: the folder holds a run, or is a file.
        UsageError: `plan_for` without a base, or of no amount of memory.
        WriteError: it cannot be written.
    """
    if out:
        _check_out(Path(out))
    if plan_for:
        _check_plan_for(settings, plan_for)
    found = preflight(settings, place_of_dropped(out))
    _plan_memory(settings, found, plan_for)
    if out:
        with output.named(out):
            Path(out).mkdir(parents=True, exist_ok=True)
        tell_of_files(write_audit(Path(out), found.report, found.corpus.dropped))
    return found


def _check_plan_for(settings: Settings, plan_for: str) -> None:
    """Before anything is read."""
    if not settings.model.model_name_or_path:
        raise UsageError(
            "--plan_for {plan_for}: give --model_name_or_path, a folder with config.json", plan_for=plan_for
        )
    from yangtuo.training.machines import machine_named

    machine_named(plan_for)


def _plan_memory(settings: Settings, found: Preflight, plan_for: str | None) -> None:
    """Add it to the report; the model is made without numbers, which takes some seconds."""
    if found.base is None:
        found.report["memory"] = None
        return
    from yangtuo.training.forecast import for_check

    num_tokens, forecast = found.report["tokenizer"]["num_tokens"], None
    try:
        with quiet():
            forecast = for_check(settings, found.base, found.corpus, num_tokens, plan_for)
    except UsageError as error:  # a GPU that cannot be used, for one: the rows are worth their report all the same
        if plan_for:
            raise
        found.add(error.text)
    found.report["memory"] = forecast and forecast.as_json()
    if forecast and not forecast.memory.fits:
        found.add(forecast.why_not())


def _check_out(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunFolderError("--out {folder}: a file; give a folder", folder=folder)
    if (folder / RUN_FILE).exists():
        raise RunFolderError(
            "--out {folder}: it holds a run, whose {audit_file} is its own; give another folder",
            folder=folder,
            audit_file=AUDIT_FILE,
        )
