"""Inputs that many tests share, built once a session."""

import gc
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

# Tiny models need no more threads; and a process that is forked (tests/forker.py) must have had none beside it, since
# OpenMP's are not in the fork, which would wait for them for ever.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["YANGTUO_LANG"] = "en"  # of whoever runs the tests, the locale may be Chinese

from tests import tiny
from tests.command import end_forker
from tests.sentences import sentences

__all__ = ["sentences"]

# Processes inherit what is ignored: nohup ignores SIGHUP, and a shell SIGINT for what it starts with `&`.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# A file goes to one process whole, so that one which comes last leaves the others without work: minutes first, then
# what starts processes. Of the files with recordings of CUDA, the first records, and the others would wait for it.
LONG = (
    *("tests/cli/test_demo.py", "tests/invariants/test_models_", "tests/invariants/test_engine.py"),
    *("tests/cli/test_memory_plan.py", "tests/fake_cuda/test_memory.py", "tests/kill/", "tests/distributed/"),
    *("tests/cli/", "tests/gguf/", "tests/invariants/", "tests/parity/", "tests/unit/engine/test_compiled.py"),
)


def turn(path: str) -> int:
    """When a test file has its turn, by its path from the repository; a file goes by the first that it begins with."""
    return next((i for i, begin in enumerate(LONG) if path.startswith(begin)), len(LONG))


def pytest_collection_modifyitems(items):
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: turn(item.nodeid))


def pytest_addoption(parser):
    parser.addoption("--renew-sentences", action="store_true", help="write tests/sentences.json anew, with -n 0")
    parser.addoption("--renew-models", action="store_true", help="write docs/models.md anew")
    parser.addoption("--all-families", action="store_true", help="in bfloat16 too, every family of models")


@dataclass(frozen=True)
class Inputs:
    """A tiny base with its tokenizer inside, a data folder of 24 rows, a validation file of 5."""

    base: Path
    data: Path
    validation: Path

    def options(self, out: Path, **changes) -> list[str]:
        """A short run's command line; a change to None drops the option, to True makes it a bare flag."""
        values = {
            "model_name_or_path": self.base,
            "dataset_dir": self.data,
            "output_dir": out,
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "learning_rate": 0.01,
            "lora_dropout": 0,
            "max_seq_length": 384,
            "save_strategy": "no",
            "data_cache_dir": self.base.parent / "encoded",
            **changes,
        }
        words = []
        for name, value in values.items():
            if value is not None:
                words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return words


@pytest.fixture(scope="session", autouse=True)
def forker():
    """Started when it is first needed, ended with the tests."""
    yield
    end_forker()


@pytest.fixture(scope="module", autouse=True)
def imports_are_no_garbage(request):
    """Each run collects garbage (accelerate asks for it), and would look through all that was imported: 0.3 s a run.

    Not where hypothesis is at work, which asks who holds its random generators.
    """
    if hasattr(request.module, "given"):
        yield
        return
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    yield
    gc.set_threshold(*usual)
    gc.unfreeze()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    base = tiny.tiny_llama(folder / "base")
    tiny.tiny_sentencepiece(base)
    (folder / "data").mkdir()
    rows = tiny.rows(29)
    tiny.write_rows(folder / "data" / "a.json", rows[:15])
    tiny.write_rows(folder / "data" / "b.json", rows[15:24])
    validation = tiny.write_rows(folder / "valid.json", rows[24:])
    return Inputs(base, folder / "data", validation)
