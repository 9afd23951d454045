"""What findings come to."""

import pytest

from yangtuo.diagnosis import diagnose
from yangtuo.diagnosis.diagnose import Diagnosis
from yangtuo.diagnosis.finding import note, ok, problem, size
from yangtuo.diagnosis.packages import ImportFailure

GOOD, LOOK, BAD = ok("a", "fine"), note("b", "slow", "mend b"), problem("c", "gone", "mend c")


@pytest.mark.parametrize(
    ("groups", "verdict", "reasons"),
    [
        ({"x": [GOOD]}, "ready to train on the CPU", []),
        ({"x": [GOOD, LOOK]}, "ready to train on the CPU; look at the point with ! above", []),
        ({"x": [LOOK], "y": [LOOK]}, "ready to train on the CPU; look at the 2 points with ! above", []),
        (
            {"x": [GOOD, LOOK], "y": [BAD]},
            "training could not start; see the points with a cross above",
            ["c: gone; mend c"],
        ),
    ],
)
def test_the_verdict(groups, verdict, reasons):
    found = Diagnosis(groups, "the CPU")
    assert (found.verdict, found.reasons_against) == (verdict, reasons)


def test_a_library_that_is_missing_or_broken_ends_the_looking_at_devices(monkeypatch):
    known = {name: "1" for name in ("torch", "transformers", "accelerate", "peft")}
    failures = {"transformers": ImportFailure("no", "transformers")}
    monkeypatch.setattr(diagnose.packages, "import_failure", failures.get)
    assert diagnose._imports({}, known) == []
    (found,) = diagnose._imports(known, known)
    assert (found.name, found.state) == ("transformers", "problem")
    device, (said,), taken = diagnose._hardware([found])
    assert (device, said.state, taken) == (None, "note", None)


@pytest.mark.parametrize(("number", "text"), [(64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"), (2 << 40, "2,048.0 GiB")])
def test_sizes(number, text):
    assert size(number) == text
