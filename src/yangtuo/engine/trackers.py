"""Trackers (`--report_to`): callbacks of transformers, started before the first step and on rank 0 alone.

transformers itself makes them on every rank, and starts them inside the training loop, where an error is a traceback.
Once they have started, one that fails (its server is gone) is left out, and the run goes on without it. They hear of
the end of training when the whole run ends: the last evaluation comes in between, and would begin another run with
MLflow and with Trackio.
"""

import functools
import importlib
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks

from yangtuo.errors import UsageError, one_line
from yangtuo.i18n import Message

logger = logging.getLogger(__name__)

_SHOWN = 300  # letters of what a tracker says


class Trackers:
    """A callback of transformers that hands every event on; as a context, the end of the run."""

    def __init__(self, trainer: Any):
        self._trainer = trainer
        self._trackers: dict[str, TrainerCallback] = {}
        self._end: Callable[[], None] | None = None  # tells of it, once the trainer has done so

    def start(self, names: Sequence[str]) -> None:
        """Start them and add them to the trainer's callbacks; for rank 0.

        Raises:
            UsageError: all that cannot start.
        """
        problems, started = [], {}
        for name in _meant(names):
            try:
                started[name] = _started(name, self._trainer)
            except Exception as error:  # of any package
                problems.append(_cannot_start(name, _said(error)))
        if problems:
            raise UsageError.of_problems(Message("trackers"), problems)
        if started:
            self._trackers = started
            self._trainer.add_callback(self)

    def on_train_end(self, *known: Any, **more: Any) -> None:
        """Kept until the run ends."""
        self._end = functools.partial(self._tell, "on_train_end", *known, **more)

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Tell of the end, also where there was no training; packages hear of a failure by their own ways."""
        if self._end is not None:
            self._end()
        elif kind is None:
            self._tell("on_train_end", *_occasion(self._trainer), **_things(self._trainer))

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


def check(names: Sequence[str]) -> None:
    """Refuse what would ask the user for a key, before anything is read; for rank 0.

    Raises:
        UsageError: all that send what they are told to a server, and know no key for it.
    """
    problems: list[str] = []
    for name in _meant(names):
        knows_key = _KNOW_KEYS.get(name)
        try:
            if knows_key is not None and not knows_key():
                problems.append(
                    Message(
                        "--report_to {name}: it sends to a server, and nobody is logged in there; {name} login, or "
                        "{variable}_MODE=offline to keep everything on this machine",
                        name=name,
                        variable=name.upper(),
                    )
                )
        except Exception as error:  # of any package
            problems.append(_cannot_start(name, _said(error)))
    if problems:
        raise UsageError.of_problems(Message("trackers"), problems)


def _wandb_knows_key() -> bool:
    wandb = importlib.import_module("wandb")
    if wandb.setup().settings.mode in ("offline", "dryrun", "disabled"):
        return True
    if "prompt" not in inspect.signature(wandb.login).parameters:  # an older one; it says so when it starts
        return True
    return bool(wandb.login(prompt=False))


def _swanlab_knows_key() -> bool:
    swanlab = importlib.import_module("swanlab")
    settings = swanlab.Settings()
    # Older ones (0.6) have neither; they say so when they start.
    return getattr(settings, "mode", None) != "online" or getattr(settings, "api_key", None) is not None


_KNOW_KEYS = {"wandb": _wandb_knows_key, "swanlab": _swanlab_knows_key}  # the others need none to begin with


def _meant(names: Sequence[str]) -> Sequence[str]:
    return get_available_reporting_integrations() if "all" in names else names


def _cannot_start(name: str, said: str) -> str:
    return Message("--report_to {name}: it cannot start: {said}; mend that, or leave {name} out", name=name, said=said)


def _said(error: Exception) -> str:
    return one_line(error, _SHOWN) or type(error).__name__


def _started(name: str, trainer: Any) -> TrainerCallback:
    """The events of a beginning, which the trainer tells once more when it begins; no tracker starts twice."""
    if name == "swanlab":
        _begin_swanlab(trainer.args)
    (kind,) = get_reporting_integration_callbacks([name])
    tracker = kind()
    tracker.on_init_end(*_occasion(trainer), **_things(trainer))
    tracker.on_train_begin(*_occasion(trainer), **_things(trainer))
    return tracker


def _occasion(trainer: Any) -> tuple[Any, Any, Any]:
    return trainer.args, trainer.state, trainer.control


def _things(trainer: Any) -> dict[str, Any]:
    return {"model": trainer.model, "processing_class": trainer.processing_class}


def _begin_swanlab(args: TrainingArguments) -> None:
    """Begin its run as transformers 5.23 would, which asks for the one that there is: from 0.8 on, none is an error."""
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
