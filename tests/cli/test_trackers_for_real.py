"""Trackers themselves, where they are installed: what each has of a run, and that nothing is sent anywhere unasked."""

import importlib.util
import json
import socket
import sys
import threading

import pytest

from tests.command import evaluations_of, log_of, run
from tests.tracker_readers import NAMES

TRACKERS = ("tensorboard", "swanlab", "wandb", "trackio", "mlflow")
OFFLINE = {"WANDB_MODE": "offline", "SWANLAB_MODE": "offline"}
# With these in the environment, MLflow says nothing of itself.
UNSET = [word for name in ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS") for word in ("-u", name)]
# What a process does by Python's own sockets; those of other languages ask the proxy that the environment names.
WATCH = """
import os, sys

def look(event, given):
    if event in ("socket.connect", "socket.getaddrinfo"):
        place = given[0] if event == "socket.getaddrinfo" else given[1]
        host = place[0] if isinstance(place, tuple) else place
        host = host.decode() if isinstance(host, bytes) else str(host)
        named = event == "socket.getaddrinfo" or isinstance(place, tuple) and len(place) > 1
        if named and host not in ("127.0.0.1", "localhost", "::1", "None", "0.0.0.0", ""):
            with open(os.environ["SENT"], "a") as file:
                file.write(host + "\\n")
            raise OSError("no network in this test")

sys.addaudithook(look)
"""


class Network:
    """Notes what programs would send, and sends nothing on."""

    def __init__(self, folder):
        self._sent, self._asked = folder / "sent", []
        (folder / "watch").mkdir()
        (folder / "watch" / "sitecustomize.py").write_text(WATCH)
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._listen, daemon=True).start()
        proxy = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        names = ("http_proxy", "https_proxy")
        self.env = {
            **dict.fromkeys([*names, *map(str.upper, names)], proxy),
            "SENT": str(self._sent),
            "PYTHONPATH": f"{folder / 'watch'}:{':'.join(path for path in sys.path if path)}",
            "HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "0",
        }

    def _listen(self):
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # closed
                return
            with connection:
                connection.settimeout(5)
                self._asked.append(connection.recv(1000).decode(errors="replace").splitlines()[0])
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    def asked(self):
        return self._asked + (self._sent.read_text().splitlines() if self._sent.exists() else [])

    def close(self):
        self._listening.close()


@pytest.fixture
def network(tmp_path):
    watching = Network(tmp_path)
    yield watching
    watching.close()


def needs(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; pip install {name}")


def train(network, tmp_path, words, **env):
    command = ["env", *UNSET, "yangtuo", "train", *words]
    return run(command, env={**network.env, **env}, cwd=tmp_path)


def runs_of(name, tmp_path, network):
    done = run([sys.executable, "-m", "tests.tracker_readers", name], env=network.env, cwd=tmp_path)
    assert done.code == 0, done.said
    return json.loads(done.out.splitlines()[-1])


def same(points, out):
    expected = {name: [(entry["step"], entry[name]) for entry in log_of(out)] for name in NAMES[:-1]}
    expected[NAMES[-1]] = [(entry["step"], entry["eval_loss"]) for entry in evaluations_of(out)]
    assert {name: [step for step, _ in found] for name, found in points.items()} == {
        name: [step for step, _ in found] for name, found in expected.items()
    }
    for name, found in expected.items():
        assert [value for _, value in points[name]] == pytest.approx([value for _, value in found], rel=1e-6), name


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_has_every_line_of_the_log_in_one_run_and_all_options(inputs, tmp_path, network, name):
    needs(name)
    how = {"eval_strategy": "steps", "eval_steps": 3, "do_train": True, "do_eval": True, "logging_steps": 1}
    options = {"validation_file": inputs.validation, "per_device_train_batch_size": 2, "lora_rank": 4, **how}
    words = inputs.options(tmp_path / "out", gradient_accumulation_steps=2, report_to=name, **options)
    done = train(network, tmp_path, words, **OFFLINE)
    assert done.code == 0, done.said
    assert "it failed" not in done.err
    assert network.asked() == []
    (found,) = runs_of(name, tmp_path, network)  # also with the last evaluation, after training
    assert [entry["step"] for entry in evaluations_of(tmp_path / "out")] == [3, 4]
    same(found["points"], tmp_path / "out")
    shown = {"lora_rank": 4, "gradient_accumulation_steps": 2, "learning_rate": 0.01}
    assert {option: found["shown"][option] for option in shown} == shown

    found["points"]["loss"].pop(1)  # the negative control
    with pytest.raises(AssertionError):
        same(found["points"], tmp_path / "out")


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_without_a_key_nobody_is_asked_and_nothing_is_sent(inputs, tmp_path, network, name):
    needs(name)
    words = inputs.options(tmp_path / "out", report_to=name, dataset_dir="no/such/folder")
    done = train(network, tmp_path, words)
    assert (done.code, done.err.splitlines()[-1:]) == (
        2,
        [
            f"error: trackers: --report_to {name}: it sends to a server, and nobody is logged in there; {name} login, "
            f"or {name.upper()}_MODE=offline to keep everything on this machine"
        ],
    )
    assert "Traceback" not in done.err
    assert network.asked() == []


def test_mlflow_looks_up_nothing_at_its_maker_unless_the_user_lets_it(inputs, tmp_path, network):
    needs("mlflow")
    words = inputs.options(tmp_path / "out", report_to="mlflow", max_steps=1)
    done = train(network, tmp_path, words, MLFLOW_DISABLE_TELEMETRY="false")
    assert done.code == 0, done.said
    assert any("mlflow" in asked for asked in network.asked())  # else the tests above would see nothing either


SENDS = {
    "by a name": "import urllib.request; urllib.request.urlopen('https://example.invalid')",
    "past the proxy": "import socket; socket.create_connection(('192.0.2.1', 9), timeout=5)",
}


@pytest.mark.parametrize("how", SENDS)
def test_what_is_sent_is_noticed(tmp_path, network, how):
    assert run([sys.executable, "-c", SENDS[how]], env=network.env).code != 0
    assert network.asked()
