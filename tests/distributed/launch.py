"""Real torchrun processes: two on this machine unless a test says otherwise."""

import contextlib
import importlib.util
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.command import REPOSITORY, Finished, Started, evaluations_of, forked, log_of, own_environment

LAUNCHED = Path(__file__).parent / "launched.py"
RUN = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "lora_dropout": 0}
LOSS, WEIGHTS = 2e-6, 2e-5  # largest difference of a step's loss, of a trained weight, between engines

ZERO = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": "auto"},
}
FSDP2 = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
    "reshard_after_forward": True,
    "state_dict_type": "FULL_STATE_DICT",
}


@dataclass(frozen=True)
class Engine:
    """Options that ask for it, and its name in accelerate."""

    name: str
    kind: str
    options: tuple = ()
    env: tuple = ()


@pytest.fixture(scope="session")
def engines(tmp_path_factory) -> dict[str, Engine]:
    return engine_files(tmp_path_factory.mktemp("engines"))


def engine_files(folder: Path) -> dict[str, Engine]:
    """Every engine; their configuration files are written into the folder."""
    files = {"zero2": {**ZERO, "zero_optimization": {"stage": 2}}, "zero3": {**ZERO, "zero_optimization": {"stage": 3}}}
    for name, value in {**files, "fsdp2": FSDP2}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    fsdp = ("--fsdp", "True", "--fsdp_config", folder / "fsdp2.json")
    return {
        "ddp": Engine("ddp", "MULTI_CPU"),
        "zero2": Engine("zero2", "DEEPSPEED", ("--deepspeed", folder / "zero2.json")),
        "zero3": Engine("zero3", "DEEPSPEED", ("--deepspeed", folder / "zero3.json")),
        "fsdp2": Engine("fsdp2", "FSDP", fsdp, (("FSDP_ON_CPU", "1"),)),
    }


def needs(engine: Engine | str) -> None:
    """Skip the test where what the engine is made of is not installed."""
    kind = engine if isinstance(engine, str) else engine.kind
    if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed (extra deepspeed)")


def command(inputs, out, *options, num_processes=2, rows=8, launcher=("--standalone",), **changes) -> list[str]:
    """A run of `rows` rows a step, whatever the number of processes."""
    values = {**RUN, "per_device_train_batch_size": rows // num_processes, **changes}
    return [
        *(sys.executable, "-m", "yangtuo.cli.torchrun", *launcher, "--nproc_per_node", num_processes, LAUNCHED),
        *inputs.options(out, **values),
        *options,
    ]


def train(inputs, out, engine: Engine, *, expect=0, env=None, timeout=150, launcher=None, **changes) -> Finished:
    """Two ranks: by fork, or by torchrun where `launcher` has its options."""
    needs(engine)
    environment = {"OMP_NUM_THREADS": "1", **dict(engine.env), **(env or {})}
    words = command(inputs, out, *engine.options, launcher=launcher or (), **changes)
    if launcher is None:
        words = ["train", *words[words.index(LAUNCHED) + 1 :]]
        prepare = "from tests.distributed.launched import prepare; prepare()"
        done = forked(*words, env=environment, timeout=timeout, first=prepare, num_processes=2)
    else:
        with Running(words, env=environment) as running:
            done = running.end(timeout)
    assert done.code == expect, done.said
    return done


@pytest.fixture(scope="session")
def whole(engines, inputs, tmp_path_factory):
    """The folder of a run that nobody has killed, made once for an engine and options."""
    made = {}

    def of(name, **options):
        key = (name, *sorted(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole") / "out"
            train(inputs, made[key], engines[name], **options)
        return made[key]

    return of


class Running:
    """A command that goes on while the test looks on; everything it has started is gone at the end.

    A Python program starts by a fork; `ignores`: signals that it ignores from the start, as under nohup.
    """

    def __init__(self, words, env=None, ignores=()):
        streams, env = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}, {"OMP_NUM_THREADS": "1", **(env or {})}
        if words[0] == sys.executable:
            self.process = Started(words[1:], env=env, ignores=ignores, **streams)
        else:
            words, streams["env"] = [str(word) for word in words], {**own_environment(), **env}
            self.process = subprocess.Popen(words, cwd=REPOSITORY, text=True, start_new_session=True, **streams)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.kill()

    def kill(self):
        """SIGKILL for the launcher and its processes, at once; torchrun gives each of them a group of its own."""
        with contextlib.suppress(psutil.NoSuchProcess):
            launcher = psutil.Process(self.process.pid)
            for process in (launcher, *launcher.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(timeout=30)
        self.process.stdout.close()

    def end(self, timeout=120) -> Finished:
        """What it has said to the end; TimeoutExpired where that takes too long."""
        out, _ = self.process.communicate(timeout=timeout)
        return Finished(self.process.returncode, out, "")


def wait_for(condition, *, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def curve(out):
    return [(entry["step"], entry["loss"], entry["grad_norm"], entry["learning_rate"]) for entry in log_of(out)]


def adapter(out):
    return load_file(Path(out) / "sft_lora_model" / "adapter_model.safetensors")


def assert_bit_identical(out, other):
    assert curve(out) == curve(other)
    ours, theirs = adapter(out), adapter(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def assert_same(out, other):
    ours, theirs = log_of(out), log_of(other)
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs] == list(range(1, 9))
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=LOSS)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    for a, b in zip(evaluations_of(out), evaluations_of(other), strict=True):
        assert a["eval_loss"] == pytest.approx(b["eval_loss"], abs=LOSS)
    ours, theirs = adapter(out), adapter(other)
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    for name, value in theirs.items():
        assert (ours[name] - value).abs().max() <= WEIGHTS, name
