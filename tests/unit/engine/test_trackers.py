"""Trackers with stand-ins for the packages: who needs a key, and when the end is told."""

import sys
from types import SimpleNamespace

import pytest

from yangtuo.engine import trackers
from yangtuo.engine.trackers import Trackers
from yangtuo.errors import UsageError


def wandb(mode, *, key):
    def login(prompt=True):
        assert prompt is False
        return key

    settings = SimpleNamespace(mode=mode)
    return SimpleNamespace(setup=lambda: SimpleNamespace(settings=settings), login=login)


def old_wandb():
    settings = SimpleNamespace(mode="online")
    return SimpleNamespace(setup=lambda: SimpleNamespace(settings=settings), login=lambda anonymous=None: 1 / 0)


def swanlab(**settings):
    return SimpleNamespace(Settings=lambda: SimpleNamespace(**settings))


GOOD = {
    "wandb offline": ("wandb", wandb("offline", key=False)),
    "wandb, which does nothing": ("wandb", wandb("disabled", key=False)),
    "wandb with a key": ("wandb", wandb("online", key=True)),
    "wandb before it could be asked for a key": ("wandb", old_wandb()),
    "swanlab offline": ("swanlab", swanlab(mode="offline", api_key=None)),
    "swanlab with a key": ("swanlab", swanlab(mode="online", api_key="k")),
    "swanlab 0.6": ("swanlab", swanlab()),
    "one that needs no key": ("tensorboard", None),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_tracker_that_asks_nobody(case, monkeypatch):
    name, module = GOOD[case]
    monkeypatch.setitem(sys.modules, name, module)
    trackers.check([name])


def test_all_that_would_ask_for_a_key_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb("online", key=False))
    monkeypatch.setitem(sys.modules, "swanlab", swanlab(mode="online", api_key=None))
    with pytest.raises(UsageError) as error:
        trackers.check(["wandb", "tensorboard", "swanlab"])
    assert str(error.value).splitlines() == [
        "trackers (2 problems):",
        "  --report_to wandb: it sends to a server, and nobody is logged in there; wandb login, or "
        "WANDB_MODE=offline to keep everything on this machine",
        "  --report_to swanlab: it sends to a server, and nobody is logged in there; swanlab login, or "
        "SWANLAB_MODE=offline to keep everything on this machine",
    ]


def test_what_a_package_says_of_a_wrong_value_is_one_line(monkeypatch):
    def settings():
        raise ValueError("mode\n  should be 'online'")

    monkeypatch.setitem(sys.modules, "swanlab", SimpleNamespace(Settings=settings))
    with pytest.raises(UsageError, match=r"^trackers: --report_to swanlab: it cannot start: mode should be 'online';"):
        trackers.check(["swanlab"])


class Told:
    """A tracker that writes down what it is told."""

    def __init__(self):
        self.events = []

    def __getattr__(self, event):
        return lambda args, state, control, **more: self.events.append((event, more.get("logs")))


@pytest.fixture
def tracked(monkeypatch):
    told = Told()
    monkeypatch.setattr(trackers, "_started", lambda name, trainer: told)
    trainer = SimpleNamespace(args=0, state=0, control=0, model=0, processing_class=0, add_callback=lambda callback: 0)
    tracked = Trackers(trainer)
    tracked.start(["tensorboard"])
    return tracked, told


def test_the_end_is_told_after_the_last_evaluation(tracked):
    callback, told = tracked
    with callback:
        callback.on_train_end(0, 0, 0)
        callback.on_log(0, 0, 0, logs="the last evaluation")
    assert told.events == [("on_log", "the last evaluation"), ("on_train_end", None)]


def test_the_end_is_told_where_nothing_was_trained(tracked):
    callback, told = tracked
    with callback:
        callback.on_log(0, 0, 0, logs="an evaluation")
    assert told.events == [("on_log", "an evaluation"), ("on_train_end", None)]


@pytest.mark.parametrize("is_trained", [True, False])
def test_a_run_that_fails(tracked, is_trained):
    callback, told = tracked
    if is_trained:
        callback.on_train_end(0, 0, 0)
    with pytest.raises(ArithmeticError), callback:
        raise ArithmeticError
    assert told.events == ([("on_train_end", None)] if is_trained else [])
