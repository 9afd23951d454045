"""`--report_to`: a tracker starts before the first step, on rank 0 alone, or the run does not start."""

import json
import os

import pytest

from tests.command import log_of, run, yangtuo

# A package with the interface of dvclive, as far as transformers uses it; it writes down what it is told.
LIVE = """
import json, os

def tell(**what):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(what) + "\\n")

tell(imported_on=os.environ.get("RANK", "0"))

class Live:
    def log_params(self, params):
        tell(run_name=params["run_name"])

    def log_metric(self, name, value):
        tell(**{name: value})

    def next_step(self):
        pass

    def end(self):
        tell(ended=True)
"""
PLOTS = """
class Metric:
    @staticmethod
    def could_log(value):
        return isinstance(value, (int, float))
"""


def package(folder, **modules):
    """A package of these modules; returns the folder that it is imported from."""
    (folder / "dvclive").mkdir(parents=True)
    for name, text in {"__init__": "", **modules}.items():
        (folder / "dvclive" / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def works(tmp_path):
    names = "def standardize_metric_name(name, framework):\n    return name\n"
    return package(tmp_path / "packages", __init__=LIVE, plots=PLOTS, utils=names)


def told(tmp_path):
    return [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]


def test_a_tracker_that_starts_is_told_every_line_of_the_screen(inputs, tmp_path, works):
    words = inputs.options(tmp_path / "out", report_to="dvclive", run_name="first", logging_steps=2)
    words += ["--logging_first_step", "False"]
    path = os.pathsep.join([str(works), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {"PYTHONPATH": path, "TOLD": str(tmp_path / "told")}
    done = run(["yangtuo", "train", *words], env=env)
    assert done.code == 0, done.said
    first, second, *rest = told(tmp_path)
    assert (first, second) == ({"imported_on": "0"}, {"run_name": "first"})
    losses = [entry["loss"] for entry in log_of(tmp_path / "out")]
    means = [sum(losses[:2]) / 2, sum(losses[2:]) / 2]
    assert [entry["loss"] for entry in rest if "loss" in entry] == pytest.approx(means)
    assert rest[-1] == {"ended": True}


def test_the_last_evaluation_is_told_before_the_end(inputs, tmp_path, works):
    words = inputs.options(tmp_path / "out", report_to="dvclive", do_train=True, do_eval=True)
    prepare = f"import sys; sys.path.insert(0, {str(works)!r})"
    env = {"TOLD": str(tmp_path / "told")}
    done = yangtuo("train", *words, "--validation_file", inputs.validation, env=env, first=prepare)
    assert done.code == 0, done.said
    names = [next(iter(entry)) for entry in told(tmp_path)]
    assert names.count("ended") == names.count("run_name") == 1
    assert names.index("eval_loss") < names.index("ended") == len(names) - 1


def test_only_rank_0_starts_trackers(inputs, tmp_path, works):
    words = inputs.options(tmp_path / "out", report_to="dvclive", per_device_train_batch_size=2)
    prepare = f"import sys; sys.path.insert(0, {str(works)!r})"
    done = yangtuo("train", *words, env={"TOLD": str(tmp_path / "told")}, first=prepare, num_processes=2)
    assert done.code == 0, done.said
    assert [entry for entry in told(tmp_path) if "imported_on" in entry] == [{"imported_on": "0"}]


BROKEN = {
    "when it starts": "class Live:\n    def __init__(self):\n        raise RuntimeError('no key;\\n log in')\n",
    "when it is imported": "raise OSError('no key; log in')\n",
}


@pytest.mark.parametrize("num_processes", [0, 2])
@pytest.mark.parametrize("when", BROKEN)
def test_a_tracker_that_cannot_start_is_one_line_before_the_first_step(inputs, tmp_path, when, num_processes):
    words = inputs.options(tmp_path / "out", per_device_train_batch_size=4 // max(1, num_processes))
    folder = package(tmp_path / "packages", __init__=BROKEN[when])
    prepare = f"import sys; sys.path.insert(0, {str(folder)!r})"
    done = yangtuo("train", *words, "--report_to", "dvclive", first=prepare, num_processes=num_processes)
    assert done.code == 2
    (error,) = [line for line in done.err.splitlines() if "error" in line.lower() or "Traceback" in line]
    assert error.startswith("error [rank 0 on " if num_processes else "error: ")
    assert error.endswith(
        "trackers: --report_to dvclive: it cannot start: no key; log in; mend that, or leave dvclive out"
    )
    assert log_of(tmp_path / "out") == []
    again = yangtuo("train", *words, num_processes=num_processes)
    assert again.code == 0, again.said
    assert len(log_of(tmp_path / "out")) == 4


TOLD = "        tell(**{name: value})\n"
FAILS = LIVE.replace(TOLD, f"{TOLD}        raise OSError('its server\\n is gone')\n")


def test_a_tracker_that_fails_in_a_run_is_left_out_and_the_run_goes_on(inputs, tmp_path, works):
    (works / "dvclive" / "__init__.py").write_text(FAILS)
    words = inputs.options(tmp_path / "out", report_to="dvclive", logging_steps=1)
    prepare = f"import sys; sys.path.insert(0, {str(works)!r})"
    done = yangtuo("train", *words, env={"TOLD": str(tmp_path / "told")}, first=prepare)
    assert done.code == 0, done.said
    assert done.err.count("--report_to dvclive: it failed, and is told no more in this run") == 1
    assert "its server is gone" in done.err
    assert "Traceback" not in done.err
    assert len([entry for entry in told(tmp_path) if "loss" in entry]) == 1
    assert len(log_of(tmp_path / "out")) == 4


def test_packages_that_are_missing_are_told_before_anything_is_read(inputs, tmp_path):
    changes = {"report_to": "flyte,dvclive,none", "optim": "stable_adamw", "template": "no-such"}
    done = yangtuo("train", *inputs.options(tmp_path / "out", **changes))
    assert done.code == 2
    assert done.err.splitlines() == [
        "error: optional packages (3 problems):",
        "  --optim stable_adamw: the package optimi is not installed; pip install torch-optimi",
        "  --report_to flyte: the package flytekit is not installed; pip install flytekit",
        "  --report_to dvclive: the package dvclive is not installed; pip install dvclive",
    ]
