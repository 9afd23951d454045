import json
import os
import signal
import threading
import time

import pytest
import torch

from yangtuo.engine import watchdog as module
from yangtuo.engine.signals import StopRequest
from yangtuo.engine.watchdog import Watchdog


class Given(Exception):
    pass


@pytest.fixture
def watched(monkeypatch):
    """Rank 0 of 2, whose end is an exception; the peer's entries are written by the test."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr(module, "rank", lambda: 0)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    dog = Watchdog(store, 60)

    def peer(step, beat):
        store.set("alive/1", json.dumps({"place": [step, 0], "host": "node7", "beat": beat}))

    def look(at):
        clock[0] = at
        missing = dog._missing()
        return missing if missing and clock[0] - dog._since > 60 else []

    return dog, peer, look, clock


def test_a_peer_that_is_silent(watched):
    dog, peer, look, clock = watched
    peer(5, beat=1)
    assert look(0) == []
    clock[0] = 5
    dog.progress(6, 0)
    assert look(40) == []
    assert look(100) == ["rank 1 on node7, which is in step 5 and does not answer"]


def test_a_peer_that_is_stuck_though_its_thread_lives(watched):
    dog, peer, look, _ = watched
    dog.progress(6, 0)
    for at in range(0, 100, 10):
        peer(5, beat=at)
        found = look(at)
    assert found == ["rank 1 on node7, which is in step 5 and does not go on"]


def test_a_peer_that_is_slow_at_the_same_place(watched):
    dog, peer, look, _ = watched
    dog.progress(5, 0)
    for at in range(0, 1000, 10):
        peer(5, beat=at)
        assert look(at) == []


def test_this_process_is_the_slow_one(watched):
    dog, peer, look, _ = watched
    dog.progress(4, 0)
    for at in range(0, 1000, 10):
        peer(5, beat=at)
        assert look(at) == []


def test_a_sign_of_life_of_this_process(watched):
    dog, peer, look, clock = watched
    peer(5, beat=1)
    dog.progress(6, 0)
    look(0)
    clock[0] = 90
    dog.alive()
    assert look(100) == []


@pytest.mark.parametrize(("store", "limit"), [(None, 60), (torch.distributed.HashStore(), 0)])
def test_it_does_not_run_where_there_is_nothing_to_watch(store, limit):
    with Watchdog(store, limit) as dog:
        assert not dog._thread.is_alive()


def test_it_tells_the_others_where_it_is_and_ends_with_the_run(monkeypatch):
    store = torch.distributed.HashStore()
    with Watchdog(store, 0.2) as dog:
        dog.progress(3, 1)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if store.check(["alive/0"]) and json.loads(store.get("alive/0"))["place"] == [3, 1]:
                break
            time.sleep(0.02)
        assert json.loads(store.get("alive/0"))["place"] == [3, 1]
    assert not dog._thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_kept_and_the_former_handler_comes_back(number):
    former = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal == 0
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # a launcher hands it on at once
        assert stop.signal == number
        assert stop.agreed == 0
    assert signal.getsignal(number) is former


def test_a_hangup_that_is_ignored_stays_ignored():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_signal_that_is_repeated_later_ends_the_process(monkeypatch):
    def end(code):
        raise Given(code)

    monkeypatch.setattr(os, "_exit", end)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        stop._since -= 3
        with pytest.raises(Given) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.args == (143,)


def test_it_tells_and_looks_while_its_process_waits_in_the_store(monkeypatch):
    monkeypatch.setattr(module, "rank", lambda: 0)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    server = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = torch.distributed.PrefixStore("run", torch.distributed.TCPStore("127.0.0.1", server.port))
    dog = Watchdog(store, 60)
    waiting = threading.Thread(target=store.get, args=("of a peer that is not there",), daemon=True)
    waiting.start()
    time.sleep(0.2)
    looking = threading.Thread(target=lambda: (dog._tell(), dog._missing()), daemon=True)
    looking.start()
    looking.join(timeout=30)
    still_waits, has_looked = waiting.is_alive(), not looking.is_alive()
    server.set("run/of a peer that is not there", "now it is")
    waiting.join(timeout=30)
    looking.join(timeout=30)
    assert still_waits
    assert has_looked
