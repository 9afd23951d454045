"""Versions and packages, by values; and the tested versions are those of the lock files."""

import re
import sys

import pytest

from tests.command import REPOSITORY
from yangtuo.config.trainer_values import TRACKERS
from yangtuo.diagnosis import packages
from yangtuo.diagnosis.finding import State
from yangtuo.diagnosis.packages import OptionalPackage, Trials, of_optional, of_python, of_trackers, of_versions
from yangtuo.installing import pip_install

KNOWN = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"}
RANGES = {"torch": ">=2.13", "transformers": "<6,>=5.23", "peft": ">=0.21"}


def lock(name):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+)==(\S+)$", text, flags=re.M))


def test_the_tested_versions_are_those_of_the_lock_files():
    locked = {**lock("requirements.lock"), **lock("requirements-engines.lock")}
    assert packages.tested() == {name: locked[name] for name in packages.tested()}


def test_every_package_that_is_needed_has_a_tested_version():
    assert set(packages.required()) - set(packages.tested()) == set()
    assert {"deepspeed", "bitsandbytes", "pyarrow"} <= set(packages.tested())
    assert set(packages.LIBRARIES) <= set(packages.required())


@pytest.mark.parametrize(("version", "state"), [((3, 11), "ok"), ((3, 13), "ok"), ((3, 10), "problem")])
def test_python(version, state):
    found = of_python(version, "x")
    assert (found.state, bool(found.remedy)) == (state, state != "ok")


@pytest.mark.parametrize(
    ("torch", "state", "says"),
    [
        ("2.13.0", "ok", "torch 2.13.0"),
        ("2.13.0+cu126", "ok", "torch 2.13.0+cu126"),
        ("2.13.1", "ok", "torch 2.13.1"),
        ("2.14.0", "note", "2.14.0, newer than the tested 2.13.0"),
        ("2.15.0.dev20261111+cu130", "note", "newer"),
        ("2.12.1", "problem", "2.12.1, where >=2.13 is needed"),
        ("2.9.0", "problem", "is needed"),
        (None, "problem", "not installed"),
    ],
)
def test_the_version_of_torch(torch, state, says):
    installed = {"transformers": "5.23.1", "peft": "0.21.2", **({"torch": torch} if torch else {})}
    findings = {one.name: one for one in of_versions(installed, KNOWN, RANGES, list(KNOWN))}
    found = findings["as tested" if state == "ok" else "torch"]
    assert found.state == state
    assert says in found.found
    assert ("pip install torch==2.13.0" in found.remedy) == (state != "ok")
    assert "peft 0.21.2" in findings["as tested"].found


@pytest.mark.parametrize(("version", "state"), [("5.22.0", "problem"), ("6.0.0", "problem"), ("5.30.0", "note")])
def test_transformers_has_a_range_with_two_ends(version, state):
    (found,) = of_versions({"transformers": version}, KNOWN, RANGES, ["transformers"])
    assert found.state == state


def test_many_packages_are_one_line():
    known = {f"p{i}": "1.0" for i in range(9)}
    (found,) = of_versions(known, known, {}, list(known))
    assert found.found == "p0 1.0, p1 1.0, p2 1.0, p3 1.0 and 5 more"


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Packages of these sources, which can be imported by their names."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            made.append(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("raise OSError('libcudart.so.13: cannot open\\n shared')", "OSError: libcudart.so.13: cannot open shared"),
        ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("class", "SyntaxError: invalid syntax"),
    ],
)
def test_a_library_that_cannot_be_imported_is_a_line(library, source, says):
    library(a_broken_library=source)
    failure = packages.import_failure("a_broken_library")
    assert failure.said.startswith(says)
    assert failure.package == "a_broken_library"
    assert "\n" not in failure.said


def test_a_library_that_works_has_no_failure(library):
    library(a_working_library="")
    assert packages.import_failure("a_working_library") is None


@pytest.mark.parametrize(
    "source",
    [
        "import its_part",
        "try:\n    import its_part\nexcept OSError as error:\n    raise RuntimeError('cannot import') from error",
    ],
)
def test_the_package_in_which_it_happened_is_found(library, source):
    library(its_library=source, its_part="raise OSError('undefined symbol')")
    assert packages.import_failure("its_library").package == "its_part"


@pytest.mark.parametrize(
    ("package", "remedy", "where"),
    [
        ("peft", "pip install --force-reinstall peft==0.21.2", "x"),
        ("some_module", "pip install --force-reinstall peft==0.21.2", "x"),
        ("numpy", "pip install --force-reinstall numpy==2.1", "x (in numpy 2.1)"),
        (
            "bitsandbytes",
            "pip install --force-reinstall bitsandbytes==0.50.2, or pip uninstall bitsandbytes, which only some "
            "options need",
            "x (in bitsandbytes 0.49.0)",
        ),
    ],
)
def test_what_is_said_of_such_a_library(package, remedy, where):
    found = {"peft": "0.21.0", "numpy": "2.1", "bitsandbytes": "0.49.0"}
    failure = packages.ImportFailure("x", package)
    said = packages.of_import("peft", failure, found, {"peft": "0.21.2", "bitsandbytes": "0.50.2"})
    assert (said.state, said.remedy) == ("problem", remedy)
    assert said.found == f"0.21.0 is installed and cannot be imported: {where}"


@pytest.mark.parametrize(
    ("version", "failed", "state", "says"),
    [
        (None, "", "ok", "not installed; for --deepspeed only: " + pip_install("deepspeed")),
        ("0.19.8", "", "ok", "0.19.8, works here"),
        ("0.19.8", None, "ok", "0.19.8"),
        ("0.19.8", "ImportError: x", "note", "0.19.8 does not work here: ImportError: x"),
        ("0.20.0", "", "note", "0.20.0, tested with 0.19.8"),
    ],
)
def test_a_package_that_some_options_need(version, failed, state, says):
    (package,) = [one for one in packages.OPTIONAL if one.name == "deepspeed"]
    found = of_optional(package, version, "0.19.8", failed)
    assert (found.state, found.found) == (state, says)
    assert bool(found.remedy) == (state != "ok")


def test_packages_are_tried_in_processes_of_their_own(monkeypatch):
    monkeypatch.setattr(packages, "_PATIENCE_S", 20.0)
    trials = {
        "works": "pass",
        "fails": "raise RuntimeError('no\\nkernel')",
        "is killed": "import os; os.kill(os.getpid(), 9)",
    }
    several = [OptionalPackage(name, "--x", "x", trial) for name, trial in trials.items()]
    several += [OptionalPackage("has no trial", "--x", "x"), OptionalPackage("is not there", "--x", "x", "1 / 0")]
    with Trials(several, {**dict.fromkeys(trials, "1"), "has no trial": "1"}) as tried:
        results = {one.name: tried.result(one.name) for one in several}
    assert results == {
        "works": "",
        "fails": "kernel",
        "is killed": "its process ended with code -9",
        "has no trial": "",
        "is not there": "",
    }


def test_a_trial_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(packages, "_PATIENCE_S", 0.2)
    with Trials([OptionalPackage("a", "--x", "a", "import time; time.sleep(60)")], {"a": "1"}) as tried:
        assert tried.result("a") == "no answer within 0 s"


def test_trials_that_nobody_asks_for_are_ended_with_the_block():
    with Trials([OptionalPackage("a", "--x", "a", "import time; time.sleep(60)")], {"a": "1"}) as tried:
        (process,) = tried._started.values()
    assert process.returncode == -9


def test_trackers_that_are_installed(monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: name in ("mlflow", "tensorboardX") or None)
    assert set(packages.trackers()) == {"mlflow", "tensorboard"}  # dagshub needs mlflow and itself
    assert set(packages.trackers()) <= set(TRACKERS)


@pytest.mark.parametrize(
    ("found", "states"),
    [
        ({}, ["ok"]),
        ({"mlflow": "3"}, ["ok"]),
        ({"comet_ml": "3.1", "mlflow": "3"}, ["note", "ok"]),
        ({"a": "1"}, ["note"]),
    ],
)
def test_trackers_that_transformers_does_not_take(found, states):
    findings = of_trackers(found, ["mlflow", "wandb"])
    assert [one.state for one in findings] == states
    assert all(one.remedy.startswith("pip install --upgrade") for one in findings if one.state is State.NOTE)
