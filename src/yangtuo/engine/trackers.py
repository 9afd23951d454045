"""Trackers (`--report_to`): callbacks of transformers, started before the first step and on rank 0 alone.

transformers itself makes them on every rank, and starts them inside the training loop, where an error is a traceback.
Once they have started, one that fails (its server is gone) is left out, and the run goes on without it.
"""

import functools
import importlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks

from yangtuo.errors import UsageError, one_line

logger = logging.getLogger(__name__)

_SHOWN = 300  # letters of what a tracker says


class Trackers:
    """A callback of transformers that hands every event on."""

    def __init__(self, trackers: Mapping[str, TrainerCallback]):
        self._trackers = dict(trackers)

    def __getattr__(self, event: str) -> Callable[..., None]:
        if not event.startswith("on_"):
            raise AttributeError(event)
        return functools.partial(self._tell, event)

    def _tell(self, event: str, *known: Any, **more: Any) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                getattr(tracker, event)(*known, **more)
            except Exception as error:  # of any package
                del self._trackers[name]
                logger.warning(
                    "--report_to %s: it failed, and is told no more in this run; log.jsonl has everything: %s",
                    name,
                    _said(error),
                )


def start(names: Sequence[str], trainer: Any) -> None:
    """Start them and add them to the trainer's callbacks; for rank 0.

    Raises:
        UsageError: all that cannot start.
    """
    problems, started = [], {}
    for name in get_available_reporting_integrations() if "all" in names else names:
        try:
            started[name] = _started(name, trainer)
        except Exception as error:  # of any package
            problems.append(f"--report_to {name}: it cannot start: {_said(error)}; mend that, or leave {name} out")
    if problems:
        raise UsageError.of_problems("trackers", problems)
    if started:
        trainer.add_callback(Trackers(started))


def _said(error: Exception) -> str:
    return one_line(error, _SHOWN) or type(error).__name__


def _started(name: str, trainer: Any) -> TrainerCallback:
    """The events of a beginning, which the trainer tells once more when it begins; no tracker starts twice."""
    if name == "swanlab":
        _begin_swanlab(trainer.args)
    (kind,) = get_reporting_integration_callbacks([name])
    tracker = kind()
    known = {"model": trainer.model, "processing_class": trainer.processing_class}
    tracker.on_init_end(trainer.args, trainer.state, trainer.control, **known)
    tracker.on_train_begin(trainer.args, trainer.state, trainer.control, **known)
    return tracker


def _begin_swanlab(args: TrainingArguments) -> None:
    """Begin its run as transformers 5.23 would, which asks for the one that there is: from 0.9 on, none is an error."""
    swanlab = importlib.import_module("swanlab")
    if not hasattr(swanlab, "has_run") or swanlab.has_run():
        return
    known = os.environ.get("SWANLAB_RUN_ID")
    values = {
        "project": os.environ.get("SWANLAB_PROJECT"),
        "experiment_name": args.run_name,
        "id": known,
        "resume": os.environ.get("SWANLAB_RESUME", "allow" if known else None),
    }
    swanlab.init(**{name: value for name, value in values.items() if value is not None})
