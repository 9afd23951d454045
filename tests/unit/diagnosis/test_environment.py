"""Variables of launchers, accelerate, hub and proxies, by values; and one request, to a server of this test."""

import contextlib
import http.server
import socket
import threading

import pytest

from yangtuo.diagnosis import environment
from yangtuo.diagnosis.environment import ask, of_accelerate, of_hub, of_launch, of_proxies


@pytest.mark.parametrize(
    ("variables", "state", "says"),
    [
        ({}, "ok", "one process"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "h"}, "problem", "WORLD_SIZE=2, RANK=0, MASTER_ADDR=h in the"),
        ({"WORLD_SIZE": "many"}, "problem", "WORLD_SIZE=many in the environment: a run would wait"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "problem", "would wait"),
        ({"PMI_SIZE": "1"}, "note", "as a launcher leaves it"),
        ({"LOCAL_RANK": "0"}, "problem", "and not know where"),
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "h", "LOCAL_RANK": "0"}, "note", "as a launcher leaves it"),
        ({"RANK": "1"}, "note", "and say nothing"),
        ({"MASTER_ADDR": "10.0.0.1"}, "note", "MASTER_ADDR=10.0.0.1"),
        ({"WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_RUN_ID": "x"}, "ok", "a process of torchrun"),
    ],
)
def test_what_a_launcher_left(variables, state, says):
    found = of_launch(variables, is_cpu=True)
    assert found.state == state
    assert says in found.found
    assert bool(found.remedy) == (state != "ok")
    assert state == "ok" or found.remedy.startswith(f"unset {' '.join(variables)};")


def test_what_mpi_left_is_not_read_on_a_gpu():
    assert of_launch({"PMI_SIZE": "2"}, is_cpu=False).state == "note"
    assert of_launch({"WORLD_SIZE": "2"}, is_cpu=False).state == "problem"


@pytest.mark.parametrize(
    ("variables", "states"),
    [
        ({"HOME": "/root"}, []),
        ({"ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "fp16"}, ["note"]),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, ["problem"]),
        ({"ACCELERATE_USE_DEEPSPEED": "false"}, ["note"]),
    ],
)
def test_variables_of_accelerate(variables, states):
    findings = of_accelerate(variables)
    assert [one.state for one in findings] == states
    assert all(one.remedy == f"unset {' '.join(sorted(variables))}" for one in findings)


@pytest.mark.parametrize(
    ("endpoint", "is_offline", "has_xet", "state", "says"),
    [
        ("https://huggingface.co", False, True, "ok", "huggingface.co"),
        ("https://hf-mirror.com", False, True, "note", "the mirror hf-mirror.com, with Xet"),
        ("https://hf-mirror.com/", False, False, "ok", "the mirror hf-mirror.com"),
        ("https://hf-mirror.com", True, True, "ok", "not asked (HF_HUB_OFFLINE)"),
    ],
)
def test_the_hub(endpoint, is_offline, has_xet, state, says):
    found = of_hub(endpoint, is_offline=is_offline, has_xet=has_xet)
    assert (found.state, says in found.found) == (state, True)
    assert ("HF_HUB_DISABLE_XET=1" in found.remedy) == (state == "note")


@pytest.mark.parametrize(
    ("variables", "has_socks", "states"),
    [
        ({}, False, []),
        ({"https_proxy": "http://proxy:3128"}, False, ["ok"]),
        ({"ALL_PROXY": "socks5://127.0.0.1:1080"}, False, ["note"]),
        ({"all_proxy": "socks5://127.0.0.1:1080"}, True, ["ok"]),
    ],
)
def test_proxies(variables, has_socks, states):
    assert [one.state for one in of_proxies(variables, has_socks=has_socks)] == states


def test_no_password_is_shown():
    (found,) = of_proxies({"http_proxy": "http://me:secret@proxy:3128"}, has_socks=False)
    assert found.found == "http_proxy=http://***@proxy:3128"


@contextlib.contextmanager
def server(code, seen):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            seen.append(self.path)
            self.send_response(code)
            self.end_headers()

        def log_message(self, *what):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


@pytest.mark.parametrize(("code", "state"), [(200, "ok"), (404, "ok"), (503, "note")])
def test_one_request_is_sent(code, state):
    seen = []
    with server(code, seen) as url:
        found = ask(url)
    assert (found.state, len(seen)) == (state, 1)
    assert str(code) in found.found


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:{port}", "hf-mirror.com"])
def test_nobody_answers(endpoint):
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        found = ask(endpoint.format(port=bound.getsockname()[1]))
    assert found.state == "note"
    assert "does not answer" in found.found
    assert "HF_ENDPOINT" in found.remedy


def test_nothing_is_asked_unless_it_is_wished(monkeypatch):
    asked = []
    monkeypatch.setattr(environment, "ask", lambda endpoint: asked.append(endpoint) or of_launch({}, is_cpu=True))
    assert environment.hub({}, online=False)[1].name == "hub"
    assert asked == []
    environment.hub({}, online=True)
    assert len(asked) == 1
